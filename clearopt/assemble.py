"""From what a back-end found to a `Solution`: recompute, check, and decide the status."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from clearopt.certificate import Feasibility, check_feasibility, relative_gap
from clearopt.program import Program
from clearopt.solution import Solution, Status, counted
from clearopt.validation import FloatArray

# Gaps up to here are rounding: `tolerance=0` asks for a proof to the last digits, not past them.
ROUNDING_GAP = 1e-10
# By so much (relative) an allocation within the feasibility tolerance may exceed a true bound.
FALSE_BOUND = 1e-7


def make_solution(
    program: Program,
    *,
    solver: str,
    seconds: float,
    allocation: FloatArray | None,
    bound: float = math.inf,
    row_prices: FloatArray | None = None,
    floor_prices: FloatArray | None = None,
    tolerance: float = 1e-6,
    infeasible: bool = False,
    unbounded: bool = False,
    certifies: bool = True,
    message: str = "",
    statistics: dict[str, Any] | None = None,
    handed_over: bool = False,
) -> Solution:
    """Recompute and check everything a back-end claims, and decide the status.

    `bound` must be a valid upper bound on the program's own objective, which is maximised whatever
    the user's sense; `certifies=False` (a local solver, a baseline) can never yield `optimal`.
    Prices follow the sign convention of `Solution.prices`. An allocation that is `handed_over`
    belongs to the solution from now on, and is not copied.
    """
    feasibility: Feasibility | None = None
    objective, utilities, funded = math.nan, None, None
    if allocation is not None:
        if handed_over and allocation.dtype == np.float64 and allocation.flags.writeable:
            allocation += 0.0  # no -0.0
        else:
            allocation = np.asarray(allocation, dtype=np.float64) + 0.0
        feasibility = check_feasibility(program, allocation)
        if not feasibility.ok:
            message = (
                f"{message + '; ' if message else ''}the allocation misses {feasibility.where} by "
                f"{feasibility.violation:.2g} (relative) and is withheld"
            )
            allocation = None
    status: Status
    if allocation is not None:
        utilities = program.utility(allocation)
        funded = allocation > 0
        funded &= utilities > 0
        objective = program.objective(allocation, utilities)
        # A bound that a checked allocation exceeds is none, whoever claimed it.
        if relative_gap(bound, objective) > max(tolerance, FALSE_BOUND):
            message = (
                f"{message + '; ' if message else ''}the bound claimed, {bound:.10g}, lies below a "
                "checked objective: it is not a bound and is withheld"
            )
            bound = math.inf
        # What lies within the feasibility tolerance may be worth a hair more than what is feasible.
        bound = max(bound, objective)
        proven = certifies and relative_gap(objective, bound) <= max(tolerance, ROUNDING_GAP)
        status = "optimal" if proven else "feasible"
    elif infeasible:
        status, bound = "infeasible", -math.inf
    elif unbounded:
        status = "unbounded"
    else:
        status = "unknown"
    if infeasible and allocation is None:
        row_prices = floor_prices = None  # there is no bound for them to prove
    return Solution(
        status=status,
        program=program,
        allocation=counted(program, allocation, in_place=True),
        objective=program.sign * objective + 0.0,
        bound=program.sign * bound + 0.0,
        utilities=utilities,
        funded=funded,
        feasibility=feasibility,
        solver=solver,
        seconds=seconds,
        message=message,
        statistics=statistics or {},
        row_prices=row_prices,
        floor_prices=floor_prices,
        tolerance=tolerance,
    )
