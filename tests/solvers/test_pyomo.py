"""Solvers behind Pyomo: each one here solves, none is skipped in silence, none proves too much."""

from __future__ import annotations

import os
import stat
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import clearopt as co
from clearopt.solvers import get_solver
from clearopt.solvers.pyomo import KNOWN, installed_names
from clearopt.solvers.pyomo_model import build_model, set_point

# What the test extra brings: each of these must solve, here and in CI.
HERE = {"scip_direct", "gurobi_direct_minlp", "gurobi", "appsi_highs", "pounce", "gdpopt"}
GLOBAL = ("scip_direct", "gurobi_direct_minlp")
LOCAL = ("pounce", "gdpopt")


def surges(n: int = 5, *, seed: int = 0, whole: bool = False) -> co.Problem:
    rng = np.random.default_rng(seed)
    tokens = co.Allocation(n, upper=200, integer=whole)
    accuracy = co.CumulativeSurge(
        rng.uniform(0.3, 1, n), rng.uniform(5, 40, n), rng.uniform(0.05, 0.3, n)
    )(tokens)
    budget = (co.sum(tokens) <= 25 * n).named("budget")
    return co.Problem(co.Maximize(co.sum(accuracy)), [budget])


def steps() -> co.Problem:
    """Measured steps: a model without any curve."""
    rng = np.random.default_rng(3)
    grid = np.tile(np.array([0.0, 8, 16, 32]), (6, 1))
    tokens = co.Allocation(6, upper=40)
    accuracy = co.Tabulated(grid, np.sort(rng.uniform(0, 1, grid.shape)), "step")(tokens)
    return co.Problem(co.Maximize(co.sum(accuracy)), [(co.sum(tokens) <= 80).named("budget")])


def test_what_the_test_extra_brings_is_found() -> None:
    assert {f"pyomo:{name}" for name in HERE} <= set(installed_names())
    assert "pyomo:pounce" in repr(co.solvers())


@pytest.mark.parametrize("thresholds", ["binary", "gdp"])
@pytest.mark.parametrize("name", GLOBAL)
def test_a_global_solver_proves_the_optimum(name: str, thresholds: str) -> None:
    problem = surges()
    best = problem.solve(tolerance=1e-9)
    solution = problem.solve(f"pyomo:{name}", thresholds=thresholds, tolerance=1e-5)
    assert solution.status == "optimal", solution.summary()
    assert solution.solver == f"pyomo:{name}"
    assert solution.objective == pytest.approx(best.objective, rel=2e-5)
    assert solution.bound >= best.objective * (1 - 1e-9)
    assert solution.feasibility is not None
    assert solution.feasibility.ok


@pytest.mark.parametrize("name", GLOBAL)
def test_whole_tokens_stay_whole(name: str) -> None:
    problem = surges(4, seed=2, whole=True)
    best = problem.solve(tolerance=1e-9)
    solution = problem.solve(f"pyomo:{name}", tolerance=1e-5)
    assert solution.status == "optimal", solution.summary()
    assert solution.objective == pytest.approx(best.objective, rel=2e-5)


@pytest.mark.parametrize("name", LOCAL)
def test_a_local_solver_proves_nothing_and_its_allocation_is_valued_exactly(name: str) -> None:
    problem = surges()
    best = problem.solve(tolerance=1e-9)
    solution = problem.solve(f"pyomo:{name}", tolerance=1.0)
    assert solution.status == "feasible", solution.summary()
    assert np.isinf(solution.bound)
    assert "nothing is proven" in solution.message
    assert 0.8 * best.objective <= solution.objective <= best.bound * (1 + 1e-12)
    assert solution.allocation is not None
    assert solution.objective == problem.program.objective(solution.allocation)
    with pytest.raises(co.UnsupportedProblemError, match=r"thresholds = 'binary'.*take"):
        problem.solve(f"pyomo:{name}", thresholds="binary")


@pytest.mark.parametrize("name", ["gurobi", "appsi_highs"])
def test_a_linear_solver_takes_linear_models_and_no_others(name: str) -> None:
    problem = steps()
    best = problem.solve(tolerance=1e-9)
    solution = problem.solve(f"pyomo:{name}")
    assert solution.status == "optimal", solution.summary()
    assert solution.objective == pytest.approx(best.objective, rel=1e-6)
    with pytest.raises(co.UnsupportedProblemError, match=r"is_utility\[0\] is not linear"):
        surges().solve(f"pyomo:{name}")


@pytest.mark.parametrize("name", GLOBAL)
def test_what_nobody_can_satisfy_is_infeasible(name: str) -> None:
    tokens = co.Allocation(3, upper=30)
    accuracy = co.CumulativeSurge(0.5, 10, 0.1)(tokens)
    rows = [co.sum(tokens) <= 40, co.mean(accuracy) >= 0.25]
    solution = co.Problem(co.Maximize(co.sum(accuracy)), rows).solve(f"pyomo:{name}")
    assert solution.status == "infeasible", solution.summary()


def test_gurobis_free_licence_says_so_and_nothing_is_passed_off_as_its_answer() -> None:
    solution = surges(200).solve("pyomo:gurobi_direct_minlp")
    assert solution.status == "unknown"
    assert "too large" in solution.message


# -------------------------------------------------------------------------------- names
def test_pyomo_alone_lists_what_is_there_and_how_to_get_the_rest() -> None:
    with pytest.raises(co.UnknownSolverError) as error:
        surges().solve("pyomo")
    for name in HERE:
        assert f"'pyomo:{name}'" in str(error.value)
    with pytest.raises(co.UnknownSolverError, match=r"unknown solver 'pyomo:nonsense'.*installed"):
        get_solver("pyomo:nonsense")


