"""Units for a solver with absolute tolerances: tokens, accuracies and rows all of ordinary size.

A general solver takes 1e-8 for nothing. Where that is a whole utility, or a whole price, it proves
what is false; so it is given the same program in other units, powers of two, which round nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from clearopt.program import Program, UtilityBlock
from clearopt.validation import FloatArray

_ORDINARY = (0.1, 1e4)  # sizes left as they are


@dataclass(frozen=True, eq=False)
class Scaled:
    """A program in other units, and the units: tokens of each query (n,), and of the objective."""

    program: Program
    tokens: FloatArray
    objective: float

    def restore(self, tokens: FloatArray) -> FloatArray:
        """An allocation in the original unit, (n,)."""
        return tokens * self.tokens

    def bound(self, value: float, margin: float) -> float:
        """A bound on the original objective; `margin` is added relative to the scaled one."""
        return self.objective * (value + margin * abs(value))


def scaled(program: Program) -> Scaled:
    """The same program in units of its own: whole tokens keep theirs."""
    # A cost curve is in tokens: its queries, and with them all others, stay in tokens.
    unit = 1.0 if program.has_curves else _token_unit(program)
    tokens = np.where(program.integer, 1.0, unit)
    peak = max(
        (
            float(np.max(block.family.value_at(np.asarray(block.family.saturation_excess))))
            for block in program.utilities
        ),
        default=1.0,
    )
    accuracy = _power_of_two(peak)
    objective = _power_of_two(float(program.weight.max(initial=0.0)) * peak)
    rows, row_unit = _normal(program.rows, tokens, program.curve_rows)
    curve_rows = sparse.csr_array(program.curve_rows.multiply((1.0 / row_unit)[:, None]))
    floors, floor_unit = _normal(program.floors, np.full(program.n, accuracy))
    return Scaled(
        program=replace(
            program,
            weight=program.weight * accuracy / objective,
            cost=program.cost * tokens / objective,
            lower=program.lower / tokens,
            upper=program.upper / tokens,
            utilities=tuple(
                UtilityBlock(b.family.in_units(tokens[b.index], accuracy), b.index)
                for b in program.utilities
            ),
            rows=rows,
            curve_rows=curve_rows,
            curve_cost=program.curve_cost / objective,
            right_hand_side=program.right_hand_side / row_unit,
            floors=floors,
            floor_levels=program.floor_levels / floor_unit,
            offset=program.offset / objective,
        ),
        tokens=tokens,
        objective=objective,
    )


def _token_unit(program: Program) -> float:
    """The middle of what queries break even at, of those that can."""
    amounts = [np.zeros(0)]
    for block in program.utilities:
        least = block.family.break_even_tokens()
        reachable = np.isfinite(least) & (least > 0) & (program.weight[block.index] > 0)
        amounts.append(least[reachable & ~program.integer[block.index]])
    found = np.concatenate(amounts)
    return _power_of_two(float(np.median(found))) if found.size else 1.0


def _normal(
    matrix: sparse.csr_array, unit: FloatArray, beside: sparse.csr_array | None = None
) -> tuple[sparse.csr_array, FloatArray]:
    """`matrix` with columns in `unit`, each row divided by its size; and the sizes.

    `beside` has further entries of the same rows, which count towards their size.
    """
    charged = sparse.csr_array(matrix.multiply(unit[None, :]))
    if not charged.shape[0]:
        return charged, np.zeros(0)
    largest = np.asarray(abs(charged).max(axis=1).toarray()).ravel()
    if beside is not None:
        largest = np.maximum(largest, np.asarray(abs(beside).max(axis=1).toarray()).ravel())
    size = np.array([_power_of_two(float(value)) for value in largest])
    return sparse.csr_array(charged.multiply((1.0 / size)[:, None])), size


def _power_of_two(size: float) -> float:
    """The power of two nearest to `size`; 1 where that is ordinary, nothing or endless."""
    if not 0 < size < math.inf or _ORDINARY[0] <= size <= _ORDINARY[1]:
        return 1.0
    return 2.0 ** round(math.log2(size))
