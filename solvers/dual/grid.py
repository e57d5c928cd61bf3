"""Queries charged in two currencies, solved on the grid of their whole tokens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from clearopt.errors import UnsupportedProblemError
from clearopt.program import Program
from clearopt.utilities import BestResponse, CostCurve
from clearopt.validation import FloatArray

_LARGEST_GRID = 20_000_000  # amounts, all queries together
_ENDLESS = 1e300


@dataclass(frozen=True, eq=False)
class Grid:
    """Whole-token queries charged both their tokens and their cost curve.

    Every answer is looked up among all whole amounts between their bounds: tables of shape (m, G),
    padded with amounts that cannot be had.
    """

    members: NDArray[np.intp]  # positions among the reordered queries, (m,)
    curves: tuple[tuple[CostCurve, NDArray[np.intp]], ...]  # by family, positions among all queries
    amounts: FloatArray
    utility: FloatArray
    cost: FloatArray
    n: int

    @classmethod
    def of(
        cls, program: Program, order: NDArray[np.intp], lower: FloatArray, upper: FloatArray
    ) -> Grid | None:
        """The grid of a program's queries charged both ways, None without any.

        Raises:
            UnsupportedProblemError: the grid would be too large to hold.
        """
        if not program.has_curves:
            return None
        charged = program.curve_cost != 0
        charged[program.curve_rows.indices] = True
        queries = np.flatnonzero(charged)
        if not queries.size:
            return None
        width = int((upper - lower)[queries].max()) + 1
        if queries.size * (width + 1) > _LARGEST_GRID:
            raise UnsupportedProblemError(
                f"{queries.size} queries are charged both their tokens and their cost curve, on "
                f"grids of up to {width} whole amounts: more than {_LARGEST_GRID:,} in all. Give "
                "them smaller upper bounds, or charge the cost curve alone"
            )
        # Nothing is always a point of the grid: a semicontinuous query may have it.
        steps = lower[queries, None] + np.arange(width)[None, :]
        amounts = np.concatenate([np.zeros((queries.size, 1)), steps], axis=1)
        amounts = np.minimum(amounts, upper[queries, None])
        position = np.empty(program.n, dtype=np.intp)
        position[order] = np.arange(program.n)
        curves = tuple((block.family, position[block.index]) for block in program.curves)
        utility, cost = np.zeros(amounts.shape), np.zeros(amounts.shape)
        whole = np.zeros(program.n)
        for column in range(amounts.shape[1]):
            whole[queries] = amounts[:, column]
            utility[:, column] = program.utility(whole)[queries]
            cost[:, column] = program.curve_value(whole)[queries]
        return cls(position[queries], curves, amounts, utility, cost, program.n)

    def part(self, positions: NDArray[np.intp]) -> Grid | None:
        """The grid of the queries at these positions, (m,), counted anew; None without any."""
        place = np.full(self.n, -1, dtype=np.intp)
        place[positions] = np.arange(positions.size)
        rows = np.flatnonzero(place[self.members] >= 0)
        if not rows.size:
            return None
        curves = []
        for curve, where in self.curves:
            mine = np.flatnonzero(place[where] >= 0)
            if mine.size:
                curves.append((curve.take(mine), place[where[mine]]))
        return Grid(
            place[self.members[rows]],
            tuple(curves),
            self.amounts[rows],
            self.utility[rows],
            self.cost[rows],
            positions.size,
        )

    @cached_property
    def alike(self) -> FloatArray:
        """(n,) a number for each cost curve, the same where all costs are; 0 off the grid."""
        _, number = np.unique(self.cost, axis=0, return_inverse=True)
        alike = np.zeros(self.n)
        alike[self.members] = 1.0 + np.ravel(number)
        return alike

    def costs(self, tokens: FloatArray) -> FloatArray:
        """C_i(b_i), (n,), of the members; 0 for the others."""
        costs = np.zeros(self.n)
        for curve, positions in self.curves:
            costs[positions] = curve.value(tokens[positions])
        kept = np.zeros(self.n)
        kept[self.members] = costs[self.members]
        return kept

    def costs_of(self, query: NDArray[np.intp], amount: FloatArray) -> FloatArray:
        """C of the queries named at an amount of each, (m,); 0 for those not on the grid."""
        costs = np.zeros(query.size)
        on_grid = np.zeros(self.n, dtype=bool)
        on_grid[self.members] = True
        member = np.full(self.n, -1, dtype=np.intp)
        for curve, positions in self.curves:
            member[:] = -1
            member[positions] = np.arange(positions.size)
            here = np.flatnonzero((member[query] >= 0) & on_grid[query])
            if here.size:
                costs[here] = curve.take(member[query[here]]).value(amount[here])
        return costs

    def answer(
        self,
        response: BestResponse,
        weight: FloatArray,
        price: FloatArray,
        curve_price: FloatArray,
        lower: FloatArray,
        upper: FloatArray,
        least: FloatArray | None,
    ) -> BestResponse:
        """The response with the members' own best amounts, ties to the larger."""
        i = self.members
        low, high = lower[i, None], upper[i, None]
        can = (self.amounts >= low) & (self.amounts <= high)
        if least is not None:
            can &= (self.amounts == 0) | (self.amounts >= least[i, None])
        # On the way to proving that nothing is feasible prices grow without end.
        charged = (np.clip(p[i, None], -_ENDLESS, _ENDLESS) for p in (price, curve_price))
        with np.errstate(over="ignore", invalid="ignore"):
            gains = weight[i, None] * self.utility
            for amount, each in zip((self.amounts, self.cost), charged, strict=True):
                gains = gains - each * amount
        gains = np.where(can & ~np.isnan(gains), gains, -np.inf)
        last = gains.shape[1] - 1 - np.argmax(gains[:, ::-1], axis=1)
        rows = np.arange(i.size)
        tokens, gain, utility = (np.array(column) for column in response)
        tokens[i], gain[i] = self.amounts[rows, last], gains[rows, last]
        utility[i] = self.utility[rows, last]
        return BestResponse(tokens, gain, utility)
