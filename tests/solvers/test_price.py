"""The paper's price search alone: fits the budget, leaves part of it, never beats `dual`."""

from __future__ import annotations

import numpy as np
import pytest
from oracles import random_instance
from test_dual import declare

import clearopt as co


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("whole", [False, True])
def test_between_nothing_and_the_optimum(seed: int, whole: bool) -> None:
    instance = random_instance(
        np.random.default_rng([4, seed]), 20, ties=seed % 3 == 0, whole=whole
    )
    problem = declare(instance, whole=whole)
    price, dual = problem.solve(solver="price"), problem.solve()
    assert price.allocation is not None
    assert price.allocation.sum() <= instance.budget * (1 + 1e-12)
    assert price.objective <= dual.bound
    assert price.bound >= dual.objective
    assert price.prices["budget"] >= 0


def test_identical_queries_are_all_abandoned_where_not_all_can_be_served() -> None:
    tokens = co.Allocation(10, upper=4096)
    accuracy = co.CumulativeSurge(scale=0.9, threshold=50.0, rate=0.1)(tokens)
    problem = co.Problem(co.Maximize(co.sum(accuracy)), [co.sum(tokens) <= 400])
    assert problem.solve(solver="price").objective == 0.0
    assert problem.solve().objective > 3


def test_several_rows_are_refused_and_the_message_says_who_can() -> None:
    tokens = co.Allocation(4, upper=100)
    accuracy = co.CumulativeSurge(scale=0.9, threshold=50.0, rate=0.1)(tokens)
    rows = [co.sum(tokens) <= 100, co.sum(tokens[:2]) <= 60]
    with pytest.raises(
        co.UnsupportedProblemError, match=r"'price' cannot take several rows.*'dual'"
    ):
        co.Problem(co.Maximize(co.sum(accuracy)), rows).solve(solver="price")
