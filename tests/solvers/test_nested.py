"""Groups under linking rows: the same optimum as by means that know nothing of groups."""

from __future__ import annotations

import math

import numpy as np
import pytest
from exhaustive import TooLargeError, misses, optimum

import clearopt as co
from clearopt.deadline import Deadline
from clearopt.solvers.dual.branch_and_bound import BranchAndBound, Limits, Outcome
from clearopt.solvers.dual.linking import find_linking
from clearopt.solvers.dual.many_rows import ManyRows
from clearopt.solvers.dual.nested import LEFT_BY_LINKING, Nested, better_of
from clearopt.solvers.dual.separable import separate, view
from clearopt.solvers.dual.several_rows import SeveralRows, first_prices
from clearopt.solvers.progress import Ticker

KINDS = ("plain", "whole", "semicontinuous", "floors", "cost curves", "linking floor", "menus")


def small(kind: str, seed: int, groups: int = 3, each: int = 2) -> co.Problem:
    """Groups of a few queries with rows of their own, under one or two linking rows."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    n = groups * each
    tenant = np.repeat(np.arange(groups), each)
    lower = 6.0 if kind == "semicontinuous" else 0.0
    whole = kind in ("whole", "cost curves") or (kind == "floors" and seed % 2 == 0)
    tokens = co.Allocation(
        n, lower=lower, upper=25, integer=whole, semicontinuous=lower > 0, name="tokens"
    )
    family = (co.CumulativeSurge, co.ShiftedSurge, co.Logistic)[seed % 3]
    accuracy = family(rng.uniform(0.2, 1, n), rng.uniform(1, 9, n), rng.uniform(0.1, 0.7, n))(
        tokens
    )
    caps = dict(enumerate(rng.uniform(10, 30, groups).tolist()))
    rows = [(co.sum(tokens, by=tenant) <= caps).named("cap")]
    if kind == "cost curves":
        spent = co.ExpectedTokens(rng.uniform(2, 9, n), rng.uniform(0.05, 0.5, n))(tokens)
        rows = [(co.sum(spent[tenant == g]) <= caps[g] / 2).named(f"cap {g}") for g in caps]
    if kind == "floors":
        rows.append((co.mean(accuracy[:each]) >= 0.15).named("floor"))
        rows.append((co.sum(tokens[each : 2 * each]) >= 5).named("least"))
    rows.append((co.sum(tokens) <= float(rng.uniform(5, 11) * groups)).named("budget"))
    if seed % 2 or kind == "linking floor":
        use = rng.uniform(0.2, 2, n)
        rows.append((use @ tokens <= float(rng.uniform(8, 12) * groups)).named("memory"))
    if kind == "linking floor":
        rows.append((co.mean(accuracy) >= 0.2).named("floor of all"))
    if kind == "menus":
        other = co.Allocation(n, upper=25, name="other")
        gain = co.CumulativeSurge(rng.uniform(0.2, 1, n), 3.0, 0.3)(other)
        rows.append(co.at_most_one(tokens, other))
        rows.append((co.sum(tokens) + co.sum(other) <= 9.0 * groups).named("both"))
        return co.Problem(co.Maximize(co.sum(accuracy) + co.sum(gain)), rows)
    return co.Problem(co.Maximize(co.sum(accuracy)), rows)


def solved(program: co.Program, tolerance: float = 1e-9, seconds: float = 60.0, start=None):
    """By groups, from prices that nobody has improved, and the problem's structure."""
    queries = separate(view(program), "numpy")
    problem, _ = SeveralRows.of(program, queries)
    linking = find_linking(problem)
    assert linking is not None
    limits = Limits(tolerance, Deadline(seconds), 5_000, 0)
    with Ticker("dual") as ticker:
        if start is None:
            rows = ManyRows(problem)
            first = first_prices(problem, 1e-2)
            root = Limits(tolerance, limits.deadline, 1, 0)
            start = BranchAndBound(rows, root, first, ticker).solve()
            start = Outcome(None, -math.inf, start.bound, start.root, 1, 0, "node limit")
        found = Nested(problem, linking, limits, ticker).solve(start)
    tokens = None
    if found.tokens is not None:
        tokens = np.empty(program.n)
        tokens[queries.order] = found.tokens
    return found, tokens, linking


@pytest.mark.parametrize("kind", KINDS)
def test_bounds_and_allocations_are_those_of_the_oracle(kind):
    """No bound below the optimum, no allocation above it or outside of the rows."""
    closed, seen = 0, 0
    for seed in range(8):
        program = small(kind, seed).program
        try:
            best = optimum(program) - program.offset
        except TooLargeError:
            continue
        if best == -math.inf:
            continue
        seen += 1
        if kind == "cost curves":
            seen_in_cost = view(program)
            assert not seen_in_cost.moved  # both currencies are charged: the variables are tokens
        found, tokens, _ = solved(program)
        slack = 1e-8 * max(abs(best), 1e-6)
        assert found.bound >= best - slack, (kind, seed)
        if tokens is not None:
            assert not misses(program, tokens), (kind, seed)
            assert found.value <= best + slack, (kind, seed)
            closed += found.bound - found.value <= 1e-6 * abs(best)
    assert seen >= 4


