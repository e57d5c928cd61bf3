"""What a comparison says of each solver over all instances, in words for a table."""

from __future__ import annotations

import math
from statistics import median

from clearopt.comparison.rows import Comparison, behind, best_bound

CLOSE = 1e-6  # relative: an allocation so near the tightest bound counts as the best
HEADER = ("solver", "ran", "best found", "proven", "failed", "behind, median", "behind, most",
          "seconds, median", "seconds, most")  # fmt: skip


def totals_of(comparison: Comparison) -> list[tuple[str, ...]]:
    """A line a solver, as `HEADER` names its columns.

    "ran": instances that it took and came to an end on. "best found": of these, where its
    allocation is within `CLOSE` of the tightest bound of all. "proven": it said itself that the
    problem is solved, or has no solution. "failed": it crashed, or was ended for its time or
    memory. "behind" is to the tightest bound of all.
    """
    bounds = {}
    for instance in comparison.instances:
        said = comparison.said_of(instance)
        bounds[instance] = best_bound(said, said[0].sign)
    lines: list[tuple[str, ...]] = []
    for solver in comparison.solvers:
        own = [row for row in comparison.rows if row.solver == solver]
        ran = [row for row in own if row.status is not None]
        distances = [behind(row, bounds[row.instance]) for row in ran]
        distances = [distance for distance in distances if not math.isnan(distance)]
        seconds = [row.seconds for row in ran]
        lines.append((
            solver,
            str(len(ran)),
            str(sum(distance <= CLOSE for distance in distances)),
            str(sum(row.status in ("optimal", "infeasible", "unbounded") for row in ran)),
            str(sum(row.outcome in ("crashed", "killed", "out of memory") for row in own)),
            f"{median(distances):.1e}" if distances else "-",
            f"{max(distances):.1e}" if distances else "-",
            f"{median(seconds):.3g}" if seconds else "-",
            f"{max(seconds):.3g}" if seconds else "-",
        ))  # fmt: skip
    return lines
