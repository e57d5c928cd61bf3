"""What a back-end is: class data that says what it can do, and one method that solves."""

from __future__ import annotations

import importlib.util
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, get_args

from clearopt.errors import DeclarationError
from clearopt.program import Program
from clearopt.solution import Solution

Feature = Literal[
    "several rows",
    "negative coefficients",
    "equality rows",
    "accuracy floors",
    "fractional tokens",
    "whole tokens",
    "semicontinuous tokens",
    "choices",
    "cost curves",
    "at-least rows",
    "mixed charges",
    "fractional mixed charges",
    "measured curves",
    "functions without a formula",
    "no upper bound",
]
ALL_FEATURES: frozenset[Feature] = frozenset(get_args(Feature))


@dataclass(frozen=True)
class SolveOptions:
    """The options every back-end understands alike, and `extra` for its own.

    `on_progress(seconds, objective, bound)` is called now and then by back-ends that can tell how
    far they have come: seconds since they began, then the best objective (NaN before there is
    one) and bound (infinite before there is one) so far, with the signs of `Solution`. What it is
    told is the solver's own word, not checked; it must not raise.
    """

    tolerance: float = 1e-6
    time_limit: float | None = None
    seed: int = 0
    threads: int = 1
    verbose: bool = False
    warm_start: Solution | None = None
    on_progress: Callable[[float, float, float], None] | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.tolerance, bool) or not (
            isinstance(self.tolerance, Real) and 0 <= self.tolerance < math.inf
        ):
            raise DeclarationError(
                f"tolerance = {self.tolerance!r}: must be a number of at least 0 (a relative gap)"
            )
        limit = self.time_limit
        real = isinstance(limit, Real) and not isinstance(limit, bool)
        if limit is not None and not (real and limit > 0):
            raise DeclarationError(
                f"time_limit = {limit!r}: must be a positive number of seconds, or None"
            )
        if not isinstance(self.threads, Integral) or self.threads < 1:
            raise DeclarationError(
                f"threads = {self.threads!r}: must be a whole number, at least 1"
            )
        if not isinstance(self.seed, Integral) or self.seed < 0:
            raise DeclarationError(f"seed = {self.seed!r}: must be a whole number, at least 0")
        if self.warm_start is not None and not isinstance(self.warm_start, Solution):
            raise DeclarationError(
                f"warm_start = {self.warm_start!r}: must be a Solution of an earlier solve, or None"
            )
        if self.on_progress is not None and not callable(self.on_progress):
            raise DeclarationError(
                f"on_progress = {self.on_progress!r}: must be a function of (seconds, objective, "
                "bound), or None"
            )


class Backend(ABC):
    """A solver. Subclasses set the class data and implement `_solve`.

    Attributes:
        name: how it is asked for.
        summary: one line for `co.solvers()`.
        supports: the features of a program it can take (`capabilities` says what each of them
            is); one budget over tokens needs "fractional tokens" or "whole tokens" and no other.
            A program with another is refused before any work.
        certifies: "optimum" (allocation and bound), "bound" (a valid bound, no proof that its
            allocation is best), or "nothing".
        modules: packages it imports when it solves; probed without importing.
        extra: the extra of clearopt that installs them.
        own_options: names of the extra options it accepts.
        interruptible: Ctrl-C ends its solve with what was found (see `clearopt.deadline`).
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    supports: ClassVar[frozenset[Feature]] = frozenset({"fractional tokens"})
    certifies: ClassVar[Literal["optimum", "bound", "nothing"]] = "nothing"
    modules: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str | None] = None
    own_options: ClassVar[frozenset[str]] = frozenset()
    interruptible: ClassVar[bool] = False

    def is_available(self) -> bool:
        """Whether every package it needs is installed; never imports one, never raises."""
        return all(is_installed(module) for module in self.modules)

    @abstractmethod
    def solve(self, program: Program, options: SolveOptions) -> Solution:
        """Solve a program whose features are all in `supports`."""

    def solve_each(self, programs: Sequence[Program], options: SolveOptions) -> Iterator[Solution]:
        """Solve one program after another, each started from the one before.

        For a back-end that can do better where the programs differ in right-hand sides alone.
        """
        last = options.warm_start
        for program in programs:
            solution = self.solve(program, replace(options, warm_start=last))
            last = solution if solution.allocation is not None else last
            yield solution


def is_installed(module: str) -> bool:
    """Whether `module` can be imported, found out without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