@pytest.mark.parametrize("kind", ["plain", "whole", "floors"])
@pytest.mark.parametrize("links", [1, 2])
def test_many_groups_are_proven(kind, links):
    rng = np.random.default_rng(links)
    n, tenants = 400, 10
    threshold, rate = rng.uniform(5, 60, n), 10 ** rng.uniform(-1.5, 0, n)
    need, tenant = threshold + 3 / rate, rng.integers(0, tenants, n)
    tokens = co.Allocation(n, upper=400, integer=kind == "whole", name="tokens")
    accuracy = co.CumulativeSurge(rng.uniform(0.2, 1, n), threshold, rate)(tokens)
    total = np.bincount(tenant, need, minlength=tenants)
    caps = dict(enumerate((rng.uniform(0.2, 0.5, tenants) * total).tolist()))
    rows = [
        (co.sum(tokens) <= float(0.3 * need.sum())).named("budget"),
        (co.sum(tokens, by=tenant) <= caps).named("cap"),
    ]
    if links == 2:
        use = rng.uniform(0.5, 1.5, n)
        rows.append((use @ tokens <= float(0.29 * use @ need)).named("memory"))
    if kind == "floors":
        rows.append((co.mean(accuracy[tenant == 0]) >= 0.2).named("floor"))
    problem = co.Problem(co.Maximize(co.sum(accuracy)), rows)
    solution = problem.solve(tolerance=1e-5, time_limit=60)
    assert solution.status == "optimal", solution.summary()
    assert solution.statistics["groups"] == tenants
    assert solution.statistics["linking"] == links


def test_which_rows_link():
    problem = small("plain", 1)
    queries = separate(view(problem.program))
    rows, _ = SeveralRows.of(problem.program, queries)
    linking = find_linking(rows)
    assert linking is not None
    assert linking.linking.tolist() == [False, False, False, True, True]
    assert linking.count == 3
    for k in range(3):
        members = rows.rows[[k]].toarray().ravel() != 0
        assert (linking.group[members] == linking.owner[k]).all()


def test_rows_that_overlap_link_nothing():
    rng = np.random.default_rng(0)
    tokens = co.Allocation(60, upper=50, name="tokens")
    accuracy = co.CumulativeSurge(rng.uniform(0.2, 1, 60), 5.0, 0.2)(tokens)
    uses = rng.uniform(0, 1, (6, 60))
    problem = co.Problem(co.Maximize(co.sum(accuracy)), [use @ tokens <= 200 for use in uses])
    rows, _ = SeveralRows.of(problem.program, separate(view(problem.program)))
    assert find_linking(rows) is None


def test_queries_without_rows_are_groups_of_their_own():
    rng = np.random.default_rng(4)
    tokens = co.Allocation(12, upper=25, name="tokens")
    accuracy = co.CumulativeSurge(rng.uniform(0.2, 1, 12), rng.uniform(1, 9, 12), 0.4)(tokens)
    problem = co.Problem(
        co.Maximize(co.sum(accuracy)),
        [
            (co.sum(tokens) <= 90).named("budget"),
            (co.sum(tokens[:3]) <= 20).named("first"),
            (co.sum(tokens[3:6]) <= 15).named("second"),
        ],
    )
    found, _, linking = solved(problem.program)
    assert linking.count == 2 + 6
    whole = problem.solve(tolerance=0)
    assert whole.status == "optimal"
    assert found.bound >= whole.objective * (1 - 1e-9)
    assert found.value <= whole.bound * (1 + 1e-9)


def test_a_group_that_cannot_keep_its_rows_proves_infeasibility():
    rng = np.random.default_rng(2)
    n, tenants = 240, 6
    tenant = np.arange(n) % tenants
    tokens = co.Allocation(n, upper=60, integer=True, name="tokens")
    accuracy = co.CumulativeSurge(rng.uniform(0.2, 0.9, n), 10.0, 0.3)(tokens)
    caps = dict.fromkeys(range(tenants), 300.0) | {2: 60.0}
    problem = co.Problem(
        co.Maximize(co.sum(accuracy)),
        [
            (co.sum(tokens) <= 1_500).named("budget"),
            (co.sum(tokens, by=tenant) <= caps).named("cap"),
            (co.mean(accuracy[tenant == 2]) >= 0.3).named("floor"),
        ],
    )
    solution = problem.solve(time_limit=30)
    assert solution.status == "infeasible", solution.summary()
    assert "'cap'[2]" in solution.message
    assert "'floor'" in solution.message


@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.3])
def test_what_is_found_in_time_is_valid(seconds):
    for seed in range(4):
        program = small("plain", seed, groups=6, each=8).program
        proven, _, _ = solved(program)
        hurried, early, _ = solved(program, seconds=seconds)
        assert hurried.bound >= proven.value * (1 - 1e-9)
        if early is not None:
            assert not misses(program, early)
            assert hurried.value <= proven.bound * (1 + 1e-9)


def test_parts_of_a_program_answer_as_the_whole_does():
    for kind in ("whole", "semicontinuous", "cost curves", "menus"):
        program = small(kind, 3, groups=4).program
        queries = separate(view(program), "numpy")
        problem, _ = SeveralRows.of(program, queries)
        linking = find_linking(problem)
        assert linking is not None
        rng = np.random.default_rng(0)
        price = rng.uniform(0.001, 0.1, queries.n)
        whole = queries.respond(
            price, queries.lower, queries.upper, curve_price=queries.curve_cost + price
        )
        for g in range(linking.count):
            members = np.flatnonzero(linking.group == g)
            part = queries.part(members)
            own = part.respond(
                price[members],
                part.lower,
                part.upper,
                curve_price=(queries.curve_cost + price)[members],
            )
            for ours, theirs in zip(own, whole, strict=True):
                np.testing.assert_array_equal(ours, theirs[members])


def test_the_better_of_two_searches():
    prices = np.ones(2)
    one = Outcome(np.ones(3), 5.0, 7.0, prices, 3, 1, LEFT_BY_LINKING)
    other = Outcome(np.zeros(3), 6.0, 8.0, 2 * prices, 4, 2, "node limit")
    best = better_of(one, other)
    assert (best.value, best.bound, best.nodes) == (6.0, 7.0, 7)
    assert best.tokens is other.tokens
    assert best.root is one.root
    assert better_of(other, one).value == 6.0
