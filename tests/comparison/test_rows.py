"""`co.compare`: one row a solver, whatever happens, and no contradiction unnoticed."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import clearopt as co
from clearopt.assemble import make_solution
from clearopt.solvers import ALL_FEATURES, SolveOptions


def declared(n: int = 6, *, budget: float = 120.0) -> co.Problem:
    rng = np.random.default_rng(n)
    tokens = co.Allocation(n, upper=200, integer=True)
    accuracy = co.CumulativeSurge(rng.uniform(0.3, 1, n), rng.uniform(5, 40, n), 0.1)(tokens)
    return co.Problem(co.Maximize(co.sum(accuracy)), [(co.sum(tokens) <= budget).named("budget")])


class Absent(co.Backend):
    """A back-end whose package nobody has."""

    name = "absent"
    summary = "needs a package that does not exist"
    modules = ("a_package_that_does_not_exist",)
    extra = "absent"

    def solve(self, program: co.Program, options: SolveOptions) -> co.Solution:
        raise AssertionError("must not be called")


class Failing(co.Backend):
    """A back-end that breaks down in the middle."""

    name = "failing"
    summary = "always raises"
    supports = ALL_FEATURES

    def solve(self, program: co.Program, options: SolveOptions) -> co.Solution:
        raise RuntimeError("out of luck")


class Boastful(co.Backend):
    """A back-end whose bound is too low to be true."""

    name = "boastful"
    summary = "claims half of what there is"
    supports = ALL_FEATURES
    certifies = "bound"

    def solve(self, program: co.Program, options: SolveOptions) -> co.Solution:
        return make_solution(
            program, solver=self.name, seconds=0.0, allocation=np.zeros(program.n), bound=0.1
        )


class Defeatist(co.Backend):
    """A back-end that sees no way."""

    name = "defeatist"
    summary = "claims that nothing is feasible"
    supports = ALL_FEATURES
    certifies = "optimum"

    def solve(self, program: co.Program, options: SolveOptions) -> co.Solution:
        return make_solution(
            program, solver=self.name, seconds=0.0, allocation=None, infeasible=True
        )


def test_the_default_solvers_agree_and_print_as_a_table() -> None:
    comparison = co.compare(declared(), time_limit=20)
    assert [row.solver for row in comparison] == ["dual", "scip", "highs", "cvxpy", "uniform"]
    assert len(comparison) == 5
    assert comparison.contradictions == []
    dual, scip = comparison["dual"], comparison["scip"]
    assert dual.status == scip.status == "optimal"
    assert dual.objective == pytest.approx(scip.objective, rel=2e-6)
    assert comparison.best_objective == max(row.objective for row in comparison)
    assert comparison.best_bound == min(row.bound for row in comparison if row.rigorous)
    assert comparison.best_bound >= comparison.best_objective * (1 - 1e-9)
    assert all(row.feasible and row.violation <= 1e-9 for row in comparison)
    lines = str(comparison).splitlines()
    assert lines[0].split() == [
        "solver",
        "objective",
        "bound",
        "gap",
        "behind",
        "feasible",
        "status",
        "seconds",
    ]
    assert len({len(line) for line in lines[1:2]}) == 1
    assert [line.split()[0] for line in lines[2:]] == ["dual", "scip", "highs", "cvxpy", "uniform"]
    assert repr(comparison) == str(comparison)


def test_a_baseline_shows_how_far_it_is_behind_the_best_bound() -> None:
    comparison = co.compare(declared(), ["dual", "uniform"])
    uniform = str(comparison).splitlines()[3].split()
    assert uniform[2:4] == ["-", "-"]  # neither bound nor gap of its own
    expected = 1 - comparison["uniform"].objective / comparison["dual"].bound
    assert float(uniform[4]) == pytest.approx(expected, rel=0.06)


def test_a_program_is_taken_as_well_and_options_are_passed_on() -> None:
    problem = declared(30, budget=700.0)
    first, again, other = (
        co.compare(problem.program, ["time-share"], seed=seed) for seed in (1, 1, 2)
    )
    assert first["time-share"].objective == again["time-share"].objective
    assert first["time-share"].objective != other["time-share"].objective
    limited = co.compare(problem, ["scip"], time_limit=0.01, tolerance=0.0)
    assert "time limit" in limited["scip"].message
    assert limited["scip"].seconds < 8


def test_what_does_not_run_is_a_row_with_its_reason() -> None:
    tokens = co.Allocation(4, upper=50)
    accuracy = co.CumulativeSurge(0.9, 5, 0.2)(tokens)
    rows = [co.sum(tokens) <= 100, co.mean(accuracy) >= 0.1]
    problem = co.Problem(co.Maximize(co.sum(accuracy)), rows)
    comparison = co.compare(problem, [Absent(), Failing(), "uniform", "cvxpy"])
    assert "pip install 'clearopt[absent]'" in comparison["absent"].message
    assert comparison["failing"].message == "out of luck"
    assert "cannot take accuracy floors" in comparison["uniform"].message
    for name in ("absent", "failing", "uniform"):
        row = comparison[name]
        assert row.status is None
        assert row.solution is None
        assert not row.feasible
        assert math.isnan(row.objective)
    assert comparison["cvxpy"].feasible
    assert comparison.best_objective == comparison["cvxpy"].objective
    shown = str(comparison)
    assert "failing: out of luck" in shown
    assert shown.count("not run") == 3


def test_an_objective_above_a_bound_is_reported() -> None:
    comparison = co.compare(declared(), ["dual", Boastful()])
    assert comparison.contradictions == [
        f"dual found {comparison['dual'].objective:.9g}, above the bound 0.1 of boastful"
    ]
    assert "CONTRADICTION: dual found" in str(comparison)


def test_a_feasible_allocation_contradicts_a_claim_of_infeasibility() -> None:
    comparison = co.compare(declared(), [Defeatist(), "uniform"])
    assert comparison["defeatist"].status == "infeasible"
    assert "no allocation is feasible, but uniform found one" in comparison.contradictions[0]


def test_nothing_found_leaves_nothing_to_report() -> None:
    comparison = co.compare(declared(), [Failing()])
    assert math.isnan(comparison.best_objective)
    assert comparison.best_bound == math.inf
    assert comparison.contradictions == []


def test_rows_as_plain_dictionaries() -> None:
    dicts = co.compare(declared(), ["dual", "uniform"]).to_dicts()
    assert [entry["solver"] for entry in dicts] == ["dual", "uniform"]
    assert "solution" not in dicts[0]
    assert json.loads(json.dumps(dicts))[0]["status"] == "optimal"


def test_mistakes_are_named() -> None:
    problem = declared()
    with pytest.raises(co.UnknownSolverError, match=r"unknown solver 'gurobi'; known are 'dual'"):
        co.compare(problem, ["dual", "gurobi"])
    with pytest.raises(co.DeclarationError, match="'dual' is named twice"):
        co.compare(problem, ["dual", "dual"])
    with pytest.raises(co.DeclarationError, match="solvers is empty"):
        co.compare(problem, [])
    with pytest.raises(co.DeclarationError, match=r"compare\(int, ...\)"):
        co.compare(3)  # type: ignore[arg-type]
    with pytest.raises(co.DeclarationError, match="time_limit = -1"):
        co.compare(problem, ["uniform"], time_limit=-1)
    with pytest.raises(KeyError, match="no solver 'scip' in this comparison"):
        co.compare(problem, ["uniform"])["scip"]


def test_one_name_alone_is_taken_for_a_list_of_one() -> None:
    assert [row.solver for row in co.compare(declared(), "uniform")] == ["uniform"]
