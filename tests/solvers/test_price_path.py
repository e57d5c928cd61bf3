"""A sweep of a large program: every entry is what a solve of its own would prove."""

import math
import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import clearopt as co
from clearopt.assemble import make_solution
from clearopt.certificate import check_feasibility
from clearopt.solvers.dual.price_path import NoPath, PricePath
from clearopt.sweep_check import SweepCheck

KINDS = (
    "cumulative", "shifted", "mixed", "cumulative whole", "mixed whole",
    "cumulative weights costs charges", "shifted weights costs charges whole", "mixed lower",
    "cumulative lower whole", "shifted endless", "logistic",
)  # fmt: skip


def surge(family, rng, n):
    return family(rng.uniform(0.2, 1, n), rng.uniform(5, 100, n), 10 ** rng.uniform(-2, 0, n))


def declared(case, n, seed=1, budget=None):
    rng = np.random.default_rng(seed)
    lower = rng.integers(0, 20, n) if "lower" in case else 0.0
    upper = np.inf if "endless" in case else 4096
    tokens = co.Allocation(n, lower=lower, upper=upper, integer="whole" in case)
    if "mixed" in case:
        half = n // 2
        gain = co.sum(surge(co.CumulativeSurge, rng, half)(tokens[:half]))
        gain = gain + co.sum(surge(co.Logistic, rng, n - half)(tokens[half:]))
    else:
        families = {"shifted": co.ShiftedSurge, "logistic": co.Logistic}
        family = families.get(case.split()[0], co.CumulativeSurge)
        weight = rng.uniform(0, 2, n) * (rng.random(n) < 0.8) if "weights" in case else np.ones(n)
        gain = weight @ surge(family, rng, n)(tokens)
    if "costs" in case:
        gain = gain - co.sum(rng.uniform(0, 1e-3, n) @ tokens)
    spent = rng.uniform(0.5, 2, n) @ tokens if "charges" in case else co.sum(tokens)
    level = 20.0 * n if budget is None else budget
    return co.Problem(co.Maximize(gain), [(spent <= level).named("budget")])


def assert_as_cold(swept, cold):
    """Two allocations with their bounds, of one program: each bound holds for both."""
    assert swept.status == cold.status == "optimal"
    assert swept.objective <= cold.bound * (1 + 1e-12)
    assert cold.objective <= swept.bound * (1 + 1e-12)
    assert swept.feasibility.ok
    assert swept.gap <= 1e-6


@pytest.mark.parametrize("case", KINDS)
def test_every_entry_is_what_a_solve_of_its_own_proves(case):
    n = 20_000
    problem = declared(case, n)
    least = float(problem.program.lower.sum())
    budgets = least + n * np.r_[30.0, 2.0, 11.3, 45.0, 11.3, 7.0, np.linspace(5, 50, 12)]
    swept = problem.sweep("budget", budgets)
    assert [s.program.right_hand_side[0] for s in swept] == budgets.tolist()
    for k in (0, 1, 2, 3, 4, 9):
        cold = declared(case, n, budget=budgets[k]).solve()
        assert_as_cold(swept[k], cold)
        assert swept[k].prices["budget"] == pytest.approx(cold.prices["budget"], rel=1e-2)
    assert swept[2].objective == swept[4].objective
    ordered = np.argsort(budgets)
    values = np.array([s.objective for s in swept])[ordered]
    assert (np.diff(values) >= -1e-6 * values[:-1]).all()
    # Whole tokens leave a gap of some of a token's worth, and then more to search for.
    on_path = [s.statistics["core"] == 0 for s in swept]
    assert np.mean(on_path) >= (0.3 if "whole" in case else 0.9)
    spent = [(s.program.rows @ s.allocation)[0] for s in swept]
    assert (np.array(spent) <= budgets * (1 + 1e-12)).all()


