"""One row over very many queries: equal to branch and bound, whatever the blocks; always valid."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import clearopt as co
from clearopt.assemble import make_solution
from clearopt.deadline import NEVER
from clearopt.solvers.dual import large
from clearopt.solvers.dual.blocks import Columns, Group
from clearopt.solvers.dual.core import Others, charge, crossing
from clearopt.solvers.dual.large_program import is_plain, solve_large
from clearopt.sums import accurate_sum


def solve_in_blocks(problem, **options):
    program = problem.program
    assert is_plain(program)
    found = solve_large(program, deadline=NEVER, start=None, tell=lambda what: None, **options)
    return make_solution(program, solver="dual", seconds=0.0, **found)


def surge(family, rng, n):
    return family(rng.uniform(0.2, 1, n), rng.uniform(5, 100, n), 10 ** rng.uniform(-2, 0, n))


def declare(case, n=4_000, seed=1):
    rng = np.random.default_rng(seed)
    whole = "whole" in case
    upper = np.inf if "endless" in case else 4096
    lower = rng.integers(0, 20, n) if "lower" in case else 0.0
    tokens = co.Allocation(n, lower=lower, upper=upper, integer=whole)
    if "mixed" in case:
        a, b = n // 3, 2 * n // 3
        gain = (
            co.sum(surge(co.CumulativeSurge, rng, a)(tokens[:a]))
            + co.sum(surge(co.ShiftedSurge, rng, b - a)(tokens[a:b]))
            + co.sum(surge(co.Logistic, rng, n - b)(tokens[b:]))
        )
    else:
        family = co.ShiftedSurge if "shifted" in case else co.CumulativeSurge
        accuracy = surge(family, rng, n)(tokens)
        weight = rng.uniform(0, 2, n) * (rng.random(n) < 0.8) if "weights" in case else np.ones(n)
        gain = weight @ accuracy
    if "costs" in case:
        gain = gain - co.sum(rng.uniform(0, 1e-3, n) @ tokens)
    spent = rng.uniform(0.5, 2, n) @ tokens if "charges" in case else co.sum(tokens)
    share = 100.0 if "ample" in case else 0.0 if "nothing" in case else 0.3
    return co.Problem(co.Maximize(gain), [(spent <= share * 70 * n).named("budget")])


CASES = (
    "cumulative", "shifted", "mixed", "cumulative whole", "shifted whole", "mixed whole",
    "cumulative weights costs charges", "shifted weights costs charges whole",
    "cumulative endless", "mixed lower", "shifted lower whole", "cumulative ample endless",
    "cumulative weights ample", "shifted nothing",
)  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_as_branch_and_bound(case):
    problem = declare(case)
    found, reference = solve_in_blocks(problem), problem.solve(engine="numpy", tolerance=1e-7)
    assert reference.status == "optimal"
    # Branching lowers the bound below the dual's, by what is left of the gap.
    assert found.bound == pytest.approx(problem.solve("price").bound, rel=1e-11)
    assert found.bound == pytest.approx(reference.bound, rel=3e-6)
    assert found.bound >= reference.objective * (1 - 1e-12)
    assert found.objective <= reference.bound * (1 + 1e-12)
    # What a few thousand queries leave open: some of a token, where tokens are whole.
    assert found.objective >= reference.objective - 1e-5 * reference.bound
    assert found.feasibility.ok
    assert (problem.program.rows @ found.allocation)[0] <= problem.program.right_hand_side[0] * (
        1 + 1e-12
    )
    if "nothing" not in case:
        assert found.prices["budget"] == pytest.approx(reference.prices["budget"], rel=1e-4)
    low, high = found.statistics["price_interval"]
    assert low <= found.prices["budget"] <= high


@pytest.mark.parametrize("family", [co.CumulativeSurge, co.ShiftedSurge])
@pytest.mark.parametrize("n", [20_000, 50_000])
def test_identical_queries(family, n):
    tokens = co.Allocation(n, upper=4096)
    accuracy = family(0.7, 50.0, 0.05)(tokens)
    problem = co.Problem(co.Maximize(co.sum(accuracy)), [co.sum(tokens) <= 21.0 * n])
    solution = problem.solve()
    assert solution.status == "optimal"
    assert solution.gap <= 1e-6
    assert "passes" in solution.statistics
    assert solution.allocation.sum() <= 21.0 * n * (1 + 1e-12)


def test_large_problems_take_this_way_and_small_ones_do_not():
    assert "passes" in declare("cumulative", 20_000).solve().statistics
    assert "passes" not in declare("cumulative", 2_000).solve().statistics


@pytest.mark.parametrize("case", ["cumulative", "mixed whole", "shifted weights costs charges"])
def test_blocks_change_nothing(case):
    problem = declare(case)
    one, many = solve_in_blocks(problem, places=8192), solve_in_blocks(problem, places=256)
    assert many.bound == pytest.approx(one.bound, rel=1e-13)
    assert many.prices["budget"] == pytest.approx(one.prices["budget"], rel=1e-12)
    assert many.objective == pytest.approx(one.objective, rel=1e-7)
    exact = [solve_in_blocks(problem, places=p, exact=True) for p in (8192, 256)]
    assert np.abs(exact[0].allocation - exact[1].allocation).max() <= 1e-7 * 4096


def test_a_solve_takes_few_passes():
    statistics = declare("cumulative", 200_000).solve().statistics
    assert statistics["passes"] <= 12


def test_out_of_time_is_still_feasible_and_bounded():
    problem = declare("cumulative", 30_000)
    solution = problem.solve(time_limit=1e-9)
    assert solution.status in ("feasible", "optimal")
    assert solution.bound >= solution.objective
    assert "time limit" in solution.message


def test_sharded_refuses_what_is_not_one_plain_row():
    tokens = co.Allocation(10, upper=64)
    accuracy = co.CumulativeSurge(0.5, 9.0, 0.1)(tokens)
    problem = co.Problem(
        co.Maximize(co.sum(accuracy)), [co.sum(tokens) <= 90, co.sum(tokens[:4]) <= 30]
    )
    with pytest.raises(co.UnsupportedProblemError, match="one budget row"):
        problem.solve(engine="sharded")


# ---------------------------------------------------------------- whatever the numbers
def logs(low, high):
    return st.floats(low, high).map(lambda exponent: 10.0**exponent)


query = st.tuples(
    logs(-6, 6), st.one_of(st.just(0.0), logs(-6, 6)), logs(-6, 6),
    st.sampled_from([0.0, 1.0, 3.0]), st.one_of(st.just(math.inf), logs(-3, 6)), logs(-3, 3),
)  # fmt: skip


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from([co.CumulativeSurge, co.ShiftedSurge]),
    st.lists(query, min_size=1, max_size=12),
    st.integers(1, 40),
    st.one_of(st.just(0.0), logs(-6, 8)),
)
@example(co.CumulativeSurge, [(1.0, 0.0, 1.0, 0.0, math.inf, 1.0)], 1, 100.0)  # nobody jumps
@pytest.mark.filterwarnings("ignore::clearopt.errors.ScaleWarning")
def test_twelve_orders_of_magnitude(family, queries, copies, budget):
    # Two queries more, so that no column is the same for all: one compilation serves all examples.
    queries = [*queries * copies, (0.5, 3.0, 0.1, 1.0, 50.0, 1.0), (0.7, 4.0, 0.2, 2.0, 60.0, 2.0)]
    scale, threshold, rate, weight, upper, charge = np.array(queries).T
    tokens = co.Allocation(len(queries), upper=upper)
    problem = co.Problem(
        co.Maximize(weight @ family(scale, threshold, rate)(tokens)), [charge @ tokens <= budget]
    )
    solution = solve_in_blocks(problem, places=512)
    assert solution.allocation is not None
    assert solution.feasibility.ok
    assert solution.objective <= solution.bound * (1 + 1e-13)
    # No allocation is worth more than the bound: everyone alone, and a greedy filling.
    alone = np.minimum(upper, budget / charge)
    alone = np.minimum(alone, threshold + 45.0 / rate)
    values = weight * family(scale, threshold, rate).value(alone)
    assert values.max(initial=0.0) <= solution.bound * (1 + 1e-12) + 1e-300


# ---------------------------------------------------------------- sums
@given(st.integers(0, 5), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_accurate_sums(times, seed):
    rng = np.random.default_rng(seed)
    terms = rng.normal(size=8192 * times + rng.integers(0, 9000)) * 10 ** rng.uniform(-9, 9)
    terms = np.concatenate([terms, -terms, rng.normal(size=3)])
    assert accurate_sum(terms) == pytest.approx(math.fsum(terms), rel=1e-12, abs=1e-18)


def test_accurate_sums_of_what_is_not_finite():
    terms = np.ones(50_000)
    terms[7] = np.inf
    assert accurate_sum(terms) == math.inf


# ---------------------------------------------------------------- where the price is not unique
def test_a_price_interval():
    # Both have all they want, nobody is left, and the budget is what they use: any price between
    # nothing and the lowest break-even price proves it.
    tokens = co.Allocation(2, upper=[10.0, 10.0])
    accuracy = co.Triangular(1.0, [8.0, 6.0], 4.0)(tokens)
    problem = co.Problem(co.Maximize(co.sum(accuracy)), [(co.sum(tokens) <= 18.0).named("b")])
    low, high = problem.solve(engine="numpy").statistics["price_interval"]
    assert low == 0.0
    assert high == pytest.approx(0.1, rel=1e-6)
    problem = declare("cumulative", 50)
    low, high = problem.solve().statistics["price_interval"]
    assert low == high == problem.solve().prices["budget"]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("excess", [-1e-13, 0.0, 1e-13, 1e-11])
@pytest.mark.parametrize("family", [co.ShiftedSurge, co.CumulativeSurge])
def test_a_budget_for_the_lower_bounds_and_no_more(family, excess, whole) -> None:
    rng = np.random.default_rng(0)
    n = 20_000
    least = rng.uniform(0, 50, n)
    least = np.floor(least) if whole else least
    tokens = co.Allocation(n, lower=least, upper=500, integer=whole)
    accuracy = family(rng.uniform(0.2, 1, n), rng.uniform(5, 100, n), 10 ** rng.uniform(-2, 0, n))
    budget = float(least.sum()) * (1 + excess)
    problem = co.Problem(co.Maximize(co.sum(accuracy(tokens))), [co.sum(tokens) <= budget])
    solution = problem.solve()
    assert solution.status == "optimal", solution.summary()
    assert solution.allocation == pytest.approx(least, abs=1e-4)


@pytest.mark.parametrize("case", ["cumulative", "shifted", "whole"])
@pytest.mark.parametrize("order", ["as drawn", "rising"])
def test_a_sample_in_place_of_the_first_pass(case, order, monkeypatch):
    n, rng = 40_000, np.random.default_rng(3)
    threshold, rate = rng.uniform(5, 100, n), 10 ** rng.uniform(-2, 0, n)
    if order == "rising":
        threshold, rate = np.sort(threshold), np.sort(rate)
    family = co.ShiftedSurge if case == "shifted" else co.CumulativeSurge
    tokens = co.Allocation(n, upper=4096, integer=case == "whole")
    accuracy = family(rng.uniform(0.2, 1, n), threshold, rate)(tokens)
    problem = co.Problem(co.Maximize(co.sum(accuracy)), [co.sum(tokens) <= 25.0 * n])
    usual = problem.solve()
    monkeypatch.setattr(large, "_SAMPLED_FROM", 1)
    monkeypatch.setattr(large, "_SAMPLED", 16_000)
    monkeypatch.setattr(large, "_WIDEST_SAMPLED", 0.1)
    sampled = problem.solve()
    assert usual.status == sampled.status == "optimal"
    assert sampled.objective <= usual.bound * (1 + 1e-12)
    assert usual.objective <= sampled.bound * (1 + 1e-12)
    if case != "whole":
        assert sampled.statistics["passes"] <= usual.statistics["passes"] + 1


@pytest.mark.parametrize("size", [1, 3, 40, 3_000])
@pytest.mark.parametrize("whole", [False, True])
def test_a_crossing_is_where_demand_crosses_the_budget(size, whole):
    rng = np.random.default_rng(size)
    parameters = (
        rng.uniform(0.2, 1, size), rng.uniform(5, 100, size), 10 ** rng.uniform(-2, 0, size)
    )  # fmt: skip
    one = np.ones(size)
    columns = Columns(
        parameters, one, 0 * one, one, 0 * one, 4096 * one, one > 0 if whole else None
    )
    groups = [Group(co.CumulativeSurge, columns)]
    dear, cheap = 6e-3, 3e-3
    others = Others(dear, cheap, 100.0 * size, 101.0 * size)

    def demand(price):
        return others.at(price) + charge(groups, price)

    for share in (0.1, 0.5, 0.9):
        budget = demand(dear) + share * (demand(cheap) - demand(dear))
        found = crossing(groups, 1.0, others, budget)
        assert cheap <= found[1] < found[0] <= dear
        assert found[0] - found[1] <= 1e-14 * dear
        # Those who are settled on the way are taken to move linearly between two near prices.
        assert demand(found[0] * (1 + 1e-6)) <= budget * (1 + 1e-9)
        assert demand(found[1] * (1 - 1e-6)) >= budget * (1 - 1e-9)
