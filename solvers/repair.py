"""From a solver's point, right to its own tolerance, to an allocation that is truly feasible."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from clearopt.certificate import check_feasibility
from clearopt.deadline import Deadline
from clearopt.program import Program
from clearopt.validation import FloatArray

_CLEAN = 1e-13  # relative; what rounding alone leaves in a sum
_PROJECTIONS = 6  # floors are linearised, so a repair may need a few


def repair(
    program: Program, tokens: FloatArray, *, time_limit: float | None = None
) -> FloatArray | None:
    """The allocation moved as little as it takes to satisfy bounds, wholeness, rows and floors.

    Args:
        program: the program.
        tokens: (n,) a point near the feasible set.
        time_limit: seconds for the small linear programs that may be needed.

    Returns:
        An allocation whose violations are at most those `check_feasibility` allows, or None.
    """
    deadline = Deadline(time_limit)
    program = _settled(program, tokens)
    lower = np.where(program.integer, np.ceil(program.lower - 1e-9), program.lower)
    upper = np.where(program.integer, np.floor(program.upper + 1e-9), program.upper)
    if (lower > upper).any():
        return None
    moved = np.clip(np.where(program.integer, np.rint(tokens), tokens), lower, upper)
    if check_feasibility(program, moved).violation <= _CLEAN:
        return moved
    if program.floors.shape[0] == 0 and _rows_only_cap(program):
        scaled = _scale_down(program, moved, lower)
        return None if scaled is None else refill(program, scaled)
    for _ in range(_PROJECTIONS):
        if deadline.over:
            break
        projected = _project(program, moved, lower, upper, deadline)
        if projected is None:
            break
        moved = projected
        if check_feasibility(program, moved).violation <= _CLEAN:
            break
    return moved if check_feasibility(program, moved).ok else None


def _settled(program: Program, tokens: FloatArray) -> Program:
    """The program with everybody who may have nothing decided, to whichever side is nearer."""
    choosing = program.choice >= 0
    deciding = program.semicontinuous | choosing
    if not deciding.any():
        return program
    served = deciding & (tokens >= np.where(program.semicontinuous, 0.5 * program.lower, 1e-9))
    if choosing.any():
        # Of a choice only the option with the most to gain stays.
        gain = np.where(served & choosing, program.gains(tokens), -np.inf)
        for i in np.flatnonzero(served & choosing):
            others = program.choice == program.choice[i]
            best = np.flatnonzero(others)[np.argmax(gain[others])]
            served[i] &= best == i
    nothing = deciding & ~served
    return replace(
        program,
        lower=np.where(nothing, 0.0, program.lower),
        upper=np.where(nothing, 0.0, program.upper),
        semicontinuous=np.zeros_like(program.semicontinuous),
    )


def _rows_only_cap(program: Program) -> bool:
    """Whether fewer tokens satisfy every row at least as well."""
    if program.curve_rows.nnz:
        return False
    sign = np.where(program.sense_array == ">=", -1.0, 1.0)
    entries = program.rows.tocoo()
    shrinks = entries.data * sign[entries.row] >= 0
    return bool(np.all(program.sense_array != "==") and shrinks.all())


def _scale_down(program: Program, tokens: FloatArray, lower: FloatArray) -> FloatArray | None:
    """Each query's purchase above its lower bound, scaled by the tightest of its rows."""
    sign = np.where(program.sense_array == ">=", -1.0, 1.0)
    rows = sparse.csr_array(program.rows.multiply(sign[:, None]))
    limit = sign * program.right_hand_side
    for _ in range(3):  # the second pass takes what rounding left of the first
        above = tokens - lower
        used, free = rows @ above, limit - rows @ lower
        if np.any(free < -_CLEAN * np.maximum(np.abs(limit), rows @ np.abs(lower))):
            return None
        over = used > np.maximum(free, 0.0)
        if not over.any():
            break
        factor = np.where(over, np.maximum(free, 0.0) / np.where(over, used, 1.0), 1.0)
        factor = np.where(factor < 1.0, factor * (1.0 - 2e-16), factor)
        share = np.ones(program.n)
        entries = rows.tocoo()
        np.minimum.at(share, entries.col, factor[entries.row])
        tokens = lower + share * above
        tokens = np.where(program.integer, np.floor(tokens + 1e-9), tokens)
    return tokens


