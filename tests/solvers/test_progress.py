"""`on_progress`: what solvers tell on the way brackets what they prove in the end."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

import clearopt as co
from clearopt import testset


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
    in_order(told, sign)


def in_order(told: list[tuple[float, float, float]], sign: float) -> None:
    """Times go on, and neither number gets worse."""
    for (before, value, bound), (after, better, tighter) in pairwise(told):
        assert before <= after
        assert math.isnan(value) or sign * better >= sign * value
        assert sign * tighter <= sign * bound


@pytest.mark.parametrize("minimize", [False, True])
def test_passes_over_many_queries_are_told(minimize: bool) -> None:
    n = 20_000
    rng = np.random.default_rng(5)
    tokens = co.Allocation(n, upper=300.0)
    accuracy = co.CumulativeSurge(rng.uniform(0.3, 1, n), rng.uniform(5, 40, n), 0.1)(tokens)
    worth = co.sum(accuracy) - 1e-4 * co.sum(tokens) + 7.0
    goal = co.Minimize(-1 * worth) if minimize else co.Maximize(worth)
    problem, told = co.Problem(goal, [co.sum(tokens) <= 20.0 * n]), []
    solution = problem.solve(engine="jax", on_progress=lambda *point: told.append(point))
    assert solution.statistics["engine"] == "jax"
    sign = -1.0 if minimize else 1.0
    assert 2 <= len(told) <= 2 * solution.statistics["passes"]
    in_order(told, sign)
    for _, objective, bound in told:
        assert sign * bound >= sign * solution.objective
        assert math.isnan(objective) or sign * objective <= sign * solution.bound
    assert told[-1][1] == pytest.approx(solution.objective, rel=1e-4)
    assert told[-1][2] == pytest.approx(solution.bound, rel=1e-12)


@pytest.mark.parametrize("minimize", [False, True])
@pytest.mark.parametrize("node_limit", [None, 4])
def test_independent_groups_add_up(node_limit: int | None, minimize: bool) -> None:
    n = 36
    rng = np.random.default_rng(6)
    tenant = np.arange(n) % 6
    tokens = co.Allocation(n, lower=1, upper=200, integer=True)
    accuracy = co.CumulativeSurge(rng.uniform(0.3, 1, n), rng.uniform(5, 40, n), 0.1)(tokens)
    if minimize:
        goal = co.Minimize(co.sum(tokens) + 3.0)
        limits = [co.sum(accuracy, by=tenant) >= {t: 1.0 + 0.1 * t for t in range(6)}]
    else:
        goal = co.Maximize(co.sum(accuracy) + 3.0)
        limits = [co.sum(tokens, by=tenant) <= {t: 60.0 + 10 * t for t in range(6)}]
    problem, told = co.Problem(goal, limits), []
    exact = problem.solve(tolerance=0)
    assert exact.status == "optimal"
    more = {} if node_limit is None else {"node_limit": node_limit}
    solution = problem.solve(on_progress=lambda *point: told.append(point), tolerance=0, **more)
    assert solution.statistics["components"] == 6
    sign = -1.0 if minimize else 1.0
    in_order(told, sign)
    assert len(told) >= 4
    for _, objective, bound in told:
        assert sign * bound >= sign * exact.objective - 1e-9
        assert math.isnan(objective) or sign * objective <= sign * exact.bound + 1e-9
    assert math.isfinite(told[0][2])  # before any group is done
    if solution.allocation is not None:
        assert told[-1][1] == pytest.approx(solution.objective, rel=1e-9)
    assert told[-1][2] == pytest.approx(solution.bound, rel=1e-9)


def test_groups_with_cost_curves_and_menus_add_up() -> None:
    n = 12
    rng = np.random.default_rng(7)
    tokens = co.Allocation(n, upper=60, integer=True)
    accuracy = co.CumulativeSurge(rng.uniform(0.3, 1, n), rng.uniform(2, 20, n), 0.2)(tokens)
    cost = co.ExpectedTokens(rng.uniform(0, 8, n), 0.1, 0.8)(tokens)
    half = n // 2
    limits = [
        co.sum(cost[:half]) <= 40,
        co.sum(tokens[half:]) <= 60,
        co.at_most_one(tokens[half : half + 3], tokens[half + 3 :]),
    ]
    problem, told = co.Problem(co.Maximize(co.sum(accuracy)), limits), []
    solution = problem.solve(on_progress=lambda *point: told.append(point))
    assert solution.statistics["components"] > 1
    in_order(told, 1.0)
    assert all(bound >= solution.objective - 1e-9 for _, _, bound in told)
    assert told[-1][1] == pytest.approx(solution.objective, rel=1e-9)


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(co.DeclarationError, match="on_progress = 3: must be a function"):
        declared(minimize=False).solve(on_progress=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["tenants-1000", "teams-1000", "tenants-60-whole"])
def test_parts_do_not_speak_for_the_whole(name):
    """Where groups are searched one by one, their own values and bounds are nobody's to hear."""
    instance = testset.load(name)
    heard = []
    solution = instance.problem.solve(
        time_limit=20, on_progress=lambda _, value, bound: heard.append((value, bound))
    )
    slack = 1e-9 * abs(solution.objective)
    assert all(bound >= solution.objective - slack for _, bound in heard)
    assert all(not value > solution.bound + slack for value, _ in heard)
