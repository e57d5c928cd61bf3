"""Knapsacks in disguise: over few whole tokens `dual` proves what its prices alone cannot."""

import numpy as np
import pytest

import clearopt as co
from clearopt import testset
from clearopt.solvers.dual import whole_table
from clearopt.solvers.dual.whole_table import table_of


def knapsack(n=24, seed=0, share=0.4, **options):
    """Steep curves whose worth is their length: bounds by prices say next to nothing."""
    rng = np.random.default_rng(seed)
    length = rng.integers(20, 60, n).astype(float)
    tokens = co.Allocation(n, upper=100, integer=True, **options)
    scale = (length + rng.integers(1, 4, n)) / 100
    accuracy = co.CumulativeSurge(scale, length, 20.0)(tokens)
    budget = (co.sum(tokens) <= float(np.floor(share * length.sum()))).named("budget")
    return co.Problem(co.Maximize(co.sum(accuracy)), [budget])


def test_what_branching_leaves_open_is_closed():
    instance = testset.load("knapsack-60")
    solution = instance.problem.solve()
    assert solution.status == "optimal"
    assert solution.objective == pytest.approx(instance.best_value, rel=1e-12)
    assert solution.bound >= instance.best_value * (1 - 1e-12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("tolerance", [1e-6, 0.0])
def test_it_agrees_with_dynamic_programming(seed, tolerance, monkeypatch):
    monkeypatch.setattr(whole_table, "NODES_BEFORE", 1)
    problem = knapsack(seed=seed)
    ours, table = problem.solve(tolerance=tolerance), problem.solve("dp", tolerance=tolerance)
    assert ours.status == table.status == "optimal"
    assert ours.objective == pytest.approx(table.objective, rel=1e-6)
    assert ours.bound >= table.objective * (1 - 1e-12)
    assert ours.prices["budget"] >= 0


def has_table(tokens, *rows):
    accuracy = co.CumulativeSurge(0.9, 2.0, 0.5)(tokens)
    return table_of(co.Problem(co.Maximize(co.sum(accuracy)), list(rows)).program) is not None


def test_only_what_is_small_whole_and_plain_has_a_table():
    whole, fractional = co.Allocation(3, upper=9, integer=True), co.Allocation(3, upper=9.0)
    vast, many = (co.Allocation(n, upper=10**7, integer=True) for n in (3, 10**5))
    assert has_table(whole, co.sum(whole) <= 9)
    assert not has_table(whole)
    assert not has_table(fractional, co.sum(fractional) <= 9)
    assert not has_table(whole, np.array([1.0, np.pi, np.e]) @ whole <= 9)
    assert not has_table(vast, co.sum(vast) <= 10**7)
    assert not has_table(many, co.sum(many) <= 10**7)


def test_a_node_limit_is_kept():
    solution = knapsack(seed=1).solve(node_limit=1)
    assert solution.statistics["nodes"] <= 2
    assert "states" not in solution.statistics


def test_out_of_time_the_search_by_prices_stands():
    problem = knapsack(60)
    solution = problem.solve(time_limit=1e-3)
    assert solution.bound >= problem.solve("dp").objective * (1 - 1e-12)
