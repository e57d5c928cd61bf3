"""`on_progress`: what solvers tell on the way brackets what they prove in the end."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

import clearopt as co


def declared(*, minimize: bool, n: int = 12) -> co.Problem:
    rng = np.random.default_rng(n)
    tokens = co.Allocation(n, upper=200, integer=True)
    accuracy = co.CumulativeSurge(rng.uniform(0.3, 1, n), rng.uniform(5, 40, n), 0.1)(tokens)
    if minimize:
        return co.Problem(co.Minimize(co.sum(tokens)), [co.sum(accuracy) >= 0.3 * n])
    return co.Problem(
        co.Maximize(co.sum(accuracy)),
        [co.sum(tokens) <= 200, co.sum(tokens[: n // 2]) <= 70],
    )


@pytest.mark.parametrize("minimize", [False, True])
@pytest.mark.parametrize("solver", ["dual", "scip", "highs", "cvxpy"])
def test_bounds_hold_and_nothing_gets_worse(solver: str, minimize: bool) -> None:
    problem, told = declared(minimize=minimize), []
    problem.solve(solver, time_limit=4, on_progress=lambda *point: told.append(point))
    exact = problem.solve(tolerance=0)
    assert exact.status == "optimal"
    sign = -1 if minimize else 1
    assert told
    for seconds, objective, bound in told:
        assert 0 <= seconds < 60
        assert sign * bound >= sign * exact.objective - 1e-6 * abs(exact.objective)
        if not math.isnan(objective):
            assert sign * objective <= sign * exact.bound + 1e-6 * abs(exact.bound)
    for (before, value, bound), (after, better, tighter) in pairwise(told):
        assert before <= after
        assert math.isnan(value) or sign * better >= sign * value
        assert sign * tighter <= sign * bound


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(co.DeclarationError, match="on_progress = 3: must be a function"):
        declared(minimize=False).solve(on_progress=3)  # type: ignore[arg-type]
