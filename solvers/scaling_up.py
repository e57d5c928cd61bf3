"""The largest member of a one-parameter family of allocations that the rows allow."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from clearopt.program import Program
from clearopt.validation import FloatArray


def largest_that_fits(
    program: Program, allocation: Callable[[float], FloatArray], low: float, high: float
) -> FloatArray | None:
    """The allocation of the largest parameter in [low, high] that meets every <= row.

    Args:
        program: the program; rows of other senses are not looked at.
        allocation: (n,) tokens for a parameter; no query has fewer for a larger one.
        low, high: finite.

    Returns:
        The allocation, or None where not even `allocation(low)` fits.
    """
    limits = program.sense_array == "<="

    def fits(tokens: FloatArray) -> bool:
        charged = program.activity(tokens)
        return bool(np.all(charged[limits] <= program.right_hand_side[limits]))

    everything = allocation(high)
    if fits(everything):
        return everything
    if not fits(allocation(low)):
        return None
    while True:  # to the last bit: a hundred halvings at most, some thousand from 0
        middle = 0.5 * (low + high)
        if low > 0 and high > 4.0 * low:
            middle = math.sqrt(low) * math.sqrt(high)
        if not low < middle < high:
            return allocation(low)
        low, high = (middle, high) if fits(allocation(middle)) else (low, middle)


def whole_where_asked(program: Program, tokens: FloatArray) -> FloatArray:
    """Rounded down where tokens are whole, and nothing where less than the least is left."""
    tokens = np.where(program.integer, np.floor(tokens + 1e-9), tokens)
    return np.where(program.semicontinuous & (tokens < program.lower), 0.0, tokens)
