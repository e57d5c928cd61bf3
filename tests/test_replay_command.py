"""`clearopt replay FILE`: what it prints, writes and refuses."""

import json

import pytest
from rollout_files import simulated, write

from clearopt.cli import main

QUICK = ["--budgets", "0.1,0.3", "--repeats", "1", "--policies", "dual,oracle"]


@pytest.fixture
def file(tmp_path):
    rows = simulated(n=12, samples=4) + simulated(n=12, samples=4, model="larger", scale=2.0)
    return write(tmp_path / "rollouts.csv", rows)


def test_a_run_is_told_row_by_row_and_written(file, tmp_path, capsys):
    out = tmp_path / "report"
    given = ["replay", str(file), "--model", "small", "--out", str(out), *QUICK]
    assert main(given) == 0
    said = capsys.readouterr().out
    for word in ("sums, small: 12 queries, 48 rollouts", "time-share", "oracle", "10 %", "30 %"):
        assert word in said
    assert "no query split" in said
    report = json.loads((out / "report.json").read_text())
    assert report["complete"]
    assert {row["policy"] for row in report["rows"]} == {"uniform", "time-share", "dual", "oracle"}
    page = (out / "replay.html").read_text()
    assert "<svg" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert {path.name for path in out.glob("*.png")} == {
        "replay-sums-sample-planned.png", "replay-sums-sample-realised.png",
    }  # fmt: skip


def test_several_runs_are_summed_up(file, capsys):
    rows = simulated(n=12, samples=4, model="third", seed=4)
    file.write_text(file.read_text() + "".join(
        ",".join(str(value) for value in row.values()) + "\n" for row in rows))  # fmt: skip
    assert main(["replay", str(file), "--accounting", "planned", *QUICK]) == 0
    said = capsys.readouterr().out
    assert "sums, medians over 3 models" in said
    assert "above/below 1" in said


def test_nothing_to_evaluate_ends_in_1_and_says_why(tmp_path, capsys):
    rows = [row | {"correct": 0} for row in simulated(n=3, samples=2)]
    assert main(["replay", str(write(tmp_path / "r.csv", rows)), *QUICK]) == 1
    assert "none of the 3 calibration rollouts is right" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--model", "huge"], "no model 'huge'"),
        (["--column", "tokens=cost"], "no column 'cost'"),
        (["--policies", "magic"], "'magic' is unknown"),
        (["--features", "absent.csv"], "absent.csv: cannot be read"),
        (["--out", "/dev/null/x"], "cannot write there"),
    ],
)
def test_what_is_wrong_ends_in_2(file, given, said, capsys):
    assert main(["replay", str(file), *given]) == 2
    assert said in capsys.readouterr().err


def test_other_column_names(tmp_path, capsys):
    rows = [
        {"q": row["query_id"], "completion_tokens": row["tokens"], "ok": int(row["correct"])}
        for row in simulated(n=10, samples=4)
    ]
    columns = ["query_id=q", "tokens=completion_tokens", "correct=ok"]
    options = [part for column in columns for part in ("--column", column)]
    path = write(tmp_path / "mine.csv", rows)
    assert main(["replay", str(path), *options, *QUICK]) == 0
    said = capsys.readouterr().out
    assert "mine, model: 10 queries, 40 rollouts" in said
    assert "no column 'finished'" in said