def test_ample_and_infeasible_budgets_have_their_entries():
    n = 20_000
    problem = declared("shifted lower", n)
    least = float(problem.program.lower.sum())
    budgets = [*np.linspace(2 * least, 4 * least, 12), 0.5 * least, 1e9, 3 * least]
    swept = problem.sweep("budget", budgets)
    assert [s.status for s in swept] == ["optimal"] * 12 + ["infeasible"] + ["optimal"] * 2
    assert swept[13].prices["budget"] == 0.0
    assert swept[13].objective == max(s.objective for s in swept if s.status == "optimal")
    assert swept[14].objective == pytest.approx(
        declared("shifted lower", n, budget=3 * least).solve().objective, rel=2e-6
    )


def test_a_parameter_is_swept_alike_and_put_back():
    n = 20_000
    level = co.Parameter(20.0 * n, name="level")
    by_parameter, by_name = declared("cumulative", n, budget=level), declared("cumulative", n)
    values = np.linspace(4.0, 40.0, 13) * n
    for one, other in zip(
        by_parameter.sweep(level, values), by_name.sweep("budget", values), strict=True
    ):
        assert one.objective == other.objective
        assert one.bound == other.bound
    assert level.value == 20.0 * n
    frontier = co.frontier(by_name, "budget", values)
    assert set(frontier.status) == {"optimal"}
    assert np.isfinite(frontier.marginal_value).all()
    np.testing.assert_allclose(frontier.marginal_value, frontier.price, rtol=1e-2)


def test_what_a_path_cannot_prove_is_searched_for():
    n = 20_000
    problem = declared("cumulative", n)
    for options in ({"tolerance": 1e-10}, {"engine": "numpy"}, {"time_limit": 1e-9}):
        swept = problem.sweep("budget", np.linspace(5.0, 6.0, 12)[:12] * n, **options)
        assert all(s.bound >= s.objective for s in swept)
        assert all(s.allocation is not None for s in swept)


def test_queries_that_are_all_alike_have_a_path_or_none():
    n = 20_000
    tokens = co.Allocation(n, upper=4096)
    accuracy = co.CumulativeSurge(0.7, 50.0, 0.05)(tokens)
    problem = co.Problem(co.Maximize(co.sum(accuracy)), [(co.sum(tokens) <= n).named("budget")])
    for solution in problem.sweep("budget", np.linspace(10, 60, 14) * n):
        assert solution.status == "optimal"
        assert solution.gap <= 1e-6


def test_solutions_of_a_sweep_travel():
    n = 20_000
    solution = declared("cumulative", n).sweep("budget", np.linspace(5, 9, 12) * n)[3]
    again = pickle.loads(pickle.dumps(solution))
    assert again.marginal_values == solution.marginal_values
    assert again.prices == solution.prices
    assert again.summary() == solution.summary()


# ---------------------------------------------------------------- whatever the numbers
def logs(low, high):
    return st.floats(low, high).map(lambda exponent: 10.0**exponent)


