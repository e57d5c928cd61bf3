"""The independent check: feasibility, the gap, and who may be called optimal."""

import math

import numpy as np
import pytest

import clearopt as co
from clearopt.assemble import make_solution
from clearopt.certificate import check_feasibility, relative_gap

FAMILY = co.CumulativeSurge(scale=[0.9, 0.8, 0.7], threshold=[5.0, 10.0, 20.0], rate=0.2)


@pytest.fixture
def program():
    tokens = co.Allocation(3, lower=1, upper=100, integer=[True, False, False])
    accuracy = FAMILY(tokens)
    return co.Problem(
        co.Maximize(co.sum(accuracy)),
        [
            (co.sum(tokens) <= 90).named("budget"),
            (tokens[1] - tokens[2] == 0).named("same"),
            (co.sum(tokens, by=["a", "b", "b"]) >= {"a": 10, "b": 20}).named("least"),
            (co.mean(accuracy) >= 0.3).named("floor"),
        ],
    ).program


GOOD = np.array([20.0, 30.0, 30.0])


def test_a_feasible_allocation(program):
    feasibility = check_feasibility(program, GOOD)
    assert feasibility.ok
    assert feasibility.violation == 0


@pytest.mark.parametrize(
    ("tokens", "where"),
    [
        ([0.0, 30.0, 30.0], "lower bound of query 0"),
        ([20.5, 30.0, 30.0], "wholeness of query 0"),
        ([20.0, 30.0, 40.0], "row 1"),
        ([60.0, 30.0, 30.0], "row 0"),
        ([5.0, 30.0, 30.0], "row 2"),
        ([20.0, 10.0, 10.0], "floor 0"),
        ([20.0, np.nan, 30.0], "tokens[1] is not finite"),
        ([20.0, 30.0, np.inf], "tokens[2] is not finite"),
    ],
)
def test_what_is_missed_most_is_named(program, tokens, where):
    feasibility = check_feasibility(program, np.array(tokens))
    assert not feasibility.ok
    assert feasibility.where == where


def test_bounds_alone():
    tokens = co.Allocation(3, lower=1, upper=[10, 20, np.inf])
    program = co.Problem(co.Maximize(co.sum(FAMILY(tokens)))).program
    assert check_feasibility(program, np.array([10.0, 20.0, 1e9])).ok
    above = check_feasibility(program, np.array([10.0, 20.1, 1e9]))
    assert (above.where, above.ok) == ("upper bound of query 1", False)


def test_the_tolerance_is_relative_to_the_row(program):
    assert check_feasibility(program, GOOD + [0, 0, 1e-11]).ok
    assert not check_feasibility(program, GOOD + [0, 0, 1e-5]).ok


def test_relative_gap():
    assert relative_gap(1.0, 1.5) == pytest.approx(1 / 3)
    assert relative_gap(0.0, 0.0) == 0.0
    assert relative_gap(2.0, 1.9) == 0.0
    assert relative_gap(0.0, 1e-12) == 1.0
    assert relative_gap(1.0, math.inf) == math.inf
    assert relative_gap(-1.0, -0.5) == 0.5


def solution_of(program, **changes):
    options = {"solver": "test", "seconds": 0.0, "allocation": GOOD, "bound": math.inf}
    return make_solution(program, **(options | changes))


def test_optimal_needs_a_checked_allocation_and_a_bound(program):
    worth = program.objective(GOOD)
    assert solution_of(program, bound=worth * (1 + 1e-9)).status == "optimal"
    assert solution_of(program, bound=worth * (1 + 1e-3)).status == "feasible"
    assert solution_of(program, bound=worth * (1 + 1e-3), tolerance=0.01).status == "optimal"
    assert solution_of(program).status == "feasible"
    assert solution_of(program).gap == math.inf
    # A local solver or a baseline may not claim it.
    assert solution_of(program, bound=worth, certifies=False).status == "feasible"


def test_an_infeasible_allocation_is_withheld(program):
    solution = solution_of(program, allocation=GOOD + [0, 0, 1], bound=9.0)
    assert solution.status == "unknown"
    assert solution.allocation is None
    assert "misses row 1" in solution.message
    assert math.isnan(solution.objective)
    assert solution.bound == 9.0
    assert not solution.feasibility.ok


def test_a_bound_below_a_checked_objective_is_no_bound(program):
    worth = program.objective(GOOD)
    solution = solution_of(program, bound=0.9 * worth)
    assert solution.status == "feasible"
    assert solution.bound == math.inf
    assert "not a bound" in solution.message
    # Rounding within the tolerance is no lie.
    assert solution_of(program, bound=worth * (1 - 1e-12)).status == "optimal"


def test_the_objective_is_recomputed(program):
    solution = solution_of(program)
    assert solution.objective == pytest.approx(float(FAMILY.value(GOOD).sum()), rel=1e-14)
    np.testing.assert_array_equal(solution.utilities, FAMILY.value(GOOD))
    assert solution.funded.tolist() == [True, True, True]


def test_statuses_without_an_allocation(program):
    assert solution_of(program, allocation=None, infeasible=True).status == "infeasible"
    assert solution_of(program, allocation=None, unbounded=True).status == "unbounded"
    assert solution_of(program, allocation=None).status == "unknown"
