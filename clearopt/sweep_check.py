"""The independent check of one allocation after another, of programs that differ in one level.

What `make_solution` works out for each anew, in NumPy and from the program alone as here, is mostly
the same from one budget of a sweep to the next: queries that have their least amounts miss no
bound, and what they are worth and charged is known. So only the others are looked at, those who
are not named must have their least amounts, and whatever is out of the ordinary is left to
`make_solution`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearopt.assemble import FALSE_BOUND
from clearopt.certificate import Feasibility, relative_gap
from clearopt.program import Program, positions
from clearopt.solution import Solution, counted
from clearopt.utilities import Utility
from clearopt.validation import FloatArray

_PIECE = 2**13  # queries that are looked at together: what is in between stays in the cache


@dataclass(frozen=True, eq=False)
class Checked:
    """What an allocation comes to. `utilities` are those of the queries named, block by block."""

    allocation: FloatArray  # (n,)
    utilities: list[FloatArray]
    value: float  # the objective
    charge: float  # of the row
    ok: bool  # nothing is missed, not even by rounding


@dataclass(eq=False)
class _Part:
    """The queries of one block, in the order in which they are named."""

    utility: Utility
    where: NDArray[np.intp]  # in the program
    lower: FloatArray
    upper: FloatArray
    integer: NDArray[np.bool_] | None
    weight: Any  # (m,), or one number that all share
    cost: Any
    charge: Any
    idle: FloatArray  # (2, m) what the least amounts are worth and charged
    idle_from: FloatArray  # (2, pieces + 1) their sums from each piece on

    def rest(self, named: int) -> FloatArray:
        """(2,) what the least amounts of all but the first so many are worth and charged."""
        piece = -(-named // _PIECE)
        between = self.idle[:, named : piece * _PIECE]
        return np.asarray(self.idle_from[:, piece] + between.sum(axis=1))


class SweepCheck:
    """The check of allocations that give most queries their least amounts.

    Args:
        program: one row and plain: no floors, choices, cost curves or semicontinuous tokens.
        orders: for each of its utility blocks, the members of the block in the order in which they
            are named.
    """

    def __init__(self, program: Program, orders: Sequence[NDArray[np.intp]]) -> None:
        self.program = program
        row = np.asarray(program.rows[[0]].toarray().ravel())
        self._at_least = program.utility(program.lower)
        self._parts, covered = [], np.zeros(program.n, dtype=np.bool_)
        for block, order in zip(program.utilities, orders, strict=True):
            where = positions(block.where)[order]
            covered[where] = True
            lower = program.lower[where]
            idle = np.stack(
                [
                    program.weight[where] * self._at_least[where] - program.cost[where] * lower,
                    row[where] * lower,
                ]
            )
            self._parts.append(
                _Part(
                    block.family.take(order), where, lower, program.upper[where],
                    program.integer[where] if program.integer[where].any() else None,
                    _shared(program.weight[where]), _shared(program.cost[where]),
                    _shared(row[where]), idle, _sums_from(idle),
                )
            )  # fmt: skip
        left = ~covered  # without a utility
        held = program.lower[left]
        self._left = np.array([-math.fsum(program.cost[left] * held), math.fsum(row[left] * held)])

    def look(self, allocation: FloatArray, named: Sequence[int]) -> Checked:
        """Recompute what an allocation (n,) is worth and charged, and whether it is feasible.

        Args:
            named: of each block the first so many, in their order, may have more than the least.
        """
        program = self.program
        above, ok, utilities = 0, True, []
        values, charges = [self._left[0]], [self._left[1]]
        for part, many in zip(self._parts, named, strict=True):
            found = np.empty(many)
            for start in range(0, many, _PIECE):
                at = slice(start, min(start + _PIECE, many))
                tokens = allocation[part.where[at]]
                lower = part.lower[at]
                above += int(np.count_nonzero(tokens != lower))
                ok &= bool((tokens >= lower).all() and (tokens <= part.upper[at]).all())
                if part.integer is not None:
                    ok &= bool((tokens == np.rint(tokens))[part.integer[at]].all())
                family = part.utility.take(at)
                with np.errstate(all="ignore"):
                    utility = found[at] = family.value_at(family.excess_of(tokens))
                worth = _times(part.weight, utility, at)
                if np.ndim(part.cost) or part.cost:
                    worth = worth - _times(part.cost, tokens, at)
                values.append(float(np.sum(worth)))
                charges.append(float(np.sum(_times(part.charge, tokens, at))))
            utilities.append(found)
            worth, charge = part.rest(many)
            values.append(worth)
            charges.append(charge)
        # All others have their least amounts, which miss no bound.
        ok &= above == int(np.count_nonzero(allocation != program.lower))
        value = program.offset + math.fsum(values)
        return Checked(allocation, utilities, value, math.fsum(charges), ok)

    def solution(
        self,
        program: Program,
        checked: Checked,
        *,
        solver: str,
        seconds: float,
        bound: float,
        row_prices: FloatArray,
        statistics: dict[str, Any],
        tolerance: float,
    ) -> Solution | None:
        """As `make_solution` of what is proven to the tolerance; None of anything else.

        Args:
            program: the one given, but for the level of its row.
        """
        value = checked.value
        fits = checked.charge <= program.right_hand_side[0]
        if not (checked.ok and fits and relative_gap(value, bound) <= tolerance):
            return None
        if not math.isfinite(bound) or relative_gap(bound, value) > FALSE_BOUND:
            return None
        allocation = checked.allocation
        utilities = self._at_least.copy()
        for part, found in zip(self._parts, checked.utilities, strict=True):
            utilities[part.where[: found.size]] = found
        funded = allocation > 0
        funded &= utilities > 0
        return Solution(
            status="optimal",
            program=program,
            allocation=counted(program, allocation, in_place=True),
            objective=program.sign * value + 0.0,
            bound=program.sign * max(bound, value) + 0.0,
            utilities=utilities,
            funded=funded,
            feasibility=Feasibility(0.0, "nothing"),
            solver=solver,
            seconds=seconds,
            statistics=statistics,
            row_prices=row_prices,
            tolerance=tolerance,
        )


def _times(factor: Any, array: FloatArray, at: slice) -> FloatArray:
    if np.ndim(factor):
        return np.asarray(factor[at] * array)
    return array if factor == 1.0 else np.asarray(factor * array)


def _shared(array: FloatArray) -> Any:
    """The array, or one number where all entries agree."""
    return float(array[0]) if array.size and bool((array == array[0]).all()) else array


def _sums_from(idle: FloatArray) -> FloatArray:
    """(2, pieces + 1) the sums from each piece on, rounded once."""
    starts = np.arange(0, idle.shape[1], _PIECE)
    if not idle.any():
        return np.zeros((2, starts.size + 1))
    of_piece = [idle[:, start : start + _PIECE].sum(axis=1).tolist() for start in starts]
    return np.array(
        [
            [math.fsum(row[k:]) for k in range(starts.size + 1)]
            for row in zip(*of_piece, strict=True)
        ]
    )
