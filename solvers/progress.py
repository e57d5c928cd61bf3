"""Showing that a long solve is alive: a status line on a terminal, log lines where asked for."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from clearopt.program import Program
from clearopt.solvers.base import SolveOptions

_PATIENCE = 1.0  # seconds before anything is shown: short solves stay silent
_INTERVAL = 0.2  # seconds between updates of the status line
_LOG_INTERVAL = 1.0  # seconds between log lines


class Ticker:
    """Told often, shows now and then; shows nothing where there is no terminal to show it on.

    Args:
        solver: named in front of every line.
        verbose: print log lines to standard output instead, terminal or not.
        heard: called with every (objective, bound) that `tell` is told.
    """

    def __init__(
        self,
        solver: str,
        *,
        verbose: bool = False,
        heard: Callable[[float, float], None] | None = None,
    ) -> None:
        self._solver = solver
        self._verbose = verbose
        self._heard = heard
        self._started = time.perf_counter()
        self._due = self._started + (0.0 if verbose else _PATIENCE)
        self._status: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def tell(self, nodes: int, objective: float, bound: float) -> None:
        """How far the search has come; cheap enough to call at every node."""
        if self._heard is not None:
            self._heard(objective, bound)
        if time.perf_counter() < self._due:
            return
        gap = (bound - objective) / max(abs(bound), abs(objective), 1e-300)
        self.say(f"{nodes} nodes, objective {objective:.9g}, bound {bound:.9g}, gap {gap:.1e}")

    def say(self, what: str) -> None:
        """The same in words."""
        now = time.perf_counter()
        if now < self._due:
            return
        text = f"{self._solver}: {now - self._started:.1f} s, {what}"
        if self._verbose:
            self._due = now + _LOG_INTERVAL
            print(text, flush=True)
            return
        self._due = now + _INTERVAL
        if self._status is None:
            from rich.console import Console

            console = Console(stderr=True)
            if not console.is_terminal:
                self._due = float("inf")
                return
            self._status = console.status(text)
            self._status.start()
        self._status.update(text)


class Silent(Ticker):
    """For the search of a part, whose numbers say nothing about the whole."""

    def __init__(self) -> None:
        super().__init__("")

    def tell(self, nodes: int, objective: float, bound: float) -> None:
        """Nothing."""

    def say(self, what: str) -> None:
        """Nothing."""


def listener(
    program: Program, options: SolveOptions, started: float, *, offset: float = 0.0
) -> Callable[[float, float], None] | None:
    """What hands a search's own (value, bound) on to `options.on_progress`; None without one.

    The search maximises the program's own objective; a call in which neither number is better
    than before is not handed on.

    Args:
        program: for its sense.
        options: of the solve.
        started: `time.perf_counter()` when it began.
        offset: added to both numbers; `program.offset` where the search leaves that out.
    """
    tell = options.on_progress
    if tell is None:
        return None
    best, least = -math.inf, math.inf

    def heard(value: float, bound: float) -> None:
        nonlocal best, least
        if not (value > best or bound < least):
            return
        best, least = max(best, value), min(least, bound)
        objective = program.sign * (offset + best) if math.isfinite(best) else math.nan
        tell(time.perf_counter() - started, objective, program.sign * (offset + least))

    return heard
