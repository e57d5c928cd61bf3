"""SCIP on the Pyomo model: exact, honest about its tolerances, and quiet."""

from __future__ import annotations

import time

import numpy as np
import pytest
from brute_force import FEATURES, brute_force, random_problem
from oracles import enumerate_funded_sets, random_instance
from test_dual import declare

import clearopt as co
from clearopt.solvers.parts import parts_of
from clearopt.solvers.pyomo_model import build_model, set_point
from clearopt.solvers.relaxation import implied_bounds


def surge_problem(n: int, seed: int, *, fraction: float = 0.2) -> co.Problem:
    rng = np.random.default_rng(seed)
    threshold, spread = rng.uniform(50, 800, n), rng.uniform(30, 300, n)
    tokens = co.Allocation(n, upper=4096)
    accuracy = co.CumulativeSurge(rng.uniform(0.3, 1, n), threshold, 1 / spread)(tokens)
    budget = fraction * float((threshold + 5 * spread).sum())
    return co.Problem(co.Maximize(co.sum(accuracy)), [(co.sum(tokens) <= budget).named("budget")])


def test_it_is_installed_and_says_what_it_certifies() -> None:
    info = co.solvers()["scip"]
    assert info.installed
    assert info.certifies == "optimum"
    assert info.install == "pip install 'clearopt[scip]'"


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("seed", range(4))
def test_whole_tokens_equal_enumeration(feature: str, seed: int) -> None:
    problem = random_problem(seed, feature, whole=True)
    best = brute_force(problem.program)
    solution = problem.solve("scip", time_limit=20)
    if best == -np.inf:
        assert solution.status == "infeasible"
        return
    assert solution.status == "optimal", solution.summary()
    assert solution.feasibility is not None
    assert solution.feasibility.ok
    assert solution.objective == pytest.approx(best, rel=1e-6, abs=1e-9)
    assert solution.bound >= best - 1e-12


@pytest.mark.parametrize("feature", FEATURES)
def test_continuous_tokens_are_at_least_as_good_as_whole_ones(feature: str) -> None:
    problem = random_problem(1, feature, whole=False)
    whole = brute_force(problem.program)
    solution = problem.solve("scip", time_limit=10)
    assert solution.bound >= whole - 1e-12
    assert solution.allocation is not None
    assert solution.objective >= whole - 1e-6 * abs(whole)


@pytest.mark.parametrize("seed", range(6))
def test_one_row_equals_the_enumeration_of_funded_sets(seed: int) -> None:
    rng = np.random.default_rng([11, seed])
    instance = random_instance(rng, int(rng.integers(2, 6)), ties=seed % 3 == 0)
    best = enumerate_funded_sets(instance)
    solution = declare(instance, whole=False).solve("scip", time_limit=15, tolerance=1e-5)
    assert solution.objective == pytest.approx(best, rel=2e-5, abs=1e-9)
    assert solution.bound >= best * (1 - 1e-9)


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("family", [co.CumulativeSurge, co.ShiftedSurge, co.Logistic])
@pytest.mark.parametrize("in_parts", [False, True])
def test_no_constraint_of_the_model_cuts_off_a_feasible_allocation(
    family: type[co.Utility], seed: int, in_parts: bool
) -> None:
    """Lower bounds before, at and past the threshold, the inflection and the peak."""
    import pyomo.environ as pyo

    rng = np.random.default_rng(seed)
    n = 8
    threshold, rate = rng.uniform(0, 60, n), 10 ** rng.uniform(-1.5, 0.5, n)
    landmarks = np.stack(
        [
            np.zeros(n),
            threshold / 3,
            threshold,
            threshold + 0.5 / rate,
            threshold + 1 / rate,
            threshold + 3 / rate,
        ]
    )
    lower = landmarks[rng.integers(0, len(landmarks), n), np.arange(n)]
    upper = lower + 10 ** rng.uniform(-1, 2.5, n)
    tokens = co.Allocation(n, lower=lower, upper=upper)
    accuracy = family(0.9, threshold, rate)(tokens)
    rows = [co.mean(accuracy) >= 0.0]
    program = co.Problem(co.Maximize(co.sum(accuracy)), rows).program
    parts = parts_of(program, *implied_bounds(program)) if in_parts else None
    model = build_model(program, parts)
    for _ in range(20):
        share = rng.choice([0.0, 1.0, 0.5]) if rng.random() < 0.3 else rng.random(n)
        amounts = lower + share * (np.minimum(upper, [v.ub for v in model.tokens.values()]) - lower)
        set_point(model, program, amounts, parts)
        for variable in model.component_data_objects(pyo.Var):
            if variable.value is not None:
                assert variable.lb - 1e-9 <= variable.value <= variable.ub + 1e-9, variable.name
        for row in model.component_data_objects(pyo.Constraint):
            body = pyo.value(row.body)
            assert row.upper is None or body <= pyo.value(row.upper) + 1e-9, row.expr
            assert row.lower is None or body >= pyo.value(row.lower) - 1e-9, row.expr
        assert pyo.value(model.total) == pytest.approx(program.objective(amounts), abs=1e-9)


