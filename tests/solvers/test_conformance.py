"""Every registered back-end passes the suite of `clearopt.testing`; none is left out in silence."""

import sys

import numpy as np
import pytest

import clearopt as co
from clearopt import testing
from clearopt.solvers import get_solver

# Not installable where the tests run: name -> why. Anything else that is missing is a failure.
NOT_HERE: dict[str, str] = {}

# Defects known and open: (back-end, check) -> what is wrong. Each is held to still be there, so
# that an entry goes when its defect does.
DEFECTS: dict[tuple[str, str], str] = {}

# By name, so that one that falls out of the registry is missed. `.ci/check_results.py` asks for
# the same in the results.
EVERY = (
    "dual", "scip", "highs", "ortools", "dp", "cvxpy", "scipy", "price", "greedy", "proportional",
    "uniform", "time-share", "pyomo:scip_direct", "pyomo:gurobi_direct_minlp", "pyomo:gurobi",
    "pyomo:appsi_highs", "pyomo:pounce", "pyomo:gdpopt",
)  # fmt: skip
FRACTIONAL = ("pyomo:gdpopt",)  # wants a global solver that is not here for whole tokens
LINEAR = ("pyomo:gurobi", "pyomo:appsi_highs")  # take measured steps alone

SOLVERS = [name for name in co.solvers() if name not in NOT_HERE]
CASES = [(solver, check) for solver in SOLVERS for check in testing.checks()]


@pytest.mark.parametrize("name", SOLVERS)
def test_it_is_installed(name):
    info = co.solvers()[name]
    assert info.installed, f"{name} is not tested here; {info.install}"


def test_every_solver_is_in_the_lists():
    assert {name for name in EVERY if not name.startswith("pyomo:")} == {*co.solvers(), *NOT_HERE}


@pytest.mark.parametrize("name", EVERY)
def test_it_really_solves(name):
    """With its own package, not with another solver's answer, nor with a refusal."""
    rng = np.random.default_rng(2)
    tokens = co.Allocation(4, upper=60, integer=name not in FRACTIONAL)
    scale, threshold = rng.uniform(0.5, 1, 4), rng.uniform(2, 15, 4)
    family = co.CumulativeSurge(scale, threshold, 0.2)
    if name in LINEAR:
        family = co.Tabulated([0, 10, 20, 40], np.sort(rng.uniform(0, 1, (4, 4))), "step")
    budget = (co.sum(tokens) <= 100).named("budget")
    problem = co.Problem(co.Maximize(co.sum(family(tokens))), [budget])
    solution = problem.solve(name)
    backend = get_solver(name)
    assert solution.solver == name
    needed = set(backend.modules) - {"jax"}  # which a few queries are not worth importing
    assert needed <= set(sys.modules)
    assert solution.allocation is not None, solution.message
    assert solution.feasibility.ok
    assert solution.objective > 0
    if backend.certifies == "optimum":
        assert solution.status == "optimal", solution.summary()
    assert np.isfinite(solution.bound) == (backend.certifies != "nothing")


@pytest.mark.parametrize(("solver", "check"), CASES, ids=[f"{s}-{c}" for s, c in CASES])
def test_it_conforms(solver, check):
    known = DEFECTS.get((solver, str(check)))
    if known is None:
        check(solver)
    else:
        assert check.run(solver).result == "failed", f"mended; take it off the list: {known}"


def test_the_defects_are_of_checks_that_exist():
    names = {str(check) for check in testing.checks()}
    assert {check for _, check in DEFECTS} <= names
    assert {solver for solver, _ in DEFECTS} <= set(SOLVERS)


@pytest.mark.parametrize("name", SOLVERS)
def test_what_certifies_the_optimum_is_held_to_it(name):
    """A back-end cannot pass by taking nothing: so many of the known optima apply to it."""
    info = co.solvers()[name]
    from clearopt.solvers.capabilities import missing_features
    from clearopt.testing.instances import INSTANCES

    taken = [i for i in INSTANCES if not missing_features(i.declare(), info.supports)]
    assert len(taken) >= 8, [i.name for i in taken]
