"""clearopt: declare how scarce inference tokens are shared among queries, and get the provably
best allocation.

    import clearopt as co

The names below are the public face. They are imported on first use, so that `import clearopt`
stays fast and pulls in no solver.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clearopt.comparison import Comparison
    from clearopt.comparison import compare as compare
    from clearopt.constraints import Constraint
    from clearopt.errors import (
        ClearoptError,
        DeclarationError,
        MissingExtraError,
        ScaleWarning,
        SolverNotInstalledError,
        UnknownSolverError,
        UnsupportedProblemError,
    )
    from clearopt.expressions import Allocation, Expression
    from clearopt.grouping import mean as mean
    from clearopt.grouping import sum_ as sum
    from clearopt.problem import Maximize, Problem
    from clearopt.program import Program
    from clearopt.solution import Solution
    from clearopt.solvers import Backend
    from clearopt.solvers import available_solvers as solvers
    from clearopt.utilities import CumulativeSurge, ShiftedSurge, Utility

_HOME = {
    "Allocation": "expressions",
    "Backend": "solvers",
    "ClearoptError": "errors",
    "Comparison": "comparison",
    "Constraint": "constraints",
    "CumulativeSurge": "utilities",
    "DeclarationError": "errors",
    "Expression": "expressions",
    "Maximize": "problem",
    "MissingExtraError": "errors",
    "Problem": "problem",
    "Program": "program",
    "ScaleWarning": "errors",
    "ShiftedSurge": "utilities",
    "Solution": "solution",
    "SolverNotInstalledError": "errors",
    "UnknownSolverError": "errors",
    "UnsupportedProblemError": "errors",
    "Utility": "utilities",
    "compare": "comparison",
    "mean": "grouping",
    "sum": "grouping:sum_",
}

__all__ = [
    "Allocation",
    "Backend",
    "ClearoptError",
    "Comparison",
    "Constraint",
    "CumulativeSurge",
    "DeclarationError",
    "Expression",
    "Maximize",
    "MissingExtraError",
    "Problem",
    "Program",
    "ScaleWarning",
    "ShiftedSurge",
    "Solution",
    "SolverNotInstalledError",
    "UnknownSolverError",
    "UnsupportedProblemError",
    "Utility",
    "compare",
    "mean",
    "solvers",
    "sum",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in ("solvers", "formulations"):
        return importlib.import_module(f"clearopt.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'clearopt' has no attribute {name!r}")
    module, _, attribute = _HOME[name].partition(":")
    value = getattr(importlib.import_module(f"clearopt.{module}"), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
