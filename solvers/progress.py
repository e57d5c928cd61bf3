"""Showing that a long solve is alive: a status line on a terminal, log lines where asked for."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

_PATIENCE = 1.0  # seconds before anything is shown: short solves stay silent
_INTERVAL = 0.2  # seconds between updates of the status line
_LOG_INTERVAL = 1.0  # seconds between log lines


class Ticker:
    """Told often, shows now and then; shows nothing where there is no terminal to show it on.

    Args:
        solver: named in front of every line.
        verbose: print log lines to standard output instead, terminal or not.
    """

    def __init__(self, solver: str, *, verbose: bool = False) -> None:
        self._solver = solver
        self._verbose = verbose
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
