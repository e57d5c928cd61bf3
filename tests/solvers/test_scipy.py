"""SciPy's minimisers: feasible, below the dual's bound, and honest about proving nothing."""

from __future__ import annotations

import numpy as np
import pytest
from brute_force import FEATURES, random_problem

import clearopt as co

METHODS = ("SLSQP", "trust-constr", "differential_evolution", "direct")


def surges(n: int, *, seed: int = 0) -> co.Problem:
    rng = np.random.default_rng(seed)
    tokens = co.Allocation(n, upper=300)
    accuracy = co.CumulativeSurge(
        rng.uniform(0.3, 1, n), rng.uniform(5, 60, n), 10 ** rng.uniform(-1.5, -0.5, n)
    )(tokens)
    return co.Problem(co.Maximize(co.sum(accuracy)), [(co.sum(tokens) <= 40 * n).named("budget")])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_something_and_proves_nothing(method: str) -> None:
    problem = surges(6)
    found = problem.solve("scipy", method=method, time_limit=10)
    assert found.status == "feasible", found.summary()
    assert 0 < found.objective <= problem.solve().bound
    assert found.bound == np.inf
    assert found.statistics["method"] == method


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("seed", range(2))
def test_what_it_returns_is_feasible_whatever_the_rows(feature: str, seed: int) -> None:
    problem = random_problem(seed, feature, whole=False)
    found = problem.solve("scipy", time_limit=5)
    assert found.status in ("feasible", "unknown"), found.summary()
    if found.allocation is not None:
        dual = problem.solve(time_limit=10)
        sign = problem.program.sign
        assert sign * found.objective <= sign * dual.bound + 1e-7 * abs(dual.bound)
    else:
        assert found.message


def test_the_same_seed_gives_the_same_allocation() -> None:
    problem = surges(12)
    first, second = (problem.solve("scipy", seed=3) for _ in range(2))
    assert first.allocation.tolist() == second.allocation.tolist()


def test_a_warm_start_is_not_lost() -> None:
    problem = surges(12)
    best = problem.solve()
    assert problem.solve("scipy", starts=1, warm_start=best).objective >= best.objective * (
        1 - 1e-6
    )


def test_a_time_limit_leaves_what_was_found() -> None:
    stopped = surges(200).solve("scipy", time_limit=0.5)
    assert stopped.status in ("feasible", "unknown")
    assert "time limit" in stopped.message


def test_wrong_options_and_sizes_are_refused() -> None:
    with pytest.raises(co.DeclarationError, match="method = 'simplex'"):
        surges(3).solve("scipy", method="simplex")
    with pytest.raises(co.DeclarationError, match="starts = 0"):
        surges(3).solve("scipy", starts=0)
    with pytest.raises(co.UnsupportedProblemError, match="takes 60 queries at most"):
        surges(61).solve("scipy", method="direct")
