"""From what a back-end found to a `Solution`: recompute, check, and decide the status."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import lsq_linear

from clearopt.certificate import Feasibility, check_feasibility, relative_gap
from clearopt.program import Program
from clearopt.solution import Price, Solution, Status
from clearopt.validation import FloatArray

# Gaps up to here are rounding: `tolerance=0` asks for a proof to the last digits, not past them.
ROUNDING_GAP = 1e-12
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
) -> Solution:
    """Recompute and check everything a back-end claims, and decide the status.

    `bound` must be a valid upper bound; `certifies=False` (a local solver, a baseline) can never
    yield `optimal`. Prices follow the sign convention of `Solution.prices`.
    """
    feasibility: Feasibility | None = None
    objective, utilities, funded = math.nan, None, None
    if allocation is not None:
        allocation = np.array(allocation, dtype=np.float64) + 0.0  # no -0.0
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
        funded = (allocation > 0) & (utilities > 0)
        objective = float(
            program.offset + math.fsum(program.weight * utilities - program.cost * allocation)
        )
        # A bound that a checked allocation exceeds is none, whoever claimed it.
        if relative_gap(bound, objective) > max(tolerance, FALSE_BOUND):
            message = (
                f"{message + '; ' if message else ''}the bound claimed, {bound:.10g}, lies below a "
                "checked objective: it is not a bound and is withheld"
            )
            bound = math.inf
        proven = certifies and relative_gap(objective, bound) <= max(tolerance, ROUNDING_GAP)
        status = "optimal" if proven else "feasible"
    elif infeasible:
        status, bound = "infeasible", -math.inf
    elif unbounded:
        status = "unbounded"
    else:
        status = "unknown"
    return Solution(
        status=status,
        program=program,
        allocation=allocation,
        objective=objective,
        bound=bound,
        prices=_by_name(program, row_prices, floor_prices),
        marginal_values={}
        if allocation is None
        else _by_name(program, *_marginal_values(program, allocation)),
        utilities=utilities,
        funded=funded,
        feasibility=feasibility,
        solver=solver,
        seconds=seconds,
        message=message,
        statistics=statistics or {},
    )


def _marginal_values(program: Program, tokens: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Least-squares multipliers of the binding rows and floors at the allocation.

    At a local optimum every query strictly between its bounds satisfies
    w U' - c = sum_k lambda_k A_k - sum_j mu_j V_j U'. Whole tokens: U' is what one more token adds.
    """
    row_values = np.zeros(program.rows.shape[0])
    floor_values = np.zeros(program.floors.shape[0])
    if row_values.size + floor_values.size == 0:
        return row_values, floor_values
    step = np.where(program.integer, np.minimum(tokens + 1.0, program.upper), tokens)
    forward = program.integer & (step > tokens)
    slope = program.marginal(tokens)
    if forward.any():
        slope = np.where(forward, program.utility(step) - program.utility(tokens), slope)
    room = np.where(program.integer, step > tokens, tokens < program.upper)
    served = program.utility(tokens) > 0
    inside = (tokens > program.lower) & room & served & (slope > 0)
    if not inside.any():
        return row_values, floor_values
    activity = program.rows @ tokens
    size = np.maximum(np.abs(program.right_hand_side), abs(program.rows) @ np.abs(tokens))
    unit = (
        np.where(program.integer.any(), abs(program.rows).max(axis=1).toarray().ravel(), 0.0)
        if row_values.size
        else row_values
    )
    binding = np.abs(activity - program.right_hand_side) <= np.maximum(1e-7 * size, unit)
    floor_slack = program.floors @ program.utility(tokens) - program.floor_levels
    floor_binding = floor_slack <= 1e-7 * np.maximum(np.abs(program.floor_levels), 1e-300)
    k, j = int(binding.sum()), int(floor_binding.sum())
    if k + j == 0:
        return row_values, floor_values
    gain = (program.weight * slope - program.cost)[inside]
    if k == 1 and j == 0:
        coefficient = program.rows[np.flatnonzero(binding)][:, np.flatnonzero(inside)].toarray()[0]
        charged = coefficient != 0
        if charged.any():
            ratio = gain[charged] / coefficient[charged]
            # Continuous tokens: all equal. Whole tokens: the best next token.
            row_values[binding] = ratio.max() if program.integer.any() else np.median(ratio)
    else:
        charged_rows = program.rows[np.flatnonzero(binding)][:, np.flatnonzero(inside)]
        charged_floors = program.floors[np.flatnonzero(floor_binding)][:, np.flatnonzero(inside)]
        matrix = sparse.vstack([charged_rows, charged_floors.multiply(-slope[inside][None, :])]).T
        senses = program.sense_array[binding]
        low = np.r_[np.where(senses == "<=", 0.0, -np.inf), np.zeros(j)]
        high = np.r_[np.where(senses == ">=", 0.0, np.inf), np.full(j, np.inf)]
        unknowns = lsq_linear(sparse.csr_array(matrix), gain, bounds=(low, high)).x
        row_values[binding], floor_values[floor_binding] = unknowns[:k], unknowns[k:]
    return row_values + 0.0, 0.0 - floor_values


def _by_name(
    program: Program, row_prices: FloatArray | None, floor_prices: FloatArray | None
) -> dict[str, Price]:
    named: dict[str, Price] = {}
    for group in program.constraints:
        prices = row_prices if group.kind == "row" else floor_prices
        if prices is None:
            continue
        part = np.asarray(prices[group.rows], dtype=np.float64)
        if group.labels is not None:
            by_label = dict(zip(group.labels, part.tolist(), strict=True))
            named[group.name] = by_label | dict.fromkeys(group.unlimited, 0.0)
        elif group.scalar:
            named[group.name] = float(part.sum())  # of one entry, or of none where unlimited
        else:
            everywhere = np.zeros(group.count + len(group.unlimited))
            limited = np.ones(everywhere.shape, dtype=bool)
            limited[np.asarray(group.unlimited, dtype=np.intp)] = False
            everywhere[limited] = part
            named[group.name] = everywhere
    return named
