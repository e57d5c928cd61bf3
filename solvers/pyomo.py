"""`pyomo:NAME`: any solver that Pyomo reaches, on the program's own exact model.

What is known of a solver (`KNOWN`) decides how its word is taken: a global one's bound gets SCIP's
margin, a local one's is none. Others that Pyomo knows are taken for local. Whatever the model, an
allocation is repaired, checked and valued on the program itself.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from clearopt.assemble import make_solution
from clearopt.errors import (
    DeclarationError,
    SolverNotInstalledError,
    UnknownSolverError,
    UnsupportedProblemError,
)
from clearopt.program import Program
from clearopt.solution import Solution
from clearopt.solvers.base import ALL_FEATURES, Backend, SolveOptions, is_installed
from clearopt.solvers.pyomo_run import Job, Outcome, run, run_apart
from clearopt.solvers.relaxation import implied_bounds, is_unbounded_direction
from clearopt.solvers.scaling import scaled
from clearopt.solvers.scip import mended
from clearopt.solvers.start import first_allocation
from clearopt.solvers.warm_start import better, known_allocation
from clearopt.validation import FloatArray

Kind = Literal["global", "linear", "local", "disjunctive", "decomposition"]

_THRESHOLDS = ("binary", "gdp", "smooth")
_BOUND_MARGIN = 1e-7  # as for SCIP: ten feasibility tolerances, relative
_SMOOTHING = 1e-3


@dataclass(frozen=True)
class Known:
    """What is known of a solver behind Pyomo.

    Attributes:
        kind: "global" (MINLP, its bound counts), "linear" (MILP, its bound counts), "local" (NLP
            without binaries), "disjunctive" (GDPopt) or "decomposition" (of a MINLP, no proof).
        summary: one line.
        modules, executables: what it needs; of several executables any one.
        install: the command that brings it.
    """

    kind: Kind
    summary: str
    install: str
    modules: tuple[str, ...] = ()
    executables: tuple[str, ...] = ()

    @property
    def installed(self) -> bool:
        """Whether what it needs is there, found out without importing anything."""
        there = all(is_installed(module) for module in ("pyomo", *self.modules))
        found = not self.executables or any(shutil.which(name) for name in self.executables)
        return there and found


_IPOPT = "conda install -c conda-forge ipopt"
_GUROBI = "pip install 'clearopt[gurobi]'"
KNOWN: Mapping[str, Known] = {
    "scip_direct": Known("global", "SCIP, through pyscipopt", "pip install 'clearopt[scip]'",
                         ("pyscipopt",)),
    "gurobi_direct_minlp": Known("global", "Gurobi with general functions; its free licence takes "
                                 "some 60 queries", _GUROBI, ("gurobipy",)),
    "baron": Known("global", "BARON", "see minlp.com: no package brings it", (), ("baron",)),
    "couenne": Known("global", "Couenne", "conda install -c conda-forge coin-or-couenne", (),
                     ("couenne",)),
    "scip": Known("global", "SCIP, an executable", "conda install -c conda-forge scip", (),
                  ("scip", "scipampl")),
    "gurobi": Known("linear", "Gurobi, linear models", _GUROBI, ("gurobipy",)),
    "appsi_highs": Known("linear", "HiGHS, linear models", "pip install highspy", ("highspy",)),
    "pounce": Known("local", "interior points", "pip install 'clearopt[pyomo]'", ("pyomo_pounce",)),
    "ripopt": Known("local", "interior points", "pip install pyomo-ripopt", ("pyomo_ripopt",)),
    "ipopt": Known("local", "interior points", _IPOPT, (), ("ipopt",)),
    "bonmin": Known("decomposition", "branch and bound over local NLPs",
                    "conda install -c conda-forge coin-or-bonmin", (), ("bonmin",)),
    "mindtpy": Known("decomposition", "MindtPy: outer approximation, HiGHS and Ipopt in turns",
                     _IPOPT, ("highspy",), ("ipopt",)),
    "gdpopt": Known("disjunctive", "GDPopt: HiGHS chooses the disjuncts, a local NLP the amounts",
                    "pip install 'clearopt[pyomo]'", ("highspy", "pyomo_pounce")),
}  # fmt: skip


class Pyomo(Backend):
    """A solver behind Pyomo; `named` makes one.

    Own options:
        thresholds: "binary" (big-M, one binary a threshold; the default), "gdp" (disjunctions, the
            default of `pyomo:gdpopt`; others get their hull) or "smooth" (no binaries: the default,
            and all that is possible, of local NLP solvers).
        smoothing: of "smooth", relative to the tokens that a curve takes to rise: each utility is
            modelled too large by half of that share of its peak at most. 1e-3.
        solver_options: a dictionary handed to the solver as it is, after what this module sets.
        algorithm: of `pyomo:gdpopt`, "RIC" (the default: a linear master that only excludes
            what was tried; outer approximation cuts off optima of curves that are not concave) or
            another of its names; of `pyomo:mindtpy`, its strategy, "OA".
        subsolver: of these two, the NLP solver; "pounce" and "ipopt".
    """

    name = "pyomo"
    summary = "any solver that Pyomo reaches"
    supports = ALL_FEATURES
    modules = ("pyomo",)
    extra = "pyomo"
    own_options = frozenset({"thresholds", "smoothing", "solver_options", "subsolver", "algorithm"})
    which: ClassVar[str] = ""
    kind: ClassVar[Kind] = "local"

    def solve(self, program: Program, options: SolveOptions) -> Solution:
        started = time.perf_counter()
        thresholds = _asked(self, options)
        smoothing = _smoothing(options)
        if is_unbounded_direction(program):
            return make_solution(
                program, solver=self.name, seconds=time.perf_counter() - started, allocation=None,
                unbounded=True,
                message="tokens can be added without end, and each one adds to the objective",
            )  # fmt: skip
        own = scaled(program)
        job = Job(
            program=own.program,
            which=self.which,
            kind=self.kind,
            thresholds=thresholds,
            smoothing=smoothing,
            start=_start(program) / own.tokens,
            tolerance=max(options.tolerance - 2 * _BOUND_MARGIN, 0.0),
            time_limit=options.time_limit,
            seed=options.seed,
            threads=options.threads,
            verbose=options.verbose,
            extra=dict(options.extra.get("solver_options") or {}),
            subsolver=options.extra.get("subsolver"),
            algorithm=options.extra.get("algorithm"),
        )
        given = known_allocation(program, options.warm_start)
        if given is not None:
            job.start = given / own.tokens
        outcome = run(job) if options.time_limit is None else run_apart(job)
        found = outcome.tokens
        tokens = None if found is None else own.restore(found)
        if tokens is not None:
            tokens = mended(program, tokens, options.time_limit)
        # What the caller had is never lost; what we start from is no result.
        tokens = better(program, tokens, given)
        proves = self.certifies == "optimum"
        bound = math.inf
        if proves and outcome.bound is not None and math.isfinite(outcome.bound):
            bound = own.bound(outcome.bound, _BOUND_MARGIN)
        return make_solution(
            program,
            solver=self.name,
            seconds=time.perf_counter() - started,
            allocation=tokens,
            bound=bound,
            tolerance=options.tolerance,
            infeasible=proves and outcome.infeasible and tokens is None,
            certifies=proves,
            message=_message(self, outcome),
            statistics={
                "thresholds": thresholds,
                "termination": outcome.termination,
                "model_objective": outcome.objective,
                "model_bound": outcome.bound,
            }
            | ({"smoothing": smoothing} if thresholds == "smooth" else {}),
        )


def named(solver: str) -> Backend:
    """The back-end `pyomo:NAME`, ready to solve.

    Raises:
        UnknownSolverError: no name, or one that Pyomo does not know.
        SolverNotInstalledError: what it needs is not there; the message has the command.
    """
    _, _, which = solver.partition(":")
    if not which:
        raise UnknownSolverError(f"solver {solver!r}: say which, as 'pyomo:NAME'; {_listed()}")
    known = KNOWN.get(which)
    if not is_installed("pyomo"):
        raise SolverNotInstalledError(
            f"solver {solver!r} needs pyomo, which is not installed: pip install 'clearopt[pyomo]'"
        )
    if known is not None and not known.installed:
        missing = [m for m in known.modules if not is_installed(m)]
        what = " and ".join(missing) or f"the executable {' or '.join(known.executables)}"
        raise SolverNotInstalledError(
            f"solver {solver!r} needs {what}, which is not installed: {known.install}"
        )
    if known is None:
        _look_up(solver, which)
    kind: Kind = "decomposition" if known is None else known.kind
    proves = kind in ("global", "linear")
    made = type(
        "Pyomo",
        (Pyomo,),
        {
            "name": f"pyomo:{which}",
            "summary": "a solver that Pyomo reaches" if known is None else known.summary,
            "certifies": "optimum" if proves else "nothing",
            "modules": ("pyomo", *(known.modules if known is not None else ())),
            "which": which,
            "kind": kind,
        },
    )
    backend: Backend = made()
    return backend


def _look_up(solver: str, which: str) -> None:
    """Refuse what Pyomo itself does not know, or cannot run."""
    import pyomo.environ as pyo

    factory = pyo.SolverFactory
    if which not in list(factory):
        raise UnknownSolverError(f"unknown solver {solver!r}: Pyomo has none; {_listed()}")
    if not factory(which).available(exception_flag=False):
        raise SolverNotInstalledError(
            f"solver {solver!r} is known to Pyomo and not installed; see where it comes from"
        )


def installed_names() -> list[str]:
    """`pyomo:NAME` of every known solver whose needs are there; imports none of them."""
    return [f"pyomo:{name}" for name, known in KNOWN.items() if known.installed]


def _listed() -> str:
    there = ", ".join(repr(name) for name in installed_names()) or "none"
    missing = "; ".join(
        f"'pyomo:{name}' ({known.install})" for name, known in KNOWN.items() if not known.installed
    )
    return f"installed are {there}" + (f"; not installed: {missing}" if missing else "")


def _asked(backend: Pyomo, options: SolveOptions) -> Literal["binary", "gdp", "smooth"]:
    usual = {"local": "smooth", "disjunctive": "gdp"}.get(backend.kind, "binary")
    wanted = options.extra.get("thresholds", usual)
    if wanted not in _THRESHOLDS:
        raise DeclarationError(f"thresholds = {wanted!r}: must be 'binary', 'gdp' or 'smooth'")
    if backend.kind == "local" and wanted != "smooth":
        raise UnsupportedProblemError(
            f"thresholds = {wanted!r}: {backend.name!r} takes no binaries; take 'smooth', or a "
            "mixed-integer solver such as 'pyomo:scip_direct'"
        )
    if backend.kind == "disjunctive" and wanted != "gdp":
        raise UnsupportedProblemError(
            f"thresholds = {wanted!r}: {backend.name!r} takes disjunctions; take 'gdp'"
        )
    if wanted == "smooth" and backend.certifies == "optimum":
        raise UnsupportedProblemError(
            f"thresholds = 'smooth' changes the problem, and {backend.name!r} would prove a bound "
            "of another one; take 'binary' or 'gdp'"
        )
    chosen: Literal["binary", "gdp", "smooth"] = wanted
    return chosen


def _smoothing(options: SolveOptions) -> float:
    given = options.extra.get("smoothing", _SMOOTHING)
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given <= 1:
        raise DeclarationError(f"smoothing = {given!r}: must be a number above 0, at most 1")
    return float(given)


def _start(program: Program) -> FloatArray:
    """Where a local solver starts: a good allocation, or the middle of the bounds."""
    found = first_allocation(program)
    if found is not None:
        return found
    lower, upper = implied_bounds(program)
    return np.where(np.isfinite(upper), 0.5 * (lower + upper), lower + 1.0)


def _message(backend: Pyomo, outcome: Outcome) -> str:
    if outcome.failure:
        return outcome.failure
    if outcome.termination in ("optimal", "locallyOptimal", "feasible"):
        return "" if backend.certifies == "optimum" else "a local solver: nothing is proven"
    return f"{backend.which} stopped: {outcome.termination}"
