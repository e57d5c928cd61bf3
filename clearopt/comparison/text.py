"""A comparison as text: what printing it shows."""

from __future__ import annotations

import math

from clearopt.comparison.rows import BEST_KNOWN, Comparison, ComparisonRow, behind, best_bound
from clearopt.comparison.totals import HEADER as TOTALS
from clearopt.comparison.totals import totals_of

_HEADER = ("solver", "objective", "bound", "gap", "behind", "feasible", "status", "seconds")
_WORDS = frozenset(
    {"instance", "solver", "feasible", "status"}
)  # to the left, numbers to the right


def table(comparison: Comparison) -> str:
    """The rows, then messages, notes and contradictions."""
    named = any(row.instance for row in comparison.rows)
    lines: list[tuple[str, ...]] = [("instance", *_HEADER) if named else _HEADER]
    messages = []
    for instance in comparison.instances:
        rows = comparison.said_of(instance)
        bound = best_bound(rows, rows[0].sign)
        for row in rows:
            cells = cells_of(row, bound)
            lines.append((instance, *cells) if named else cells)
            if row.message:
                prefix = f"{instance}, " if instance else ""
                messages.append(f"{prefix}{row.solver}: {row.message}")
    return "\n".join(_aligned(lines) + messages + _remarks(comparison))


def totals(comparison: Comparison) -> str:
    """One line a solver, over all instances, then notes and contradictions."""
    return "\n".join(_aligned([TOTALS, *totals_of(comparison)]) + _remarks(comparison))


def _aligned(lines: list[tuple[str, ...]]) -> list[str]:
    """Columns under their names, and a rule below these."""
    header = lines[0]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    shown = [
        "  ".join(
            cell.ljust(width) if name in _WORDS else cell.rjust(width)
            for name, cell, width in zip(header, line, widths, strict=True)
        ).rstrip()
        for line in lines
    ]
    shown.insert(1, "  ".join("-" * width for width in widths))
    return shown


def _remarks(comparison: Comparison) -> list[str]:
    remarks = [f"note: {note}" for note in comparison.notes]
    if not comparison.complete:
        remarks.append("INTERRUPTED: runs that had not ended are missing")
    return remarks + [f"CONTRADICTION: {sentence}" for sentence in comparison.contradictions]


def cells_of(row: ComparisonRow, bound: float) -> tuple[str, ...]:
    """`gap` is to the solver's own bound, `behind` to the tightest bound of all."""

    def shown(number: float, style: str) -> str:
        return format(number, style) if math.isfinite(number) else "-"

    ran = row.outcome == "ran"
    status = "" if row.solver == BEST_KNOWN else row.status or row.outcome
    return (
        row.solver,
        shown(row.objective, ".9g"),
        shown(row.bound, ".9g") if row.rigorous else "-",
        shown(row.gap, ".1e"),
        shown(behind(row, bound), ".1e"),
        "yes" if row.feasible else ("no" if ran else "-"),
        status,
        shown(row.seconds, ".3g"),
    )
