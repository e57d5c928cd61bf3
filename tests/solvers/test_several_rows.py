"""Several rows and floors in the dual: honest bounds, feasible allocations."""

from __future__ import annotations

import numpy as np
import pytest

import clearopt as co


def build(seed: int, n: int, groups: int, *, whole: bool, floors: bool) -> co.Problem:
    rng = np.random.default_rng(seed)
    threshold, rate = rng.uniform(5, 100, n), 10 ** rng.uniform(-2, 0, n)
    scale = rng.uniform(0.2, 1, n)
    tokens = co.Allocation(n, upper=4096, integer=whole)
    accuracy = co.CumulativeSurge(scale, threshold, rate)(tokens)
    tenant = rng.integers(0, groups, n)
    need = np.bincount(tenant, threshold + 3 / rate, minlength=groups)
    rows = [
        (co.sum(tokens) <= 0.3 * need.sum()).named("budget"),
        (
            co.sum(tokens, by=tenant) <= {g: 0.35 * need[g] for g in np.unique(tenant).tolist()}
        ).named("tenant cap"),
        (rng.uniform(0.5, 2, n) @ tokens <= 0.33 * need.sum()).named("memory"),
    ]
    if floors:
        rows.append((co.mean(accuracy, by=tenant) >= 0.1).named("floor"))
    return co.Problem(co.Maximize(co.sum(accuracy)), rows)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("floors", [False, True])
@pytest.mark.parametrize("n", [14, 60])
def test_feasible_with_an_honest_bound(n: int, whole: bool, floors: bool) -> None:
    solution = build(n, n, 3, whole=whole, floors=floors).solve(time_limit=60)
    assert solution.status in ("optimal", "feasible"), solution.summary()
    assert solution.feasibility is not None
    assert solution.feasibility.ok
    # The duality gap itself: about one open query a row, so it matters less as n grows.
    assert 0 <= solution.gap < (0.1 if n == 14 else 0.01)
    prices = solution.prices["tenant cap"]
    assert isinstance(prices, dict)
    assert all(price >= 0 for price in prices.values())
    if floors:
        assert all(price <= 0 for price in solution.prices["floor"].values())


def test_the_bound_is_never_below_what_scip_finds() -> None:
    problem = build(1, 8, 2, whole=False, floors=False)
    dual = problem.solve()
    scip = problem.solve(solver="scip", time_limit=10)
    assert scip.allocation is not None
    assert dual.bound >= scip.objective * (1 - 1e-9)
    assert scip.bound >= dual.objective * (1 - 1e-6)


def test_a_repeated_row_changes_nothing() -> None:
    rng = np.random.default_rng(2)
    tokens = co.Allocation(40, upper=4096)
    accuracy = co.CumulativeSurge(0.9, rng.uniform(5, 80, 40), 0.1)(tokens)
    objective = co.Maximize(co.sum(accuracy))
    once = co.Problem(objective, [co.sum(tokens) <= 900]).solve()
    twice = co.Problem(objective, [co.sum(tokens) <= 900, co.sum(tokens) <= 900]).solve()
    assert twice.bound >= once.objective * (1 - 1e-12)
    assert twice.objective <= once.bound
    assert twice.objective == pytest.approx(once.objective, rel=5e-3)


def test_equality_and_at_least_rows_are_met() -> None:
    rng = np.random.default_rng(4)
    n = 50
    tokens = co.Allocation(n, upper=4096)
    accuracy = co.CumulativeSurge(0.9, rng.uniform(5, 80, n), 0.1)(tokens)
    problem = co.Problem(
        co.Maximize(co.sum(accuracy)),
        [co.sum(tokens) == 2000, co.sum(tokens[:10]) >= 700],
    )
    solution = problem.solve()
    assert solution.allocation is not None, solution.summary()
    assert solution.allocation.sum() == pytest.approx(2000, rel=1e-9)
    assert solution.allocation[:10].sum() >= 700 * (1 - 1e-9)
    assert solution.gap < 0.01
