"""A comparison as a page: tables and plots in one file, which asks the network for nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from clearopt.atomic import written_whole
from clearopt.comparison.rows import Comparison, ComparisonRow, behind, best_bound, best_objective
from clearopt.comparison.svg import COLOURS, Line, Mark, decades, dots, lines, marker
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
        _legend(order),
        _section("Solvers", _html_table(HEADER, totals_of(comparison), words=1)),
        _section("How far from the best bound", _distances(instances, order),
                 "Each allocation's objective against the tightest proven bound of all solvers; "
                 f"what is below {_LEAST_GAP:g} is drawn there."),
        _section("Time", _times(instances, order), _time_note(comparison)),
        _section("Solved within a time", _profile(instances, order)),
        _section("While they ran", _curves(instances, order),
                 "Solid: the best allocation so far, against the tightest bound of all. Dashed: "
                 "the solver's bound so far, against the best objective of all. On the way these "
                 "are the solver's own word; the end of a line is checked."),
        _section("Every run", _table(instances)),
        _section("Notes", _listed(comparison.notes)),
        _section("Where it ran", _facts(comparison)),
    ]  # fmt: skip
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + f"\n</main>\n<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def _section(heading: str, content: str, note: str = "") -> str:
    if not content:
        return ""
    said = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section>\n<h2>{escape(heading)}</h2>\n{said}{content}\n</section>"


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


def _legend(order: dict[str, int]) -> str:
    entries = "".join(
        f'<span><svg viewBox="0 0 14 14" width="14" height="14" aria-hidden="true">'
        f"{marker(7, 7, number)}</svg> {escape(name)}</span>"
        for name, number in order.items()
    )
    return f'<p class="legend">{entries}</p>'


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
    return _html_table(header, rows, words=0)


_WORDS = frozenset({"instance", "solver", "feasible", "status", "message"})


def _html_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, words: int) -> str:
    """Columns sort by a click on their heading."""
    kinds = ["w" if name in _WORDS or k < words else "n" for k, name in enumerate(header)]
    heads = "".join(
        f'<th class="{kind}" scope="col"><button type="button">{escape(name)}</button></th>'
        for name, kind in zip(header, kinds, strict=True)
    )
    lines_of = "".join(
        "<tr>"
        + "".join(
            f'<td class="{kind}">{escape(cell)}</td>' for cell, kind in zip(row, kinds, strict=True)
        )
        + "</tr>\n"
        for row in rows
    )
    return (
        f'<div class="wide"><table><thead><tr>{heads}</tr></thead>\n<tbody>\n{lines_of}</tbody>'
        "</table></div>"
    )


def _listed(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    return "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>"


def _facts(comparison: Comparison) -> str:
    entries = comparison.machine | comparison.versions
    entries |= {name.replace("_", " "): _said(value) for name, value in comparison.settings.items()}
    pairs = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in entries.items()
    )
    return f"<dl>{pairs}</dl>" if pairs else ""


def _said(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


# ---------------------------------------------------------------------- style and script
# Okabe and Ito's colours, told apart by colour-blind readers; lighter on a dark page.
_LIGHT = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#6a3d9a", "#555555")
_DARK = ("#5ab4f0", "#ff8c42", "#3fd6a8", "#f0a6cf", "#e8cf4a", "#9bd8ff", "#bf9bea", "#b8b8b8")
assert len(_LIGHT) == len(_DARK) == COLOURS


def _variables(colours: Sequence[str]) -> str:
    return "".join(f"--c{k}:{colour};" for k, colour in enumerate(colours))


_STYLE = (
    f":root{{color-scheme:light dark;--ink:#1b1f24;--soft:#57606a;--rule:#d8dee4;--page:#ffffff;"
    f"--good:#116329;--bad:#a40e26;{_variables(_LIGHT)}}}\n"
    "@media (prefers-color-scheme: dark){:root{--ink:#e6edf3;--soft:#9aa5b1;--rule:#3a424c;"
    f"--page:#14181d;--good:#56d364;--bad:#ff7b72;{_variables(_DARK)}}}}}\n"
    "body{margin:0;background:var(--page);color:var(--ink);"
    "font:15px/1.5 system-ui,sans-serif}\n"
    "main{max-width:1180px;margin:0 auto;padding:24px 20px 60px}\n"
    "h1{font-size:26px;margin:0 0 8px}h2{font-size:18px;margin:36px 0 6px}\n"
    ".note{color:var(--soft);margin:0 0 10px;max-width:75ch}\n"
    ".good{color:var(--good)}.bad{color:var(--bad);border-left:4px solid;padding-left:12px}\n"
    ".legend{display:flex;flex-wrap:wrap;gap:4px 18px;position:sticky;top:0;padding:8px 0;"
    "background:var(--page)}\n"
    ".legend svg{vertical-align:-2px}\n"
    ".wide{overflow-x:auto}\n"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums}\n"
    "th,td{padding:4px 10px;border-bottom:1px solid var(--rule);white-space:nowrap}\n"
    "td:last-child.w{white-space:normal;min-width:260px}\n"
    ".w{text-align:left}.n{text-align:right}\n"
    "th button{all:unset;cursor:pointer;font-weight:600}\n"
    "th button:focus-visible{outline:2px solid currentColor}\n"
    'th[aria-sort="ascending"] button::after{content:" \\25b2"}\n'
    'th[aria-sort="descending"] button::after{content:" \\25bc"}\n'
    "svg{max-width:100%;height:auto}svg text{fill:var(--ink)}svg .label{fill:var(--soft)}\n"
    ".grid{stroke:var(--rule);stroke-width:1}\n"
    ".line{fill:none;stroke-width:2}.dashed{stroke-dasharray:5 4;opacity:.85}\n"
    ".mark{stroke:var(--page);stroke-width:1}\n"
    + "".join(
        f".line.c{k}{{stroke:var(--c{k})}}.mark.c{k}{{fill:var(--c{k})}}\n" for k in range(COLOURS)
    )
    + ".figures{display:flex;flex-wrap:wrap;gap:16px}figure{margin:0}\n"
    "figcaption{font-weight:600}\n"
    "dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 16px}dd{margin:0}\n"
    "dt{color:var(--soft)}\n"
)

_SCRIPT = """
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), body = head.closest("table").tBodies[0];
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const column = head.cellIndex, number = head.classList.contains("n");
    const value = row => {
      const text = row.cells[column].textContent;
      return number ? (text === "-" ? Infinity : Number(text)) : text;
    };
    const rows = [...body.rows].sort((first, second) => {
      const a = value(first), b = value(second);
      return (number ? (a > b) - (a < b) : a.localeCompare(b)) * (up ? 1 : -1);
    });
    body.append(...rows);
  });
}
"""
