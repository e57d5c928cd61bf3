"""A Parquet file in chunks: what the same queries give in memory, and clear errors."""

import numpy as np
import polars as pl
import pytest

import clearopt as co
from clearopt.deadline import NEVER
from clearopt.solvers.dual.large_program import solve_large
from clearopt.streaming import _Table

N = 5_000


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(2)
    frame = pl.DataFrame(
        {
            "id": [f"q{i}" for i in range(N)],
            "scale": rng.uniform(0.2, 1, N),
            "threshold": rng.uniform(5, 100, N),
            "rate": 10 ** rng.uniform(-2, 0, N),
            "value": rng.uniform(0, 2, N),
            "cap": [None if i % 7 == 0 else 500.0 + i for i in range(N)],
        }
    )
    path = tmp_path / "queries.parquet"
    frame.write_parquet(path, row_group_size=700)
    return path


def in_memory(frame, *, integer):
    """The same solve from arrays, to the last digits."""
    tokens = co.Allocation(N, upper=frame["cap"].fill_null(4096.0).to_numpy(), integer=integer)
    columns = (frame[name].to_numpy() for name in ("scale", "threshold", "rate"))
    accuracy = co.CumulativeSurge(*columns)(tokens)
    gain = frame["value"].to_numpy() @ accuracy
    program = co.Problem(co.Maximize(gain), [co.sum(tokens) <= 70_000]).program
    found = solve_large(program, deadline=NEVER, start=None, tell=lambda what: None, exact=True)
    return program, found


@pytest.mark.parametrize("chunk", [N, 1_300])
@pytest.mark.parametrize("integer", [False, True])
def test_as_in_memory(table, tmp_path, integer, chunk):
    out = tmp_path / "out.parquet"
    result = co.solve_parquet(
        table, out, budget=70_000, upper=4096, integer=integer, chunk=chunk, tolerance=1e-4,
        columns={"weight": "value", "upper": "cap"},
    )  # fmt: skip
    written, frame = pl.read_parquet(out), pl.read_parquet(table)
    program, found = in_memory(frame, integer=integer)
    assert written[frame.columns].equals(frame)
    assert result.bound == pytest.approx(found["bound"], rel=1e-12)
    assert result.price == pytest.approx(found["row_prices"][0], rel=1e-9)
    tokens = written["tokens"].to_numpy()
    if not integer:
        assert np.abs(tokens - found["allocation"]).max() <= 1e-7
    assert result.objective == pytest.approx(program.objective(tokens * 1.0), rel=1e-12)
    assert result.objective <= result.bound
    assert result.gap <= 1e-5
    assert result.status == "optimal"
    assert tokens.sum() <= 70_000 * (1 + 1e-12)
    assert result.spent == pytest.approx(tokens.sum())
    assert (written["tokens"].dtype == pl.Int64) is integer
    assert result.funded == written["funded"].sum()
    accuracy = co.CumulativeSurge(*(frame[c].to_numpy() for c in ("scale", "threshold", "rate")))
    expected = accuracy.value(tokens.astype(float))
    assert written["expected_accuracy"].to_numpy() == pytest.approx(expected)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_the_same_twice(table, tmp_path):
    results = [
        co.solve_parquet(table, tmp_path / f"{k}.parquet", budget=70_000, chunk=1_300)
        for k in range(2)
    ]
    assert results[0].objective == results[1].objective
    first, second = (pl.read_parquet(result.path) for result in results)
    assert first.equals(second)


def test_constants_and_another_family(table, tmp_path):
    out = tmp_path / "out.parquet"
    result = co.solve_parquet(
        table, out, budget=1_000, family="ShiftedSurge", constants={"rate": 0.05}, tolerance=1e-2
    )
    assert result.status == "optimal"
    assert pl.read_parquet(out)["tokens"].sum() <= 1_000


@pytest.mark.parametrize(
    ("column", "row", "value", "message"),
    [
        ("rate", 1_500, None, r"row 1501, column 'rate': empty"),
        ("rate", 1_500, float("nan"), r"row 1501, column 'rate': .*NaN"),
        ("threshold", 4_999, -3.0, r"row 5000, column 'threshold': .*at least 0"),
        ("value", 2, -1.0, r"row 3, column 'value': .*at least 0"),
    ],
)
def test_a_bad_cell_is_named(table, tmp_path, column, row, value, message):
    frame = pl.read_parquet(table)
    values = frame[column].to_list()
    values[row] = value
    frame.with_columns(pl.Series(column, values)).write_parquet(table)
    with pytest.raises(co.DeclarationError, match=message):
        co.solve_parquet(
            table, tmp_path / "out.parquet", budget=10, chunk=1_000, columns={"weight": "value"}
        )
    assert not (tmp_path / "out.parquet").exists()


def test_what_is_asked_for_must_be_there(table, tmp_path):
    out = tmp_path / "out.parquet"
    with pytest.raises(co.DeclarationError, match="no column 'speed'"):
        co.solve_parquet(table, out, budget=10, columns={"rate": "speed"})
    with pytest.raises(co.DeclarationError, match="no such file"):
        co.solve_parquet(tmp_path / "none.parquet", out, budget=10)
    with pytest.raises(co.DeclarationError, match="known are"):
        co.solve_parquet(table, out, budget=10, family="Nonsense")
    with pytest.raises(co.DeclarationError, match="not numbers"):
        co.solve_parquet(table, out, budget=10, columns={"rate": "id"})
    with pytest.raises(co.DeclarationError, match="at least 0"):
        co.solve_parquet(table, out, budget=float("nan"))
    with pytest.raises(co.DeclarationError, match="the table itself"):
        co.solve_parquet(table, table, budget=10)
    out.write_text("mine")
    with pytest.raises(co.DeclarationError, match="exists already"):
        co.solve_parquet(table, out, budget=10)
    assert out.read_text() == "mine"


def test_lower_bounds_above_the_budget_are_infeasible(table, tmp_path):
    out = tmp_path / "out.parquet"
    result = co.solve_parquet(table, out, budget=10, constants={"lower": 1.0})
    assert result.status == "infeasible"
    assert result.path is None
    assert not out.exists()


@pytest.mark.parametrize("integer", [False, True])
def test_what_is_kept_of_a_chunk_does_not_hold_on_to_all_of_it(table, integer):
    read = _Table(table, "CumulativeSurge", {}, {}, 4096.0, integer)
    _, columns = read.read(0, 1_000)
    kept = columns.take(np.arange(3)).full(3)
    for array in (*kept.parameters, *(c for c in kept[1:] if c is not None)):
        memory = array
        while memory.base is not None:
            memory = memory.base
        assert memory.size <= 3
