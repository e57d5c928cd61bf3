"""What a search over very many queries has found, plans to do, and has done: see `large`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearopt.solvers.dual.blocks import Block, Group
from clearopt.solvers.dual.core import Others
from clearopt.validation import FloatArray

Sink = Callable[[Block, FloatArray], None]
# By block: members, and their tokens.
Taken = dict[int, tuple[NDArray[np.intp], FloatArray]]


class OutOfTime(Exception):
    """The search has to end, for the reason given."""


class Infeasible(Exception):
    """The lower bounds alone cost more than the budget."""


@dataclass(frozen=True, eq=False)
class Committed:
    """What the last pass found. `bound` is rigorous; `value` is off by at most `value_error`."""

    bound: float
    value: float
    value_error: float
    charge: float
    price: float
    price_interval: tuple[float, float]
    passes: int  # over all queries; one at two prices counts as two
    core: int
    message: str = ""

    @property
    def statistics(self) -> dict[str, Any]:
        return {
            "passes": self.passes,
            "core": self.core,
            "price_interval": self.price_interval,
        }


@dataclass(frozen=True, eq=False)
class Straddle:
    """A pass at two prices: everybody else's charges, and those who jump (or a share of them)."""

    others: Others
    jump_dear: float
    jump_cheap: float
    groups: list[Group]  # of all processes, in their order
    own: list[tuple[int, NDArray[np.intp]]]  # (block, members) behind this process's groups
    stride: int  # one in so many was kept
    count: int

    @property
    def at_dear(self) -> float:
        return self.others.at_dear + self.jump_dear

    @property
    def at_cheap(self) -> float:
        return self.others.at_cheap + self.jump_cheap


@dataclass(frozen=True, eq=False)
class Plan:
    """Who buys (at `price`, and the core as `taken`) and how much (at `spent_at`)."""

    price: float
    spent_at: float
    taken: Taken = field(default_factory=dict)
    ties: tuple[float, float, float] | None = None  # dear, cheap, and what to spend on them
    interval: tuple[float, float] = (0.0, 0.0)
    slope: float = 0.0  # of what it spends, per unit of price
    core: int = 0
