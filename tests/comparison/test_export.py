"""CSV, JSON and data frames hold the rows."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import hostile
import pandas as pd
import polars as pl
import pytest

import clearopt as co
from clearopt.comparison import Comparison


@pytest.fixture(scope="module")
def found() -> Comparison:
    tokens = co.Allocation(5, upper=100)
    accuracy = co.CumulativeSurge(0.9, [5, 9, 14, 20, 30], 0.1)(tokens)
    problem = co.Problem(co.Maximize(co.sum(accuracy)), [co.sum(tokens) <= 120])
    return co.compare(problem, ["dual", hostile.Leaves(), "uniform"], repeats=2)


def test_csv(found: Comparison, tmp_path: Path) -> None:
    with found.to_csv(tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["solver"] for row in rows] == ["dual", "leaves", "uniform"]
    assert float(rows[0]["objective"]) == found["dual"].objective
    assert rows[1]["outcome"] == "crashed"


def test_json(found: Comparison, tmp_path: Path) -> None:
    def no_constant(name: str) -> None:
        raise AssertionError(name)

    text = found.to_json(tmp_path / "all.json").read_text()
    document = json.loads(text, parse_constant=no_constant)
    assert document["format"] == "clearopt comparison"
    assert document["contradictions"] == []
    assert document["machine"]["processor"]
    dual, leaves, _ = document["rows"]
    assert dual["objective"] == found["dual"].objective
    assert len(dual["runs"]) == 2
    assert dual["curve"][-1] == list(found["dual"].curve[-1])
    assert leaves["objective"] is None


def test_data_frames(found: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    pandas, polars = found.to_dataframe(), found.to_dataframe("polars")
    assert isinstance(pandas, pd.DataFrame)
    assert isinstance(polars, pl.DataFrame)
    assert list(pandas["solver"]) == polars["solver"].to_list() == found.solvers
    assert list(pandas.columns) == polars.columns
    with pytest.raises(co.DeclarationError, match="library = 'excel'"):
        found.to_dataframe("excel")  # type: ignore[arg-type]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(co.MissingExtraError, match="pip install"):
        found.to_dataframe()
