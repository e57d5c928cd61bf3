"""What a budget is counted in: the caps that are promised, or the tokens that are really used.

Under a cap of b tokens a sample is right if it is right with ample tokens, ended by itself, and
took at most b; it costs min(tokens, b).

- `planned`: the budget is for the sum of the caps. Nothing has to be estimated to keep it.
- `realised`: the budget is for E[sum of min(T, b)]. Caps are chosen by expected cost, and what they
  really cost is measured on answers that were not looked at.

A budget is a share of what is *ample*: what the smallest common cap that reaches 99 % of the
uncapped accuracy costs in the same accounting.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

import clearopt as co
from clearopt.errors import DeclarationError
from clearopt.validation import FloatArray

if TYPE_CHECKING:
    from clearopt.calibration import Rollouts
    from clearopt.replay.curves import Curves

Caps = NDArray[np.int64]


class Accounting(ABC):
    """How tokens are counted, for one set of rollouts whose queries are 0 .. n - 1."""

    name: ClassVar[str]

    @abstractmethod
    def cost(self, rollouts: Rollouts, caps: FloatArray | float) -> FloatArray:
        """(m,) what each rollout is charged under its own cap, in tokens."""

    @abstractmethod
    def row(self, curves: Curves, tokens: co.Allocation) -> co.Expression:
        """The left-hand side of the budget row."""

    @abstractmethod
    def expected(self, curves: Curves, caps: FloatArray) -> float:
        """What caps of (n,) queries are charged in all, by their curves."""

    def total(self, rollouts: Rollouts, caps: FloatArray) -> float:
        """What caps of (n,) queries are charged in all: the sum of each one's mean."""
        return float(
            per_query(rollouts, self.cost(rollouts, caps[rollouts.query]), caps.size).sum()
        )

    def common(self, rollouts: Rollouts, n: int, cap: float) -> float:
        """What one cap for n queries is charged in all."""
        return self.total(rollouts, np.full(n, float(cap)))

    def ample(self, rollouts: Rollouts, n: int) -> float:
        """Tokens that are ample for the n queries together.

        Raises:
            CalibrationError: no rollout is right.
        """
        return self.common(rollouts, n, rollouts.ample_cap())


class Planned(Accounting):
    """A query is charged its cap, whatever its answer takes."""

    name = "planned"

    def cost(self, rollouts: Rollouts, caps: FloatArray | float) -> FloatArray:
        return np.broadcast_to(np.asarray(caps, dtype=np.float64), (len(rollouts),))

    def total(self, rollouts: Rollouts, caps: FloatArray) -> float:
        return float(caps.sum())  # also of queries that have no rollout here

    def row(self, curves: Curves, tokens: co.Allocation) -> co.Expression:
        return co.sum(tokens)

    def expected(self, curves: Curves, caps: FloatArray) -> float:
        return float(caps.sum())


class Realised(Accounting):
    """A query is charged what its answers take until they end or are cut."""

    name = "realised"

    def cost(self, rollouts: Rollouts, caps: FloatArray | float) -> FloatArray:
        return np.minimum(rollouts.tokens, caps)

    def row(self, curves: Curves, tokens: co.Allocation) -> co.Expression:
        return co.sum(curves.cost_curves(tokens))

    def expected(self, curves: Curves, caps: FloatArray) -> float:
        return float(curves.expected_cost(caps).sum())


ACCOUNTINGS: dict[str, Accounting] = {each.name: each for each in (Planned(), Realised())}
"""By name."""


def accounting_of(name: str) -> Accounting:
    """The accounting of that name.

    Raises:
        DeclarationError: there is none.
    """
    try:
        return ACCOUNTINGS[name]
    except KeyError:
        raise DeclarationError(f"accounting {name!r}: known are {', '.join(ACCOUNTINGS)}") from None


def per_query(rollouts: Rollouts, values: FloatArray, n: int) -> FloatArray:
    """(n,) each query's mean of a value per rollout; 0 for a query without any."""
    counts = np.bincount(rollouts.query, minlength=n)
    sums = np.bincount(rollouts.query, weights=values, minlength=n)
    return np.asarray(sums / np.maximum(counts, 1), dtype=np.float64)


def right_under(rollouts: Rollouts, caps: FloatArray, n: int) -> FloatArray:
    """(n,) the share of each query's rollouts that are right under its cap, caps (n,)."""
    right = rollouts.solved & (rollouts.tokens <= caps[rollouts.query])
    return per_query(rollouts, right.astype(np.float64), n)


def largest_within(total: Callable[[int], float], budget: float, most: int) -> int:
    """The largest whole number in [0, most] whose total keeps to the budget; 0 if none does.

    Args:
        total: non-decreasing.
    """
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if total(middle) <= budget * (1 + 1e-12):
            low = middle
        else:
            high = middle - 1
    return low
