"""From multipliers to what a user reads: by constraint name, per unit on its right-hand side.

Two notions, never mixed. *Prices* are the multipliers that prove the bound (`bound_prices`).
*Marginal values* are the value function's own slopes at the allocation found, with the funded set
as it is (`marginal_values`).
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

import numpy as np

from clearopt.program import BoundEntries, ConstraintGroup, Program
from clearopt.validation import FloatArray

Price = float | FloatArray | dict[Hashable, float]


class ByName(dict[str, Price]):
    """Prices by constraint name; a name that is none says which there are."""

    def __missing__(self, name: str) -> Price:
        known = ", ".join(repr(key) for key in self) or "none (this solver gives no prices)"
        raise KeyError(f"no constraint is named {name!r}; there are {known}")


class Multipliers(NamedTuple):
    """Objective per unit of what stands on the right of each constraint."""

    rows: FloatArray  # (K,)
    floors: FloatArray  # (J,), at most 0
    above: FloatArray  # (n,) each query's upper bound in tokens, at least 0
    below: FloatArray  # (n,) its lower bound, at most 0

    @property
    def unknown(self) -> bool:
        """Whether some are NaN, for want of time."""
        return any(bool(np.isnan(part).any()) for part in self)


def by_name(program: Program, multipliers: Multipliers) -> dict[str, Price]:
    """The multipliers as `Solution.prices` shows them."""
    named = ByName()
    for group in program.constraints:
        if group.bounds is not None:
            part = _of_bounds(program, group.bounds, multipliers)
        else:
            per_row = multipliers.rows if group.kind == "row" else multipliers.floors
            part = np.asarray(per_row[group.rows], dtype=np.float64)
        named[group.name] = _shaped(group, part)
    return named


def _shaped(group: ConstraintGroup, part: FloatArray) -> Price:
    if group.labels is not None:
        by_label = dict(zip(group.labels, part.tolist(), strict=True))
        return by_label | dict.fromkeys(group.unlimited, 0.0)
    if group.scalar:
        return float(part.sum())  # of one entry, or of none where unlimited
    everywhere = np.zeros(part.size + len(group.unlimited))
    limited = np.ones(everywhere.shape, dtype=bool)
    limited[np.asarray(group.unlimited, dtype=np.intp)] = False
    everywhere[limited] = part
    return everywhere


def _of_bounds(program: Program, bounds: BoundEntries, multipliers: Multipliers) -> FloatArray:
    """The part of each entry: its query's bound's, where this very limit is the one that holds."""
    limit, query = bounds.level / bounds.factor, bounds.query
    at_most = (bounds.sense == "==") | ((bounds.sense == "<=") == (bounds.factor > 0))
    at_least = (bounds.sense == "==") | ((bounds.sense == ">=") == (bounds.factor > 0))
    finite = np.isfinite(limit)
    limit = np.where(finite, limit, 0.0)
    near = np.where(program.integer[query], 1.0 - 1e-9, 1e-12 * np.maximum(1.0, np.abs(limit)))
    above = finite & at_most & (np.abs(program.upper[query] - limit) <= near)
    below = finite & at_least & (np.abs(program.lower[query] - limit) <= near)
    tokens_more = np.where(above, multipliers.above[query], 0.0)
    tokens_more = tokens_more + np.where(below, multipliers.below[query], 0.0)
    return tokens_more / bounds.factor + 0.0  # no -0.0
