"""`auto`: the choice of a back-end for a program, and the reason for it in words.

The rule, in order: it takes every feature of the program; it is installed; it certifies the
optimum rather than a bound, and a bound rather than nothing; and of those left, the one that
closes gaps fastest, which is the order in which they are registered, `dual` first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from clearopt.errors import UnsupportedProblemError
from clearopt.program import Program
from clearopt.solution import Solution
from clearopt.solvers.base import ALL_FEATURES, Backend, Feature, SolveOptions
from clearopt.solvers.capabilities import features_of

if TYPE_CHECKING:
    from clearopt.solvers import SolverInfo

_PROMISE = {
    "optimum": "proves the optimum",
    "bound": "gives a bound beside its allocation",
    "nothing": "proves nothing",
}
_ORDER = tuple(_PROMISE)


@dataclass(frozen=True)
class Choice:
    """The back-end chosen, and why; printing it gives the reason.

    Attributes:
        solver: its name.
        reason: one sentence.
        passed_over: name -> why, of the back-ends that would have come before it.
        next_best: names of the others that can take the program, in order.
    """

    solver: str
    reason: str
    passed_over: dict[str, str]
    next_best: tuple[str, ...]

    def __str__(self) -> str:
        others = "; ".join(f"not {name}: {why}" for name, why in self.passed_over.items())
        return f"{self.solver}: {self.reason}" + (f" ({others})" if others else "")


def choose(
    program: Program, solvers: Iterable[SolverInfo], refused: dict[str, str] | None = None
) -> Choice:
    """The best of `solvers` for a program.

    Args:
        program: the program.
        solvers: in the order of preference among equals.
        refused: name -> why, of back-ends that turned out not to take it.

    Raises:
        UnsupportedProblemError: none of those installed can take it.
    """
    features, refused = features_of(program), refused or {}
    ranked = sorted(solvers, key=lambda info: _ORDER.index(info.certifies))
    able, passed_over = [], {}
    for info in ranked:
        why = _why_not(info, features, refused)
        if why is None:
            able.append(info)
        elif not able:
            passed_over[info.name] = why
    if not able:
        reasons = "; ".join(f"{name}: {why}" for name, why in passed_over.items())
        raise UnsupportedProblemError(f"no solver can take this problem: {reasons}")
    best = able[0]
    shown = ", ".join(sorted(features)) or "nothing but tokens, utilities and at most one <= row"
    return Choice(
        solver=best.name,
        reason=f"{_PROMISE[best.certifies]} and takes all of this problem: {shown}",
        passed_over=passed_over,
        next_best=tuple(info.name for info in able[1:]),
    )


def _why_not(info: SolverInfo, features: frozenset[Feature], refused: dict[str, str]) -> str | None:
    missing = sorted(features - info.supports)
    if missing:
        return f"cannot take {' and '.join(missing)}"
    if info.name in refused:
        return refused[info.name]
    return None if info.installed else f"not installed ({info.install})"


class Auto(Backend):
    """Stands for the choice: it is made when the program is known, by `choose`.

    The solution is the chosen back-end's, which it names; `statistics["auto"]` says why.
    """

    name = "auto"
    summary = "chooses a back-end by what the problem needs, and says why"
    supports = ALL_FEATURES
    certifies = "optimum"

    def solve(self, program: Program, options: SolveOptions) -> Solution:
        from clearopt.solvers import available_solvers, get_solver, solve_program

        table = available_solvers().values()
        common = {key: value for key, value in vars(options).items() if key != "extra"}
        refused: dict[str, str] = {}
        while True:
            choice = choose(program, table, refused)
            backend = get_solver(choice.solver)
            try:
                solution = solve_program(program, backend, **common, **options.extra)
            except UnsupportedProblemError as error:  # what only the attempt could tell
                if set(options.extra) - backend.own_options:
                    raise
                refused[choice.solver] = str(error)
                continue
            return replace(solution, statistics={**solution.statistics, "auto": str(choice)})
