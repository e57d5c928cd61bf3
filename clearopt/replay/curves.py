"""The curves that policies buy from.

- `Curves`: parametric ones, fitted to each query's own rollouts or predicted from other queries';
- `Steps`: the rollouts' own empirical curves, without any smoothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

import clearopt as co
from clearopt.utilities.family import concatenated
from clearopt.validation import FloatArray

if TYPE_CHECKING:
    from clearopt.calibration import Rollouts
    from clearopt.replay.accounting import Accounting


@dataclass(frozen=True, eq=False)
class Curves:
    """Fitted or predicted curves of n queries: utilities and cost curves of n members each."""

    utilities: co.Utility
    cost_curves: co.CostCurve

    @classmethod
    def of(cls, utilities: co.Utility, cost_curves: co.CostCurve, n: int) -> Curves:
        """Of n members each; one number for all of them is repeated."""
        return cls(utilities.broadcast(n), cost_curves.broadcast(n))

    def expected(self, caps: FloatArray) -> FloatArray:
        """(n,) expected accuracy under caps of (n,) tokens."""
        return np.asarray(self.utilities.value(caps), dtype=np.float64)

    def expected_cost(self, caps: FloatArray) -> FloatArray:
        """(n,) expected tokens under caps of (n,) tokens."""
        return np.asarray(self.cost_curves.value(caps), dtype=np.float64)

    def take(self, queries: NDArray[np.intp]) -> Curves:
        """The curves of these queries, in this order; a query may come again."""
        return Curves(self.utilities.take(queries), self.cost_curves.take(queries))

    @classmethod
    def joined(cls, parts: Sequence[tuple[NDArray[np.intp], Curves]]) -> Curves:
        """Curves of queries 0 .. n - 1 from several fits, each with the positions of its own."""
        order = np.argsort(np.concatenate([positions for positions, _ in parts]))
        utilities = concatenated([curves.utilities for _, curves in parts])
        cost_curves = concatenated([curves.cost_curves for _, curves in parts])
        return cls(utilities.take(order), cost_curves.take(order))


@dataclass(frozen=True, eq=False)
class Steps:
    """Empirical curves: at each length of a right answer, the accuracy and the cost that it takes.

    Buying between two of these lengths gains nothing, so a query's choices are a short menu:
    abandon it, or cap it at one of them.

    Attributes:
        caps: (n, K) lengths in whole tokens, ascending; short menus end in repetitions.
        costs: (n, K) what each cap costs on average, strictly ascending: the repetitions cost more
            and gain nothing.
        values: (n, K) share of the query's rollouts that are right under it.
    """

    caps: FloatArray
    costs: FloatArray
    values: FloatArray

    @classmethod
    def of(cls, rollouts: Rollouts, n: int, accounting: Accounting) -> Steps:
        """The menus of n queries; one without a right answer has nothing to buy."""
        counts = np.bincount(rollouts.query, minlength=n)
        menus = _distinct_lengths(rollouts, n)
        widest = max((menu.size for menu in menus), default=0) or 1
        caps, costs, values = (np.zeros((n, widest)) for _ in range(3))
        starts = np.concatenate([[0], np.cumsum(counts)])
        order = np.argsort(rollouts.query, kind="stable")
        for i, menu in enumerate(menus):
            rows = order[starts[i] : starts[i + 1]]
            mine = rollouts.tokens[rows][:, None]
            k = menu.size
            if k:
                caps[i, :k] = menu
                values[i, :k] = (rollouts.solved[rows][:, None] & (mine <= menu)).mean(axis=0)
                charged = np.minimum(mine, menu).mean(axis=0)
                costs[i, :k] = charged if accounting.name == "realised" else menu
                values[i, k:] = values[i, k - 1]
            caps[i, k:] = caps[i, k - 1] if k else 0.0
            last = costs[i, k - 1] if k else 0.0
            costs[i, k:] = last + np.arange(1, widest - k + 1)
        return cls(caps, costs, values)

    def utility(self) -> co.Tabulated:
        """Accuracy by cost, a step curve a query."""
        return co.Tabulated(self.costs, self.values, interpolation="step")

    def caps_for(self, paid: FloatArray) -> FloatArray:
        """(n,) the cap that a cost of (n,) buys."""
        reached = (self.costs <= paid[:, None] * (1 + 1e-12) + 1e-9).sum(axis=1)
        rows = np.arange(paid.size)
        return np.where(reached > 0, self.caps[rows, np.maximum(reached - 1, 0)], 0.0)


def _distinct_lengths(rollouts: Rollouts, n: int) -> list[FloatArray]:
    """The lengths of each query's right answers, in whole tokens, ascending."""
    solved = rollouts.solved
    query, lengths = rollouts.query[solved], np.ceil(rollouts.tokens[solved])
    order = np.lexsort((lengths, query))
    query, lengths = query[order], lengths[order]
    ends = np.cumsum(np.bincount(query, minlength=n))[:-1]
    return [np.unique(menu) for menu in np.split(lengths, ends)]
