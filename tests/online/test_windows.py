"""Windows of queries that are solved together."""

import numpy as np
import pytest

import clearopt as co
from clearopt.online import Windows, offline_optimum, plot_stream, run_windows


def pool(seed, n):
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(size=n)
    return co.Lognormal(
        1 / (1 + np.exp(difficulty - 1.5)), np.exp(6.5 + 0.9 * difficulty), np.full(n, 0.35)
    )


def test_one_window_is_the_offline_optimum():
    stream, budget = pool(0, 60), 600.0 * 60
    run = run_windows(Windows(budget=budget, horizon=60), stream, 20_000.0, 60)
    best = offline_optimum(stream, budget, 20_000.0, tolerance=1e-6)
    assert run.value == pytest.approx(best.objective, rel=2e-6)
    assert run.prices[0] == pytest.approx(best.prices["budget"])


def test_windows_keep_the_budget_and_what_is_left_goes_on():
    stream, budget = pool(1, 105), 600.0 * 105
    windows = Windows(budget=budget, horizon=105, tolerance=1e-4)
    whole = run_windows(windows, stream, 20_000.0, 20)  # the last window is a short one
    assert whole.tokens.sum() <= budget
    assert windows.left == pytest.approx(budget - whole.tokens.sum())
    needed = 0.7 * np.asarray(stream.median)
    windows = Windows(budget=budget, horizon=105, tolerance=1e-4)
    early = run_windows(windows, stream, 20_000.0, 20, needed=needed)
    assert early.spent.sum() <= budget
    assert early.value > whole.value


def test_more_queries_than_expected_share_what_is_left():
    windows = Windows(budget=5000.0, horizon=10)
    for seed in range(3):
        windows.allocate(pool(seed, 10), 20_000.0)
    assert windows.left >= 0
    assert windows.seen == 30


def test_a_floor_that_cannot_be_carried_is_counted():
    windows = Windows(budget=3000.0, horizon=30, floor=0.99)
    solution = windows.allocate(pool(3, 30), 20_000.0)
    assert windows.missed == 1
    assert solution.allocation is not None


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"budget": 0.0, "horizon": 3}, "budget = 0.0"),
        ({"budget": 5.0, "horizon": 0}, "horizon = 0"),
        ({"budget": 5.0, "horizon": 3, "floor": 2.0}, "floor = 2.0"),
    ],
)
def test_bad_windows_are_refused(options, match):
    with pytest.raises(co.DeclarationError, match=match):
        Windows(**options)


def test_no_more_is_returned_than_was_given():
    with pytest.raises(co.DeclarationError, match="0 were given out"):
        Windows(budget=10.0, horizon=2).refund(1.0)


def test_a_stream_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    rng = np.random.default_rng(0)
    series = {"cold": rng.uniform(0.1, 1, 50), "warm": rng.uniform(0.1, 1, 50)}
    path = plot_stream(series, series, series, tmp_path / "stream.svg", offline_price=0.4)
    assert path.stat().st_size > 1000
