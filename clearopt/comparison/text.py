"""A comparison as text: what printing it shows."""

from __future__ import annotations

import math

from clearopt.comparison.rows import Comparison, ComparisonRow, behind, best_bound

_HEADER = ("solver", "objective", "bound", "gap", "behind", "feasible", "status", "seconds")
_WORDS = frozenset(
    {"instance", "solver", "feasible", "status"}
)  # to the left, numbers to the right


def table(comparison: Comparison) -> str:
    """The rows, then messages, notes and contradictions."""
    named = any(row.instance for row in comparison.rows)
    header: tuple[str, ...] = ("instance", *_HEADER) if named else _HEADER
    lines = [header]
    messages = []
    bounds: dict[str, float] = {}
    for row in comparison.rows:
        if row.instance not in bounds:
            own = [other for other in comparison.rows if other.instance == row.instance]
            bounds[row.instance] = best_bound(own, row.sign)
        cells = cells_of(row, bounds[row.instance])
        lines.append((row.instance, *cells) if named else cells)
        if row.message:
            prefix = f"{row.instance}, " if row.instance else ""
            messages.append(f"{prefix}{row.solver}: {row.message}")
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    shown = [
        "  ".join(
            cell.ljust(width) if name in _WORDS else cell.rjust(width)
            for name, cell, width in zip(header, line, widths, strict=True)
        ).rstrip()
        for line in lines
    ]
    shown.insert(1, "  ".join("-" * width for width in widths))
    shown += messages
    shown += [f"note: {note}" for note in comparison.notes]
    if not comparison.complete:
        shown.append("INTERRUPTED: runs that had not ended are missing")
    shown += [f"CONTRADICTION: {sentence}" for sentence in comparison.contradictions]
    return "\n".join(shown)


def cells_of(row: ComparisonRow, bound: float) -> tuple[str, ...]:
    """`gap` is to the solver's own bound, `behind` to the tightest bound of all."""

    def shown(number: float, style: str) -> str:
        return format(number, style) if math.isfinite(number) else "-"

    ran = row.outcome == "ran"
    return (
        row.solver,
        shown(row.objective, ".9g"),
        shown(row.bound, ".9g") if row.rigorous else "-",
        shown(row.gap, ".1e"),
        shown(behind(row, bound), ".1e"),
        "yes" if row.feasible else ("no" if ran else "-"),
        row.status or row.outcome,
        shown(row.seconds, ".3g"),
    )
