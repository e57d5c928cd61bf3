"""When a solve has to end: at its time limit, or when Ctrl-C is pressed.

Whoever takes long is handed a `Deadline` and asks it now and then whether it is `over`; both
reasons look alike there, and what was found so far is returned. Ctrl-C is heard while somebody is
`listening`, in the main thread alone, and only where nobody else has taken SIGINT for himself.
Whoever listens inside shares the ear of whoever listens outside. The second Ctrl-C is Python's own
again and raises `KeyboardInterrupt`.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType

TIME_LIMIT, INTERRUPT = "time limit", "keyboard interrupt"


class Interrupt:
    """Whether Ctrl-C was pressed."""

    pressed = False


_heard: ContextVar[Interrupt | None] = ContextVar("clearopt_interrupt", default=None)


@contextmanager
def listening() -> Iterator[Interrupt]:
    """Hear the first Ctrl-C instead of letting it raise, as long as the block runs."""
    outer = _heard.get()
    if outer is not None:
        yield outer
        return
    interrupt = Interrupt()
    main = threading.current_thread() is threading.main_thread()
    usual = signal.default_int_handler
    if not main or signal.getsignal(signal.SIGINT) is not usual:
        yield interrupt
        return

    def press(number: int, frame: FrameType | None) -> None:
        interrupt.pressed = True
        signal.signal(signal.SIGINT, usual)

    token = _heard.set(interrupt)
    signal.signal(signal.SIGINT, press)
    try:
        yield interrupt
    finally:
        if signal.getsignal(signal.SIGINT) is press:
            signal.signal(signal.SIGINT, usual)
        _heard.reset(token)


class Deadline:
    """The moment at which to stop.

    Args:
        seconds: from now on, not below 0; infinite or None where there is no limit.
        interrupt: ends it at once when pressed; by default whatever hears Ctrl-C now.
    """

    def __init__(self, seconds: float | None = None, interrupt: Interrupt | None = None) -> None:
        self.started = time.perf_counter()
        self._end = math.inf if seconds is None else self.started + max(seconds, 0.0)
        self._interrupt = (interrupt or _heard.get()) or Interrupt()

    @property
    def spent(self) -> float:
        """Seconds since it was set."""
        return time.perf_counter() - self.started

    @property
    def left(self) -> float:
        """Seconds left, 0 when it is over, infinite without a limit."""
        return 0.0 if self._interrupt.pressed else max(self._end - time.perf_counter(), 0.0)

    @property
    def over(self) -> bool:
        """Whether to stop."""
        return self._interrupt.pressed or time.perf_counter() >= self._end

    @property
    def limited(self) -> bool:
        """Whether there is a time limit at all."""
        return math.isfinite(self._end)

    @property
    def reason(self) -> str:
        """Why it is over, in words."""
        return INTERRUPT if self._interrupt.pressed else TIME_LIMIT

    def within(self, seconds: float) -> Deadline:
        """Another one, so many seconds from now but no later than this; Ctrl-C ends both."""
        return Deadline(min(seconds, self.left), self._interrupt)

    def part(self, share: float) -> Deadline:
        """Another one after a share, 0 to 1, of the seconds left."""
        return self.within(share * self.left)

    def extended(self, seconds: float) -> Deadline:
        """Another one that leaves at least so many seconds, whatever has happened.

        For what has to be said even when time is up, or after the first Ctrl-C.
        """
        heard = self._interrupt.pressed
        return Deadline(max(seconds, self.left), Interrupt() if heard else self._interrupt)


NEVER = Deadline(math.inf, Interrupt())
