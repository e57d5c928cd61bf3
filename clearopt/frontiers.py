"""`frontier`: what a problem is worth over a range of one of its limits, in one call."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clearopt.deadline import listening
from clearopt.errors import DeclarationError
from clearopt.parameters import Parameter
from clearopt.solvers import get_solver
from clearopt.validation import FloatArray, as_float_array

if TYPE_CHECKING:
    from clearopt.problem import Problem
    from clearopt.solution import Solution
    from clearopt.solvers import Backend

_COLUMNS = {
    "limit": "{:.10g}",
    "objective": "{:.6g}",
    "bound": "{:.6g}",
    "gap": "{:.1e}",
    "price": "{:.4g}",
    "marginal_value": "{:.4g}",
    "funded_share": "{:.1%}",
    "tokens": "{:.10g}",
    "seconds": "{:.3g}",
    "status": "{}",
}


@dataclass(frozen=True, eq=False)
class Frontier:
    """One entry a value of the limit, arrays of shape (m,); NaN where nothing was found.

    Attributes:
        name: of the constraint, or of the parameter, that took the values.
        limited: the left-hand side of that constraint as written, such as `sum(tokens)`.
        goal: the objective as written.
        limit: the values.
        objective: at the allocation found, in the user's sense.
        bound: what no allocation can exceed (or, minimised, fall below).
        gap: the distance between the two, relative to the larger.
        price: the limit's multiplier in the bound: objective per unit (`Solution.prices`); NaN
            where the limit is a parameter, or one number for several labels.
        marginal_value: what one more unit buys with the funded set as it is; likewise.
        funded_share: the share of the queries that are served at all, 0 to 1.
        tokens: allocated in all.
        seconds: each solve took.
        status: of each solve, as `Solution.status`.
        queries: how many there are.
        minimize: whether the user asked for the least.
    """

    name: str
    limited: str
    goal: str
    limit: FloatArray
    objective: FloatArray
    bound: FloatArray
    gap: FloatArray
    price: FloatArray
    marginal_value: FloatArray
    funded_share: FloatArray
    tokens: FloatArray
    seconds: FloatArray
    status: tuple[str, ...]
    queries: int
    minimize: bool = False

    def __len__(self) -> int:
        return int(self.limit.size)

    def table(self) -> list[dict[str, Any]]:
        """One dictionary a value of the limit: a table for pandas, polars or JSON."""
        return list(self._rows())

    def _rows(self) -> Iterator[dict[str, Any]]:
        for k in range(len(self)):
            row = {}
            for column in _COLUMNS:
                value = getattr(self, column)[k]
                row[column] = value if isinstance(value, str) else float(value)
            yield row

    def to_csv(self, path: str | Path) -> Path:
        """Write the table, one line a value of the limit, every digit kept."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(_COLUMNS))
            writer.writeheader()
            writer.writerows(self._rows())
        return target

    def plot(self, path: str | Path) -> Path:
        """Draw value and bound, price and funded share against the limit, and save it.

        Args:
            path: where to; the ending chooses the format (.png, .svg, .pdf).

        Raises:
            MissingExtraError: Matplotlib is not installed; names the extra.
            DeclarationError: no solve found an allocation.
        """
        from clearopt.plots import plot_frontier

        return plot_frontier(self, path)

    def __str__(self) -> str:
        shown = [[c.replace("_", " ") for c in _COLUMNS]]
        for row in self._rows():
            shown.append([form.format(row[name]) for name, form in _COLUMNS.items()])
        shown[0][0] = self.name
        widths = [max(len(line[k]) for line in shown) for k in range(len(_COLUMNS))]
        return "\n".join(
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in shown
        )

    def __repr__(self) -> str:
        return str(self)


def frontier(
    problem: Problem,
    what: str | Parameter,
    values: Iterable[float],
    solver: str | Backend = "dual",
    **options: Any,
) -> Frontier:
    """Solve over a range of one limit and keep the numbers, not the allocations.

        print(co.frontier(problem, "budget", np.linspace(1e6, 8e6, 20)))

    Args:
        problem: as declared; it is left as it was.
        what: the name of a constraint, or a `Parameter`, as in `Problem.sweep`.
        values: numbers, at least one; each solve starts from the one before, so neighbours
            belong side by side.
        solver, options: as in `Problem.solve`. Ctrl-C ends the frontier at the value at work.

    Raises:
        DeclarationError: as `Problem.sweep`; or a value is not a number.
    """
    limit = as_float_array(list(values), "frontier: values")
    if limit.size == 0:
        raise DeclarationError("frontier: values: expected at least one number, got none")
    name = what.text if isinstance(what, Parameter) else what
    with listening() if get_solver(solver).interruptible else nullcontext():
        points = [
            _point(solution, name)
            for solution in problem.sweep_lazily(what, limit.tolist(), solver, **options)
        ]
    columns = {
        key: np.array([point[key] for point in points])
        for key in ("objective", "bound", "gap", "price", "marginal_value", "funded_share",
                    "tokens", "seconds")
    }  # fmt: skip
    program = problem.program
    text = next((group.text for group in program.constraints if group.name == name), "")
    return Frontier(
        name=name,
        limited=re.split(r" (?:<=|>=|==) ", text)[0],
        goal=program.objective_text,
        limit=limit[: len(points)],  # Ctrl-C ends it early
        status=tuple(point["status"] for point in points),
        queries=program.n,
        minimize=program.minimize,
        **columns,
    )


def _point(solution: Solution, name: str) -> dict[str, Any]:
    found = solution.allocation is not None
    funded = solution.funded
    return {
        "status": solution.status,
        "objective": solution.objective,
        "bound": solution.bound if np.isfinite(solution.bound) else np.nan,
        "gap": solution.gap if np.isfinite(solution.gap) else np.nan,
        "price": _one(solution.prices, name),
        "marginal_value": _one(solution.marginal_values, name),
        "funded_share": float(np.mean(funded)) if funded is not None else np.nan,
        "tokens": float(np.sum(solution.allocation)) if found else np.nan,  # type: ignore[arg-type]
        "seconds": solution.seconds,
    }


def _one(values: Any, name: str) -> float:
    value = values.get(name, np.nan)
    return float(value) if isinstance(value, float) else np.nan