@pytest.mark.parametrize("name", sorted(set(KNOWN) - HERE))
def test_what_is_not_installed_says_what_installs_it(name: str) -> None:
    if KNOWN[name].installed:
        assert get_solver(f"pyomo:{name}").name == f"pyomo:{name}"
        return
    with pytest.raises(co.SolverNotInstalledError) as error:
        get_solver(f"pyomo:{name}")
    assert KNOWN[name].install in str(error.value)


def test_an_unknown_reformulation_is_refused() -> None:
    with pytest.raises(co.DeclarationError, match="'binary', 'gdp' or 'smooth'"):
        surges().solve("pyomo:scip_direct", thresholds="sharp")
    with pytest.raises(co.UnsupportedProblemError, match="changes the problem"):
        surges().solve("pyomo:scip_direct", thresholds="smooth")
    with pytest.raises(co.DeclarationError, match="smoothing = 0"):
        surges().solve("pyomo:pounce", smoothing=0)
    with pytest.raises(co.UnsupportedProblemError, match="a step curve cannot do without"):
        steps().solve("pyomo:pounce")


# -------------------------------------------------------------------------------- reformulations
@pytest.mark.parametrize("smoothing", [1e-1, 1e-3])
@pytest.mark.parametrize("family", [co.CumulativeSurge, co.ShiftedSurge])
def test_the_smooth_model_is_too_large_by_no_more_than_it_says(
    family: type[co.Utility], smoothing: float
) -> None:
    import pyomo.environ as pyo

    threshold = np.array([3.0, 20, 50])
    tokens = co.Allocation(3, upper=[threshold[0] + 2, 60, 300])
    accuracy = family(0.9, threshold, [0.5, 0.1, 0.02])(tokens)
    program = co.Problem(co.Maximize(co.sum(accuracy)), []).program
    model = build_model(program, thresholds="smooth", smoothing=smoothing)
    for amounts in [threshold, threshold * 0.5, threshold + 1.0, np.zeros(3)]:
        set_point(model, program, amounts)
        for i, row in model.is_utility.items():
            # utility - U_i(smoothed excess) <= 0: what U_i is there.
            modelled = program.utility(amounts)[i] - pyo.value(row.body)
            above = modelled - program.utility(amounts)[i]
            assert -1e-12 <= above <= 0.5 * smoothing * 0.9 + 1e-12


def test_every_model_holds_at_a_feasible_allocation() -> None:
    import pyomo.environ as pyo

    program = surges().program
    rng = np.random.default_rng(0)
    for thresholds in ("binary", "gdp"):
        model = build_model(program, thresholds=thresholds)
        if thresholds == "gdp":
            pyo.TransformationFactory("gdp.bigm").apply_to(model)
        for _ in range(10):
            amounts = rng.uniform(0, 25, 5)
            set_point(model, program, amounts)
            for row in model.component_data_objects(pyo.Constraint, active=True):
                body = pyo.value(row.body)
                assert row.upper is None or body <= pyo.value(row.upper) + 1e-9, row.name
                assert row.lower is None or body >= pyo.value(row.lower) - 1e-9, row.name


# -------------------------------------------------------------------------------- limits
@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands in for a solver")
def test_a_solver_that_ignores_its_limit_is_ended_with_all_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An executable that never ends: what Pyomo takes for Couenne."""
    alive = tmp_path / "alive"
    fake = tmp_path / "couenne"
    fake.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = -v ]; then echo "couenne 0.5.8, ASL(20190605)"; exit 0; fi\n'
        f"trap '' TERM INT\nwhile true; do date > '{alive}'; sleep 0.1; done\n"
    )
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    started = time.perf_counter()
    solution = surges().solve("pyomo:couenne", time_limit=1)
    assert solution.status == "unknown"
    assert solution.message
    assert alive.exists()
    seen = alive.stat().st_mtime
    time.sleep(1.0)
    assert alive.stat().st_mtime == seen, "still running"
    assert time.perf_counter() - started < 120


@pytest.mark.parametrize("name", ["scip_direct", "gurobi_direct_minlp", "pounce", "gdpopt"])
def test_with_a_limit_it_runs_apart_and_gives_the_same_kind_of_answer(name: str) -> None:
    problem = surges(3)
    best = problem.solve()
    solution = problem.solve(f"pyomo:{name}", time_limit=60, tolerance=1e-4)
    proves = name in GLOBAL
    assert solution.status == ("optimal" if proves else "feasible"), solution.summary()
    assert solution.objective <= best.bound * (1 + 1e-12)


def test_a_job_that_cannot_be_unpacked_elsewhere_is_solved_here() -> None:
    class Local(co.CumulativeSurge):
        """A family that no other process can import."""

    tokens = co.Allocation(3, upper=100)
    accuracy = Local(0.9, [5.0, 10, 20], 0.2)(tokens)
    problem = co.Problem(co.Maximize(co.sum(accuracy)), [co.sum(tokens) <= 60])
    solution = problem.solve("pyomo:gurobi_direct_minlp", time_limit=60, tolerance=1e-4)
    assert solution.status == "optimal", solution.summary()


def test_a_warm_start_is_never_lost() -> None:
    problem = surges()
    best = problem.solve()
    solution = problem.solve("pyomo:pounce", warm_start=best)
    assert solution.objective >= best.objective
