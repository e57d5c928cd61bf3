"""What a comparison found: a row for every instance and solver, and what the rows say together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

from clearopt.certificate import relative_gap
from clearopt.errors import DeclarationError
from clearopt.solution import Solution, Status

# What two solvers may differ by beyond the tolerance asked for: both are right to rounding only.
CONTRADICTION = 1e-6

Outcome = Literal["ran", "not run", "crashed", "killed", "out of memory"]
Point = tuple[float, float, float]  # seconds, objective, bound


@dataclass(frozen=True, eq=False)
class ComparisonRow:
    """What one solver made of one instance; with repeats, in its median run.

    Attributes:
        solver: its name.
        status: as in `Solution.status`, or None if it did not come to an end.
        objective, bound, gap: as in `Solution`; NaN, infinite and infinite where there is none.
        rigorous: whether the solver stands by `bound` (baselines do not give one).
        feasible: whether there is an allocation and the independent check passed it.
        violation: of the allocation it returned, relative; NaN without one.
        seconds: wall time of the call, the median of the repeats; packages are imported before.
        message: why it stopped, or why it did not run.
        solution: the whole `Solution`, or None (also where a journal already had the row).
        instance: its name; "" where a single problem was given.
        queries: how many the instance has.
        minimize: whether less is better.
        outcome: "ran"; "not run" (not installed, not able, or it raised an error); "crashed";
            "killed" at the hard time limit; "out of memory".
        repeat: which of the repeats this was.
        cpu_seconds: processor time of the call, all threads together; NaN where unknown.
        compile_seconds: what JAX spent compiling within `seconds`. Where that was much, the call
            was made again and is measured without.
        wall_seconds: `seconds` and all that is not the solver's: sending the program, importing,
            checking the answer.
        isolated: whether it ran in a process of its own.
        curve: (seconds, objective, bound) while it ran, its own word; the last is checked.
        runs: the repeats, each a row without `runs`.
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
    solution: Solution | None = field(repr=False)
    instance: str = ""
    queries: int = 0
    minimize: bool = False
    outcome: Outcome = "ran"
    repeat: int = 0
    cpu_seconds: float = math.nan
    compile_seconds: float = 0.0
    wall_seconds: float = math.nan
    isolated: bool = False
    curve: tuple[Point, ...] = field(default=(), repr=False)
    runs: tuple[ComparisonRow, ...] = field(default=(), repr=False)

    @property
    def sign(self) -> float:
        """-1 where less is better."""
        return -1.0 if self.minimize else 1.0


@dataclass(frozen=True)
class Known:
    """What is known of an instance before anybody solves it, e.g. from the test set.

    Attributes:
        value: of the best known allocation, in the user's sense; NaN without one.
        bound: a proven bound; as in `Solution`, where it is infeasible or unbounded too.
    """

    value: float
    bound: float

    def row(self, like: ComparisonRow) -> ComparisonRow:
        """It as the row of one more solver of that row's instance."""
        found = not math.isnan(self.value)
        gap = relative_gap(like.sign * self.value, like.sign * self.bound) if found else math.inf
        return ComparisonRow(
            solver=BEST_KNOWN, status=None, objective=self.value, bound=self.bound, gap=gap,
            rigorous=True, feasible=found, violation=math.nan, seconds=math.nan, message="",
            solution=None, instance=like.instance, queries=like.queries, minimize=like.minimize,
        )  # fmt: skip


BEST_KNOWN = "best known"

PLAIN = tuple(
    each.name for each in fields(ComparisonRow) if each.name not in ("solution", "curve", "runs")
)


def not_run(solver: str, message: str, outcome: Outcome = "not run", **known: Any) -> ComparisonRow:
    """The row of a solver that came to no answer."""
    return ComparisonRow(
        solver=solver, status=None, objective=math.nan, bound=math.inf, gap=math.inf,
        rigorous=False, feasible=False, violation=math.nan, seconds=known.pop("seconds", 0.0),
        message=message, solution=None, outcome=outcome, **known,
    )  # fmt: skip


