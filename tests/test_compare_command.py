"""`clearopt compare`: from saved problems to a table, a report, and an exit code."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

import clearopt as co
from clearopt.cli import main
from clearopt.comparison import Comparison
from clearopt.comparison.rows import ComparisonRow


@pytest.fixture
def saved(tmp_path: Path) -> list[str]:
    paths = []
    for name, budget in (("tight", 60), ("ample", 300)):
        tokens = co.Allocation(5, upper=100, integer=True)
        accuracy = co.CumulativeSurge(0.9, [5, 9, 14, 20, 30], 0.1)(tokens)
        problem = co.Problem(co.Maximize(co.sum(accuracy)), [co.sum(tokens) <= budget])
        paths.append(str(tmp_path / f"{name}.npz"))
        co.save(problem, paths[-1])
    return paths


def test_a_table_and_its_files(
    saved: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    targets = [tmp_path / name for name in ("report.html", "rows.csv", "all.json", "runs.jsonl")]
    arguments = ["compare", *saved, "--solvers", "dual,uniform", "--time-limit", "20"]
    for option, target in zip(("--html", "--csv", "--json", "--out"), targets, strict=True):
        arguments += [option, str(target)]
    assert main(arguments) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert [line.split()[:2] for line in lines[2:6]] == [
        ["tight", "dual"],
        ["tight", "uniform"],
        ["ample", "dual"],
        ["ample", "uniform"],
    ]
    assert [line for line in lines if line.startswith("Written: ")] == [
        f"Written: {target}" for target in targets[:3]
    ]
    assert shown.err == ""  # no progress where there is no terminal
    assert targets[0].read_text().startswith("<!DOCTYPE html>")
    assert len(list(csv.DictReader(targets[1].open()))) == 4
    assert len(json.loads(targets[2].read_text())["rows"]) == 4
    assert main(arguments) == 2
    assert "report.html: exists already; --force replaces it" in capsys.readouterr().err
    assert main([*arguments, "--force", "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert len(targets[3].read_text().splitlines()) == 5  # taken from the journal, not run again


def test_a_contradiction_is_an_exit_code(
    saved: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def row(solver: str, objective: float, bound: float) -> ComparisonRow:
        return ComparisonRow(
            solver, "feasible", objective, bound, 0.0, True, True, 0.0, 0.0, "", None
        )

    wrong = Comparison([row("dual", 3.0, 3.0), row("scip", 2.0, 2.0)], 1e-6)
    monkeypatch.setattr("clearopt.comparison.compare", lambda *args, **options: wrong)
    assert main(["compare", saved[0]]) == 1
    assert "CONTRADICTION: dual found 3, above the bound 2 of scip" in capsys.readouterr().out
    assert main(["compare", saved[0], "--quiet"]) == 1
    assert "contradiction: dual found 3" in capsys.readouterr().err


def test_mistakes(saved: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*arguments: str) -> str:
        assert main(["compare", *arguments]) == 2
        return capsys.readouterr().err

    assert "no.npz" in refused(str(tmp_path / "no.npz"))
    assert "is given twice" in refused(saved[0], saved[0])
    assert "unknown solver 'gurobi'" in refused(saved[0], "--solvers", "gurobi")
    assert "repeats = 0" in refused(saved[0], "--repeats", "0")
    assert "is no folder for it" in refused(saved[0], "--csv", str(tmp_path / "none" / "x.csv"))


def test_files_of_one_name_are_told_apart_by_their_folders(
    saved: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "p.npz").write_bytes(Path(saved[0]).read_bytes())
    files = [str(tmp_path / folder / "p.npz") for folder in ("a", "b")]
    assert main(["compare", *files, "--solvers", "uniform"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["a/p", "b/p"]
