"""`Solution`: an allocation, a bound, and what they say. Plain data, knows no solver."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from clearopt.bound_prices import price_multipliers
from clearopt.certificate import Feasibility, relative_gap
from clearopt.deadline import Deadline
from clearopt.marginal_values import marginal_multipliers
from clearopt.prices import ByName, Price, by_name
from clearopt.program import PIECE, Program
from clearopt.validation import FloatArray

_READING = 10.0  # seconds that reading a price for the first time may take

Tokens = FloatArray | NDArray[np.int64]
Status = Literal["optimal", "feasible", "infeasible", "unbounded", "unknown"]

STATUS_MEANING: Mapping[str, str] = {
    "optimal": "proven: the allocation is feasible and within the tolerance of the bound",
    "feasible": "the allocation is feasible; the bound does not (yet) prove it optimal",
    "infeasible": "proven: no allocation satisfies every constraint",
    "unbounded": "the objective can be made as large as one likes",
    "unknown": "no feasible allocation was found; the bound holds all the same",
}


@dataclass(frozen=True, eq=False)
class Solution:
    """What a back-end returns.

    Attributes:
        status: one of `STATUS_MEANING`; `optimal` only with a checked allocation and a bound.
        allocation: (n,) tokens for each query, integers where all tokens are counted whole; None
            where no allocation was found.
        objective: the objective at `allocation`, recomputed in NumPy (NaN without one).
        bound: a rigorous bound on the optimum, from above where it is maximised and from below
            where it is minimised (infinite where the solver gives none).
        prices: by constraint name, the dual multipliers that prove the bound; objective per unit
            on the right-hand side, positive where more would help; a dict for a grouped one, an
            array for one on a vector.
        marginal_values: by constraint name, what one more unit buys with the funded set as it is.
        utilities, funded: (n,) expected accuracy, and whether the query is served at all.
        feasibility: the independent check of `allocation`.
        solver, seconds, message, statistics: who, how long, why it stopped, and counts.
        row_prices, floor_prices: the prices in the order of the program's rows (K,) and floors
            (J,), or None.
        tolerance: the relative gap that was asked for; `optimal` is proven to it.
    """

    status: Status
    program: Program = field(repr=False)
    allocation: Tokens | None
    objective: float
    bound: float
    utilities: FloatArray | None
    funded: NDArray[np.bool_] | None
    feasibility: Feasibility | None
    solver: str
    seconds: float
    message: str = ""
    statistics: dict[str, Any] = field(default_factory=dict)
    row_prices: FloatArray | None = field(default=None, repr=False)
    floor_prices: FloatArray | None = field(default=None, repr=False)
    tolerance: float = 1e-6

    @cached_property
    def prices(self) -> dict[str, Price]:
        """By constraint name; worked out from `row_prices` and `floor_prices` when first read.

        What bounds are worth is NaN where working it out takes too long: tens of thousands of rows.
        """
        multipliers = price_multipliers(
            self.program, self.row_prices, self.floor_prices, Deadline(_READING)
        )
        return ByName() if multipliers is None else by_name(self.program, multipliers)

    @cached_property
    def marginal_values(self) -> dict[str, Price]:
        """By constraint name; worked out from `allocation` when first read.

        NaN where that takes too long: tens of thousands of rows.
        """
        if self.allocation is None:
            return ByName()
        tokens = np.asarray(self.allocation, dtype=np.float64)
        return by_name(self.program, marginal_multipliers(self.program, tokens, Deadline(_READING)))

    def stating(self, prices: dict[str, Price], marginal_values: dict[str, Price]) -> Self:
        """This solution with what somebody (a file) says these are, instead of working them out."""
        vars(self).update(prices=prices, marginal_values=marginal_values)
        return self

    @property
    def gap(self) -> float:
        """|bound - objective| / max(|bound|, |objective|); infinite without either."""
        if self.allocation is None or not math.isfinite(self.bound):
            return math.inf
        sign = self.program.sign
        return relative_gap(sign * self.objective, sign * self.bound)

    def summary(self) -> str:
        """A few lines for a person: status, numbers with their bound, prices, who is funded."""
        lines = [
            f"{self.status} ({self.solver}, {self.seconds:.3g} s): {STATUS_MEANING[self.status]}"
        ]
        if self.message:
            lines.append(f"  {self.message}")
        if self.allocation is not None and self.funded is not None:
            lines.append(f"  objective  {self.objective:.9g}")
            lines.append(f"  bound      {self.bound:.9g}   relative gap {self.gap:.2g}")
            count = int(self.funded.sum())
            lines.append(
                f"  funded     {count} of {self.program.n} queries, "
                f"{self.allocation.sum():.6g} tokens in all"
            )
        elif math.isfinite(self.bound):
            lines.append(f"  bound      {self.bound:.9g}")
        for name, price in self.prices.items():
            lines.append(f"  price      {name}: {_show(price)}")
        for name, value in self.marginal_values.items():
            lines.append(f"  marginal   {name}: {_show(value)}")
        return "\n".join(lines)


def counted(
    program: Program, tokens: FloatArray | None, *, in_place: bool = False
) -> Tokens | None:
    """An allocation as users get it: integers where all tokens are counted whole.

    With `in_place` these stand where the tokens stood, which nobody may look at any more.
    """
    if tokens is None or not program.integer.all():
        return tokens
    whole = tokens.view(np.int64) if in_place else np.empty(tokens.shape, dtype=np.int64)
    with np.errstate(invalid="ignore"):  # a file may hold anything; its check comes after
        for start in range(0, tokens.size, PIECE):
            part = slice(start, start + PIECE)
            whole[part] = np.rint(tokens[part])
    return whole


def _show(price: Price) -> str:
    if isinstance(price, float):
        return f"{price:.6g}"
    values = list(price.items()) if isinstance(price, dict) else list(enumerate(price))
    shown = ", ".join(f"{label}: {value:.4g}" for label, value in values[:6])
    return shown + (f", ... ({len(values)} in all)" if len(values) > 6 else "")
