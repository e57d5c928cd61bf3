"""Limits that the bounds alone already break are mistakes in the numbers: said at once."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np
from scipy import sparse

from clearopt.errors import InfeasibleError
from clearopt.program import Program
from clearopt.sums import times
from clearopt.validation import FloatArray

# What the rows of a program come to at least and at most: asked again for every level of a sweep.
_ENDS: WeakKeyDictionary[Program, tuple[FloatArray, FloatArray]] = WeakKeyDictionary()


def check_reach(program: Program, like: Program | None = None) -> None:
    """Raise where a row or floor cannot be met whatever the other queries do.

    Args:
        like: a program that differs from this one in its levels alone.

    Raises:
        InfeasibleError: naming the constraint, its level and what its queries come to at best.
    """
    if program.right_hand_side.shape[0]:
        _check_rows(program, _row_ends(like or program))
    if program.floor_levels.shape[0]:
        _check_floors(program)


def _row_ends(program: Program) -> tuple[FloatArray, FloatArray]:
    """The least and the most that each row comes to within the bounds."""
    ends = _ENDS.get(program)
    if ends is None:
        lower, upper = program.least, program.upper
        least, most = _range(program.rows, lower, upper)
        if program.curve_rows.nnz:
            cheap, dear = _range(
                program.curve_rows, program.curve_value(lower), program.curve_value(upper)
            )
            least, most = least + cheap, most + dear
        ends = _ENDS[program] = least, most
    return ends


def _check_rows(program: Program, ends: tuple[FloatArray, FloatArray]) -> None:
    level, sense = program.right_hand_side, program.sense_array
    least, most = ends
    for broken, end, below, advice in (
        ((sense != ">=") & (least > level + 1e-12 * np.abs(level)), least,
         "below what the bounds of its queries add up to at least",
         "raise the budget or lower the bounds"),
        ((sense != "<=") & (most < level - 1e-12 * np.abs(level)), most,
         "above what the bounds of its queries add up to at most",
         "lower the demand or raise the bounds"),
    ):  # fmt: skip
        if broken.any():
            row = int(np.argmax(broken))
            raise InfeasibleError(
                f"{describe(program, 'row', row)} = {level[row]:.10g}: {below}, "
                f"{end[row]:.10g}; {advice}",
                program,
            )


def _range(
    matrix: sparse.csr_array, low: FloatArray, high: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """The least and the most that each row comes to between two amounts, low <= high."""
    # Stored entries only are multiplied, so an infinite bound never meets a zero.
    if matrix.nnz and matrix.data.min() < 0:
        positive, negative = matrix.maximum(0), matrix.minimum(0)
        positive.eliminate_zeros()
        negative.eliminate_zeros()
        return positive @ low + negative @ high, positive @ high + negative @ low
    return times(matrix, low), times(matrix, high)


def _check_floors(program: Program) -> None:
    best = np.zeros(program.n)
    for block in program.utilities:
        low, high = program.least[block.index], program.upper[block.index]
        best[block.index] = block.family.value(block.family.demand(0.0, low, high))
    reach, floor = program.floors @ best, program.floor_levels
    broken = reach < floor - 1e-12 * np.abs(floor)
    if broken.any():
        row = int(np.argmax(broken))
        raise InfeasibleError(
            f"{describe(program, 'floor', row)} = {floor[row]:.10g}: out of reach, its "
            f"queries come to {reach[row]:.10g} with as many tokens as their bounds allow; "
            "lower the floor",
            program,
        )


def describe(program: Program, kind: str, row: int) -> str:
    """The name, with its label or position, under which the user knows a row or a floor."""
    for group in program.constraints:
        if group.kind == kind and group.first <= row < group.first + group.count:
            entry = row - group.first
            if group.labels is not None:
                return f"{group.name}[{group.labels[entry]!r}]"
            return group.name if group.scalar else f"{group.name}[{entry}]"
    return f"{kind} {row}"
