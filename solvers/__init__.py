"""The back-ends, one module each, and the registry that finds them by name.

A back-end receives a `Program` and returns a `Solution`; it knows nothing of the language. Modules
are imported when asked for, and the packages they need only when they solve. Others can add theirs
through the entry-point group `clearopt.solvers`, or pass an instance to `Problem.solve`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
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
from clearopt.solvers.auto import Auto, Choice, choose
from clearopt.solvers.base import ALL_FEATURES, Backend, Feature, SolveOptions, is_installed
from clearopt.solvers.capabilities import advice, features_of, missing_features

__all__ = [
    "ALL_FEATURES",
    "Backend",
    "Choice",
    "Feature",
    "SolveOptions",
    "SolverInfo",
    "SolverTable",
    "available_solvers",
    "features_of",
    "get_solver",
    "refuse_unsupported",
    "solve_program",
    "solve_programs",
]

_BUILT_IN: Mapping[str, str] = {
    "dual": "clearopt.solvers.dual:Dual",
    "scip": "clearopt.solvers.scip:Scip",
    "highs": "clearopt.solvers.highs:Highs",
    "ortools": "clearopt.solvers.ortools:OrTools",
    "dp": "clearopt.solvers.dp:DynamicProgramming",
    "cvxpy": "clearopt.solvers.cvxpy:Cvxpy",
    "scipy": "clearopt.solvers.scipy:Scipy",
    "price": "clearopt.solvers.price:Price",
    "greedy": "clearopt.solvers.greedy:Greedy",
    "proportional": "clearopt.solvers.proportional:Proportional",
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

    def choose(self, problem: Any) -> Choice:
        """Which of them `solver="auto"` takes for a `Problem` or `Program`; prints as the reason.

        Raises:
            UnsupportedProblemError: none that is installed can take it.
        """
        program: Program = getattr(problem, "program", problem)
        return choose(program, self.values())

    def __repr__(self) -> str:
        width = max(len(name) for name in self)
        lines = [f"{'solver':<{width}}  installed  certifies  what it is"]
        for info in self.values():
            installed = "yes" if info.installed else "no"
            hint = "" if info.installed else f"  (install: {info.install})"
            lines += [
                f"{info.name:<{width}}  {installed:<9}  {info.certifies:<9}  {info.summary}{hint}",
                f"{'':<{width}}  {_taken(info.supports)}",
            ]
        reached = importlib.import_module("clearopt.solvers.pyomo").installed_names()
        lines += [
            "and, through Pyomo, any solver it reaches as 'pyomo:NAME'; installed: "
            + (", ".join(reached) or "none  (install: pip install 'clearopt[pyomo]')"),
            'solver="auto" takes the first that proves most of a problem',
        ]
        return "\n".join(lines)


def _taken(supports: frozenset[Feature]) -> str:
    """What a back-end takes, in the shorter of two ways."""
    lacking = sorted(ALL_FEATURES - supports)
    if not lacking:
        return "takes every problem"
    if len(lacking) < len(supports):
        return f"takes every problem, but not: {', '.join(lacking)}"
    return f"takes one budget row{''.join(f', {feature}' for feature in sorted(supports))}"


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
    elif solver == Auto.name:
        backend = Auto()
    elif isinstance(solver, type) and issubclass(solver, Backend):
        raise UnknownSolverError(
            f"solver = {solver.__name__}: give its name, or an instance, {solver.__name__}()"
        )
    elif isinstance(solver, str) and solver.partition(":")[0] == "pyomo":
        backend = importlib.import_module("clearopt.solvers.pyomo").named(solver)
    elif isinstance(solver, str) and (solver in _BUILT_IN or solver in _names()):
        backend = _load(solver)
    else:
        known = ", ".join(repr(name) for name in [*_names(), Auto.name, "pyomo:NAME"])
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
    refuse_unsupported(program, backend)
    return backend.solve(program, _options(backend, options))


def solve_programs(
    programs: Sequence[Program], backend: Backend, **options: Any
) -> Iterator[Solution]:
    """The same for programs much like one another, which may be solved together."""
    known: Program | None = None
    for program in programs:
        if known is None or not program.differs_in_levels_alone(known):
            refuse_unsupported(program, backend)
            known = program
    return backend.solve_each(programs, _options(backend, options))


def _options(backend: Backend, given: dict[str, Any]) -> SolveOptions:
    options = dict(given)
    common = {key: options.pop(key) for key in list(options) if key in _COMMON_OPTIONS}
    unknown = sorted(set(options) - backend.own_options)
    if unknown and not isinstance(backend, Auto):  # which asks the back-end that it chooses
        known = sorted({*_COMMON_OPTIONS, *backend.own_options})
        raise UnsupportedProblemError(
            f"solver {backend.name!r} has no option {unknown[0]!r}; it has {', '.join(known)}"
        )
    return SolveOptions(**common, extra=options)


def refuse_unsupported(program: Program, backend: Backend) -> None:
    """Raise `UnsupportedProblemError` where the program has a feature the back-end cannot take."""
    missing = sorted(missing_features(program, backend.supports))
    if missing:
        raise UnsupportedProblemError(_refusal(program, backend, missing))


def _refusal(program: Program, backend: Backend, missing: list[Feature]) -> str:
    """Which capability is missing, who has all that this program needs, and what to write."""
    needed = features_of(program)
    able = [info.name for info in available_solvers().values() if needed <= info.supports]
    text = (
        f"solver {backend.name!r} cannot take {' and '.join(missing)}; "
        f"{', '.join(repr(name) for name in able) or 'no registered solver'} can"
    )
    instead = advice(program, missing)
    return f"{text}; {instead}" if instead else text


_COMMON_OPTIONS = (
    "tolerance", "time_limit", "seed", "threads", "verbose", "warm_start", "on_progress",
)  # fmt: skip


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
