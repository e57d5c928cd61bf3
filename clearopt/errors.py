"""Every error clearopt raises on purpose: what is wrong, where, and what to write instead."""

from __future__ import annotations

from typing import Any


class ClearoptError(Exception):
    """Base class: `except ClearoptError` catches all that this package raises on purpose."""


class DeclarationError(ClearoptError, ValueError):
    """The declared problem, or an argument of it, is not one that can be solved as written."""


class MissingAttributeError(DeclarationError, AttributeError):
    """An attribute that arrays have and expressions do not; the message says what to write."""


class InfeasibleError(DeclarationError):
    """A limit that nothing can meet, whatever the queries do.

    Attributes:
        program: the program with that limit in it; None where its bounds cross and there is none.
    """

    def __init__(self, message: str, program: Any = None) -> None:
        super().__init__(message)
        self.program = program


class UnknownSolverError(ClearoptError, LookupError):
    """No back-end of that name is registered."""


class SolverNotInstalledError(ClearoptError, ImportError):
    """A package that the back-end needs is not installed; the message names the extra."""


class UnsupportedProblemError(ClearoptError, TypeError):
    """The back-end cannot take this program; the message names the feature and who supports it."""


class WrongSolutionError(ClearoptError, AssertionError):
    """A solution is not what it claims to be; the message lists what is wrong with it."""


class NonconformingBackendError(ClearoptError, AssertionError):
    """A back-end fails checks of `clearopt.testing`; the message is the report."""


class MissingExtraError(ClearoptError, ImportError):
    """An optional part (vLLM, plots) is not installed; the message names the extra."""


class ScaleWarning(UserWarning):
    """A scale above 1: allowed, but the utility no longer reads as a probability."""
