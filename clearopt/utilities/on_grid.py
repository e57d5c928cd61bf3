"""A utility over the expected costs of whole numbers of tokens, as a table: no shape is needed.

Where tokens are counted whole, a query charged a cost curve C can have the costs C(k) and no
others. A table of U(k) at these costs answers every question by enumeration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from clearopt.utilities.base import BestResponse, Utility
from clearopt.utilities.cost_curves import CostCurve
from clearopt.utilities.tabulated import Tabulated
from clearopt.validation import FloatArray

_SHORT = 100_000  # comparisons that are quicker made all at once
_SAME_COST = 1.0 + 1e-12  # costs this close, relatively, are the same


class OnGrid(Tabulated):
    """U(k) at expected cost C(k), k whole tokens; made by `OnGrid.of`."""

    parameter_names: ClassVar[tuple[str, ...]] = ("grid", "values", "counts")
    counts_tokens: ClassVar[bool] = False
    traceable: ClassVar[bool] = False
    interpolation = "linear"

    counts: Any  # (m, G) tokens of each grid point

    @classmethod
    def of(cls, utility: Utility, curve: CostCurve, least: FloatArray, most: FloatArray) -> Self:
        """The table of whole tokens between two bounds, (m,) each; nothing is always in it.

        Where tokens are free (the curve is flat) the best number of them stands for all.
        """
        width = int((most - least).max(initial=0.0)) + 2
        steps = np.concatenate(
            [np.zeros((least.size, 1)), least[:, None] + np.arange(width - 1)], axis=1
        )
        counts = np.minimum(steps, most[:, None])
        columns = counts.T
        costs = np.stack([np.asarray(curve.value(column)) for column in columns], axis=1)
        values = np.stack([np.asarray(utility.value(column)) for column in columns], axis=1)
        # Of equal costs all tell the best count: it is handed on leftwards, then rightwards.
        same = costs[:, 1:] <= costs[:, :-1] * _SAME_COST
        for k, following in [
            *((k, k + 1) for k in range(width - 2, -1, -1)),
            *((k + 1, k) for k in range(width - 1)),
        ]:
            better = same[:, min(k, following)] & (values[:, following] > values[:, k])
            values[better, k] = values[better, following]
            counts[better, k] = counts[better, following]
        return cls.from_parameters(costs, values, counts)

    @property
    def kind(self) -> Any:
        return _Kind(int(np.shape(self.grid)[-1]))

    def _segment(self, amounts: Any) -> Any:
        """By bisection where the tables are long: nothing of their size is made."""
        shape = np.broadcast_shapes(np.shape(self.grid)[:-1], np.shape(amounts)[:-1])
        grid = np.broadcast_to(self.grid, (*shape, np.shape(self.grid)[-1]))
        amounts = np.broadcast_to(amounts, (*shape, np.shape(amounts)[-1]))
        if grid.size * amounts.shape[-1] <= _SHORT:
            reached = grid[..., None, :] <= (amounts * _SAME_COST)[..., None]
            return np.maximum(np.count_nonzero(reached, axis=-1) - 1, 0)
        low = np.zeros(amounts.shape, dtype=np.intp)
        high = np.full(amounts.shape, grid.shape[-1] - 1)
        while (low < high).any():
            middle = (low + high + 1) // 2
            reached = np.take_along_axis(grid, middle, axis=-1) <= amounts * _SAME_COST
            low, high = np.where(reached, middle, low), np.where(reached, high, middle - 1)
        return low

    def best_response(
        self,
        weight: Any,
        price: Any,
        lower: Any,
        upper: Any,
        integer: Any = None,
        least: Any = None,
        *,
        saturated: bool = False,
    ) -> BestResponse:
        """The best grid point of the box, whose ends are grid points; ties to the larger."""
        gain = np.multiply(self.grid, -np.asarray(price, dtype=np.float64)[..., None])
        gain += np.asarray(weight, dtype=np.float64)[..., None] * self.values
        outside = self.grid < np.asarray(lower)[..., None] / _SAME_COST
        outside |= self.grid > np.asarray(upper)[..., None] * _SAME_COST
        if least is not None:
            outside |= (self.grid > 0) & (self.grid < np.asarray(least)[..., None] / _SAME_COST)
        gain[outside] = -np.inf
        best = gain.shape[-1] - 1 - np.argmax(gain[..., ::-1], axis=-1)
        return BestResponse(self._at(self.grid, best), self._at(gain, best),
            self._at(self.values, best))  # fmt: skip

    def _at(self, table: Any, position: Any) -> Any:
        return np.take_along_axis(np.asarray(table), position[..., None], axis=-1)[..., 0]

    def whole_below(self, amount: Any) -> Any:
        position = self._segment(np.asarray(amount)[..., None])[..., 0]
        return np.minimum(self._at(self.grid, position), amount)

    def whole_above(self, amount: Any) -> Any:
        position = self._segment(np.asarray(amount)[..., None])[..., 0]
        below = self._at(self.grid, position)
        last = np.shape(self.grid)[-1] - 1
        above = self._at(self.grid, np.minimum(position + 1, last))
        return np.maximum(np.where(below * _SAME_COST >= amount, below, above), amount)

    def whole_after(self, amount: Any) -> Any:
        position = self._segment(np.asarray(amount)[..., None])[..., 0]
        last = np.shape(self.grid)[-1] - 1
        return self._at(self.grid, np.minimum(position + 1, last))

    def whole_before(self, amount: Any) -> Any:
        position = self._segment(np.asarray(amount)[..., None])[..., 0]
        return self._at(self.grid, np.maximum(position - 1, 0))

    def tokens(self, cost: Any) -> Any:
        """The whole tokens that are had for an expected cost, elementwise."""
        position = self._segment(np.asarray(cost)[..., None])[..., 0]
        return self._at(self.counts, position)


@dataclass(frozen=True)
class _Kind:
    """The kind of these tables: as many points a query."""

    points: int

    def from_parameters(self, *parameters: Any) -> OnGrid:
        return OnGrid.from_parameters(*parameters)
