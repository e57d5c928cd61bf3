"""`scip`: the Pyomo model of the very same program, solved to global optimality by SCIP."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from clearopt.assemble import make_solution
from clearopt.program import Program
from clearopt.solution import Solution
from clearopt.solvers.base import ALL_FEATURES, Backend, SolveOptions
from clearopt.solvers.conflict import REASONS_TIME_LIMIT, infeasibility_message
from clearopt.solvers.progress import listener
from clearopt.solvers.pyomo_model import build_model, steps_meant
from clearopt.solvers.relaxation import is_unbounded_direction
from clearopt.solvers.repair import repair
from clearopt.solvers.scaling import scaled
from clearopt.validation import FloatArray

# SCIP works to tolerances: an allocation may miss a row by _FEASIBILITY, relatively, and claim an
# objective a few times as much too high. SCIP's default of 1e-6 would cost a decimal of the gap.
# _ZERO, below which SCIP calls a number 0, must stay well below it: at a tenth of it or more,
# SCIP solved the same linear program of its presolving over and over until the time limit.
_FEASIBILITY = 1e-8
_ZERO = 1e-10
# Its bound is not proven in exact arithmetic either. It is trusted to 10 feasibility tolerances,
# relative, and no further: that much is added before it is called a bound.
_BOUND_MARGIN = 1e-7


class Scip(Backend):
    """SCIP through Pyomo's `scip_direct` (pyscipopt). Certifies optimum and infeasibility."""

    name = "scip"
    summary = "global MINLP branch and bound, through Pyomo"
    supports = ALL_FEATURES - {"functions without a formula", "no upper bound"}
    certifies = "optimum"
    modules = ("pyomo", "pyscipopt")
    extra = "scip"

    def solve(self, program: Program, options: SolveOptions) -> Solution:
        interface = _interface()  # imports Pyomo and SCIP, which no time limit pays for
        started = time.perf_counter()
        if is_unbounded_direction(program):
            return _unbounded(program, started)
        own = scaled(program)
        model = build_model(own.program)
        spent = time.perf_counter() - started
        report = listener(program, options, started)
        if report is not None:
            # SCIP's own word, in the original units; what it found is mended and checked after.
            interface.heard = lambda value, bound: report(
                own.bound(value, 0.0), own.bound(bound, _BOUND_MARGIN)
            )
        results = _run(interface, model, options, spent)
        condition = results.termination_condition.name
        tokens = _tokens(own.program, model, results)
        if tokens is not None:
            tokens = _mended(program, own.restore(tokens), options.time_limit)
        claimed = results.objective_bound
        bound = math.inf if claimed is None else float(claimed)
        if math.isfinite(bound):
            bound = own.bound(bound, _BOUND_MARGIN)
        # Every variable of the model that earns anything is bounded, so it cannot be unbounded.
        infeasible = condition in ("provenInfeasible", "infeasibleOrUnbounded")
        message = _MESSAGES.get(condition, f"SCIP stopped: {condition}")
        if infeasible:
            reason = infeasibility_message(program, REASONS_TIME_LIMIT)
            message = f"{message}: {reason}" if reason else message
        return make_solution(
            program,
            solver=self.name,
            seconds=time.perf_counter() - started,
            allocation=tokens,
            bound=bound,
            tolerance=options.tolerance,
            infeasible=infeasible,
            message=message,
            statistics={
                "nodes": int(results.extra_info.NNodes),
                "scip_objective": results.incumbent_objective,
                "scip_bound": claimed,
                "build_seconds": spent,
            },
        )


_MESSAGES = {
    "convergenceCriteriaSatisfied": "",
    "maxTimeLimit": "SCIP stopped at the time limit",
    "provenInfeasible": "SCIP proved that no allocation satisfies every constraint",
    "infeasibleOrUnbounded": "SCIP proved that no allocation satisfies every constraint",
}