def _project(
    program: Program,
    tokens: FloatArray,
    lower: FloatArray,
    upper: FloatArray,
    deadline: Deadline,
) -> FloatArray | None:
    """The cheapest step, in the objective's own slope, to the rows and the linearised floors.

    The step is split into up and down, two variables a query; whole tokens move by whole steps.
    """
    n = program.n
    slope = program.marginal(tokens)
    utility = program.utility(tokens)
    if program.integer.any():
        # The step to the next whole token, not the slope at this one, is what a floor sees.
        up = np.minimum(tokens + 1.0, upper)
        slope = np.where(program.integer & (up > tokens), program.utility(up) - utility, slope)
    curve_slope = program.curve_marginal(tokens)
    if program.curve_rows.nnz and program.integer.any():
        rise = program.curve_value(np.minimum(tokens + 1.0, upper)) - program.curve_value(tokens)
        curve_slope = np.where(program.integer, rise, curve_slope)
    price = np.abs(program.weight * slope - program.cost - program.curve_cost * curve_slope)
    price = price + max(float(price.max()), 1e-300) * 1e-3
    activity = program.activity(tokens)
    missing = program.floor_levels - program.floors @ utility
    missing = missing + 1e-15 * np.abs(program.floor_levels)
    floors = sparse.csr_array(program.floors.multiply(slope[None, :]))
    size = np.maximum(np.abs(program.right_hand_side), program.activity_size(tokens))
    scale = np.maximum(1.0, size)
    # Cost curves are concave: their tangents charge too much for a step up, never too little.
    charged = program.rows + program.curve_rows.multiply(curve_slope[None, :])
    rows = sparse.csr_array(sparse.csr_array(charged).multiply((1.0 / scale)[:, None]))
    limit = (program.right_hand_side - activity) / scale
    sense = program.sense_array
    sign = np.where(sense == ">=", -1.0, 1.0)
    loose, tight = np.flatnonzero(sense != "=="), np.flatnonzero(sense == "==")
    inequality = sparse.vstack([rows.multiply(sign[:, None]).tocsr()[loose], -floors], format="csr")
    right = np.concatenate([(sign * limit)[loose], -missing])
    equality = rows[tight]
    both = [sparse.hstack([m, -m], format="csr") for m in (inequality, equality)]
    options: dict[str, float | bool] = {
        "primal_feasibility_tolerance": 1e-10,
        "dual_feasibility_tolerance": 1e-10,
    }
    if deadline.limited:
        options["time_limit"] = max(deadline.left, 0.01)
    answer = linprog(
        np.concatenate([price, price]),
        A_ub=both[0] if both[0].shape[0] else None,
        b_ub=right if both[0].shape[0] else None,
        A_eq=both[1] if both[1].shape[0] else None,
        b_eq=limit[tight] if both[1].shape[0] else None,
        bounds=np.column_stack([np.zeros(2 * n), np.concatenate([upper - tokens, tokens - lower])]),
        integrality=np.tile(program.integer.astype(int), 2) if program.integer.any() else None,
        method="highs",
        options=options,
    )
    if answer.x is None:
        return None
    moved = tokens + answer.x[:n] - answer.x[n:]
    return np.clip(np.where(program.integer, np.rint(moved), moved), lower, upper)


def refill(program: Program, tokens: FloatArray, *, passes: int = 20) -> FloatArray:
    """Whole tokens that rounding down left over, given out one at a time, the best next one first.

    `tokens` must satisfy the rows; they and the floors stay satisfied. Returns a new array.
    """
    if not program.integer.any() or program.curve_rows.nnz:
        return tokens
    tokens = tokens.copy()
    columns = sparse.csc_array(program.rows)
    sense = program.sense_array
    top = np.where(sense == ">=", np.inf, program.right_hand_side)
    bottom = np.where(sense == "<=", -np.inf, program.right_hand_side)
    slack = _CLEAN * np.maximum(np.abs(program.right_hand_side), abs(program.rows) @ tokens)
    activity = program.rows @ tokens
    for _ in range(passes):
        more = np.where(program.integer, np.minimum(tokens + 1.0, program.upper), tokens)
        deciding = program.semicontinuous | (program.choice >= 0)
        more = np.where(deciding & (tokens == 0), tokens, more)  # who has nothing keeps nothing
        rise = program.utility(more) - program.utility(tokens)
        gain = np.where(more >= tokens + 1.0, program.weight * rise - program.cost, -np.inf)
        gain = np.where(rise >= 0, gain, -np.inf)
        given = False
        for i in np.argsort(-gain, kind="stable"):
            if gain[i] <= 0:
                break
            part = slice(columns.indptr[i], columns.indptr[i + 1])
            rows = columns.indices[part]
            after = activity[rows] + columns.data[part]
            fits = (after <= top[rows] + slack[rows]) & (after >= bottom[rows] - slack[rows])
            if fits.all():
                tokens[i] += 1.0
                activity[rows] = after
                given = True
        if not given:
            break
    return tokens


def restricted(program: Program, lower: FloatArray, upper: FloatArray) -> Program:
    """The same program over narrower bounds, (n,) each."""
    decided = np.zeros_like(program.semicontinuous)
    return replace(program, lower=lower, upper=upper, semicontinuous=decided)
