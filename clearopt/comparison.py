"""`co.compare`: the same program through several solvers, side by side."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Any

from clearopt.certificate import relative_gap
from clearopt.deadline import Interrupt, listening
from clearopt.errors import DeclarationError, SolverNotInstalledError
from clearopt.problem import Problem
from clearopt.program import Program
from clearopt.solution import Solution, Status
from clearopt.solvers import Backend, SolveOptions, get_solver, solve_program

# What two solvers may differ by beyond the tolerance asked for: both are right to rounding only.
CONTRADICTION = 1e-6


@dataclass(frozen=True, eq=False)
class ComparisonRow:
    """What one solver made of the program.

    Attributes:
        solver: its name.
        status: as in `Solution.status`, or None if it did not run.
        objective, bound, gap: as in `Solution`; NaN, infinite and infinite where there is none.
        rigorous: whether the solver stands by `bound` (baselines do not give one).
        feasible: whether there is an allocation and the independent check passed it.
        violation: of the allocation it returned, relative; NaN without one.
        seconds: wall time of the whole call.
        message: why it stopped, or why it did not run.
        solution: the whole `Solution`, or None.
    """

    solver: str
    status: Status | None
    objective: float
    bound: float
    gap: float
    rigorous: bool
    feasible: bool
    violation: float
    seconds: float
    message: str
    solution: Solution | None


@dataclass(frozen=True, eq=False)
class Comparison:
    """The rows of a comparison, in the order asked for; printing it gives a table.

    Attributes:
        rows: one `ComparisonRow` a solver.
        tolerance: the relative gap the solvers were asked for.
        minimize: whether less is better.
    """

    rows: list[ComparisonRow]
    tolerance: float
    minimize: bool = False

    @property
    def _sign(self) -> float:
        return -1.0 if self.minimize else 1.0

    def __getitem__(self, solver: str) -> ComparisonRow:
        for row in self.rows:
            if row.solver == solver:
                return row
        known = ", ".join(repr(row.solver) for row in self.rows)
        raise KeyError(f"no solver {solver!r} in this comparison; there are {known}")

    def __iter__(self) -> Iterator[ComparisonRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def best_objective(self) -> float:
        """The best objective of a checked allocation; NaN if no solver found one."""
        found = (self._sign * row.objective for row in self.rows if row.feasible)
        return self._sign * max(found, default=math.nan)

    @property
    def best_bound(self) -> float:
        """The tightest bound of the solvers that stand by theirs; infinite if there is none."""
        found = (self._sign * row.bound for row in self.rows if row.rigorous)
        return self._sign * min(found, default=math.inf)

    @property
    def contradictions(self) -> list[str]:
        """A sentence for every objective past another solver's bound: one of the two is wrong."""
        found, sign = [], self._sign
        for row in (row for row in self.rows if row.feasible):
            for other in (other for other in self.rows if other.rigorous):
                allowed = self.tolerance + CONTRADICTION
                if sign * other.bound == -math.inf:
                    found.append(
                        f"{other.solver} claims that no allocation is feasible, but {row.solver} "
                        "found one that is"
                    )
                elif sign * (row.objective - other.bound) > allowed * max(
                    abs(other.bound), abs(row.objective)
                ):
                    found.append(
                        f"{row.solver} found {row.objective:.9g}, "
                        f"{'below' if self.minimize else 'above'} the bound "
                        f"{other.bound:.9g} of {other.solver}"
                    )
        return found

    def to_dicts(self) -> list[dict[str, Any]]:
        """One plain dict a row, without the solutions: for a data frame, or JSON."""
        names = [field.name for field in fields(ComparisonRow) if field.name != "solution"]
        return [{name: getattr(row, name) for name in names} for row in self.rows]

    def __str__(self) -> str:
        header = ("solver", "objective", "bound", "gap", "behind", "feasible", "status", "seconds")
        best = self.best_bound
        table = [header, *(_cells(row, best, self._sign) for row in self.rows)]
        widths = [max(len(line[column]) for line in table) for column in range(len(header))]
        left = (0, 5, 6)  # words to the left, numbers to the right
        lines = []
        for line in table:
            cells = (
                cell.ljust(width) if column in left else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            lines.append("  ".join(cells).rstrip())
        lines.insert(1, "  ".join("-" * width for width in widths))
        lines += [f"{row.solver}: {row.message}" for row in self.rows if row.message]
        lines += [f"CONTRADICTION: {sentence}" for sentence in self.contradictions]
        return "\n".join(lines)

    __repr__ = __str__


def _cells(row: ComparisonRow, best_bound: float, sign: float) -> tuple[str, ...]:
    """`gap` is to the solver's own bound, `behind` to the tightest bound of all."""

    def shown(number: float, style: str) -> str:
        return format(number, style) if math.isfinite(number) else "-"

    known = row.feasible and math.isfinite(best_bound)
    behind = relative_gap(sign * row.objective, sign * best_bound) if known else math.nan
    return (
        row.solver,
        shown(row.objective, ".9g"),
        shown(row.bound, ".9g") if row.rigorous else "-",
        shown(row.gap, ".1e"),
        shown(behind, ".1e"),
        "yes" if row.feasible else ("-" if row.solution is None else "no"),
        row.status or "not run",
        shown(row.seconds, ".3g"),
    )


def compare(
    problem: Problem | Program,
    solvers: Sequence[str | Backend] = ("dual", "scip", "cvxpy", "uniform"),
    *,
    time_limit: float = 60.0,
    tolerance: float = 1e-6,
    seed: int = 0,
) -> Comparison:
    """Solve with each solver in turn and put what they say side by side.

    A solver that is not installed, cannot take this problem, or fails is a row with its message.
    Ctrl-C while `dual` solves ends the comparison with what it has found.

    Args:
        problem: a `Problem`, or a compiled `Program`.
        solvers: names of `co.solvers()`, or back-ends of your own.
        time_limit: seconds for each.
        tolerance: the relative gap each is asked for.
        seed: for solvers that draw at random.

    Raises:
        UnknownSolverError: a name is not registered.
        DeclarationError: `problem` is neither, no solver is named, one is named twice, or an
            option is out of range.
    """
    if isinstance(problem, Problem):
        program = problem.program
    elif isinstance(problem, Program):
        program = problem
    else:
        raise DeclarationError(
            f"compare({type(problem).__name__}, ...): expected a co.Problem or a co.Program"
        )
    if isinstance(solvers, str | Backend):
        solvers = (solvers,)
    if not isinstance(solvers, Iterable):
        raise DeclarationError(
            f"compare: solvers = {solvers!r}: give names or back-ends, e.g. ('dual', 'scip')"
        )
    solvers = tuple(solvers)
    if not solvers:
        raise DeclarationError(
            "compare: solvers is empty; name at least one, e.g. ('dual', 'scip')"
        )
    names = [solver if isinstance(solver, str) else solver.name for solver in solvers]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DeclarationError(f"compare: solver {twice!r} is named twice")
    # All names are looked up before any solver runs: a misspelt one should not cost minutes.
    found: list[Backend | SolverNotInstalledError] = []
    for solver in solvers:
        try:
            found.append(get_solver(solver))
        except SolverNotInstalledError as error:
            found.append(error)
    options: dict[str, Any] = {"time_limit": time_limit, "tolerance": tolerance, "seed": seed}
    SolveOptions(**options)  # a wrong option is the caller's mistake, not each solver's
    rows: list[ComparisonRow] = []
    stopped = False
    for name, backend in zip(names, found, strict=True):
        if stopped:
            rows.append(_not_run(name, "interrupted before", 0.0))
            continue
        hears = isinstance(backend, Backend) and backend.interruptible
        with listening() if hears else nullcontext(Interrupt()) as interrupt:
            rows.append(_run(program, name, backend, options))
        stopped = interrupt.pressed
    return Comparison(rows, tolerance, program.minimize)


def _run(
    program: Program,
    name: str,
    backend: Backend | SolverNotInstalledError,
    options: dict[str, Any],
) -> ComparisonRow:
    started = time.perf_counter()
    if isinstance(backend, SolverNotInstalledError):
        return _not_run(name, str(backend), 0.0)
    try:
        solution = solve_program(program, backend, **options)
    except Exception as error:  # whatever one solver raises, the others still run
        reason = str(error) or type(error).__name__
        return _not_run(name, reason, time.perf_counter() - started)
    seconds = time.perf_counter() - started
    feasibility = solution.feasibility
    return ComparisonRow(
        solver=name,
        status=solution.status,
        objective=solution.objective,
        bound=solution.bound,
        gap=solution.gap,
        rigorous=backend.certifies != "nothing" and solution.status != "unbounded",
        feasible=solution.allocation is not None,
        violation=math.nan if feasibility is None else feasibility.violation,
        seconds=seconds,
        message=solution.message,
        solution=solution,
    )


def _not_run(name: str, message: str, seconds: float) -> ComparisonRow:
    return ComparisonRow(
        solver=name,
        status=None,
        objective=math.nan,
        bound=math.inf,
        gap=math.inf,
        rigorous=False,
        feasible=False,
        violation=math.nan,
        seconds=seconds,
        message=message,
        solution=None,
    )
