"""What nothing connects is solved apart: the same as solving each group by itself."""

from __future__ import annotations

import numpy as np
import pytest

import clearopt as co
from clearopt.solvers.dual.components import component_labels, components

N, GROUPS = 120, 6


def batch(seed=0, whole=False):
    rng = np.random.default_rng(seed)
    tenant = rng.integers(0, GROUPS, N)
    threshold, rate = rng.uniform(5, 100, N), 10 ** rng.uniform(-2, 0, N)
    scale = rng.uniform(0.2, 1, N)
    need = np.bincount(tenant, threshold + 3 / rate, minlength=GROUPS)
    caps = {g: float(0.3 * need[g]) for g in range(GROUPS)}

    def declare(members):
        tokens = co.Allocation(members.size, upper=400, integer=whole, name="tokens")
        accuracy = co.CumulativeSurge(scale[members], threshold[members], rate[members])(tokens)
        return tokens, accuracy

    return tenant, caps, declare


@pytest.mark.parametrize("whole", [False, True])
def test_tenants_without_a_common_budget(whole):
    tenant, caps, declare = batch(whole=whole)
    tokens, accuracy = declare(np.arange(N))
    problem = co.Problem(
        co.Maximize(co.sum(accuracy)),
        [
            (co.sum(tokens, by=tenant) <= caps).named("cap"),
            (co.mean(accuracy, by=tenant) >= 0.1).named("floor"),
        ],
    )
    together = problem.solve(tolerance=0, time_limit=60)
    assert together.status == "optimal", together.summary()
    assert together.statistics["components"] == GROUPS
    objective = 0.0
    for g in range(GROUPS):
        members = np.flatnonzero(tenant == g)
        tokens, accuracy = declare(members)
        alone = co.Problem(
            co.Maximize(co.sum(accuracy)),
            [
                (co.sum(tokens) <= caps[g]).named("cap"),
                (co.mean(accuracy) >= 0.1).named("floor"),
            ],
        ).solve(tolerance=0, time_limit=60)
        objective += alone.objective
        assert together.utilities[members].sum() == pytest.approx(alone.objective, rel=1e-9)
        assert together.prices["cap"][g] == pytest.approx(alone.prices["cap"], rel=1e-6)
    assert together.objective == pytest.approx(objective, rel=1e-9)


def test_every_query_row_and_floor_is_in_one_component():
    tokens = co.Allocation(9, upper=50, name="tokens")
    small, large = (
        co.Allocation(2, upper=30, name="small"),
        co.Allocation(2, upper=60, name="large"),
    )
    accuracy = co.CumulativeSurge(0.9, 5.0, 0.2)(tokens)
    menu = co.CumulativeSurge(0.8, 4.0, 0.3)(small), co.CumulativeSurge(0.9, 9.0, 0.2)(large)
    problem = co.Problem(
        co.Maximize(co.sum(accuracy) + co.sum(menu[0]) + co.sum(menu[1])),
        [
            co.sum(tokens[:3]) <= 40,
            co.mean(accuracy[2:5]) >= 0.2,  # joined to the first by query 2
            co.sum(co.ExpectedTokens(5.0, 0.2)(tokens[5:7])) <= 20,
            co.at_most_one(small, large),
        ],
    )
    program = problem.program
    count, labels = component_labels(program)
    parts = list(components(program, count, labels))
    assert count == 5  # two groups of rows, two choices, and the two queries that are free
    assert sorted(np.concatenate([p.queries for p in parts])) == list(range(program.n))
    assert sorted(np.concatenate([p.rows for p in parts])) == list(range(2))
    assert sorted(np.concatenate([p.floors for p in parts])) == [0]
    solution = problem.solve()
    assert solution.status == "optimal", solution.summary()
    caps = [problem.value_of(option, solution) for option in (small, large)]
    assert not np.any((caps[0] > 0) & (caps[1] > 0))


def test_what_conflicts_in_one_group_is_named():
    tenant, caps, declare = batch()
    tokens, accuracy = declare(np.arange(N))
    caps = caps | {3: 20.0}
    solution = co.Problem(
        co.Maximize(co.sum(accuracy)),
        [
            (co.sum(tokens, by=tenant) <= caps).named("cap"),
            (co.mean(accuracy, by=tenant) >= 0.1).named("floor"),
        ],
    ).solve()
    assert solution.status == "infeasible"
    assert "'cap'[3]" in solution.message
    assert "'floor'[3]" in solution.message


def test_the_time_limit_is_shared():
    tenant, caps, declare = batch()
    tokens, accuracy = declare(np.arange(N))
    problem = co.Problem(co.Maximize(co.sum(accuracy)), [co.sum(tokens, by=tenant) <= caps])
    solution = problem.solve(time_limit=0.01)
    assert solution.bound >= solution.objective or solution.allocation is None
    assert solution.seconds < 3
