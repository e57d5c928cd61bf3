"""A comparison as a page: tables and plots in one file, which asks the network for nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from clearopt.atomic import written_whole
from clearopt.comparison.page import definitions, document, legend, listed, section, table
from clearopt.comparison.rows import Comparison, ComparisonRow, behind, best_bound, best_objective
from clearopt.comparison.svg import Line, Mark, decades, dots, lines
from clearopt.comparison.text import cells_of
from clearopt.comparison.totals import HEADER, totals_of

_LEAST_GAP = 1e-10  # gaps below are rounding, and drawn there
_LEAST_SECONDS = 1e-4
_MOST_CURVES = 24  # instances whose curves are drawn


@dataclass(frozen=True, eq=False)
class _Instance:
    """The rows of one instance, and the best that all of them say together."""

    name: str
    rows: list[ComparisonRow]
    objective: float
    bound: float

    @property
    def shown(self) -> str:
        return self.name or "the problem"


def to_html(comparison: Comparison, path: str | Path, *, title: str) -> Path:
    """As `Comparison.to_html`."""
    where = Path(path)
    with written_whole(where) as file:
        file.write(page(comparison, title).encode())
    return where


def page(comparison: Comparison, title: str) -> str:
    """The page's text."""
    instances = []
    for name in comparison.instances:
        said = comparison.said_of(name)
        rows = [row for row in comparison.rows if row.instance == name]
        bound = best_bound(said, said[0].sign)
        instances.append(_Instance(name, rows, best_objective(said), bound))
    order = {name: number for number, name in enumerate(comparison.solvers)}
    body = [
        f"<h1>{escape(title)}</h1>",
        _verdict(comparison, instances),
        legend(order),
        section("Solvers", table(HEADER, totals_of(comparison), words=HEADER[:1])),
        section("How far from the best bound", _distances(instances, order),
                 "Each allocation's objective against the tightest proven bound of all solvers; "
                 f"what is below {_LEAST_GAP:g} is drawn there."),
        section("Time", _times(instances, order), _time_note(comparison)),
        section("Solved within a time", _profile(instances, order)),
        section("While they ran", _curves(instances, order),
                 "Solid: the best allocation so far, against the tightest bound of all. Dashed: "
                 "the solver's bound so far, against the best objective of all. On the way these "
                 "are the solver's own word; the end of a line is checked."),
        section("Every run", _table(instances)),
        section("Notes", listed(comparison.notes)),
        section("Where it ran", _facts(comparison)),
    ]  # fmt: skip
    return document(title, body)


def _verdict(comparison: Comparison, instances: Sequence[_Instance]) -> str:
    found = comparison.contradictions
    closed = sum(
        any(row.status in ("optimal", "infeasible") for row in instance.rows)
        for instance in instances
    )
    count = len(instances)
    what = "one instance" if count == 1 else f"{count} instances"
    lead = (
        f"{len(comparison.solvers)} solvers, {what}; {closed} of {count} solved to a relative gap "
        f"of {comparison.tolerance:g} by at least one."
    )
    if not comparison.complete:
        lead += " Interrupted: runs that had not ended are missing."
    if not found:
        said = '<p class="good">No checked allocation lies past another solver\'s bound.</p>'
    else:
        sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in found)
        said = f'<div class="bad"><p>Contradictions: one of the two is wrong.</p><ul>{sentences}'
        said += "</ul></div>"
    return f"<p>{escape(lead)}</p>\n{said}"


def _distances(instances: Sequence[_Instance], order: dict[str, int]) -> str:
    marks = []
    for number, instance in enumerate(instances):
        for row in instance.rows:
            distance = behind(row, instance.bound)
            if not math.isnan(distance):
                said = f"{row.solver}, {instance.shown}: {distance:.2g} behind"
                marks.append(Mark(max(distance, _LEAST_GAP), number, order[row.solver], said))
    if not marks:
        return ""
    reach = decades([mark.x for mark in marks], floor=_LEAST_GAP, ceiling=1.0)
    return dots([each.shown for each in instances], marks, reach, "relative distance")


def _times(instances: Sequence[_Instance], order: dict[str, int]) -> str:
    marks = []
    for number, instance in enumerate(instances):
        for row in instance.rows:
            if row.status is not None and row.seconds > 0:
                said = f"{row.solver}, {instance.shown}: {row.seconds:.3g} s, {row.status}"
                seconds = max(row.seconds, _LEAST_SECONDS)
                marks.append(Mark(seconds, number, order[row.solver], said))
    if not marks:
        return ""
    reach = decades([mark.x for mark in marks], floor=_LEAST_SECONDS, ceiling=1e6)
    return dots([each.shown for each in instances], marks, reach, "seconds")