query = st.tuples(
    logs(-4, 0), st.one_of(st.just(0.0), logs(-3, 4)), logs(-4, 3),
    st.sampled_from([0.0, 1.0, 3.0]), st.one_of(st.just(math.inf), logs(-2, 5)), logs(-2, 2),
)  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from([co.CumulativeSurge, co.ShiftedSurge, co.Logistic]),
    st.lists(query, min_size=1, max_size=30),
    st.booleans(),
    st.lists(logs(-3, 7), min_size=1, max_size=5),
)
def test_bounds_hold_and_allocations_fit_whatever_the_numbers(family, drawn, whole, budgets):
    scale, threshold, rate, lower, reach, charge = (np.array(c) for c in zip(*drawn, strict=True))
    upper = np.maximum(np.ceil(reach), lower) if whole else lower + reach
    tokens = co.Allocation(len(drawn), lower=lower, upper=upper, integer=whole)
    utility = family(scale, threshold, rate)(tokens)
    least = float(charge @ lower)
    problem = co.Problem(
        co.Maximize(co.sum(utility)),
        [(charge @ tokens <= least * (1 + 1e-9) + budgets[0]).named("budget")],
    )
    budgets = [least * (1 + 1e-9) + budget for budget in budgets]
    programs = list(problem._with_levels("budget", budgets))
    if programs[0].rows.shape[0] != 1:
        return
    try:
        path = PricePath(programs, tolerance=1e-6)
    except NoPath:
        return
    for k, (program, found) in enumerate(zip(programs, path.answers(), strict=True)):
        # However wide a gap the interpolation leaves, its bound holds.
        price, budget = float(path.prices[k]), float(path.budgets[k])
        coarse = path.interpolated(price, budget, math.inf) if price > 0 else None
        answers = [answer for answer in (found, coarse) if answer is not None]
        if not answers:
            continue
        best = co.Problem.from_program(program).solve(engine="numpy", tolerance=1e-9, time_limit=5)
        for answer in answers:
            allocation = answer.checked.allocation
            assert check_feasibility(program, allocation).ok
            cold = make_solution(program, solver="", seconds=0.0, allocation=allocation)
            assert answer.bound >= best.objective - 1e-12 * abs(best.objective)
            assert cold.objective <= best.bound + 1e-9 * abs(best.bound)
            assert answer.checked.value == pytest.approx(cold.objective, rel=1e-12, abs=1e-300)


def test_what_is_interpolated_is_as_good_as_what_is_asked():
    n = 20_000
    problem = declared("cumulative", n)
    budgets = np.linspace(6, 40, 200) * n
    for program, found in zip(
        problem._with_levels("budget", budgets),
        problem.sweep("budget", budgets),
        strict=True,
    ):
        assert found.gap <= 1e-6
        again = make_solution(program, solver="", seconds=0.0, allocation=found.allocation.copy())
        assert again.feasibility.ok
        assert found.objective == pytest.approx(again.objective, rel=1e-13)
        assert np.array_equal(found.utilities, again.utilities)
        assert np.array_equal(found.funded, again.funded)
    passes = [s.statistics["passes"] for s in problem.sweep_lazily("budget", budgets)]
    assert np.mean(np.array(passes) == 0) > 0.5  # the others leave more of a gap by their jumps


@pytest.mark.parametrize("case", ["cumulative lower", "mixed lower", "mixed costs weights"])
def test_the_check_of_a_sweep_misses_nothing(case):
    n = 300
    rng = np.random.default_rng(2)
    program = declared(case, n).program
    orders = [rng.permutation(block.size) for block in program.utilities]
    check = SweepCheck(program, orders)
    named = [order.size // 2 for order in orders]
    right = program.lower.copy()
    for block, order, many in zip(program.utilities, orders, named, strict=True):
        right[block.index[order[:many]]] += rng.uniform(0, 30, many)
    usual = make_solution(program, solver="", seconds=0.0, allocation=right)
    claimed = {
        "solver": "", "seconds": 0.0, "bound": usual.objective * (1 + 1e-9),
        "row_prices": np.zeros(1), "statistics": {}, "tolerance": 1e-6,
    }  # fmt: skip
    found = check.solution(program, check.look(right, named), **claimed)
    assert found.objective == pytest.approx(usual.objective, rel=1e-13)
    assert np.array_equal(found.utilities, usual.utilities)
    assert np.array_equal(found.funded, usual.funded)
    assert check.look(right, named).charge == pytest.approx(float((program.rows @ right)[0]))
    first, last = program.utilities[0].index[orders[0][[0, -1]]]
    for place, amount in (
        (first, program.lower[first] - 1.0), (first, 5000.0), (first, np.nan),
        (last, program.lower[last] + 1.0), (last, np.nan),
    ):  # fmt: skip
        wrong = right.copy()
        wrong[place] = amount
        assert not check.look(wrong, named).ok
        assert check.solution(program, check.look(wrong, named), **claimed) is None
    loose = claimed | {"bound": usual.objective * 1.1}
    false = claimed | {"bound": usual.objective * 0.9}
    for claim in (loose, false):
        assert check.solution(program, check.look(right, named), **claim) is None
