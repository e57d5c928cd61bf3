"""`clearopt fit FILE`: from a user's own rollouts to curves and to budgets."""

import polars as pl
import pytest
from rollout_files import simulated, write

from clearopt.cli import main


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write(tmp_path_factory.mktemp("r") / "rollouts.csv", simulated(n=15, samples=4))


def test_budgets_in_one_command(file, tmp_path, capsys):
    out = tmp_path / "budgets.csv"
    assert main(["fit", str(file), "--budget", "3000", "--out", str(out)]) == 0
    table = pl.read_csv(out)
    assert table["query_id"].to_list() == [f"q{i}" for i in range(15)]
    assert table["tokens"].sum() == 3000
    assert (table["tokens"] > 0).to_list() == table["funded"].to_list()
    assert "sums, small: 15 curves from 60 rollouts" in capsys.readouterr().out


def test_curves_are_what_solve_takes(file, tmp_path):
    curves, budgets, at_once = (tmp_path / f"{name}.csv" for name in "abc")
    assert main(["fit", str(file), "--out", str(curves), "--quiet"]) == 0
    given = ["solve", str(curves), "--family", "Lognormal", "--budget", "3000"]
    assert main([*given, "--out", str(budgets), "--quiet"]) == 0
    assert main(["fit", str(file), "--budget", "3000", "--out", str(at_once), "--quiet"]) == 0
    assert pl.read_csv(budgets)["tokens"].equals(pl.read_csv(at_once)["tokens"])


def test_a_budget_of_realised_tokens_gives_larger_caps(file, tmp_path):
    caps = {}
    for name, more in (("planned", []), ("realised", ["--realised"])):
        out = tmp_path / f"{name}.parquet"
        assert main(["fit", str(file), "--budget", "3000", *more, "--out", str(out)]) == 0
        caps[name] = pl.read_parquet(out)["tokens"].sum()
    assert caps["realised"] > caps["planned"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--realised"], "give --budget"),
        (["--model", "huge"], "no model 'huge'"),
        (["--out", "curves.txt"], "what kind of table"),
        (["--out", "absent/curves.csv"], "cannot write there"),
    ],
)
def test_what_is_wrong_ends_in_2(file, given, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", str(file), "--out", "curves.csv", *given]) == 2
    assert said in capsys.readouterr().err


def test_nothing_is_replaced_unasked(file, tmp_path, capsys):
    out = tmp_path / "curves.csv"
    out.write_text("mine")
    assert main(["fit", str(file), "--out", str(out)]) == 2
    assert "exists already; --force" in capsys.readouterr().err
    assert out.read_text() == "mine"


def test_a_picture_of_the_calibration(file, tmp_path, capsys):
    out, plot = tmp_path / "curves.csv", tmp_path / "fit.svg"
    assert main(["fit", str(file), "--out", str(out), "--plot", str(plot)]) == 0
    assert f"Written: {plot}" in capsys.readouterr().out
    text = plot.read_text()
    assert "<svg" in text
    assert main(["fit", str(file), "--out", str(tmp_path / "a.csv"), "--plot", "fit.txt"]) == 2
    assert "--plot fit.txt: must end in .png" in capsys.readouterr().err
    assert main(["fit", str(file), "--out", str(tmp_path / "a.csv"), "--plot", str(plot)]) == 2
    assert not (tmp_path / "a.csv").exists()
