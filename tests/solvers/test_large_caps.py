"""Caps on groups in chunks: the same optimum as by means that know nothing of chunks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from exhaustive import TooLargeError, misses, optimum

import clearopt as co
from clearopt.assemble import make_solution
from clearopt.deadline import Deadline
from clearopt.solvers.dual.caps import find_caps
from clearopt.solvers.dual.exchange import best_pairs
from clearopt.solvers.dual.large_caps import solve_large_caps
from clearopt.solvers.progress import Ticker

FAMILIES = (co.CumulativeSurge, co.ShiftedSurge, co.Logistic)


def declare(
    n: int,
    groups: int,
    seed: int,
    *,
    whole: bool = False,
    budget: bool = True,
    upper: float = 60.0,
    bare: float = 0.0,  # share of queries under no cap
    charged: bool = False,  # not one token a token
    mixed: bool = False,  # two families, weights, costs, lower bounds, some tokens whole
) -> co.Problem:
    rng = np.random.default_rng([seed, n, groups])
    threshold, rate = rng.uniform(1, 0.3 * upper, n), rng.uniform(0.1, 0.9, n)
    lower = np.where(rng.random(n) < 0.2, 2.0, 0.0) if mixed else 0.0
    integer = rng.random(n) < 0.5 if mixed else whole
    tokens = co.Allocation(n, lower=lower, upper=upper, integer=integer, name="tokens")
    scale, half = rng.uniform(0.2, 1, n), n // 2 if mixed else n
    first = FAMILIES[seed % 3](scale[:half], threshold[:half], rate[:half])(tokens[:half])
    value = rng.uniform(0.5, 2, half) @ first if mixed else co.sum(first)
    if mixed:
        other = FAMILIES[(seed + 1) % 3](scale[half:], threshold[half:], rate[half:])
        value = value + co.sum(other(tokens[half:])) - 1e-4 * co.sum(tokens)
    tenant, need = rng.integers(0, groups, n), threshold + 3 / rate
    capped = rng.random(n) >= bare
    use = rng.uniform(0.5, 2, n) if charged else np.ones(n)
    size = rng.uniform(0.12, 0.4, groups) * np.bincount(tenant, use * need, minlength=groups)
    caps = [
        (use[mine] @ tokens[mine] <= max(size[g], 2.5 * use[mine].sum())).named(f"cap {g}")
        for g in range(groups)
        if (mine := np.flatnonzero(capped & (tenant == g))).size > 1
    ]
    share = max(0.27 * float(use @ need), 2.2 * float(use.sum()))
    rows = [*caps[:1], (use @ tokens <= share).named("budget"), *caps[1:]] if budget else caps
    return co.Problem(co.Maximize(value), rows)


def solved(problem: co.Problem, *, places: int, tolerance: float = 1e-6, seconds=None):
    program = problem.program
    with Ticker("dual") as ticker:
        found = solve_large_caps(
            program, tolerance=tolerance, deadline=Deadline(seconds), ticker=ticker, places=places
        )
    assert found is not None
    return make_solution(program, solver="dual", seconds=0.0, tolerance=tolerance, **found)


KINDS = [
    {},
    {"budget": False},
    {"whole": True},
    {"whole": True, "budget": False},
    {"bare": 0.4},
    {"charged": True},
    {"mixed": True, "bare": 0.2},
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_bounds_and_allocations_are_those_of_the_oracle(kind):
    """No bound below the optimum, no allocation above it or outside of the rows."""
    seen = 0
    for seed in range(4):
        program = declare(6, 2, seed, upper=12.0, **kind).program
        if find_caps(program) is None:
            continue
        try:
            best = optimum(program)
        except TooLargeError:
            continue
        seen += 1
        with Ticker("dual") as ticker:
            found = solve_large_caps(
                program, tolerance=1e-6, deadline=Deadline(), ticker=ticker, places=8
            )
        assert found is not None
        slack = 1e-8 * max(abs(best), 1e-6)
        assert found["bound"] >= best - slack, seed
        assert not misses(program, found["allocation"]), seed
        assert program.objective(found["allocation"]) <= best + slack, seed
    assert seen >= 2


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_chunks_prove_what_the_search_of_all_rows_proves(kind):
    """Neither's bound lies below the other's allocation, whatever the chunks' size."""
    problem = declare(400, 5, 0, **kind)
    known = problem.solve(engine="numpy", time_limit=60, tolerance=1e-5)
    assert known.status == "optimal"
    for places in (64, 512) if kind in ({}, {"whole": True}) else (64,):
        found = solved(problem, places=places, tolerance=1e-5)
        assert found.feasibility is not None
        assert found.feasibility.ok
        slack = 1e-10 * abs(known.bound)
        assert found.bound >= known.objective - slack
        assert found.objective <= known.bound + slack
        # What so few leave to their common price; passes in blocks settle fractions and whole
        # tokens side by side to the last token alone.
        assert found.gap <= (5e-3 if "mixed" in kind else 1e-4)


