"""A program seen in costs: queries charged a cost curve alone, with that cost as their variable.

A query with utility U that rows charge C(b) instead of b is, in z = C(b), an ordinary query with
utility U(C^-1(z)): one price, one variable, and where that is S-shaped everything that holds for
tokens holds for it. Queries charged both ways keep their tokens; whole ones are solved on a grid.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from clearopt.errors import DeclarationError, UnsupportedProblemError
from clearopt.program import Program, UtilityBlock
from clearopt.utilities import CostCurve, CumulativeSurge, Utility
from clearopt.utilities.on_grid import OnGrid
from clearopt.utilities.per_cost import PerCost
from clearopt.validation import FloatArray

_SMALL_TABLE = 500_000  # likewise
_LARGEST_TABLE = 20_000_000  # whole amounts, all queries of a family together


@dataclass(frozen=True, eq=False)
class InCost:
    """A program whose queries at `moved` count expected cost; the others still count tokens.

    Attributes:
        program: the program in these amounts; `curve_rows` charge only queries that kept tokens.
        lower, upper: (n,) finite bounds in these amounts.
    """

    program: Program
    lower: FloatArray
    upper: FloatArray
    moved: tuple[UtilityBlock, ...]
    curves: tuple[tuple[CostCurve, NDArray[np.intp]], ...]
    least: FloatArray  # (n,) bounds in tokens; of semicontinuous queries that have some
    most: FloatArray

    def tokens(self, amounts: FloatArray) -> FloatArray:
        """The allocation in tokens, (n,)."""
        tokens = amounts.copy()
        for block in self.moved:
            i = block.index
            found = np.asarray(block.family.tokens(amounts[i]))  # type: ignore[attr-defined]
            whole = self.program.integer[i]
            found = np.where(whole, np.rint(found), found)
            # Where the curve is flat, fewer or more tokens than allowed may cost the same.
            found = np.clip(found, self.least[i], self.most[i])
            tokens[i] = np.where((amounts[i] > 0) | (self.lower[i] > 0), found, 0.0)
        return tokens

    def amounts(self, tokens: FloatArray) -> FloatArray:
        """What an allocation in tokens is in these amounts, (n,)."""
        amounts = tokens.copy()
        for curve, i in self.curves:
            amounts[i] = curve.value(tokens[i])
        return amounts


def in_cost(program: Program, lower: FloatArray, upper: FloatArray) -> InCost:
    """Change variables where only a cost curve is charged.

    Args:
        program: the program in tokens.
        lower, upper: (n,) finite bounds in tokens that cut off no optimum.

    Raises:
        UnsupportedProblemError: a query with fractional tokens is charged both ways.
        DeclarationError: a utility of fractional tokens is not S-shaped in its cost.
    """
    if not program.has_curves:
        return InCost(program, lower, upper, (), (), lower, upper)
    charged = _columns(program.curve_rows) | (program.curve_cost != 0)
    both = charged & (_columns(program.rows) | (program.cost != 0))
    if (both & ~program.integer).any():
        query = int(np.argmax(both & ~program.integer))
        raise UnsupportedProblemError(
            f"query {query} is charged both its tokens and its cost curve, so its problem has no "
            "closed form; count its tokens whole, Allocation(..., integer=True), and it is solved "
            "on their grid, or take solver='scip'"
        )
    moved = charged & ~both
    if not moved.any():
        return InCost(program, lower, upper, (), (), lower, upper)
    blocks, rest, curves = _blocks(program, moved, lower, upper)
    low, high, minimum = lower.copy(), upper.copy(), program.lower.copy()
    for curve, i in curves:
        low[i], high[i] = curve.value(lower[i]), curve.value(upper[i])
        minimum[i] = curve.value(program.lower[i])
    keep = sparse.dia_array((np.where(moved, 0.0, 1.0)[None, :], [0]), (program.n, program.n))
    kept = sparse.csr_array(program.curve_rows @ keep)
    kept.eliminate_zeros()
    changed = replace(
        program,
        lower=minimum,
        upper=high,
        utilities=(*rest, *blocks),
        rows=sparse.csr_array(program.rows + (program.curve_rows - kept)),
        cost=np.where(moved, program.curve_cost, program.cost),
        curve_rows=kept,
        curve_cost=np.where(moved, 0.0, program.curve_cost),
    )
    least = np.minimum(np.maximum(lower, program.lower), upper)
    return InCost(changed, low, high, blocks, curves, least, upper)


def _columns(matrix: sparse.csr_array) -> NDArray[np.bool_]:
    used = np.zeros(matrix.shape[1], dtype=bool)
    used[matrix.indices[matrix.data != 0]] = True
    return used


def _blocks(
    program: Program, moved: NDArray[np.bool_], lower: FloatArray, upper: FloatArray
) -> tuple[
    tuple[UtilityBlock, ...],
    tuple[UtilityBlock, ...],
    tuple[tuple[CostCurve, NDArray[np.intp]], ...],
]:
    """Utilities in cost of the moved queries, utilities of the others, and the moved curves."""
    rest = []
    without = moved.copy()
    for block in program.utilities:
        stays = ~moved[block.index]
        without[block.index] = False
        if stays.any():
            family = block.family.take(np.flatnonzero(stays))
            rest.append(UtilityBlock(family, block.index[stays]))
    nothing = np.flatnonzero(without)
    families = list(program.utilities)
    if nothing.size:  # charged, but worth nothing to anyone
        worthless = CumulativeSurge(scale=0.0, threshold=0.0, rate=1.0).broadcast(nothing.size)
        families.append(UtilityBlock(worthless, nothing))
    blocks, curves = [], []
    member = np.full(program.n, -1, dtype=np.intp)
    for curve in program.curves:
        here = np.flatnonzero(moved[curve.index])
        if not here.size:
            continue
        curves.append((curve.family.take(here), curve.index[here]))
        member[:] = -1
        member[curve.index[here]] = here
        for block in families:
            for whole in (False, True):
                mine = np.flatnonzero(
                    (member[block.index] >= 0) & (program.integer[block.index] == whole)
                )
                if mine.size:
                    i = block.index[mine]
                    utility, cost = block.family.take(mine), curve.family.take(member[i])
                    family = _in_its_cost(utility, cost, lower[i], upper[i], whole=whole)
                    blocks.append(UtilityBlock(family, i))
    return tuple(blocks), tuple(rest), tuple(curves)


def _in_its_cost(
    utility: Utility, curve: CostCurve, lower: FloatArray, upper: FloatArray, *, whole: bool
) -> Utility:
    """The family in its cost: of whole tokens by a table where that is small, else by its shape.

    Looking a response up among all whole amounts is many times quicker than searching for it.
    """
    width = float((upper - lower).max(initial=0.0)) + 2
    if whole and upper.size * width <= _SMALL_TABLE:
        return OnGrid.of(utility, curve, lower, upper)
    try:
        return PerCost.of(utility, curve, upper, np.full(upper.size, whole))
    except DeclarationError:
        if not whole or upper.size * width > _LARGEST_TABLE:
            raise
        return OnGrid.of(utility, curve, lower, upper)
