"""`scip`: the Pyomo model of the very same program, solved to global optimality by SCIP.

Two formulations. "hull" models every S-curve in parts (`parts`): binary variables for the part, the
hull's tangents separated where SCIP needs them, and an allocation to start from. "written" is the
plain model: every function written out for SCIP to take apart, with one binary a threshold. Nothing
of this package's derivatives is in that one, and from twenty queries on SCIP does not prove it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from clearopt.assemble import make_solution
from clearopt.certificate import check_feasibility
from clearopt.errors import DeclarationError
from clearopt.program import Program
from clearopt.solution import Solution
from clearopt.solvers.base import ALL_FEATURES, Backend, SolveOptions
from clearopt.solvers.conflict import REASONS_TIME_LIMIT, infeasibility_message
from clearopt.solvers.parts import Parts, parts_of
from clearopt.solvers.progress import listener
from clearopt.solvers.pyomo_model import build_model, set_point, steps_meant
from clearopt.solvers.relaxation import implied_bounds, is_unbounded_direction
from clearopt.solvers.repair import repair
from clearopt.solvers.scaling import Scaled, scaled
from clearopt.solvers.scip_tangents import CLAIM, include, tangent_handler
from clearopt.solvers.start import first_allocation
from clearopt.solvers.warm_start import better, known_allocation
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


# SCIP 10 has proven wrong optima with these on. Of 60 programs of three queries with whole tokens
# and cost curves, enumerated, its plain model was 1 % off in two; in one with the strengthening of
# estimates by binaries off (the hull does that for itself), in none with its propagation through
# nonlinear constraints off, which costs a third more time and is left on where no curve is charged.
_UNSOUND = {"nlhdlr/perspective/enabled": False}
_UNSOUND_WITH_CURVES = {"constraints/nonlinear/propfreq": -1}
# Tightening bounds by linear programs, and probing every binary: what the hull makes unnecessary
# took more than half of the time from 300 queries on.
_TANGENTS_DO_IT = {
    "propagating/obbt/freq": -1,
    "propagating/probing/maxprerounds": 0,
    # Independent parts of the problem would be solved as copies, and these have no tangents.
    "constraints/components/propfreq": -1,
    "constraints/components/maxprerounds": 0,
}
# SoPlex, by the dual simplex, gives up on a few linear programs; by the primal one it does not.
_LP_ERROR = "error in LP solver"
_BY_PRIMAL_SIMPLEX = {"lp/initalgorithm": "p", "lp/resolvealgorithm": "p"}
_FORMULATIONS = ("hull", "written")


class Scip(Backend):
    """SCIP through Pyomo's `scip_direct` (pyscipopt). Certifies optimum and infeasibility.

    Own options:
        formulation: "hull" (the strongest one: the default) or "written" (the plain one).
    """

    name = "scip"
    summary = "global MINLP branch and bound, through Pyomo"
    supports = ALL_FEATURES - {"functions without a formula", "no upper bound"}
    certifies = "optimum"
    modules = ("pyomo", "pyscipopt")
    extra = "scip"
    own_options = frozenset({"formulation"})

    def solve(self, program: Program, options: SolveOptions) -> Solution:
        formulation = options.extra.get("formulation", "hull")
        if formulation not in _FORMULATIONS:
            raise DeclarationError(f"formulation = {formulation!r}: must be 'hull' or 'written'")
        interface = released_interface()  # imports Pyomo and SCIP, which no time limit pays for
        started = time.perf_counter()
        if is_unbounded_direction(program):
            return _unbounded(program, started)
        own = scaled(program)
        parts = None
        if formulation == "hull":
            parts = parts_of(own.program, *implied_bounds(own.program))
        model = build_model(own.program, parts)
        interface.parts = parts
        start = _start(program, own, options)
        if start is not None:
            set_point(model, own.program, start, parts)
            interface.starts = True
        spent = time.perf_counter() - started
        report = listener(program, options, started)
        if report is not None:
            # SCIP's own word, in the original units; what it found is mended and checked after.
            interface.heard = lambda value, bound: report(
                own.bound(value, 0.0), own.bound(bound, _BOUND_MARGIN)
            )
        results = run_scip(interface, model, options, spent)
        if interface.handler is not None and interface.handler.failure is not None:
            raise interface.handler.failure
        condition = results.termination_condition.name
        tokens = _tokens(own.program, model, results)
        if tokens is not None:
            tokens = mended(program, own.restore(tokens), options.time_limit)
        if start is not None:  # SCIP may refuse a start, or find nothing better
            tokens = better(program, tokens, own.restore(start))
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
        solution = make_solution(
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
                "formulation": formulation,
                "in_parts": 0 if parts is None else int(parts.query.size),
                "tangents": 0 if interface.handler is None else interface.handler.cuts,
            },
        )
        if solution.status == "feasible" and not solution.message:
            # SCIP is done, but what its tolerances add to the bound is more than was allowed.
            solution = replace(solution, message="SCIP proved it to its own tolerances, no further")
        return solution


_MESSAGES = {
    "convergenceCriteriaSatisfied": "",
    "maxTimeLimit": "SCIP stopped at the time limit",
    "provenInfeasible": "SCIP proved that no allocation satisfies every constraint",
    "infeasibleOrUnbounded": "SCIP proved that no allocation satisfies every constraint",
}


def run_scip(
    interface: Any,
    model: Any,
    options: SolveOptions,
    spent: float = 0.0,
    more: dict[str, Any] | None = None,
) -> Any:
    """Pyomo's results of one SCIP run, nothing loaded into the model; `more`: SCIP's settings."""
    settings: dict[str, Any] = {
        "numerics/feastol": _FEASIBILITY,
        "numerics/epsilon": _ZERO,
        **_UNSOUND,
        "randomization/randomseedshift": options.seed % (2**31 - 1),
        "parallel/maxnthreads": options.threads,
        "display/verblevel": 4 if options.verbose else 0,
    }
    if interface.parts is not None:
        settings |= _TANGENTS_DO_IT
    if len(model.charge):
        settings |= _UNSOUND_WITH_CURVES
    began = time.perf_counter()
    try:
        return _solved(interface, model, options, spent, settings | (more or {}))
    except Exception as error:  # pyscipopt has no kind of its own
        if _LP_ERROR not in str(error):
            raise
    spent += time.perf_counter() - began
    again = settings | (more or {}) | _BY_PRIMAL_SIMPLEX
    return _solved(interface, model, options, spent, again)


def _solved(
    interface: Any, model: Any, options: SolveOptions, spent: float, settings: dict[str, Any]
) -> Any:
    limit = options.time_limit
    return interface.solve(
        model,
        tee=options.verbose,
        threads=options.threads,
        # SCIP divides by the smaller of the two numbers, clearopt by the larger: SCIP is stricter.
        # What the margin adds to the bound must fit within the tolerance too, and what a solution
        # may claim above its curves.
        rel_gap=max(options.tolerance - 2 * _BOUND_MARGIN - 2 * CLAIM, 0.0),
        time_limit=None if limit is None else max(limit - spent, 0.01),
        load_solutions=False,
        raise_exception_on_nonoptimal_result=False,
        solver_options=settings,
    )


def released_interface() -> Any:
    """Pyomo's `scip_direct`, with SCIP run outside the interpreter's lock.

    Pyomo reads SCIP's output from a pipe, in a thread; pyscipopt's `optimize` keeps the lock, so
    that thread never runs, and once SCIP (or its LP solver, to stderr) has written 64 kB both wait
    for ever. `optimizeNogil` lets it run.
    """
    import pyomo.environ as pyo
    import pyscipopt  # noqa: F401  # Pyomo would import it at the first solve
    from pyomo.contrib.solver.solvers.scip.scip_direct import ScipDirect

    class Released(ScipDirect):  # type: ignore[misc]  # Pyomo carries no types
        parts: Parts | None = None
        handler: Any = None
        starts = False
        heard: Callable[[float, float], None] | None = None

        def _create_solver_model(self, model: Any, config: Any) -> tuple[Any, ...]:
            scip_model, *rest = super()._create_solver_model(model, config)
            own = self._pyomo_var_to_solver_var_map
            if self.parts is not None:
                of = [[own[v] for v in group.values()]
                      for group in (model.upper, model.upper_worth, model.funded)]  # fmt: skip
                self.handler = tangent_handler(self.parts, *of)
                include(scip_model, self.handler)
            if self.starts:
                solution = scip_model.createSol()
                for variable, known in own.items():
                    scip_model.setSolVal(solution, known, variable.value)
                scip_model.setSolVal(solution, self._obj_var, pyo.value(model.total))
                scip_model.addSol(solution)
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


def _start(program: Program, own: Scaled, options: SolveOptions) -> FloatArray | None:
    """The better of the allocation given and the one found cheaply, (n,) in own units; or None."""
    first = first_allocation(program)
    if first is not None and not check_feasibility(program, first).ok:
        first = None
    best = better(program, first, known_allocation(program, options.warm_start))
    return None if best is None else best / own.tokens


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


def mended(program: Program, tokens: FloatArray, time_limit: float | None) -> FloatArray | None:
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