def answered(solution: Solution, *, certifies: bool, **known: Any) -> ComparisonRow:
    """The row of a solver that returned a solution."""
    feasibility = solution.feasibility
    return ComparisonRow(
        status=solution.status,
        objective=solution.objective,
        bound=solution.bound,
        gap=solution.gap,
        rigorous=certifies and solution.status != "unbounded",
        feasible=solution.allocation is not None,
        violation=math.nan if feasibility is None else feasibility.violation,
        message=solution.message,
        solution=solution,
        **known,
    )


def together(runs: Sequence[ComparisonRow]) -> ComparisonRow:
    """One row of the repeats: the run whose time is the median, and all of them beside it."""
    ended = sorted((run for run in runs if run.status is not None), key=lambda run: run.seconds)
    if not ended:
        return replace(runs[0], runs=tuple(runs))
    middle, failed = ended[(len(ended) - 1) // 2], [run for run in runs if run.status is None]
    message = middle.message
    if failed:
        reason = f"{len(failed)} of {len(runs)} runs failed: {failed[0].message}"
        message = "; ".join(filter(None, (message, reason)))
    return replace(
        middle,
        seconds=median(run.seconds for run in ended),
        message=message,
        runs=tuple(runs),
    )


@dataclass(frozen=True, eq=False)
class Comparison:
    """The rows of a comparison, in the order asked for; printing it gives a table.

    Attributes:
        rows: one `ComparisonRow` an instance and solver.
        tolerance: the relative gap the solvers were asked for.
        minimize: whether less is better (of the first instance).
        notes: what a reader should know: solvers left out, runs that had no process of their own.
        complete: False where it was interrupted.
        settings: the options of the comparison.
        versions: of clearopt, Python and the packages the solvers use.
        machine: processor, cores, memory and operating system.
        known: by instance, what was known of it beforehand; not all have an entry.
    """

    rows: list[ComparisonRow]
    tolerance: float
    minimize: bool = False
    notes: tuple[str, ...] = ()
    complete: bool = True
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)
    known: dict[str, Known] = field(default_factory=dict)

    # ------------------------------------------------------------------ rows
    def __getitem__(self, which: str | tuple[str, str]) -> ComparisonRow:
        """The row of a solver; of `instance, solver` where there are several instances."""
        instance, solver = which if isinstance(which, tuple) else (self._only(which), which)
        for row in self.rows:
            if (row.instance, row.solver) == (instance, solver):
                return row
        known = ", ".join(repr(row.solver) for row in self.rows if row.instance == instance)
        if not known:
            names = ", ".join(map(repr, self.instances))
            raise KeyError(f"no instance {instance!r} in this comparison; there are {names}")
        raise KeyError(f"no solver {solver!r} in this comparison; there are {known}")

    def __iter__(self) -> Iterator[ComparisonRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def instances(self) -> list[str]:
        """The names of the instances, in order."""
        return list(dict.fromkeys(row.instance for row in self.rows))

    @property
    def solvers(self) -> list[str]:
        """The names of the solvers, in order."""
        return list(dict.fromkeys(row.solver for row in self.rows))

    def of(self, instance: str) -> Comparison:
        """The rows of one instance."""
        rows = [row for row in self.rows if row.instance == instance]
        if not rows:
            names = ", ".join(map(repr, self.instances))
            raise KeyError(f"no instance {instance!r} in this comparison; there are {names}")
        return replace(self, rows=rows, minimize=rows[0].minimize)

    def _only(self, what: str) -> str:
        instances = self.instances
        if len(instances) > 1:
            raise DeclarationError(
                f"{what}: of which of the {len(instances)} instances? Write comparison.of(name), "
                f"with a name such as {instances[0]!r}"
            )
        return instances[0] if instances else ""

    # ------------------------------------------------------------------ what they say together
    @property
    def best_objective(self) -> float:
        """The best objective of a checked allocation, what was known included; NaN without one."""
        return best_objective(self.said_of(self._only("best_objective")))

    @property
    def best_bound(self) -> float:
        """The tightest bound of the solvers that stand by theirs, what was known included;
        infinite if there is none."""
        instance = self._only("best_bound")
        return best_bound(self.said_of(instance), -1.0 if self.minimize else 1.0)

    def said_of(self, instance: str) -> list[ComparisonRow]:
        """The rows of an instance, before them what was known of it as one more."""
        rows = [row for row in self.rows if row.instance == instance]
        known = self.known.get(instance)
        return rows if known is None or not rows else [known.row(rows[0]), *rows]

    @property
    def contradictions(self) -> list[str]:
        """A sentence for every objective past a bound of the same instance: one of the two is
        wrong. All repeats are looked at."""
        found = []
        for instance in self.instances:
            prefix = f"{instance}: " if instance else ""
            runs = [run for row in self.said_of(instance) for run in _runs(row)]
            found += [prefix + sentence for sentence in _contradictions(runs, self.tolerance)]
        return list(dict.fromkeys(found))

    # ------------------------------------------------------------------ output
    def to_dicts(self) -> list[dict[str, Any]]:
        """One plain dict a row, without solutions and curves: for a data frame, or JSON."""
        return [{name: getattr(row, name) for name in PLAIN} for row in self.rows]

    def to_dataframe(self, library: Literal["pandas", "polars"] | None = None) -> Any:
        """The rows as a data frame: of pandas, or of polars where pandas is not installed.

        Raises:
            MissingExtraError: neither is installed.
        """
        from clearopt.comparison.export import to_dataframe

        return to_dataframe(self, library)

    def to_csv(self, path: str | Path) -> Path:
        """Write the rows as CSV, replacing what stood there."""
        from clearopt.comparison.export import to_csv

        return to_csv(self, path)

    def to_json(self, path: str | Path) -> Path:
        """Write everything but the allocations as JSON: rows with runs and curves, settings,
        versions, machine."""
        from clearopt.comparison.export import to_json

        return to_json(self, path)

    def to_html(self, path: str | Path, *, title: str = "Solvers compared") -> Path:
        """Write a report with plots: one file that needs no network."""
        from clearopt.comparison.html import to_html

        return to_html(self, path, title=title)

    def __str__(self) -> str:
        from clearopt.comparison.text import table

        return table(self)

    __repr__ = __str__


def best_objective(rows: Sequence[ComparisonRow]) -> float:
    """The best checked objective of one instance's rows; NaN without one."""
    found = [(run.sign * run.objective, run.sign) for r in rows for run in _runs(r) if run.feasible]
    value, sign = max(found, default=(math.nan, 1.0))
    return sign * value


def best_bound(rows: Sequence[ComparisonRow], sign: float) -> float:
    """The tightest bound of one instance's rows; infinite without one."""
    found = (sign * run.bound for row in rows for run in _runs(row) if run.rigorous)
    return sign * min(found, default=math.inf)


def behind(row: ComparisonRow, bound: float) -> float:
    """How far the row's objective is from the tightest bound of all, relatively; NaN if unknown."""
    if not (row.feasible and math.isfinite(bound)):
        return math.nan
    return relative_gap(row.sign * row.objective, row.sign * bound)


def _runs(row: ComparisonRow) -> Sequence[ComparisonRow]:
    return row.runs or (row,)


def _contradictions(runs: Sequence[ComparisonRow], tolerance: float) -> list[str]:
    found, allowed = [], tolerance + CONTRADICTION
    for run in (run for run in runs if run.feasible):
        for other in (other for other in runs if other.rigorous):
            sign = run.sign
            if sign * other.bound == -math.inf:
                found.append(
                    f"{other.solver} claims that no allocation is feasible, but {run.solver} "
                    "found one that is"
                )
            elif sign * (run.objective - other.bound) > allowed * max(
                abs(other.bound), abs(run.objective)
            ):
                found.append(
                    f"{run.solver} found {run.objective:.9g}, "
                    f"{'below' if run.minimize else 'above'} the bound "
                    f"{other.bound:.9g} of {other.solver}"
                )
    return found
