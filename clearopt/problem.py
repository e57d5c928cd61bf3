"""`Problem`: an objective and constraints, compiled to a `Program` and handed to a back-end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from clearopt.compilation import compile_program
from clearopt.constraints import Constraint
from clearopt.errors import DeclarationError
from clearopt.expressions import Allocation, Expression
from clearopt.program import Program
from clearopt.solution import Solution
from clearopt.solvers import Backend, get_solver, solve_program
from clearopt.validation import FloatArray


class Maximize:
    """The objective: a scalar expression of tokens and utilities to make as large as possible."""

    def __init__(self, expression: Expression) -> None:
        if not isinstance(expression, Expression):
            raise DeclarationError(
                f"Maximize({type(expression).__name__}): expected an expression, "
                "e.g. co.Maximize(co.sum(accuracy))"
            )
        if not expression.scalar:
            raise DeclarationError(
                f"Maximize({expression.text}): the objective must be one number, this is a vector "
                f"of {expression.length}; write co.Maximize(co.sum(...)) or co.mean(...)"
            )
        self.expression = expression

    def __repr__(self) -> str:
        return f"maximize {self.expression.text}"


class Problem:
    """A declared budget problem.

    Args:
        objective: `co.Maximize(...)`.
        constraints: any number of constraints; name them with `.named("budget")`.

    Raises:
        DeclarationError: something in it is not a separable budget problem, or cannot be met at
            all; the message names the piece and what to write instead.
    """

    def __init__(
        self, objective: Maximize, constraints: Iterable[Constraint] | Constraint = ()
    ) -> None:
        if not isinstance(objective, Maximize):
            raise DeclarationError(
                f"Problem({type(objective).__name__}, ...): the objective comes first, "
                "as co.Maximize(...)"
            )
        if not isinstance(constraints, Constraint | Iterable):
            raise DeclarationError(
                f"Problem(..., {constraints!r}): constraints is a list of comparisons such as "
                "[co.sum(tokens) <= 4000], or left out"
            )
        given = [constraints] if isinstance(constraints, Constraint) else list(constraints)
        for position, constraint in enumerate(given):
            if not isinstance(constraint, Constraint):
                raise DeclarationError(
                    f"Problem: constraints[{position}] is {constraint!r}, not a constraint; write "
                    "a comparison such as co.sum(tokens) <= 4000"
                )
        self.objective = objective
        self.constraints: Sequence[Constraint] = tuple(given)
        self.allocations, self.program = compile_program(objective.expression, self.constraints)

    def solve(
        self,
        solver: str | Backend = "dual",
        *,
        tolerance: float = 1e-6,
        time_limit: float | None = None,
        seed: int = 0,
        threads: int = 1,
        verbose: bool = False,
        **options: Any,
    ) -> Solution:
        """Solve, and check the answer independently.

        Args:
            solver: a name of `co.solvers()`, or a back-end of your own.
            tolerance: relative gap between bound and objective at which to stop; `optimal` means
                it was reached.
            time_limit: seconds; at the limit the best allocation and bound so far are returned.
            seed: for back-ends that draw at random.
            threads: for back-ends that can use several.
            verbose: let the back-end print its own log.
            options: what only this back-end knows.

        Raises:
            UnknownSolverError, SolverNotInstalledError, UnsupportedProblemError, DeclarationError.
        """
        return solve_program(
            self.program,
            get_solver(solver),
            tolerance=tolerance,
            time_limit=time_limit,
            seed=seed,
            threads=threads,
            verbose=verbose,
            **options,
        )

    def value_of(self, allocation: Allocation, solution: Solution) -> FloatArray:
        """The part of `solution.allocation` that belongs to one of several allocations."""
        if not isinstance(solution, Solution) or solution.program is not self.program:
            raise DeclarationError("value_of: the solution is not one of this problem")
        start = 0
        for candidate in self.allocations:
            if candidate is allocation:
                if solution.allocation is None:
                    raise DeclarationError(
                        f"the solution is {solution.status}: it has no allocation"
                    )
                return solution.allocation[start : start + allocation.length]
            start += candidate.length
        name = allocation.text if isinstance(allocation, Allocation) else repr(allocation)
        raise DeclarationError(f"value_of: {name} is not part of this problem")

    @cached_property
    def size(self) -> str:
        """One line: how many queries, rows and floors."""
        p: Program = self.program
        return f"{p.n} queries, {p.rows.shape[0]} rows, {p.floors.shape[0]} accuracy floors"

    def __repr__(self) -> str:
        lines = [repr(self.objective), "subject to"]
        lines += [f"  {f'{c.name}: ' if c.name else ''}{c.text}" for c in self.constraints]
        return "\n".join([*lines, f"({self.size})"])
