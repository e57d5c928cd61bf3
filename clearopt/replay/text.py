"""The replay's result on a terminal: a summary over models, and every row of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from clearopt.replay.report import Report, Row, RunFacts, Standing, Summary

if TYPE_CHECKING:
    from rich.console import Console

_FEW = 2  # runs whose rows are all printed

SPLITS = {
    "sample": "each query's curve fitted on half of its samples, scored on the other half",
    "query": "each query's curve predicted from other queries, all its samples scored",
}
ACCOUNTINGS = {
    "planned": "the budget is the sum of the caps",
    "realised": "the budget is for the tokens expected to be used",
}

SummaryCell = tuple[str, Callable[[Summary], str]]
SUMMARY_CELLS: Sequence[SummaryCell] = (
    ("right, %", lambda s: percent(s.accuracy)),
    ("uniform, %", lambda s: percent(s.uniform)),
    ("time-share, %", lambda s: percent(s.time_share)),
    ("x uniform", lambda s: number(s.ratio)),
    ("least", lambda s: number(s.least_ratio)),
    ("above/below 1", lambda s: f"{s.above}/{s.below} of {s.models}"),
    ("x time-share", lambda s: number(s.over_time_share)),
    ("gain, %", lambda s: percent(s.gain_share, digits=0)),
)
"""Columns of a summary; ratios stand beside the accuracies that they are ratios to."""

RowCell = tuple[str, Callable[[Row, Standing], str]]
ROW_CELLS: Sequence[RowCell] = (
    ("right, % [95 %]", lambda r, s: with_interval(r.accuracy, r.low, r.high, percent)),
    ("x uniform [95 %]", lambda r, s: "1" if r.policy == "uniform"
        else with_interval(r.ratio, r.ratio_low, r.ratio_high, number)),
    ("x time-share", lambda r, s: "1" if r.policy == "time-share" else with_interval(
        s.over_time_share, s.over_time_share_low, s.over_time_share_high, number)),
    ("gain, %", lambda r, s: percent(s.gain_share, digits=0)),
    ("expected", lambda r, s: percent(r.expected_accuracy)),
    ("funded", lambda r, s: percent(r.funded, digits=0)),
    ("caps", lambda r, s: tokens(r.planned)),
    ("used", lambda r, s: tokens(r.generated)),
    ("gap", lambda r, s: "-" if r.gap is None else f"{r.gap:.0e}"),
)  # fmt: skip
"""Columns of a run's rows; gain is the share of the oracle's gain over uniform."""


def show(report: Report, console: Console) -> None:
    """Print the report: the rows of a run or two, a summary of more, and the notes."""
    plain = not console.is_terminal
    if 0 < len(report.runs) <= _FEW:
        for facts in report.runs:
            console.print()
            console.print(_about(facts), markup=False, soft_wrap=plain)
            for title, table in run_tables(report, facts, plain=plain):
                console.print(title, style="bold", markup=False, soft_wrap=plain)
                console.print(table)
    else:
        for title, table in summary_tables(report, plain=plain):
            console.print()
            console.print(title, style="bold", markup=False, soft_wrap=plain)
            console.print(table)
    for line in headlines(report):
        console.print(line, style="bold", markup=False, soft_wrap=plain)
    for policy, why in report.skipped.items():
        console.print(f"Not run: {policy}: {why}.", markup=False, soft_wrap=plain)
    for note in report.notes:
        console.print(f"Note: {note}", markup=False, soft_wrap=plain)
    for warning in dict.fromkeys(said for facts in report.runs for said in facts.warnings):
        if len(report.runs) <= _FEW:
            console.print(f"Warning: {warning}", markup=False, soft_wrap=plain)


def summary_tables(report: Report, *, plain: bool) -> Iterable[tuple[str, Table]]:
    """A table for each benchmark, split and accounting, with its title."""
    for (benchmark, split, accounting), group in groupby(
        sorted(report.summaries, key=lambda s: (s.benchmark, s.split != "sample", s.accounting)),
        key=lambda s: (s.benchmark, s.split, s.accounting),
    ):
        rows = list(group)
        title = (
            f"{benchmark}, medians over {rows[0].models} models; {SPLITS[split]}; "
            f"{ACCOUNTINGS[accounting]}"
        )
        cells = [(s.fraction, s.policy, [cell(s) for _, cell in SUMMARY_CELLS]) for s in rows]
        yield title, _table([name for name, _ in SUMMARY_CELLS], cells, plain)


def run_tables(report: Report, facts: RunFacts, *, plain: bool) -> Iterable[tuple[str, Table]]:
    """A table for each accounting of one run, with its title."""
    mine = [
        (row, standing)
        for row, standing in zip(report.rows, report.standings, strict=True)
        if (row.benchmark, row.model, row.split) == (facts.benchmark, facts.model, facts.split)
    ]
    for accounting in facts.ample:
        pairs = [(row, standing) for row, standing in mine if row.accounting == accounting]
        cells = [
            (row.fraction, row.policy, [cell(row, standing) for _, cell in ROW_CELLS])
            for row, standing in pairs
        ]
        title = f"{ACCOUNTINGS[accounting]}; ample: {facts.ample[accounting]:,.0f} tokens"
        yield title, _table([name for name, _ in ROW_CELLS], cells, plain)


def headlines(report: Report) -> list[str]:
    """A sentence for each benchmark and split: what `dual` gains at the budget nearest 20 %."""
    said = []
    rows = [s for s in report.summaries if s.policy == "dual" and s.accounting == "planned"]
    for benchmark, split in dict.fromkeys((s.benchmark, s.split) for s in rows):
        own = [s for s in rows if (s.benchmark, s.split) == (benchmark, split)]
        s = min(own, key=lambda each: abs(each.fraction - 0.2))
        models = "one model" if s.models == 1 else f"median of {s.models} models"
        times = f" ({number(s.ratio)} times)" if s.ratio is not None else ""
        said.append(
            f"{benchmark}, {split} split, {models}: with {100 * s.fraction:g} % of ample "
            f"{percent(s.accuracy)} % are right, under uniform caps {percent(s.uniform)} %{times}, "
            f"time-shared {percent(s.time_share)} %."
        )
    return said


def _about(facts: RunFacts) -> str:
    stream = f", in streams of {facts.stream}" if facts.stream is not None else ""
    return (
        f"{facts.benchmark}, {facts.model}: {facts.queries} queries, {facts.samples} rollouts"
        f"{stream}; {facts.uncapped:.1%} right without a cap; a cap of {facts.ample_cap:,.0f} "
        f"tokens is ample. {SPLITS[facts.split].capitalize()}."
    )


def _table(
    names: Sequence[str], rows: Sequence[tuple[float, str, list[str]]], plain: bool
) -> Table:
    shown = Table(
        box=None if plain else box.SIMPLE_HEAD,
        header_style="" if plain else "bold",
        pad_edge=False,
        padding=(0, 2, 0, 0) if plain else (0, 1, 0, 0),  # the box adds a blank
    )
    shown.add_column("budget", justify="right", no_wrap=True)
    shown.add_column("policy", no_wrap=True, min_width=max(len(row[1]) for row in rows))
    for name in names:
        shown.add_column(name, justify="right", no_wrap=True)
    for _, group in groupby(rows, key=lambda row: row[0]):
        for position, (fraction, policy, cells) in enumerate(group):
            shown.add_row(
                f"{100 * fraction:g} %" if position == 0 else "",
                policy,
                *cells,
                style="bold" if policy == "dual" and not plain else None,
            )
        if not plain:
            shown.add_section()
    return shown


# -------------------------------------------------------------------------------- cells
def number(value: float | None) -> str:
    """Two digits after the point."""
    return "-" if value is None else f"{value:.2f}"


def percent(value: float | None, *, digits: int = 1) -> str:
    """A share in percent, without the sign."""
    return "-" if value is None else f"{100 * value:.{digits}f}"


def tokens(value: int | None) -> str:
    """A number of tokens in four characters or so: 950, 24.7k, 1.10M."""
    if value is None:
        return "-"
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    return str(value)


def with_interval(value: Any, low: Any, high: Any, shown: Callable[[Any], str]) -> str:
    """A value and its interval."""
    return shown(value) if low is None and high is None else (
        f"{shown(value)} [{shown(low)}, {shown(high)}]"
    )  # fmt: skip