def test_the_plain_model_and_the_hull_agree_and_the_hull_takes_fewer_nodes() -> None:
    problem = surge_problem(8, 3)
    plain, hull = (
        problem.solve("scip", formulation=name, time_limit=60, tolerance=1e-5)
        for name in ("written", "hull")
    )
    assert plain.status == hull.status == "optimal"
    assert plain.objective == pytest.approx(hull.objective, rel=2e-5)
    assert hull.statistics["in_parts"] == 8
    assert hull.statistics["tangents"] > 0
    assert hull.statistics["nodes"] < plain.statistics["nodes"]
    with pytest.raises(co.DeclarationError, match="'hull' or 'written'"):
        problem.solve("scip", formulation="tangents")


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("seed", range(6))
def test_few_in_their_convex_part_are_enough(feature: str, seed: int) -> None:
    """Lower bounds inside the convex part, several rows: nothing is cut off that `dual` finds."""
    problem = random_problem(seed, feature, whole=False, n=6)
    dual = problem.solve(tolerance=1e-8, time_limit=20)
    hull = problem.solve("scip", time_limit=5, tolerance=1e-5)
    assert (hull.status == "infeasible") == (dual.status == "infeasible")
    if dual.allocation is not None:
        assert hull.bound >= dual.objective - 1e-7 * abs(dual.objective)
        assert hull.objective <= dual.bound + 1e-7 * abs(dual.bound)


@pytest.mark.parametrize("formulation", ["hull", "written"])
@pytest.mark.parametrize("budget", [None, 19])
def test_whole_tokens_charged_what_they_come_to(budget: int | None, formulation: str) -> None:
    """Once proven 1 % short, by SCIP's propagation through the equations of the cost curves."""
    threshold, rate = np.array([2.0, 4, 1]), np.array([0.6, 0.9, 0.35])
    tokens = co.Allocation(3, upper=13, integer=True)
    accuracy = co.CumulativeSurge([0.9, 0.7, 0.8], threshold, rate)(tokens)
    realised = co.ExpectedTokens(threshold, rate, [0.9, 0.7, 0.8])(tokens)
    rows = [co.sum(realised) <= (12.5 if budget is None else 12.0)]
    if budget is not None:
        rows.append(co.sum(tokens) <= budget)
    program = co.Problem(co.Maximize(co.sum(accuracy)), rows).program
    points = np.stack(np.meshgrid(*[np.arange(14.0)] * 3), axis=-1).reshape(-1, 3)
    held = [t for t in points if (program.activity(t) <= program.right_hand_side).all()]
    best = max(program.objective(t) for t in held)
    solution = co.Problem.from_program(program).solve("scip", formulation=formulation)
    assert solution.status == "optimal", solution.summary()
    assert solution.objective == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("seed", range(12))
def test_curves_that_fall_after_their_peak_are_not_taken_to_rise(seed: int) -> None:
    """Whole tokens reach past the peak by a fraction of one."""
    rng = np.random.default_rng(seed)
    n = 12
    tokens = co.Allocation(n, upper=40, integer=True)
    family = (co.ShiftedSurge, co.Triangular, co.Quadratic)[seed % 3]
    accuracy = family(rng.uniform(0.2, 1, n), rng.uniform(0, 12, n), rng.uniform(0.2, 3, n))(tokens)
    cost = rng.uniform(0.5, 4, n)
    problem = co.Problem(co.Maximize(co.sum(accuracy)), [cost @ tokens <= 60.5])
    dual, scip = problem.solve(tolerance=1e-9), problem.solve("scip", time_limit=20)
    assert scip.bound >= dual.objective * (1 - 1e-9), scip.summary()
    assert scip.objective <= dual.bound * (1 + 1e-9)


