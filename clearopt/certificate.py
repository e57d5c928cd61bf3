"""The independent check, in NumPy alone: is this allocation feasible, and what is it worth?

No solver's own word is taken for either. `certify` is the one place where a status is decided.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from clearopt.program import PIECE, Program
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

    def consider(violations: FloatArray, sizes: FloatArray, what: str, first: int = 0) -> None:
        nonlocal worst, where
        if violations.size == 0 or not violations.max() > 0:
            return
        relative = np.maximum(violations, 0.0) / sizes
        k = int(np.argmax(relative))
        if relative[k] > worst:
            worst, where = float(relative[k]), f"{what} {first + k}"

    def each(what: str, missed: Callable[[slice], FloatArray]) -> None:
        """What single queries miss, in tokens; piece by piece, it takes next to no memory."""
        for start in range(0, program.n, PIECE):
            part = slice(start, min(start + PIECE, program.n))
            consider(missed(part), np.maximum(1.0, np.abs(tokens[part])), what, start)

    if not np.all(np.isfinite(tokens)):
        return Feasibility(np.inf, f"tokens[{int(np.argmin(np.isfinite(tokens)))}] is not finite")

    def below(part: slice) -> FloatArray:
        missed = program.lower[part] - tokens[part]
        return np.where(program.semicontinuous[part] & (tokens[part] == 0), 0.0, missed)

    def part_of_token(part: slice) -> FloatArray:
        missed = np.abs(tokens[part] - np.round(tokens[part]))
        return np.where(program.integer[part], missed, 0.0)

    each("lower bound of query", below)
    each("upper bound of query", lambda part: tokens[part] - program.upper[part])
    if program.integer.any():
        each("wholeness of query", part_of_token)
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
