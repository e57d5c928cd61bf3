"""What a run tells while it goes on: a bar on a terminal, or nothing."""

from __future__ import annotations

import os
import time
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from clearopt.runs.ledger import Ledger
from clearopt.runs.record import Outcome
from clearopt.runs.wave import Job


class Watcher(Protocol):
    """Is told what happens."""

    def begin(self, what: str, jobs: int, ledger: Ledger) -> None:
        """A wave of so many requests begins."""

    def ended(self, job: Job, outcome: Outcome) -> None:
        """A request has come to its end."""

    def note(self, text: str) -> None:
        """Something a person should know now: what is waited for, and why."""

    def finish(self) -> None:
        """The wave is over, or interrupted."""


class Silent:
    """A watcher that says nothing."""

    def begin(self, what: str, jobs: int, ledger: Ledger) -> None:
        pass

    def ended(self, job: Job, outcome: Outcome) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def finish(self) -> None:
        pass


class Bar:
    """A bar with tokens per second, tokens left of the budget, and time left.

    Args:
        console: where to; where it is no terminal, there is no bar.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._shown = self._console.is_terminal and os.environ.get("TERM") != "dumb"
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def begin(self, what: str, jobs: int, ledger: Ledger) -> None:
        self.finish()
        if not self._shown or not jobs:
            return
        self._ledger, self._started, self._before = ledger, time.monotonic(), ledger.spent
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task(what, total=jobs, rate="")
        self._bar.start()

    def ended(self, job: Job, outcome: Outcome) -> None:
        if self._bar is None or self._task is None:
            return
        tokens = self._ledger.spent - self._before
        seconds = max(time.monotonic() - self._started, 1e-3)
        left = self._ledger.budget - self._ledger.spent - self._ledger.lost
        self._bar.update(
            self._task, advance=1, rate=f"{tokens / seconds:,.0f} tokens/s, {left:,} left"
        )

    def note(self, text: str) -> None:
        self._console.print(f"clearopt: note: {text}", markup=False, soft_wrap=True)

    def finish(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
