"""`Standing`: how far each query has come, from the outcomes of its requests."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from clearopt.runs.record import Outcome
from clearopt.serving.requests import NOTHING, Prefix


@dataclass
class Standing:
    """One query.

    Attributes:
        prefix: its answer so far.
        finished: whether the answer ended by itself.
        closed: whether the engine refused it, or failed at it for good.
        planned: tokens it was allowed in all.
        overrun: tokens received beyond caps.
        jobs: the requests that were answered, in order.
        reason: the last one's finish reason.
        outcome: the last one's outcome, or None where none has ended.
        waiting: whether a request of its has no outcome yet.
    """

    prefix: Prefix = NOTHING
    finished: bool = False
    closed: bool = False
    planned: int = 0
    overrun: int = 0
    jobs: list[str] = field(default_factory=list)
    reason: str | None = None
    outcome: Outcome | None = None
    waiting: bool = False

    def take(self, job: str, cap: int, outcome: Outcome | None) -> None:
        """A request of `cap` tokens has come to an end, or (None) has not."""
        self.planned = self.prefix.tokens + cap
        self.waiting = outcome is None
        if outcome is None:
            return
        self.outcome = outcome
        answer = outcome.generation
        if answer is None:
            self.closed = outcome.end in ("refused", "failed")
            return
        self.jobs.append(job)
        self.prefix = self.prefix.then(answer)
        self.overrun += answer.overrun
        self.reason = answer.finish_reason
        self.finished = answer.finished

    @property
    def goes_on(self) -> bool:
        """Whether more tokens may help."""
        return not self.finished and not self.closed and not self.waiting

    @property
    def funded(self) -> bool:
        """Whether it was sent at all, or was to be."""
        return self.outcome is not None or self.waiting

    @property
    def spent(self) -> int:
        """Tokens received."""
        return self.prefix.tokens + self.overrun


def spent_by(standings: list[Standing]) -> NDArray[np.int64]:
    """(n,) tokens that each query's answer has."""
    return np.array([standing.prefix.tokens for standing in standings], dtype=np.int64)


def going_on(standings: list[Standing]) -> NDArray[np.bool_]:
    """(n,) whether more tokens may help."""
    return np.array([standing.goes_on for standing in standings], dtype=bool)


def finished(standings: list[Standing]) -> NDArray[np.bool_]:
    """(n,) whose answers have ended by themselves."""
    return np.array([standing.finished for standing in standings], dtype=bool)
