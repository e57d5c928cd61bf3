"""`Problem`: an objective and constraints, compiled to a `Program` and handed to a back-end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from clearopt.allocation import Allocation
from clearopt.assemble import make_solution
from clearopt.compilation import compile_program, with_level
from clearopt.constraints import Choice, Constraint
from clearopt.deadline import Interrupt, listening
from clearopt.errors import DeclarationError, InfeasibleError
from clearopt.expressions import Expression
from clearopt.parameters import Parameter, parameters_of
from clearopt.program import Program
from clearopt.solution import Solution, Tokens
from clearopt.solvers import Backend, get_solver, solve_program, solve_programs

if TYPE_CHECKING:
    from clearopt.explain import Explanation


class _Objective:
    """A scalar expression of tokens and utilities, and the direction wanted."""

    minimize = False

    def __init__(self, expression: Expression) -> None:
        name = type(self).__name__
        example = "tokens" if self.minimize else "accuracy"
        if not isinstance(expression, Expression):
            raise DeclarationError(
                f"{name}({type(expression).__name__}): expected an expression, "
                f"e.g. co.{name}(co.sum({example}))"
            )
        if not expression.scalar:
            raise DeclarationError(
                f"{name}({expression.text}): the objective must be one number, this is a vector "
                f"of {expression.length}; write co.{name}(co.sum(...)) or co.mean(...)"
            )
        self.expression = expression

    def __repr__(self) -> str:
        return f"{type(self).__name__.lower()} {self.expression.text}"


class Maximize(_Objective):
    """The objective: a scalar expression of tokens and utilities to make as large as possible."""


class Minimize(_Objective):
    """The objective: tokens, or their cost, to make as small as possible; with accuracy floors."""

    minimize = True


class Problem:
    """A declared budget problem.

    Args:
        objective: `co.Maximize(...)` or `co.Minimize(...)`.
        constraints: any number of constraints; name them with `.named("budget")`.

    Raises:
        DeclarationError: something in it is not a separable budget problem, or cannot be met at
            all; the message names the piece and what to write instead.
    """

    def __init__(
        self,
        objective: Maximize | Minimize,
        constraints: Iterable[Constraint | Choice] | Constraint | Choice = (),
    ) -> None:
        if not isinstance(objective, _Objective):
            raise DeclarationError(
                f"Problem({type(objective).__name__}, ...): the objective comes first, "
                "as co.Maximize(...) or co.Minimize(...)"
            )
        if not isinstance(constraints, Constraint | Choice | Iterable):
            raise DeclarationError(
                f"Problem(..., {constraints!r}): constraints is a list of comparisons such as "
                "[co.sum(tokens) <= 4000], or left out"
            )
        alone = isinstance(constraints, Constraint | Choice)
        given: list[Constraint | Choice] = [constraints] if alone else list(constraints)  # type: ignore[list-item,arg-type]
        for position, constraint in enumerate(given):
            if not isinstance(constraint, Constraint | Choice):
                raise DeclarationError(
                    f"Problem: constraints[{position}] is {constraint!r}, not a constraint; write "
                    "a comparison such as co.sum(tokens) <= 4000"
                )
        self.objective: Maximize | Minimize | None = objective
        self.constraints: Sequence[Constraint | Choice] = tuple(given)
        self.parameters = parameters_of(objective.expression, *self.constraints)
        self._compile()

    @classmethod
    def from_program(cls, program: Program) -> Problem:
        """A problem around a compiled program, as a file holds it: without its expressions."""
        problem = object.__new__(cls)
        problem.objective, problem.constraints = None, ()
        problem.parameters, problem._versions = frozenset(), {}
        problem.allocations, problem._program = (), program
        return problem

    # ------------------------------------------------------------------ compiling
    @property
    def program(self) -> Program:
        """The compiled program, with the values that parameters have now."""
        changed = {p for p, version in self._versions.items() if p.version != version}
        if changed and not self._renumber(changed):
            self._compile()
        return self._program

    def _compile(self) -> None:
        assert self.objective is not None
        constraints = [c.current() if isinstance(c, Constraint) else c for c in self.constraints]
        self.allocations, self._program = compile_program(
            self.objective.expression.current(), constraints, minimize=self.objective.minimize
        )
        self._versions = {parameter: parameter.version for parameter in self.parameters}

    def _renumber(self, changed: set[Parameter]) -> bool:
        """Take new right-hand sides over where nothing else has changed; the usual re-solve."""
        assert self.objective is not None
        program = self._program
        if changed & self.objective.expression.parameters:
            return False
        for position, constraint in enumerate(self.constraints):
            if not isinstance(constraint, Constraint) or not changed & constraint.parameters:
                continue
            if changed & constraint.expression.parameters:
                return False
            name = constraint.name or f"constraint {position}"
            renumbered = with_level(program, constraint.current(), name)
            if renumbered is None:
                return False
            program = renumbered
        self._program = program
        self._versions = {parameter: parameter.version for parameter in self.parameters}
        return True

    # ------------------------------------------------------------------ solving
    def solve(
        self,
        solver: str | Backend = "dual",
        *,
        tolerance: float = 1e-6,
        time_limit: float | None = None,
        seed: int = 0,
        threads: int = 1,
        verbose: bool = False,
        warm_start: Solution | None = None,
        on_progress: Callable[[float, float, float], None] | None = None,
        **options: Any,
    ) -> Solution:
        """Solve, and check the answer independently.

        Args:
            solver: a name of `co.solvers()`, "auto" (`statistics["auto"]` then says which and
                why), or a back-end of your own.
            tolerance: relative gap between bound and objective at which to stop; `optimal` means
                it was reached.
            time_limit: seconds; at the limit, or at the first Ctrl-C where the back-end is
                `interruptible`, the best allocation and bound so far are returned.
            seed: for back-ends that draw at random.
            threads: for back-ends that can use several.
            verbose: let the back-end print its own log.
            warm_start: the solution of a problem much like this one, whose prices to start from;
                it changes the time, not what is proven. Queries may have come and gone, and so
                may constraints: prices are taken over by constraint name, and by label where it
                is grouped. Its allocation is not looked at.
            on_progress: called with (seconds, objective, bound) while it solves, by `dual`,
                `scip`, `highs` and `cvxpy`: the solver's own word, with the signs of `Solution`.
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
            warm_start=warm_start,
            on_progress=on_progress,
            **options,
        )

    def sweep(
        self, what: str | Parameter, values: Iterable[Any], solver: str | Backend = "dual",
        **options: Any,
    ) -> list[Solution]:  # fmt: skip
        """Solve once for each value, each solve started from the one before.

        Args:
            what: the name of a constraint, whose right-hand side takes the values; or a
                `Parameter` of this problem. Either is left as it was.
            values: numbers; arrays or mappings by label where the right-hand side is one.
            solver, options: as in `solve`.

        Returns:
            One solution for each value. Where nothing can satisfy a value (a budget below the lower
            bounds) its status is `infeasible` and its message says why; its `program` has that
            value in it, but where the value is a bound, which would cross another: then it is the
            program as declared. Ctrl-C ends the sweep: the list is then shorter, and its last
            solution what was found for that value so far.

        Raises:
            DeclarationError: no constraint has that name, the parameter is not part of the
                problem, or a value is not of the kind or shape that the constraint takes; before
                anything is solved.
        """
        with listening() if get_solver(solver).interruptible else nullcontext():
            return list(self.sweep_lazily(what, values, solver, **options))

    def sweep_lazily(
        self, what: str | Parameter, values: Iterable[Any], solver: str | Backend = "dual",
        **options: Any,
    ) -> Iterator[Solution]:  # fmt: skip
        """As `sweep`, one solution at a time: of those handed out only the last may be kept.

        A dozen budgets or more over 20 000 queries and more are prepared for together, before the
        first solution comes: see docs/scale.md.
        """
        values, declared = _listed(values), self._program
        # All of them first: a value that is no number stops the sweep before anything is solved.
        programs = list(
            self._with_parameter(what, values)
            if isinstance(what, Parameter)
            else self._with_levels(what, values)
        )
        backend = get_solver(solver)
        solutions = solve_programs(
            [program for program in programs if isinstance(program, Program)], backend, **options
        )
        for program in programs:
            if isinstance(program, Program):
                # Heard while it solves, and not while the caller looks at what was found.
                hears = listening() if backend.interruptible else nullcontext(Interrupt())
                with hears as interrupt:
                    solution = next(solutions)
                yield solution
                if interrupt.pressed:
                    return
                continue
            yield make_solution(
                program.program or declared,
                solver=backend.name,
                seconds=0.0,
                allocation=None,
                infeasible=True,
                message=str(program),
            )

    def _with_parameter(
        self, parameter: Parameter, values: Iterable[Any]
    ) -> Iterator[Program | InfeasibleError]:
        """The program for each value of the parameter, or why nothing can satisfy it."""
        if parameter not in self.parameters:
            raise DeclarationError(f"sweep: {parameter.text!r} is not a parameter of this problem")
        before = parameter.value
        try:
            for value in values:
                parameter.value = value
                try:
                    yield self.program
                except InfeasibleError as error:
                    yield error
        finally:
            parameter.value = before

    def _with_levels(self, name: str, values: Iterable[Any]) -> Iterator[Program | InfeasibleError]:
        """The program for each right-hand side of one constraint, or why nothing can satisfy it."""
        position, constraint = self._named(name)
        base = self.program
        for value in values:
            changed = constraint.current().with_right_hand_side(value)
            try:
                program = with_level(base, changed, name)
                if program is None:  # a bound, or another set of entries is limited
                    others = list(self.constraints)
                    others[position] = changed
                    assert self.objective is not None
                    program = Problem(self.objective, others).program
                yield program
            except InfeasibleError as error:
                yield error

    def _named(self, name: str) -> tuple[int, Constraint]:
        named = {
            c.name or f"constraint {position}": (position, c)
            for position, c in enumerate(self.constraints)
            if isinstance(c, Constraint)
        }
        if name not in named:
            known = ", ".join(repr(known) for known in named) or "none"
            raise DeclarationError(
                f"sweep: no constraint is named {name!r}; there are {known}"
                + ("" if self.objective else " (a loaded problem is swept by declaring it again)")
            )
        return named[name]

    # ------------------------------------------------------------------ reading
    def value_of(self, allocation: Allocation, solution: Solution) -> Tokens:
        """The part of `solution.allocation` that belongs to one of several allocations."""
        if not isinstance(solution, Solution) or solution.program.allocations != tuple(
            (a.name, a.length) for a in self.allocations
        ):
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

    def explain(self) -> Explanation:
        """The program as mathematics a person can read; `.latex()` for a paper."""
        from clearopt.explain import explain

        return explain(self.program)

    @property
    def size(self) -> str:
        """One line: how many queries, rows and floors."""
        p = self.program
        return f"{p.n} queries, {p.rows.shape[0]} rows, {p.floors.shape[0]} accuracy floors"

    def __repr__(self) -> str:
        if self.objective is None:
            return str(self.explain())
        lines = [repr(self.objective), "subject to"]
        lines += [f"  {f'{c.name}: ' if c.name else ''}{c.text}" for c in self.constraints]
        return "\n".join([*lines, f"({self.size})"])


def _listed(values: Any) -> list[Any]:
    """The values of a sweep, one after another."""
    listed = isinstance(values, Iterable) and not isinstance(values, str | bytes | Mapping)
    if listed and getattr(values, "shape", None) != ():
        return list(values)
    raise DeclarationError(
        f"sweep: values = {values!r}: give a list with one entry for each solve, such as "
        "[1_000, 2_000, 4_000]; where the constraint takes a mapping or an array, a list of those"
    )
