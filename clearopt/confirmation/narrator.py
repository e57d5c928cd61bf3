"""What the command tells while it runs: short headings, tables, a progress bar on a terminal."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from clearopt.confirmation.report import Report, headline, tables

if TYPE_CHECKING:
    from clearopt.calibration import SurgeModel
    from clearopt.confirmation.policies import Plan
    from clearopt.problem import Problem

_PLAIN_WIDTH = 140


class Narrator:
    """Tells the story of a confirmation on a Rich console; plain text where it is no terminal."""

    def __init__(self, console: Console | None = None) -> None:
        if console is None:
            console = Console(highlight=False)
            if not console.is_terminal:
                console = Console(width=_PLAIN_WIDTH, highlight=False)
        self.console = console

    @classmethod
    def silent(cls) -> Narrator:
        """One that says nothing."""
        return cls(Console(quiet=True))

    @property
    def plain(self) -> bool:
        """Whether the output goes to a file or pipe."""
        return not self.console.is_terminal

    def heading(self, name: str, what: str) -> None:
        """Begin a part."""
        self.console.print()
        self.console.print(f"[bold]{name}[/bold]: {what}")

    def note(self, text: str) -> None:
        """One plain sentence."""
        # In a file or pipe a sentence stays on one line, so that commands in it can be copied.
        self.console.print(text, markup=False, soft_wrap=self.plain)

    def text(self, text: str) -> None:
        """Something laid out already."""
        self.console.print(text, markup=False, soft_wrap=True)

    def generated(self, answers: int, tokens: int, seconds: float) -> None:
        """How much the calibration generated."""
        rate = f", {tokens / seconds:,.0f} tokens/s" if seconds > 0 else ""
        self.note(f"{answers} answers of {tokens:,} tokens in {seconds:.0f} s{rate}.")

    def calibrated(self, model: SurgeModel, ample_cap: int) -> None:
        """What calibration found."""
        found = model.summary
        self.note(
            f"With ample tokens {found['accuracy']:.1%} are right; a right answer needs "
            f"{found['mean_length']:.0f} tokens on average, and {ample_cap} tokens a query are "
            "ample (99 % of that accuracy)."
        )

    def problem(self, problem: Problem) -> None:
        """The declared problem."""
        self.text("\n".join(f"  {line}" for line in repr(problem).splitlines()))

    def plans(self, plans: Mapping[tuple[str, float], Plan]) -> None:
        """What each policy plans to do, and what its solver can prove."""
        shown = Table(
            box=None if self.plain else box.SIMPLE_HEAD,
            padding=(0, 2, 0, 0) if self.plain else (0, 1, 0, 0),
            pad_edge=False,
        )
        for name in ("budget", "policy", "tokens", "expected right", "funded", "price", "gap", "s"):
            shown.add_column(name, justify="left" if name == "policy" else "right", no_wrap=True)
        for (policy, fraction), plan in plans.items():
            shown.add_row(
                f"{100 * fraction:g} %" if policy == "uniform" else "",
                policy,
                f"{int(plan.tokens.sum()):,}",
                f"{plan.expected:.1%}",
                f"{plan.funded:.0%}",
                "-" if plan.price is None else f"{plan.price:.2e}",
                "-" if plan.gap is None else f"{plan.gap:.0e}",
                f"{plan.seconds:.2f}",
            )
        self.console.print(shown)

    def result(self, report: Report) -> None:
        """The final table and its headline."""
        for table in tables(report, width=self.console.width, plain=self.plain):
            self.console.print(table)
        if line := headline(report):
            self.console.print(line, style="bold", markup=False, soft_wrap=self.plain)

    @contextmanager
    def progress(self, what: str, steps: int) -> Iterator[Callable[[], None]]:
        """A bar over `steps` calls of what it yields; nothing where there is no terminal."""
        with self._bar() as bar:
            task = bar.add_task(what, total=steps)
            yield lambda: bar.advance(task)

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """A sign of life during one long step."""
        with self._bar() as bar:
            bar.add_task(what, total=None)
            yield

    def _bar(self) -> Progress:
        return Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=self.plain or self.console.quiet or os.environ.get("TERM") == "dumb",
        )
