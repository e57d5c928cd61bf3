"""Where prices leave a gap over few whole tokens: dynamic programming closes it.

Steep, strongly correlated curves are a knapsack problem in disguise: every bound by prices is loose
and branching on them has no end, while a table over a small budget takes a second.
"""

from __future__ import annotations

import math
from typing import Any

from clearopt.deadline import Deadline
from clearopt.errors import UnsupportedProblemError
from clearopt.program import Program
from clearopt.solvers.capabilities import missing_features
from clearopt.solvers.dp_table import TAKES, Table

NODES_BEFORE = 64  # branch-and-bound nodes before the table is tried
SHARE_BEFORE = 0.25  # of the time left, likewise
_MOST_AMOUNTS = 200_000  # that the table is made for, before it is known to be needed
_MOST_STATES = 20_000_000  # of all queries together: 120 MB of remembered choices
_MOST_STEPS = 4_000_000_000  # some ten seconds


def table_of(program: Program) -> Table | None:
    """The table over the amounts of every query, where it is small enough to be worth its time."""
    if not program.integer.all() or not program.rows.shape[0] or missing_features(program, TAKES):
        return None
    try:
        table = Table.of(program, _MOST_AMOUNTS)
    except UnsupportedProblemError:
        return None
    small = table.states * program.n <= _MOST_STATES and table.steps <= _MOST_STEPS
    return table if small else None


def closed(
    program: Program, table: Table, found: dict[str, Any], deadline: Deadline
) -> dict[str, Any]:
    """What a search by prices `found`, with the optimum instead of its gap if time allows."""
    value = table.fill(lambda: deadline.over)
    if value is None:
        return found
    statistics = found.get("statistics", {}) | {"states": table.states}
    if not math.isfinite(value):
        return found | {"allocation": None, "infeasible": True, "statistics": statistics}
    return found | {
        "allocation": table.choice(),
        "bound": program.offset + table.bound(value),
        "message": "",
        "statistics": statistics,
    }
