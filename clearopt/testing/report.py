"""How a check is run and what comes of it: configuration, outcomes, the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from clearopt.errors import DeclarationError, NonconformingBackendError
from clearopt.program import Program
from clearopt.solution import Solution
from clearopt.solvers import Backend, get_solver, solve_program
from clearopt.solvers.capabilities import missing_features
from clearopt.testing.checker import check_solution

Result = Literal["passed", "not applicable", "excluded", "failed"]


@dataclass(frozen=True)
class Config:
    """How the checks treat a back-end.

    Attributes:
        tolerance: the relative gap asked for; a back-end that certifies the optimum must reach it.
        time_limit: seconds for each solve. All problems are tiny.
        accuracy: by how much, relative, an optimum may be missed beyond the tolerance.
        grace: seconds by which a time limit may be overrun before it counts as a hang.
        exclude: name of a check -> why this back-end is not held to it. The reason is in the
            report.
        options: options of the back-end's own, given to every solve.
    """

    tolerance: float = 1e-6
    time_limit: float = 30.0
    accuracy: float = 1e-8
    grace: float = 20.0
    exclude: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


class NotApplicable(Exception):
    """The back-end does not take what the check is about; the message says what."""


@dataclass(frozen=True)
class Outcome:
    """One line of a report: how a check ended, and why where it did not pass."""

    check: str
    result: Result
    detail: str = ""

    def __str__(self) -> str:
        line = f"{self.result:<14}  {self.check}"
        return f"{line}: {self.detail}" if self.detail else line


@dataclass(frozen=True)
class Report:
    """All outcomes of one back-end; printing it gives one line a check."""

    solver: str
    outcomes: tuple[Outcome, ...]

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return not self.of("failed")

    def of(self, result: Result) -> list[Outcome]:
        """The outcomes with this result."""
        return [outcome for outcome in self.outcomes if outcome.result == result]

    def __str__(self) -> str:
        results = ("passed", "not applicable", "excluded", "failed")
        counts = ", ".join(f"{len(self.of(r))} {r}" for r in results if self.of(r))  # type: ignore[arg-type]
        return "\n".join([f"{self.solver}: {counts}", *map(str, self.outcomes)])


@dataclass(frozen=True)
class Trial:
    """One back-end in one check: solves, and checks every solution by the way."""

    backend: Backend
    config: Config

    def takes(self, program: Program) -> None:
        """Go on only if the back-end declares all that the program needs."""
        missing = sorted(missing_features(program, self.backend.supports))
        if missing:
            raise NotApplicable(f"does not take {' and '.join(missing)}")

    def solve(self, program: Program, **options: Any) -> Solution:
        """Solve with the configuration's options, `options` before them; the solution is checked.

        Raises:
            WrongSolutionError: `check_solution` finds something wrong.
        """
        given = {
            "tolerance": self.config.tolerance,
            "time_limit": self.config.time_limit,
            **self.config.options,
            **options,
        }
        solution = solve_program(program, self.backend, **given)
        if not isinstance(solution, Solution):
            raise AssertionError(f"solve returned a {type(solution).__name__}, not a Solution")
        # A solve that was cut short may hand back prices it had not finished with.
        bound_only = self.backend.certifies == "bound"
        check_solution(program, solution, proof="prices" if bound_only else "search")
        return solution


@dataclass(frozen=True)
class Check:
    """One thing that every back-end is held to.

    Calling it with a back-end runs it: it returns the outcome ("passed", "not applicable" or
    "excluded") or raises. `str(check)` is its name, for `pytest.mark.parametrize(..., ids=str)`.
    """

    name: str
    body: Callable[[Trial], None] = field(repr=False)

    def __str__(self) -> str:
        return self.name

    def run(self, backend: str | Backend, config: Config | None = None) -> Outcome:
        """How it ends for this back-end; never raises."""
        config = config or Config()
        if self.name in config.exclude:
            return Outcome(self.name, "excluded", config.exclude[self.name])
        try:
            self.body(Trial(get_solver(backend), config))
        except NotApplicable as reason:
            return Outcome(self.name, "not applicable", str(reason))
        except Exception as error:
            return Outcome(self.name, "failed", f"{type(error).__name__}: {error}")
        return Outcome(self.name, "passed")

    def __call__(self, backend: str | Backend, config: Config | None = None) -> Outcome:
        outcome = self.run(backend, config)
        if outcome.result == "failed":
            raise NonconformingBackendError(f"{get_solver(backend).name}: {outcome}")
        return outcome


def run_checks(
    backend: str | Backend, checks: tuple[Check, ...], config: Config | None = None
) -> Report:
    """Every check in turn, whatever the others came to.

    Raises:
        DeclarationError: an excluded check does not exist, or no reason is given.
    """
    config, names = config or Config(), {check.name for check in checks}
    for name, reason in config.exclude.items():
        if name not in names or not reason:
            raise DeclarationError(
                f"exclude[{name!r}] = {reason!r}: give the name of a check, and a reason"
            )
    backend = get_solver(backend)
    return Report(backend.name, tuple(check.run(backend, config) for check in checks))
