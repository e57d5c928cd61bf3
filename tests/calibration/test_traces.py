"""Rollouts are read from any of the formats as they stand; what is wrong is told by its place."""

import gzip

import numpy as np
import polars as pl
import pytest
from shared_data import REASONING_MODELS

import clearopt as co
from clearopt.calibration import read_rollouts

ROWS = {
    "benchmark": ["sums"] * 6,
    "model": ["small", "small", "small", "large", "large", "large"],
    "query_id": ["b", "a", "b", "a", "a", "c"],
    "sample_id": [1, 1, 2, 1, 2, 1],
    "tokens": [10, 20, 30, 40, 50, 60],
    "correct": [True, False, True, True, True, False],
    "finished": [True, True, False, True, True, True],
}
KINDS = ["csv", "tsv", "jsonl", "parquet", "csv.gz", "jsonl.gz"]


def write(path, columns):
    frame, name = pl.DataFrame(columns), path.name.removesuffix(".gz")
    if name.endswith("parquet"):
        frame.write_parquet(path)
        return path
    if name.endswith("jsonl"):
        text = frame.write_ndjson()
    else:
        text = frame.write_csv(separator="\t" if name.endswith("tsv") else ",")
    path.write_bytes(gzip.compress(text.encode()) if path.name.endswith(".gz") else text.encode())
    return path


def refused(path, **options):
    with pytest.raises(co.DeclarationError) as error:
        read_rollouts(path, **options)
    return str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_same_runs(kind, tmp_path):
    traces = read_rollouts(write(tmp_path / f"r.{kind}", ROWS))
    assert len(traces) == 6
    small, large = traces.runs()
    assert (small.name, large.name) == ("sums, small", "sums, large")
    assert small.queries == ("b", "a")
    assert large.queries == ("a", "c")
    np.testing.assert_array_equal(small.rollouts.query, [0, 0, 1])
    np.testing.assert_array_equal(small.rollouts.tokens, [10, 30, 20])
    np.testing.assert_array_equal(small.rollouts.solved, [True, False, False])
    np.testing.assert_array_equal(large.samples, [2, 1])
    assert traces.notes == (
        "1 of 6 answers are right though cut before they ended; they count as wrong, for under "
        "no cap did they end",
    )


def test_a_run_is_selected_by_what_tells_it_apart(tmp_path):
    traces = read_rollouts(write(tmp_path / "r.csv", ROWS))
    assert traces.select(model="large").model == "large"
    with pytest.raises(co.DeclarationError, match="2 runs match: name benchmark and model"):
        traces.select("sums")
    with pytest.raises(co.DeclarationError, match="no model 'huge'; there is 'small', 'large'"):
        traces.select(model="huge")
    assert len(traces.matching()) == 2


def test_parts_of_a_run(tmp_path):
    run = read_rollouts(write(tmp_path / "r.csv", ROWS)).select(model="small")
    part = run.subset(run.rollouts.tokens < 25)
    assert (part.queries, part.samples.tolist()) == (("b", "a"), [1, 1])
    turned = run.of_queries([1, 0])
    assert turned.queries == ("a", "b")
    np.testing.assert_array_equal(turned.rollouts.query, [0, 1, 1])
    np.testing.assert_array_equal(turned.rollouts.tokens, [20, 10, 30])
    with pytest.raises(co.DeclarationError, match="there are none"):
        run.subset(np.zeros(3, bool))


def test_what_is_left_out_has_a_plain_meaning(tmp_path):
    kept = {name: ROWS[name] for name in ("query_id", "tokens", "correct")}
    traces = read_rollouts(write(tmp_path / "mine.2025.csv", kept))
    (run,) = traces.runs()
    assert (run.benchmark, run.model) == ("mine", "model")
    assert run.rollouts.finished.all()
    assert traces.sample_id == ("0", "0", "1", "1", "2", "0")
    assert traces.notes == (
        "no column 'finished': every answer is taken to have ended itself",
    )  # fmt: skip


def test_columns_of_other_names(tmp_path):
    theirs = {"q": ["x", "x"], "completion_tokens": [5, 6], "ok": ["true", "False"], "n": [0, 1]}
    path = write(tmp_path / "r.jsonl", theirs)
    columns = {"query_id": "q", "tokens": "completion_tokens", "correct": "ok", "sample_id": "n"}
    assert read_rollouts(path, columns=columns).correct.tolist() == [True, False]
    assert "mapped by columns={'query_id': 'theirs'}" in refused(path)
    assert "there is no column 'm' for model" in refused(path, columns=columns | {"model": "m"})
    assert "'cost' is not one of ours" in refused(path, columns={"cost": "q"})


def test_flags_as_people_write_them_and_windows_line_ends(tmp_path):
    path = tmp_path / "r.csv"
    path.write_bytes(
        b"\xef\xbb\xbfquery_id,tokens,correct,finished\r\na,10,1,yes\r\n\r\nb,20,FALSE,1.0\r\n"
    )
    run = next(read_rollouts(path).runs())
    assert run.queries == ("a", "b")
    assert run.rollouts.correct.tolist() == [True, False]
    assert run.rollouts.finished.all()


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("tokens", -3, "line 4, column 'tokens': -3 tokens: must be at least 0"),
        ("tokens", "many", "line 4, column 'tokens': 'many' is text, not a number"),
        ("tokens", None, "line 4, column 'tokens': missing"),
        ("correct", "maybe", "line 4, column 'correct': 'maybe' is neither true nor false"),
        ("correct", None, "line 4, column 'correct': missing"),
        ("finished", "2", "line 4, column 'finished': '2' is neither true nor false"),
        ("query_id", None, "line 4, column 'query_id': the label is missing"),
        ("sample_id", 1, "sample '1' of query 'b' (sums, small) stands already on line 2"),
    ],
)
def test_a_wrong_cell_is_named(column, value, said, tmp_path):
    cells = [str(cell) if cell is not None else None for cell in ROWS[column]]
    cells[2] = None if value is None else str(value)
    assert said in refused(write(tmp_path / "r.csv", ROWS | {column: cells}))


def test_files_that_are_none(tmp_path):
    assert "cannot be read" in refused(tmp_path / "absent.csv")
    (tmp_path / "torn.csv.gz").write_bytes(gzip.compress(b"query_id,tokens\n" * 99)[:-9])
    assert "not a whole gzip file" in refused(tmp_path / "torn.csv.gz")
    (tmp_path / "r.txt").write_text("x")
    assert "what kind of table is this?" in refused(tmp_path / "r.txt")


@pytest.mark.skipif(
    not REASONING_MODELS.is_file(), reason="the shared rollouts are not on this machine"
)
def test_the_shared_rollouts():
    runs = list(read_rollouts(REASONING_MODELS).runs())
    assert len(runs) == 24
    assert {run.n for run in runs if run.benchmark == "gpqa-diamond"} == {198}
    assert all(run.samples.min() >= 1 and run.samples.max() <= 8 for run in runs)
