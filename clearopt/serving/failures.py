"""What can go wrong with one attempt, told apart by what it may have cost and what helps.

Whether tokens may have been generated decides what an attempt is charged; whether another attempt
may succeed decides what is done about it.
"""

from __future__ import annotations

from clearopt.errors import ClearoptError


class EngineError(ClearoptError, RuntimeError):
    """The engine cannot serve, or broke a promise; the message says which."""


class AttemptError(ClearoptError, RuntimeError):
    """One attempt at one request has failed."""


class BusyError(AttemptError):
    """Nothing was generated; later it may work: the engine is overloaded or not reached.

    Attributes:
        retry_after: seconds that the engine asks to wait, or None.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class LostError(AttemptError):
    """The answer did not arrive, or not whole: up to the request's cap may have been generated."""

    retry_after: float | None = None


class RefusedError(AttemptError):
    """The engine does not take this request, and will not the next time; nothing was generated."""