def test_queries_that_nothing_couples_keep_their_tangents() -> None:
    """SCIP would solve independent parts of a problem as copies, and these have no handler."""
    rng = np.random.default_rng(7)
    tokens = co.Allocation(12, upper=200)
    accuracy = co.CumulativeSurge(
        rng.uniform(0.3, 1, 12), rng.uniform(5, 40, 12), rng.uniform(0.05, 0.3, 12)
    )(tokens)
    caps = co.sum(tokens, by=np.arange(12) // 2) <= 60
    problem = co.Problem(co.Maximize(co.sum(accuracy)), [caps])
    dual, scip = problem.solve(), problem.solve("scip", time_limit=60)
    assert scip.status == "optimal", scip.summary()
    assert scip.objective == pytest.approx(dual.objective, rel=2e-6)


def test_it_proves_a_hundred_queries() -> None:
    problem = surge_problem(100, 5)
    dual, scip = problem.solve(), problem.solve("scip", time_limit=300)
    assert scip.status == "optimal", scip.summary()
    assert scip.objective == pytest.approx(dual.objective, rel=2e-6)


def test_a_warm_start_is_never_lost() -> None:
    problem = surge_problem(60, 4)
    best = problem.solve()
    stopped = problem.solve("scip", time_limit=0.5, warm_start=best)
    assert stopped.objective >= best.objective * (1 - 1e-9)


def test_thresholds_above_the_budget_leave_nothing_to_gain() -> None:
    tokens = co.Allocation(5, upper=1000)
    accuracy = co.CumulativeSurge(0.9, 200, 0.1)(tokens)
    problem = co.Problem(co.Maximize(co.sum(accuracy)), [co.sum(tokens) <= 150])
    solution = problem.solve("scip", time_limit=10)
    assert solution.status == "optimal"
    assert solution.objective == 0


def test_a_budget_of_nothing_buys_nothing() -> None:
    tokens = co.Allocation(4, upper=50)
    accuracy = co.ShiftedSurge(0.9, 5, 0.1)(tokens)
    problem = co.Problem(co.Maximize(co.sum(accuracy)), [co.sum(tokens) <= 0])
    solution = problem.solve("scip", time_limit=10)
    assert solution.status == "optimal"
    assert solution.allocation is not None
    assert not solution.allocation.any()


def test_identical_queries_are_no_obstacle_to_a_valid_answer() -> None:
    tokens = co.Allocation(8, upper=100)
    accuracy = co.CumulativeSurge(0.8, 10, 0.2)(tokens)
    problem = co.Problem(co.Maximize(co.sum(accuracy)), [co.sum(tokens) <= 95])
    solution, dual = problem.solve("scip", time_limit=10), problem.solve()
    assert solution.objective == pytest.approx(dual.objective, rel=1e-5)
    assert solution.bound >= dual.objective * (1 - 1e-12)


def test_lower_bounds_and_floors_are_respected() -> None:
    tokens = co.Allocation(6, lower=3, upper=60)
    accuracy = co.CumulativeSurge(0.8, [5, 5, 10, 10, 20, 20], 0.3)(tokens)
    groups = ["a", "b"] * 3
    floor = (co.mean(accuracy, by=groups) >= {"a": 0.4, "b": 0.2}).named("floor")
    problem = co.Problem(co.Maximize(co.sum(accuracy)), [co.sum(tokens) <= 110, floor])
    solution = problem.solve("scip", time_limit=10)
    assert solution.status == "optimal"
    assert solution.allocation is not None
    assert solution.utilities is not None
    assert solution.allocation.min() >= 3
    assert solution.utilities[::2].mean() >= 0.4 * (1 - 1e-9)
    assert solution.prices == {}  # branch and bound has no multipliers


def test_what_nobody_can_satisfy_is_infeasible() -> None:
    tokens = co.Allocation(4, upper=100)
    accuracy = co.CumulativeSurge(0.5, 10, 0.1)(tokens)
    rows = [co.sum(tokens) <= 100, co.mean(accuracy) >= 0.4]
    solution = co.Problem(co.Maximize(co.sum(accuracy)), rows).solve("scip", time_limit=10)
    assert solution.status == "infeasible"
    assert solution.allocation is None
    assert "no allocation satisfies" in solution.message


def test_tokens_that_pay_for_themselves_are_unbounded() -> None:
    tokens = co.Allocation(3)
    accuracy = co.CumulativeSurge(0.5, 10, 0.1)(tokens)
    problem = co.Problem(co.Maximize(co.sum(accuracy) + co.sum(tokens)), [tokens[0] <= 5])
    assert problem.solve("scip").status == "unbounded"


def test_a_query_without_any_bound_is_refused_with_a_way_out() -> None:
    tokens = co.Allocation(2)
    accuracy = co.CumulativeSurge(0.5, 10, 0.1)(tokens)
    row = tokens[0] - tokens[1] == 3
    with pytest.raises(co.UnsupportedProblemError, match=r"query 0 has no upper bound.*upper="):
        co.Problem(co.Maximize(co.sum(accuracy)), [row]).solve("scip")


def test_at_the_time_limit_it_returns_its_incumbent_and_an_honest_bound() -> None:
    problem = surge_problem(40, 3)
    started = time.perf_counter()
    solution = problem.solve("scip", time_limit=3, tolerance=1e-9, formulation="written")
    assert time.perf_counter() - started < 10
    assert solution.status == "feasible"
    assert "time limit" in solution.message
    assert solution.feasibility is not None
    assert solution.feasibility.ok
    dual = problem.solve()
    assert solution.bound >= dual.objective * (1 - 1e-12)
    assert solution.objective <= dual.bound * (1 + 1e-12)


def test_its_log_is_printed_only_when_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    problem = surge_problem(5, 1)
    problem.solve("scip", time_limit=10)
    assert capfd.readouterr() == ("", "")
    problem.solve("scip", time_limit=10, verbose=True)
    assert "Solving Time" in capfd.readouterr().out


def test_the_same_seed_gives_the_same_allocation() -> None:
    problem = surge_problem(6, 2)
    first, second = (problem.solve("scip", seed=5) for _ in range(2))
    assert first.allocation is not None
    np.testing.assert_array_equal(first.allocation, second.allocation)
