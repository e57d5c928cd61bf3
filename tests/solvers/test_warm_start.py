"""Prices carry over by constraint name and label, whatever became of the queries."""

import numpy as np
import pytest

import clearopt as co
from clearopt.solvers.warm_start import known_prices


def declared(n, tenants, *, names=("budget", "cap"), seed=0):
    rng = np.random.default_rng(seed)
    tokens = co.Allocation(n, upper=400)
    accuracy = co.CumulativeSurge(rng.uniform(0.5, 1, n), rng.uniform(5, 60, n), 0.1)(tokens)
    labels = np.array(list(tenants))[np.arange(n) % len(tenants)]
    caps = {tenant: 14.0 * n / len(tenants) for tenant in tenants}
    limits = {
        "budget": co.sum(tokens) <= 12.0 * n,
        "cap": co.sum(tokens, by=labels) <= caps,
        "floor": co.mean(accuracy) >= 0.05,
    }
    return co.Problem(co.Maximize(co.sum(accuracy)), [limits[k].named(k) for k in names])


def test_by_name_and_label():
    earlier = declared(40, "ab").solve()
    rows, floors = known_prices(declared(50, "cba", names=("cap", "floor")).program, earlier)
    labels = declared(50, "cba", names=("cap",)).program.constraints[0].labels
    of = dict(zip(labels, rows, strict=True))
    assert np.isnan(of["c"])
    assert of["a"] == earlier.prices["cap"]["a"]
    assert of["b"] == earlier.prices["cap"]["b"]
    assert np.isnan(floors).all()
    nothing = known_prices(earlier.program, None)
    assert all(np.isnan(part).all() for part in nothing)


@pytest.mark.parametrize("names", [("budget",), ("budget", "cap"), ("cap", "floor")])
@pytest.mark.parametrize(("n", "tenants"), [(60, "ab"), (35, "ab"), (60, "abc"), (40, "b")])
def test_other_queries_and_rows_end_at_the_same_optimum(names, n, tenants):
    earlier = declared(40, "ab").solve()
    problem = declared(n, tenants, names=names, seed=1)
    cold, warm = problem.solve(), problem.solve(warm_start=earlier)
    assert cold.status == warm.status == "optimal"
    assert warm.objective <= cold.bound * (1 + 1e-12)
    assert cold.objective <= warm.bound * (1 + 1e-12)


def test_added_queries_take_no_more_passes():
    earlier = declared(30_000, "a", names=("budget",)).solve()
    problem = declared(33_000, "a", names=("budget",), seed=2)
    cold, warm = problem.solve(), problem.solve(warm_start=earlier)
    assert warm.statistics["passes"] <= cold.statistics["passes"]
    assert warm.objective == pytest.approx(cold.objective, rel=2e-6)


def whole(n=14, share=8.0, seed=3):
    rng = np.random.default_rng(seed)
    tokens = co.Allocation(n, upper=60, integer=True, name="tokens")
    accuracy = co.CumulativeSurge(rng.uniform(0.5, 1, n), rng.uniform(2, 20, n), 0.2)(tokens)
    limits = [
        (co.sum(tokens) <= share * n).named("budget"),
        (co.sum(tokens[: n // 2]) <= 0.6 * share * n).named("half"),
    ]
    return co.Problem(co.Maximize(co.sum(accuracy)), limits)


TAKERS = ("dual", "scip", "highs", "cvxpy", "ortools", "scipy", "pyomo:scip_direct")


@pytest.mark.parametrize("solver", TAKERS)
def test_what_the_caller_had_is_never_lost(solver):
    """However short the time, the allocation handed in is the least that comes back."""
    best = whole().solve()
    assert best.status == "optimal"
    warm = whole().solve(solver, time_limit=1e-3, warm_start=best)
    assert warm.allocation is not None, warm.message
    assert warm.objective >= best.objective - 1e-12
    assert warm.bound >= best.objective - 1e-9


@pytest.mark.parametrize("solver", TAKERS[:-1])
def test_an_allocation_that_does_not_fit_is_no_incumbent(solver):
    ample = whole(share=12.0).solve()
    warm = whole().solve(solver, time_limit=5, tolerance=1e-2, warm_start=ample)
    assert warm.allocation is not None
    assert warm.feasibility.ok
    assert warm.objective < ample.objective


def test_cvxpy_starts_from_prices_and_an_allocation():
    rng = np.random.default_rng(8)
    tokens = co.Allocation(60, upper=600, name="tokens")
    accuracy = co.CumulativeSurge(rng.uniform(0.3, 1, 60), rng.uniform(5, 80, 60), 0.1)(tokens)
    budget = (co.sum(tokens) <= 1_500).named("budget")
    problem = co.Problem(co.Maximize(co.sum(accuracy)), [budget])
    exact = problem.solve(tolerance=0)
    cold, warm = problem.solve("cvxpy"), problem.solve("cvxpy", warm_start=exact)
    assert warm.bound <= cold.bound * (1 + 1e-9)
    assert warm.objective >= exact.objective - 1e-12 >= cold.objective - 1e-9
    known = problem.solve("cvxpy", time_limit=1e-6, warm_start=exact)  # not even one model
    assert known.statistics["models"] == 0
    assert known.bound <= problem.solve("cvxpy", time_limit=1e-6).bound
    assert known.bound == pytest.approx(cold.bound, rel=1e-6)  # of the price alone


def test_independent_groups_take_their_own_prices():
    earlier = declared(40, "ab", names=("cap",)).solve()
    problem = declared(60, "ab", names=("cap",), seed=1)
    cold, warm = problem.solve(), problem.solve(warm_start=earlier)
    assert cold.statistics["components"] == warm.statistics["components"] == 2
    assert warm.objective == pytest.approx(cold.objective, rel=2e-6)
    assert warm.status == "optimal"
