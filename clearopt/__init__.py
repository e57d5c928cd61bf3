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
    from clearopt.allocation import Allocation
    from clearopt.comparison import Comparison
    from clearopt.comparison import compare as compare
    from clearopt.constraints import Choice, Constraint
    from clearopt.constraints import at_most_one as at_most_one
    from clearopt.derivatives import differentiable as differentiable
    from clearopt.errors import (
        ClearoptError,
        DeclarationError,
        MissingExtraError,
        ScaleWarning,
        SolverNotInstalledError,
        UnknownSolverError,
        UnsupportedProblemError,
    )
    from clearopt.expressions import Expression
    from clearopt.files import load as load
    from clearopt.files import save as save
    from clearopt.frontiers import Frontier
    from clearopt.frontiers import frontier as frontier
    from clearopt.grouping import mean as mean
    from clearopt.grouping import sum_ as sum
    from clearopt.parameters import Parameter
    from clearopt.problem import Maximize, Minimize, Problem
    from clearopt.program import Program
    from clearopt.solution import Solution
    from clearopt.solvers import Backend
    from clearopt.solvers import available_solvers as solvers
    from clearopt.streaming import solve_parquet as solve_parquet
    from clearopt.utilities import (
        BestOfN,
        CostCurve,
        CumulativeSurge,
        ExpectedTokens,
        Hill,
        Logistic,
        Lognormal,
        LognormalTokens,
        Quadratic,
        SaturatingExponential,
        ShiftedSurge,
        Sigmoidal,
        Tabulated,
        Triangular,
        Utility,
    )

_HOME = {
    "Allocation": "allocation",
    "Backend": "solvers",
    "BestOfN": "utilities",
    "Choice": "constraints",
    "ClearoptError": "errors",
    "Comparison": "comparison",
    "Constraint": "constraints",
    "CostCurve": "utilities",
    "CumulativeSurge": "utilities",
    "DeclarationError": "errors",
    "ExpectedTokens": "utilities",
    "Expression": "expressions",
    "Frontier": "frontiers",
    "Hill": "utilities",
    "Logistic": "utilities",
    "Lognormal": "utilities",
    "LognormalTokens": "utilities",
    "Maximize": "problem",
    "Minimize": "problem",
    "MissingExtraError": "errors",
    "Parameter": "parameters",
    "Problem": "problem",
    "Program": "program",
    "Quadratic": "utilities",
    "SaturatingExponential": "utilities",
    "ScaleWarning": "errors",
    "ShiftedSurge": "utilities",
    "Sigmoidal": "utilities",
    "Solution": "solution",
    "SolverNotInstalledError": "errors",
    "Tabulated": "utilities",
    "Triangular": "utilities",
    "UnknownSolverError": "errors",
    "UnsupportedProblemError": "errors",
    "Utility": "utilities",
    "at_most_one": "constraints",
    "compare": "comparison",
    "differentiable": "derivatives",
    "frontier": "frontiers",
    "load": "files",
    "mean": "grouping",
    "save": "files",
    "solve_parquet": "streaming",
    "sum": "grouping:sum_",
}

__all__ = [
    "Allocation",
    "Backend",
    "BestOfN",
    "Choice",
    "ClearoptError",
    "Comparison",
    "Constraint",
    "CostCurve",
    "CumulativeSurge",
    "DeclarationError",
    "ExpectedTokens",
    "Expression",
    "Frontier",
    "Hill",
    "Logistic",
    "Lognormal",
    "LognormalTokens",
    "Maximize",
    "Minimize",
    "MissingExtraError",
    "Parameter",
    "Problem",
    "Program",
    "Quadratic",
    "SaturatingExponential",
    "ScaleWarning",
    "ShiftedSurge",
    "Sigmoidal",
    "Solution",
    "SolverNotInstalledError",
    "Tabulated",
    "Triangular",
    "UnknownSolverError",
    "UnsupportedProblemError",
    "Utility",
    "at_most_one",
    "compare",
    "differentiable",
    "frontier",
    "load",
    "mean",
    "save",
    "solve_parquet",
    "solvers",
    "sum",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in ("solvers", "formulations", "sharded", "testing", "testset"):
        return importlib.import_module(f"clearopt.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'clearopt' has no attribute {name!r}")
    module, _, attribute = _HOME[name].partition(":")
    value = getattr(importlib.import_module(f"clearopt.{module}"), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
