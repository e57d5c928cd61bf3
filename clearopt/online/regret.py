"""Regret against the offline optimum, by length of the stream."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clearopt.errors import DeclarationError
from clearopt.online.market import PostedPrice
from clearopt.online.stream import offline_optimum, run_posted
from clearopt.utilities import Utility

Draw = Callable[[int, int], Utility]
"""(length, seed) -> utilities of a stream's queries, in their order."""


@dataclass(frozen=True)
class RegretRow:
    """One length of stream.

    Attributes:
        horizon: queries.
        optimum: offline, expected right answers (its bound), mean over draws.
        value: reached online.
        regret, error: mean of the difference, and its standard error over draws.
        spent: share of the budget that was given out.
    """

    horizon: int
    optimum: float
    value: float
    regret: float
    error: float
    spent: float

    @property
    def relative(self) -> float:
        """Regret as a share of the optimum."""
        return self.regret / self.optimum if self.optimum > 0 else 0.0


@dataclass(frozen=True, eq=False)
class RegretStudy:
    """Made by `regret_study`: rows by length, `draws` streams each."""

    rows: tuple[RegretRow, ...]
    draws: int

    @property
    def exponent(self) -> float:
        """The slope of log regret against log horizon: about 0.5 where theory's bound is met."""
        known = [row for row in self.rows if row.regret > 0]
        if len(known) < 2:
            return math.nan
        x, y = (np.log([getattr(r, name) for r in known]) for name in ("horizon", "regret"))
        return float(np.polyfit(x, y, 1)[0])

    def table(self) -> str:
        """For a terminal."""
        lines = [
            f"{'queries':>8} {'optimum':>10} {'online':>10} {'regret':>14} {'%':>6} {'spent':>6}"
        ]
        for r in self.rows:
            regret = f"{r.regret:.1f} ± {r.error:.1f}"
            lines.append(
                f"{r.horizon:>8} {r.optimum:>10.1f} {r.value:>10.1f} {regret:>14} "
                f"{100 * r.relative:>6.2f} {r.spent:>6.3f}"
            )
        return "\n".join([*lines, f"regret grows like queries^{self.exponent:.2f}"])


def regret_study(
    draw: Draw,
    *,
    rate: float,
    upper: float,
    horizons: Sequence[int] = (250, 500, 1000, 2000),
    draws: int = 3,
    **market: Any,
) -> RegretStudy:
    """Streams of growing length through a `PostedPrice` that starts anew in each.

    Args:
        draw: gives a stream of a length, by seed.
        rate: budget in tokens a query.
        upper: the most tokens of one query.
        horizons: lengths.
        draws: streams of each length; seeds 0, 1, ...
        market: options of `PostedPrice` besides its budget and horizon; without floors, for
            which there is no tier here.

    Raises:
        DeclarationError: there is no length or no draw.
    """
    if not horizons or draws < 1:
        raise DeclarationError(
            f"regret_study: horizons = {list(horizons)!r} and draws = {draws!r}: at least one each"
        )
    rows = []
    for horizon in horizons:
        bounds, values, spent = [], [], []
        for seed in range(draws):
            utility, budget = draw(horizon, seed), rate * horizon
            run = run_posted(PostedPrice(budget=budget, horizon=horizon, **market), utility, upper)
            best = offline_optimum(utility, budget, upper, whole=market.get("whole", True))
            bounds.append(best.bound)
            values.append(run.value)
            spent.append(math.fsum(run.tokens.tolist()) / budget)
        difference = np.array(bounds) - np.array(values)
        error = float(difference.std(ddof=1) / math.sqrt(draws)) if draws > 1 else 0.0
        rows.append(
            RegretRow(
                int(horizon), float(np.mean(bounds)), float(np.mean(values)),
                float(difference.mean()), error, float(np.mean(spent)),
            )
        )  # fmt: skip
    return RegretStudy(tuple(rows), draws)
