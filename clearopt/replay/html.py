"""A replay as a page: tables and plots in one file, which asks the network for nothing."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from clearopt.atomic import written_whole
from clearopt.comparison.page import definitions, document, legend, listed, section, table
from clearopt.comparison.svg import Line, Mark, lines
from clearopt.replay.policies import DESCRIPTIONS
from clearopt.replay.report import FrontierLine, Report, Row, RunFacts, Standing, Summary
from clearopt.replay.text import (
    ACCOUNTINGS,
    ROW_CELLS,
    SPLITS,
    SUMMARY_CELLS,
    headlines,
    percent,
)

_MOST_PLOTS = 60  # runs whose frontiers are drawn
_WORDS = frozenset({"benchmark", "model", "split", "accounting", "policy", "status"})
_WHERE = ("benchmark", "split", "accounting")


def to_html(report: Report, path: str | Path, *, title: str = "Replay of rollouts") -> Path:
    """Write the page, all or nothing; returns its path.

    Raises:
        DeclarationError: nothing can be written there.
    """
    where = Path(path)
    with written_whole(where) as file:
        file.write(page(report, title).encode())
    return where


def page(report: Report, title: str) -> str:
    """The page's text."""
    present = {row.policy for row in report.rows}
    order = {name: k for k, name in enumerate(p for p in DESCRIPTIONS if p in present)}
    interrupted = "" if report.complete else '<p class="bad">Interrupted: runs are missing.</p>'
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(report.source)}: {_counted(report)}.</p>{interrupted}",
        *(f"<p>{escape(line)}</p>" for line in headlines(report)),
        legend(order),
        section("Frontiers", _frontiers(report, order),
                "Accuracy against what was paid, as a share of ample: caps where they are the "
                "budget, else the tokens that the scored answers used. The oracle, which knows the "
                "scored answers, is the upper line."),
        section("Over the models", _summary(report.summaries),
                "Medians. Above and below count the models whose 95 % interval of the ratio to "
                "uniform lies on one side of 1."),
        section("Area under the frontier", _areas(report.frontiers),
                "Mean accuracy over budgets from nothing to the largest, as a share of the "
                "accuracy without a cap."),
        section("Every row", _rows(report.rows, report.standings)),
        section("What was evaluated", _facts(report.runs)),
        section("Policies", definitions(
            {name: DESCRIPTIONS[name] for name in order}
            | {name: f"not run: {why}" for name, why in report.skipped.items()})),
        section("Notes", listed([*report.notes, *_warnings(report.runs)])),
        section("How it was made", definitions(
            {name.replace("_", " "): value for name, value in report.settings.items()}
            | dict(report.versions))),
    ]  # fmt: skip
    return document(title, body)


def _counted(report: Report) -> str:
    runs = {(facts.benchmark, facts.model) for facts in report.runs}
    benchmarks = {benchmark for benchmark, _ in runs}
    return f"{len(runs)} runs on {len(benchmarks)} benchmarks"


def _frontiers(report: Report, order: dict[str, int]) -> str:
    groups: dict[tuple[str, str, str, str], list[FrontierLine]] = {}
    for line in report.frontiers:
        key = (line.benchmark, line.model, line.split, line.accounting)
        groups.setdefault(key, []).append(line)
    figures = []
    for (benchmark, model, split, accounting), own in list(groups.items())[:_MOST_PLOTS]:
        drawn, marks = [], []
        for line in own:
            series = order[line.policy]
            said = f"{line.policy}: area {line.area:.3f}"
            points = [(0.0, 0.0), *((cost, value) for cost, value, _ in line.points)]
            dashed = line.policy == "oracle"
            drawn.append(Line(points, series, said, dashed=dashed, steps=False))
            marks += [
                Mark(cost, value, series, f"{line.policy}: {percent(value)} % for {cost:.1%}")
                for cost, value, _ in line.points
            ]
        top = max(mark.x for mark in marks)
        plot = lines(drawn, (0.0, top), (0.0, 1.0), "share of ample", "right", share=True,
                     x_share=True, marks=marks)  # fmt: skip
        caption = escape(f"{benchmark}, {model} ({split} split, {accounting})")
        figures.append(f"<figure><figcaption>{caption}</figcaption>{plot}</figure>")
    left_out = len(groups) - len(figures)
    more = f"<p>{left_out} further frontiers are not drawn.</p>" if left_out > 0 else ""
    return f'<div class="figures">{"".join(figures)}</div>{more}' if figures else ""


def _summary(summaries: Sequence[Summary]) -> str:
    if not summaries:
        return ""
    header = (*_WHERE, "budget, %", "policy", *(name for name, _ in SUMMARY_CELLS))
    rows = [
        [
            *(str(getattr(s, name)) for name in _WHERE),
            f"{100 * s.fraction:g}",
            s.policy,
            *(cell(s) for _, cell in SUMMARY_CELLS),
        ]
        for s in summaries
    ]
    return table(header, rows, words=_WORDS)


def _areas(frontiers: Sequence[FrontierLine]) -> str:
    if not frontiers:
        return ""
    header = ("benchmark", "model", "split", "accounting", "policy", "area", "efficient points")
    rows = [
        [
            line.benchmark,
            line.model,
            line.split,
            line.accounting,
            line.policy,
            f"{line.area:.4f}",
            f"{sum(flag for _, _, flag in line.points)} of {len(line.points)}",
        ]
        for line in frontiers
    ]
    return table(header, rows, words=_WORDS)


def _rows(rows: Sequence[Row], standings: Sequence[Standing]) -> str:
    if not rows:
        return ""
    names = [name for name, _ in ROW_CELLS]
    header = ("benchmark", "model", "split", "accounting", "budget, %", "policy", *names, "status")
    cells = [
        [
            row.benchmark,
            row.model,
            row.split,
            row.accounting,
            f"{100 * row.fraction:g}",
            row.policy,
            *(cell(row, standing) for _, cell in ROW_CELLS),
            row.solver_status,
        ]
        for row, standing in zip(rows, standings, strict=True)
    ]
    return table(header, cells, words=_WORDS)


def _facts(runs: Sequence[RunFacts]) -> str:
    if not runs:
        return ""
    names = list(dict.fromkeys(name for facts in runs for name in facts.ample))
    header = ("benchmark", "model", "split", "queries", "rollouts", "right without a cap, %",
              "ample cap", *(f"ample, {name}" for name in names))  # fmt: skip
    rows = [
        [
            facts.benchmark,
            facts.model,
            facts.split,
            str(facts.queries),
            str(facts.samples),
            percent(facts.uncapped),
            f"{facts.ample_cap:.0f}",
            *(f"{facts.ample[name]:.0f}" if name in facts.ample else "-" for name in names),
        ]
        for facts in runs
    ]
    said = listed([f"{name}: {what}" for name, what in {**SPLITS, **ACCOUNTINGS}.items()])
    return said + table(header, rows, words=_WORDS)


def _warnings(runs: Sequence[RunFacts]) -> list[str]:
    return [
        f"{facts.benchmark}, {facts.model}, {facts.split} split: {said}"
        for facts in runs
        for said in facts.warnings
    ]
