"""What an earlier solution gives a solve to start from: prices by name, and its allocation."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import numpy as np

from clearopt.assemble import make_solution
from clearopt.certificate import check_feasibility
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


def known_allocation(program: Program, earlier: Solution | None) -> FloatArray | None:
    """An earlier solution's allocation, (n,) float64, where it is feasible here; else None."""
    if earlier is None or earlier.allocation is None:
        return None
    if np.shape(earlier.allocation) != (program.n,):
        return None
    tokens = np.array(earlier.allocation, dtype=np.float64)
    return tokens if check_feasibility(program, tokens).ok else None


def better(
    program: Program, found: FloatArray | None, known: FloatArray | None
) -> FloatArray | None:
    """Of two feasible allocations the one with the greater objective; either may be None."""
    if found is None or known is None:
        return known if found is None else found
    return known if program.objective(known) > program.objective(found) else found


def not_worse(solution: Solution, earlier: Solution | None) -> Solution:
    """The solution with an earlier one's allocation instead, where a limit left it a worse one."""
    if earlier is None or solution.status not in ("feasible", "unknown"):
        return solution
    program = solution.program
    known = known_allocation(program, earlier)
    value = program.sign * solution.objective if solution.allocation is not None else -math.inf
    if known is None or program.objective(known) <= value:
        return solution
    kept: dict[str, Any] = {
        name: getattr(solution, name)
        for name in ("solver", "seconds", "row_prices", "floor_prices", "tolerance", "message",
                     "statistics")
    }  # fmt: skip
    return make_solution(program, allocation=known, bound=program.sign * solution.bound, **kept)


def _entries(group: ConstraintGroup) -> tuple[Hashable, ...]:
    """What the rows of a group are known by."""
    return tuple(range(group.count)) if group.labels is None else group.labels
