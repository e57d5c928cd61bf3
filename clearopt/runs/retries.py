"""When to ask again: exponential backoff with jitter, and a brake common to all requests."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

from clearopt.errors import DeclarationError
from clearopt.serving.failures import EngineError


@dataclass(frozen=True)
class Retries:
    """How failures are met.

    Attributes:
        attempts: how often a request is sent whose answers are lost, at most.
        first, longest: seconds before the second attempt, and at most; doubled every time, and
            each wait drawn between nothing and that (full jitter).
        patience: seconds after which the run stops, when an engine has been overloaded or out of
            reach for so long without any answer. A restarting vLLM server takes a minute or two.
    """

    attempts: int = 4
    first: float = 0.5
    longest: float = 30.0
    patience: float = 600.0

    def __post_init__(self) -> None:
        for name in ("attempts", "first", "longest", "patience"):
            if not getattr(self, name) > 0:
                raise DeclarationError(f"{name} = {getattr(self, name)!r}: must be above 0")

    def wait(self, failures: int, rng: random.Random) -> float:
        """Seconds to wait after so many failures in a row, drawn anew each time."""
        most = min(self.first * 2.0 ** min(failures - 1, 60), self.longest)
        return rng.uniform(0, most)


class Brake:
    """Holds all requests back while the engine asks for it, and gives up when it stays so.

    Args:
        retries: with how much patience.
        on_wait: is told why, when the engine begins to be busy or out of reach.
    """

    def __init__(
        self, retries: Retries, on_wait: Callable[[str], None] = lambda reason: None
    ) -> None:
        self._on_wait = on_wait
        self._retries = retries
        self._clock = asyncio.get_running_loop().time
        self._not_before = self._clock()
        self._failing_since: float | None = None

    def succeeded(self) -> None:
        """The engine has answered."""
        self._failing_since = None

    def hold(self, seconds: float | None, reason: Exception) -> None:
        """The engine is busy; it asked for so many seconds, or for none in particular.

        Raises:
            EngineError: it has been for longer than the patience lasts.
        """
        if self._failing_since is None:
            self._failing_since = self._clock()
            self._on_wait(f"{reason} (the run waits for up to {self._retries.patience:g} s)")
        silent = self._clock() - self._failing_since
        if silent > self._retries.patience:
            raise EngineError(
                f"nothing was answered for {silent:.0f} s, so the run stops: {reason}"
            ) from reason
        if seconds:
            self._not_before = max(self._not_before, self._clock() + seconds)

    @property
    def seconds(self) -> float:
        """How long no request may be sent; negative where they may."""
        return self._not_before - self._clock()