def test_prices_prove_the_bound_alone():
    """D at the prices is a bound no matter who found them, and near the objective."""
    problem = declare(3_000, 10, 1)
    found = solved(problem, places=512)
    program, prices = problem.program, found.row_prices
    assert found.gap <= 1e-5
    assert (prices >= 0).all()
    assert (prices > 0).sum() >= 5
    block = program.utilities[0]
    charged = program.cost + program.rows.T @ prices
    gains = block.family.best_response(program.weight, charged, program.lower, program.upper).gain
    dual = math.fsum(gains) + float(prices @ program.right_hand_side)
    assert found.objective <= dual <= found.objective * (1 + 2e-5)


def test_a_cap_that_the_budget_keeps_anyway_has_no_price():
    problem = declare(2_000, 8, 0)
    found = solved(problem, places=512)
    used = found.program.activity(np.asarray(found.allocation))
    ample = used < 0.99 * found.program.right_hand_side
    assert ample.any()
    assert not found.row_prices[ample].any()


def test_whole_tokens_are_whole_and_spent():
    found = solved(declare(3_000, 6, 2, whole=True, budget=False), places=512)
    assert found.status == "optimal"
    left = found.program.right_hand_side - found.program.activity(np.asarray(found.allocation))
    assert (left[found.row_prices > 0] < 2.0).all()


@pytest.mark.parametrize("kind", [{}, {"whole": True}, {"budget": False}], ids=str)
def test_without_time_there_is_an_allocation_and_a_bound(kind):
    problem = declare(2_000, 8, 3, **kind)
    best = solved(problem, places=512)
    found = solved(problem, places=512, seconds=0.0)
    assert found.status == "feasible"
    assert "time limit" in found.message
    assert found.bound >= best.objective
    assert found.objective > 0.3 * best.objective


def test_other_structures_are_left_to_others():
    n = 20
    tokens = co.Allocation(n, upper=30, name="tokens")
    gain = co.Maximize(co.sum(co.CumulativeSurge(1.0, 5.0, 0.5)(tokens)))
    tenant, use = np.arange(n) % 4, np.linspace(1, 2, n)
    cap = co.sum(tokens, by=tenant) <= 40.0

    def structure(*rows):
        return find_caps(co.Problem(gain, list(rows)).program)

    caps = structure(co.sum(tokens) <= 90.0, cap)
    assert caps is not None
    assert caps.count == 4
    assert caps.budget_row == 0
    assert caps.budget == 90.0
    assert caps.rest.size == 0
    assert caps.ratio.tolist() == [1.0] * 4
    assert sorted(np.concatenate([caps.members(g) for g in range(4)]).tolist()) == list(range(n))
    alone = structure(cap)
    assert alone is not None
    assert alone.budget_row is None
    assert alone.budget == math.inf
    few = structure(co.sum(tokens[:9]) <= 9.0, co.sum(tokens[12:]) <= 30.0)
    assert few is not None
    assert few.rest.tolist() == [9, 10, 11]
    twice = structure(co.sum(tokens) <= 90.0, 2 * co.sum(tokens, by=tenant) <= 40.0)
    assert twice is not None
    assert twice.ratio.tolist() == [0.5] * 4
    assert structure(use @ tokens <= 90.0, cap) is None  # one price would not do
    assert structure(co.sum(tokens) <= 90.0, cap, co.sum(tokens[:5]) <= 9.0) is None  # overlap


def test_pairs_are_the_cheapest_of_all():
    rng = np.random.default_rng(0)
    loss, change = rng.random((20, 7)) * 1e-3, rng.normal(size=(20, 7))
    room, price = rng.uniform(0, 1, 20), rng.uniform(0.1, 1, 20)
    slope = np.where(rng.random(20) < 0.3, 0.0, -rng.uniform(5, 200, 20))
    found = best_pairs(loss, change, room, slope, price)
    for g in range(20):

        def cost(turned, g=g):
            left = room[g] + sum(change[g, k] for k in turned)
            paid = sum(loss[g, k] for k in turned)
            if slope[g] == 0:
                return paid + (price[g] * left if left >= 0 else math.inf)
            near = abs(left) <= 0.05 * price[g] * -slope[g] or not turned
            return paid + (left * left / (-2 * slope[g]) if near else math.inf)

        pairs = [(), *((a,) for a in range(7)), *((a, b) for a in range(7) for b in range(a))]
        mine = tuple(k for k in found[g].tolist() if k >= 0)
        assert math.isclose(cost(mine), min(map(cost, pairs)), rel_tol=1e-12)
