"""What an earlier solution tells a solve to start from: its prices, by the constraints' names."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from clearopt.program import ConstraintGroup, Program
from clearopt.solution import Solution
from clearopt.validation import FloatArray


def known_prices(program: Program, earlier: Solution | None) -> tuple[FloatArray, FloatArray]:
    """Row prices (K,) and floor prices (J,) of an earlier solution, NaN where it has none.

    Rows and floors are the same where their constraints have one name and, if grouped, one label
    (else one position in as long a vector). The queries may be others, in any number.
    """
    found = np.full(program.rows.shape[0], np.nan), np.full(program.floors.shape[0], np.nan)
    if earlier is None:
        return found
    known = {(group.name, group.kind): group for group in earlier.program.constraints}
    for kind, prices, before in (
        ("row", found[0], earlier.row_prices),
        ("floor", found[1], earlier.floor_prices),
    ):
        if before is None:
            continue
        if not program.constraints and prices.shape == before.shape:
            prices[:] = before
        for group in program.constraints:
            same = known.get((group.name, group.kind))
            if same is None or group.kind != kind:
                continue
            earlier_prices = dict(zip(_entries(same), before[same.rows].tolist(), strict=True))
            if group.labels is None and len(_entries(group)) != len(_entries(same)):
                continue
            prices[group.rows] = [earlier_prices.get(key, np.nan) for key in _entries(group)]
    prices_or_nothing = tuple(np.where(np.isfinite(p), p, np.nan) for p in found)
    return prices_or_nothing[0], prices_or_nothing[1]


def _entries(group: ConstraintGroup) -> tuple[Hashable, ...]:
    """What the rows of a group are known by."""
    return tuple(range(group.count)) if group.labels is None else group.labels
