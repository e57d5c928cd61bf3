"""`cvxpy`: the concave-envelope relaxation as a convex program, and what rounding it gives.

Every utility is replaced by its concave envelope: as a cone where its family has one, by all its
pieces where it is piecewise linear, else as the least of finitely many tangents, added where the
solution lies until its bound stands still. The bound reported does not rest on the solver's word
(see `cvxpy_relaxation`).
"""

from __future__ import annotations

import math
import time

import numpy as np

from clearopt.assemble import make_solution
from clearopt.errors import DeclarationError, UnsupportedProblemError
from clearopt.program import Program
from clearopt.solution import Solution
from clearopt.solvers.base import ALL_FEATURES, Backend, SolveOptions
from clearopt.solvers.conflict import REASONS_TIME_LIMIT, infeasibility_message
from clearopt.solvers.cvxpy_model import Run, chosen_solver
from clearopt.solvers.cvxpy_relaxation import Prices, relax
from clearopt.solvers.cvxpy_rounding import rounded
from clearopt.solvers.in_cost import InCost, in_cost
from clearopt.solvers.progress import listener
from clearopt.solvers.relaxation import concave_envelope, implied_bounds, is_unbounded_direction
from clearopt.solvers.repair import refill, repair
from clearopt.solvers.warm_start import better, known_allocation, known_prices
from clearopt.validation import FloatArray

_ENVELOPES = ("exact", "tangents")


class Cvxpy(Backend):
    """The concave relaxation through CVXPY: a rigorous bound, and an allocation rounded from it.

    Own options:
        cvxpy_solver: the solver that CVXPY calls (default Clarabel, else HiGHS).
        envelopes: "exact" (cones where a family has one and the solver takes them; the default)
            or "tangents" (a linear program whatever the family).
    """

    name = "cvxpy"
    summary = "concave-envelope relaxation (cones, or tangents of a linear program), then rounding"
    supports = ALL_FEATURES - {"mixed charges", "fractional mixed charges"}
    certifies = "bound"
    modules = ("cvxpy",)
    extra = "cvxpy"
    own_options = frozenset({"cvxpy_solver", "envelopes"})

    def solve(self, program: Program, options: SolveOptions) -> Solution:
        envelopes = options.extra.get("envelopes", "exact")
        if envelopes not in _ENVELOPES:
            raise DeclarationError(f"envelopes = {envelopes!r}: must be 'exact' or 'tangents'")
        # Imports CVXPY, which no time limit pays for.
        solver = chosen_solver(options.extra.get("cvxpy_solver"))
        started = time.perf_counter()
        deadline = math.inf if options.time_limit is None else started + options.time_limit
        if is_unbounded_direction(program):
            return make_solution(
                program,
                solver=self.name,
                seconds=time.perf_counter() - started,
                allocation=None,
                unbounded=True,
                message="tokens can be added without end, and each one adds to the objective",
            )
        run = Run(solver, options, deadline, cones=envelopes == "exact")
        seen = _in_cost(program)
        envelope = concave_envelope(seen.program, seen.lower, seen.upper)
        heard = listener(program, options, started)
        known = _incumbent(program, options.warm_start)
        if known is not None and heard is not None:
            heard(program.objective(known), math.inf)
        relaxed = relax(
            seen.program, envelope, run, known=_usable_prices(program, options), heard=heard
        )
        if relaxed.infeasible and known is not None:  # which proves the contrary
            relaxed.infeasible = False
            relaxed.message = f"{run.solver} took the relaxation for infeasible"
        tokens = known
        if relaxed.tokens is not None and program.has_curves:
            found = repair(program, seen.tokens(relaxed.tokens), time_limit=run.limit)
            tokens = better(program, found, known)
        elif relaxed.tokens is not None:
            tokens = rounded(program, envelope, relaxed, run, known=known, heard=heard)
        message = relaxed.message
        if relaxed.infeasible:
            reason = infeasibility_message(program, REASONS_TIME_LIMIT)
            message = f"{message}: {reason}" if reason else message
        if tokens is None and relaxed.tokens is not None:
            message = "; ".join(
                filter(None, (message, "no rounding of the relaxation is feasible"))
            )
        return make_solution(
            program,
            solver=self.name,
            seconds=time.perf_counter() - started,
            allocation=tokens,
            bound=relaxed.bound,
            row_prices=None if relaxed.infeasible else relaxed.row_prices,
            floor_prices=None if relaxed.infeasible else 0.0 - relaxed.floor_prices,
            tolerance=options.tolerance,
            infeasible=relaxed.infeasible,
            message=message,
            statistics={
                "cvxpy_solver": run.solver,
                "models": run.models,
                "in_cones": relaxed.in_cones,
                "tangents": int(relaxed.cuts.query.size),
                "relaxed_objective": relaxed.value,
            },
        )


def _in_cost(program: Program) -> InCost:
    """The program without cost curves: queries charged one have that cost as their variable."""
    lower, upper = implied_bounds(program)
    if program.has_curves and np.isinf(upper).any():
        raise UnsupportedProblemError(
            f"query {int(np.argmax(np.isinf(upper)))} has no upper bound, and none follows from "
            "the rows; with cost curves 'cvxpy' needs one: give Allocation(..., upper=...)"
        )
    return in_cost(program, lower, upper)


def _incumbent(program: Program, earlier: Solution | None) -> FloatArray | None:
    """The earlier allocation where it is feasible here, whole tokens left given out; or None."""
    known = known_allocation(program, earlier)
    if known is None or program.has_curves:
        return known
    return better(program, refill(program, known), known)


def _usable_prices(program: Program, options: SolveOptions) -> Prices | None:
    """The earlier prices of this program's rows and floors, of the right sign; or None."""
    if options.warm_start is None:
        return None
    rows, floors = known_prices(program, options.warm_start)
    rows, floors = np.nan_to_num(rows), np.nan_to_num(0.0 - floors)
    sense = program.sense_array
    rows = np.where(sense == "<=", np.maximum(rows, 0.0), rows)
    rows = np.where(sense == ">=", np.minimum(rows, 0.0), rows)
    return rows, np.maximum(floors, 0.0)
