"""The independent check, in NumPy alone: is this allocation feasible, and what is it worth?

No solver's own word is taken for either. `certify` is the one place where a status is decided.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clearopt.program import Program
from clearopt.validation import FloatArray

FEASIBILITY_TOLERANCE = 1e-9  # relative to the size of the row


@dataclass(frozen=True)
class Feasibility:
    """How far an allocation misses, at worst: `violation` is relative, 0 where nothing is."""

    violation: float
    where: str

    @property
    def ok(self) -> bool:
        return self.violation <= FEASIBILITY_TOLERANCE


def check_feasibility(program: Program, tokens: FloatArray) -> Feasibility:
    """Recompute bounds, wholeness, rows and floors at `tokens` (n,)."""
    worst, where = 0.0, "nothing"

    def consider(violations: FloatArray, sizes: FloatArray | None, what: str) -> None:
        """`sizes` None: of tokens, at least 1."""
        nonlocal worst, where
        if violations.size == 0 or not violations.max() > 0:
            return
        sizes = np.maximum(1.0, np.abs(tokens)) if sizes is None else sizes
        relative = np.maximum(violations, 0.0) / sizes
        k = int(np.argmax(relative))
        if relative[k] > worst:
            worst, where = float(relative[k]), f"{what} {k}"

    if not np.all(np.isfinite(tokens)):
        return Feasibility(np.inf, f"tokens[{int(np.argmin(np.isfinite(tokens)))}] is not finite")
    below = program.lower - tokens
    if program.semicontinuous.any():
        below = np.where(program.semicontinuous & (tokens == 0), 0.0, below)
    consider(below, None, "lower bound of query")
    consider(np.subtract(tokens, program.upper, out=below), None, "upper bound of query")
    if program.integer.any():
        part = np.where(program.integer, np.abs(tokens - np.round(tokens)), 0.0)
        consider(part, None, "wholeness of query")
    if program.rows.shape[0]:
        activity = program.activity(tokens)
        size = np.maximum(np.abs(program.right_hand_side), program.activity_size(tokens))
        size = np.maximum(size, np.finfo(float).tiny)
        excess = activity - program.right_hand_side
        sense = program.sense_array
        missed = np.where(sense == "<=", excess, np.where(sense == ">=", -excess, np.abs(excess)))
        consider(missed, size, "row")
    if program.floors.shape[0]:
        level = program.floor_levels
        size = np.maximum(np.abs(level), np.finfo(float).tiny)
        consider(level - program.floors @ program.utility(tokens), size, "floor")
    if program.choice.size and int(program.choice.max()) >= 0:
        chosen = program.choice >= 0
        served = np.bincount(program.choice[chosen], weights=tokens[chosen] > 0)
        consider(np.maximum(served - 1.0, 0.0), np.ones(served.shape), "choice")
    return Feasibility(worst, where)


def relative_gap(objective: float, bound: float) -> float:
    """(bound - objective) relative to the larger of the two; 0 where they meet."""
    difference = bound - objective
    if difference <= 0:
        return 0.0
    if difference == np.inf:
        return float(difference)
    return float(difference / max(abs(bound), abs(objective)))
