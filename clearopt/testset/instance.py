"""An instance of the test set: a program, the best that is known of it, and who proved it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from clearopt.certificate import relative_gap
from clearopt.problem import Problem
from clearopt.program import Program
from clearopt.validation import FloatArray

InstanceStatus = Literal["optimal", "feasible", "infeasible", "unbounded"]

# The relative gap up to which an instance counts as solved: general solvers close theirs to 1e-6,
# and what they then say is trusted to another 1e-6.
PROVEN = 2e-6


@dataclass(frozen=True)
class Evidence:
    """What one solver, or one independent check, said of an instance.

    Attributes:
        solver: its name; "prices" is the bound recomputed from the prices, "exhaustive" the oracle
            of the tests.
        version: of the package that solved.
        status: as in `Solution.status`.
        value: of the allocation it returned, recomputed; NaN without one.
        bound: what it proved; NaN where it gives none.
        seconds: wall time; NaN where it was not measured.
        tolerance: the relative gap it was asked for.
        machine: a class of machine, e.g. "2 cores".
        note: what else a reader should know.
    """

    solver: str
    version: str = ""
    status: str = ""
    value: float = math.nan
    bound: float = math.nan
    seconds: float = math.nan
    tolerance: float = math.nan
    machine: str = ""
    note: str = ""


@dataclass(frozen=True, eq=False)
class Instance:
    """A program with the best known value and bound.

    Attributes:
        name: lower case, e.g. "surge-20-b10".
        description: one sentence on what it is.
        why_hard: one sentence on what it asks of a solver; may be empty.
        program: the program.
        status: "optimal" where value and bound meet to a relative 2e-6, "feasible" where a gap is
            left, "infeasible" or "unbounded".
        best_value: of the best known allocation, in the user's sense; NaN without one.
        best_bound: the tightest bound that is trusted, from above where the program maximises, from
            below where it minimises; infinite where infeasible or unbounded.
        allocation: (n,) tokens with that value; None without one.
        row_prices, floor_prices: (K,) and (J,) prices that prove a bound (not always the best one),
            per unit of the right-hand side, signed as in `Solution`; None where none are kept.
        tags: words to choose instances by, e.g. "small".
        seed: what the generator drew it from; None where nothing was drawn.
        evidence: who found and proved what.
    """

    name: str
    description: str
    program: Program = field(repr=False)
    status: InstanceStatus
    best_value: float = math.nan
    best_bound: float = math.nan
    why_hard: str = ""
    allocation: FloatArray | None = field(default=None, repr=False)
    row_prices: FloatArray | None = field(default=None, repr=False)
    floor_prices: FloatArray | None = field(default=None, repr=False)
    tags: tuple[str, ...] = ()
    seed: int | None = None
    evidence: tuple[Evidence, ...] = field(default=(), repr=False)

    @property
    def problem(self) -> Problem:
        """The program as a problem that solves and explains itself."""
        return Problem.from_program(self.program)

    @property
    def n(self) -> int:
        """How many queries it has."""
        return self.program.n

    @property
    def gap(self) -> float:
        """Relative gap between best value and best bound; infinite without either."""
        if math.isnan(self.best_value) or not math.isfinite(self.best_bound):
            return math.inf
        sign = self.program.sign
        return relative_gap(sign * self.best_value, sign * self.best_bound)