def _run(interface: Any, model: Any, options: SolveOptions, spent: float) -> Any:
    """Pyomo's results of one SCIP run, nothing loaded into the model."""
    settings: dict[str, Any] = {
        "numerics/feastol": _FEASIBILITY,
        "numerics/epsilon": _ZERO,
        "randomization/randomseedshift": options.seed % (2**31 - 1),
        "parallel/maxnthreads": options.threads,
        "display/verblevel": 4 if options.verbose else 0,
    }
    limit = options.time_limit
    return interface.solve(
        model,
        tee=options.verbose,
        threads=options.threads,
        # SCIP divides by the smaller of the two numbers, clearopt by the larger: SCIP is stricter.
        # What the margin adds to the bound must fit within the tolerance too.
        rel_gap=max(options.tolerance - 2 * _BOUND_MARGIN, 0.0),
        time_limit=None if limit is None else max(limit - spent, 0.01),
        load_solutions=False,
        raise_exception_on_nonoptimal_result=False,
        solver_options=settings,
    )


def _interface() -> Any:
    """Pyomo's `scip_direct`, with SCIP run outside the interpreter's lock.

    Pyomo reads SCIP's output from a pipe, in a thread; pyscipopt's `optimize` keeps the lock, so
    that thread never runs, and once SCIP (or its LP solver, to stderr) has written 64 kB both wait
    for ever. `optimizeNogil` lets it run.
    """
    import pyomo.environ  # noqa: F401  # and this while the model is built
    import pyscipopt  # noqa: F401  # Pyomo would import it at the first solve
    from pyomo.contrib.solver.solvers.scip.scip_direct import ScipDirect

    class Released(ScipDirect):  # type: ignore[misc]  # Pyomo carries no types
        heard: Callable[[float, float], None] | None = None

        def _create_solver_model(self, model: Any, config: Any) -> tuple[Any, ...]:
            scip_model, *rest = super()._create_solver_model(model, config)
            if self.heard is not None:
                _listen(scip_model, self.heard)
            return (_OutsideLock(scip_model), *rest)

    return Released()


class _OutsideLock:
    """A pyscipopt model whose `optimize` releases the interpreter's lock."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def optimize(self) -> None:
        self._model.optimizeNogil()


def _listen(scip_model: Any, heard: Callable[[float, float], None]) -> None:
    """Have SCIP tell its incumbent and bound at every better solution and every node."""
    from pyscipopt import SCIP_EVENTTYPE, Eventhdlr

    kinds = (SCIP_EVENTTYPE.BESTSOLFOUND, SCIP_EVENTTYPE.NODESOLVED)

    class Listening(Eventhdlr):  # type: ignore[misc]  # comes without types
        def eventinit(self) -> None:
            for kind in kinds:
                self.model.catchEvent(kind, self)

        def eventexit(self) -> None:
            for kind in kinds:
                self.model.dropEvent(kind, self)

        def eventexec(self, event: Any) -> None:
            value, bound = self.model.getPrimalbound(), self.model.getDualbound()
            heard(
                float(value) if abs(value) < self.model.infinity() else -math.inf,
                float(bound) if abs(bound) < self.model.infinity() else math.inf,
            )

    scip_model.includeEventhdlr(Listening(), "clearopt", "tells how far the search has come")


def _tokens(program: Program, model: Any, results: Any) -> FloatArray | None:
    """SCIP's best point, (n,), or None. A variable in no constraint takes its lower bound."""
    if results.incumbent_objective is None:
        return None
    values = results.solution_loader.get_vars()
    tokens = [values.get(model.tokens[i], program.least[i]) for i in range(program.n)]
    return np.array(tokens, dtype=np.float64)


def _mended(program: Program, tokens: FloatArray, time_limit: float | None) -> FloatArray | None:
    """SCIP's point made truly feasible; first without leaving the steps of curves it stands on."""
    lower, upper = steps_meant(program, tokens)
    if (lower != program.lower).any() or (upper != program.upper).any():
        held = replace(program, lower=lower, upper=upper)
        found = repair(held, tokens, time_limit=time_limit)
        if found is not None:
            return found
    return repair(program, tokens, time_limit=time_limit)


def _unbounded(program: Program, started: float) -> Solution:
    return make_solution(
        program,
        solver=Scip.name,
        seconds=time.perf_counter() - started,
        allocation=None,
        unbounded=True,
        message="tokens can be added without end, and each one adds to the objective",
    )