def _time_note(comparison: Comparison) -> str:
    repeats = comparison.settings.get("repeats", 1)
    many = f"Medians of {repeats} runs. " if repeats > 1 else ""
    return many + "Packages are imported, and JAX has compiled, before the time is taken."


def _profile(instances: Sequence[_Instance], order: dict[str, int]) -> str:
    """The share of the instances that each solver has proven optimal by a time."""
    if len(instances) < 2:
        return ""
    drawn, every = [], []
    solved: dict[str, list[float]] = {name: [] for name in order}
    for instance in instances:
        for row in instance.rows:
            if row.status == "optimal":
                solved[row.solver].append(max(row.seconds, _LEAST_SECONDS))
    for times in solved.values():
        every += times
    if not every:
        return ""
    low, high = decades(every, floor=_LEAST_SECONDS, ceiling=1e6)
    for name, times in solved.items():
        if times:
            points = [(low, 0.0)]
            points += [(t, k / len(instances)) for k, t in enumerate(sorted(times), start=1)]
            points.append((high, len(times) / len(instances)))
            drawn.append(Line(points, order[name], f"{name}: {len(times)} of {len(instances)}"))
    return lines(drawn, (low, high), (0.0, 1.0), "seconds", "share proven optimal", share=True)


def _curves(instances: Sequence[_Instance], order: dict[str, int]) -> str:
    figures = []
    for instance in instances:
        drawn, ends = [], []
        for row in instance.rows:
            drawn += _anytime(row, instance, order[row.solver])
            distance = behind(row, instance.bound)
            if row.curve and not math.isnan(distance):
                at = max(row.curve[-1][0], _LEAST_SECONDS)
                said = f"{row.solver}: {distance:.2g} behind after {at:.3g} s"
                ends.append(Mark(at, max(distance, _LEAST_GAP), order[row.solver], said))
        if not drawn:
            continue
        points = [point for line in drawn for point in line.points]
        x_range = decades([x for x, _ in points], floor=_LEAST_SECONDS, ceiling=1e6)
        y_range = decades([y for _, y in points], floor=_LEAST_GAP, ceiling=10.0)
        plot = lines(drawn, x_range, y_range, "seconds", "relative distance", marks=ends)
        figures.append(f"<figure><figcaption>{escape(instance.shown)}</figcaption>{plot}</figure>")
    left_out = len(figures) - _MOST_CURVES
    more = f"<p>{left_out} further instances are not drawn.</p>" if left_out > 0 else ""
    return f'<div class="figures">{"".join(figures[:_MOST_CURVES])}</div>{more}' if figures else ""


def _anytime(row: ComparisonRow, instance: _Instance, series: int) -> list[Line]:
    def distance(better: float, worse: float) -> float:
        size = max(abs(better), abs(worse), 1e-300)
        return min(max(abs(better - worse) / size, _LEAST_GAP), 10.0)

    values, bounds = [], []
    for seconds, objective, bound in row.curve:
        at = max(seconds, _LEAST_SECONDS)
        if math.isfinite(objective) and math.isfinite(instance.bound):
            values.append((at, distance(instance.bound, objective)))
        if row.rigorous and math.isfinite(bound) and math.isfinite(instance.objective):
            bounds.append((at, distance(bound, instance.objective)))
    found = []
    if len(values) > 1:
        found.append(Line(values, series, f"{row.solver}: best allocation so far"))
    if len(bounds) > 1:
        found.append(Line(bounds, series, f"{row.solver}: bound so far", dashed=True))
    return found


# ---------------------------------------------------------------------- tables
def _table(instances: Sequence[_Instance]) -> str:
    header = ("instance", "queries", "solver", "objective", "bound", "gap", "behind", "feasible",
              "status", "seconds", "CPU seconds", "message")  # fmt: skip
    rows = []
    for instance in instances:
        for row in instance.rows:
            cells = list(cells_of(row, instance.bound))
            used = f"{row.cpu_seconds:.3g}" if math.isfinite(row.cpu_seconds) else "-"
            rows.append([instance.shown, str(row.queries), *cells, used, row.message])
    return table(header, rows, words=_WORDS)


_WORDS = frozenset({"instance", "solver", "feasible", "status", "message"})


def _facts(comparison: Comparison) -> str:
    settings = {name.replace("_", " "): value for name, value in comparison.settings.items()}
    return definitions(comparison.machine | comparison.versions | settings)
