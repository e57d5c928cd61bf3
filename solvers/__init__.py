"""The back-ends, one module each, and the registry that finds them by name.

A back-end receives a `Program` and returns a `Solution`; it knows nothing of the language. Modules
are imported when asked for, and the packages they need only when they solve. Others can add theirs
through the entry-point group `clearopt.solvers`, or pass an instance to `Problem.solve`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from clearopt.errors import (
    SolverNotInstalledError,
    UnknownSolverError,
    UnsupportedProblemError,
)
from clearopt.program import Program
from clearopt.solution import Solution
from clearopt.solvers.base import (
    ALL_FEATURES,
    Backend,
    Feature,
    SolveOptions,
    features_of,
    is_installed,
)

__all__ = [
    "ALL_FEATURES",
    "Backend",
    "Feature",
    "SolveOptions",
    "SolverInfo",
    "SolverTable",
    "available_solvers",
    "features_of",
    "get_solver",
    "solve_program",
]

_BUILT_IN: Mapping[str, str] = {
    "dual": "clearopt.solvers.dual:Dual",
    "scip": "clearopt.solvers.scip:Scip",
    "highs": "clearopt.solvers.highs:Highs",
    "cvxpy": "clearopt.solvers.cvxpy:Cvxpy",
    "price": "clearopt.solvers.price:Price",
    "uniform": "clearopt.solvers.uniform:Uniform",
    "time-share": "clearopt.solvers.time_share:TimeShare",
}


@dataclass(frozen=True)
class SolverInfo:
    """One line of `co.solvers()`."""

    name: str
    summary: str
    certifies: str
    supports: frozenset[Feature]
    installed: bool
    install: str | None


class SolverTable(Mapping[str, SolverInfo]):
    """Name -> `SolverInfo`; prints as a table."""

    def __init__(self, entries: dict[str, SolverInfo]) -> None:
        self._entries = entries

    def __getitem__(self, name: str) -> SolverInfo:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        width = max(len(name) for name in self)
        lines = [f"{'solver':<{width}}  installed  certifies  what it is"]
        for info in self.values():
            installed = "yes" if info.installed else "no"
            hint = "" if info.installed else f"  (install: {info.install})"
            lines.append(
                f"{info.name:<{width}}  {installed:<9}  {info.certifies:<9}  {info.summary}{hint}"
            )
        reached = importlib.import_module("clearopt.solvers.pyomo").installed_names()
        lines.append(
            "and, through Pyomo, any solver it reaches as 'pyomo:NAME'; installed: "
            + (", ".join(reached) or "none  (install: pip install 'clearopt[pyomo]')")
        )
        return "\n".join(lines)


def available_solvers() -> SolverTable:
    """Every registered back-end: what it can do, and whether what it needs is installed."""
    entries: dict[str, SolverInfo] = {}
    for name in _names():
        backend = _load(name)
        entries[name] = SolverInfo(
            name=name,
            summary=backend.summary,
            certifies=backend.certifies,
            supports=backend.supports,
            installed=backend.is_available(),
            install=_install_command(backend),
        )
    return SolverTable(entries)


def get_solver(solver: str | Backend) -> Backend:
    """The back-end of that name, ready to solve; an instance is handed back as it is."""
    if isinstance(solver, Backend):
        backend = solver
    elif isinstance(solver, type) and issubclass(solver, Backend):
        raise UnknownSolverError(
            f"solver = {solver.__name__}: give its name, or an instance, {solver.__name__}()"
        )
    elif isinstance(solver, str) and solver.partition(":")[0] == "pyomo":
        backend = importlib.import_module("clearopt.solvers.pyomo").named(solver)
    elif isinstance(solver, str) and (solver in _BUILT_IN or solver in _names()):
        backend = _load(solver)
    else:
        known = ", ".join(repr(name) for name in [*_names(), "pyomo:NAME"])
        raise UnknownSolverError(f"unknown solver {solver!r}; known are {known}")
    if not backend.is_available():
        missing = [module for module in backend.modules if not is_installed(module)]
        raise SolverNotInstalledError(
            f"solver {backend.name!r} needs {' and '.join(missing or backend.modules)}, which is "
            f"not installed: {_install_command(backend) or 'see where the back-end comes from'}"
        )
    return backend


def solve_program(program: Program, backend: Backend, **options: Any) -> Solution:
    """Check that the back-end can take the program and the options, then solve."""
    missing = sorted(features_of(program) - backend.supports)
    if missing:
        able = [info.name for info in available_solvers().values() if set(missing) <= info.supports]
        raise UnsupportedProblemError(
            f"solver {backend.name!r} cannot take {' and '.join(missing)}; "
            f"{', '.join(repr(name) for name in able) or 'no registered solver'} can"
        )
    common = {key: options.pop(key) for key in list(options) if key in _COMMON_OPTIONS}
    unknown = sorted(set(options) - backend.own_options)
    if unknown:
        known = sorted({*_COMMON_OPTIONS, *backend.own_options})
        raise UnsupportedProblemError(
            f"solver {backend.name!r} has no option {unknown[0]!r}; it has {', '.join(known)}"
        )
    return backend.solve(program, SolveOptions(**common, extra=options))


_COMMON_OPTIONS = ("tolerance", "time_limit", "seed", "threads", "verbose", "warm_start")


def _names() -> list[str]:
    others = [entry.name for entry in entry_points(group="clearopt.solvers")]
    return [*_BUILT_IN, *(name for name in others if name not in _BUILT_IN)]


def _load(name: str) -> Backend:
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        backend: Backend = getattr(importlib.import_module(module), attribute)()
        return backend
    entry = next(e for e in entry_points(group="clearopt.solvers") if e.name == name)
    loaded = entry.load()
    third_party: Backend = loaded() if isinstance(loaded, type) else loaded
    return third_party


def _install_command(backend: Backend) -> str | None:
    return f"pip install 'clearopt[{backend.extra}]'" if backend.extra else None


class _CallableModule(ModuleType):
    """`co.solvers` is this package and, as in CVXPY's `installed_solvers`, also the question."""

    def __call__(self) -> SolverTable:
        return available_solvers()


sys.modules[__name__].__class__ = _CallableModule
