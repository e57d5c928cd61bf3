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
