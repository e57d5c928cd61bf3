"""One problem whose queries lie in several processes, each with its own part and its own devices.

    jax.distributed.initialize(...)                  # as JAX describes it, in every process
    result = clearopt.sharded.solve(problem)         # each with its own queries, the same budget

The processes pass over their queries together, at the same prices; none ever sees the queries of
another, except the few that a price leaves undecided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from scipy import sparse

from clearopt.certificate import FEASIBILITY_TOLERANCE, check_feasibility, relative_gap
from clearopt.deadline import Deadline, listening
from clearopt.errors import DeclarationError, UnsupportedProblemError
from clearopt.problem import Problem
from clearopt.program import Program
from clearopt.solution import Tokens, counted
from clearopt.solvers.dual.blocks import Block, compact
from clearopt.solvers.dual.large import Infeasible, LargeRow
from clearopt.solvers.dual.large_program import NOT_PLAIN, budget_of, coefficient_of, is_plain
from clearopt.solvers.dual.sharding import ShardedSource
from clearopt.sums import accurate_sum
from clearopt.validation import FloatArray

__all__ = ["ShardedSolution", "solve"]


@dataclass(frozen=True, eq=False)
class ShardedSolution:
    """What all processes find together, and this one's part of the allocation.

    Attributes:
        status: `optimal` where the gap is within the tolerance and every process's part has been
            checked, else `feasible`, or `infeasible`.
        allocation: (n,) tokens of this process's queries.
        objective, bound: of all queries; recomputed from the allocation, and rigorous.
        price: of the budget: objective per unit.
        price_interval: prices that prove the same bound, to rounding.
        spent: of the budget, by all queries.
        queries, passes, seconds: of all processes, over all queries, and how long it took.
        message: why it stopped, where it did not finish.
    """

    status: Literal["optimal", "feasible", "infeasible"]
    allocation: Tokens | None
    objective: float
    bound: float
    price: float
    price_interval: tuple[float, float]
    spent: float
    queries: int
    passes: int
    seconds: float
    message: str = ""

    @property
    def gap(self) -> float:
        """(bound - objective) relative to the larger; infinite without an allocation."""
        return math.inf if self.allocation is None else relative_gap(self.objective, self.bound)


def solve(
    problem: Problem,
    *,
    tolerance: float = 1e-6,
    time_limit: float | None = None,
    devices: Sequence[Any] | None = None,
) -> ShardedSolution:
    """Solve a problem of which every process declares its own queries; all of them call this.

    Args:
        problem: this process's queries under one budget row, whose right-hand side is the budget
            of all processes together (or without a row). Each utility family is applied once.
        tolerance: relative gap up to which the result is `optimal`.
        time_limit: seconds; afterwards, or after Ctrl-C, the best price so far is allocated at.
        devices: as many of every process; all by default.

    Raises:
        UnsupportedProblemError: the problem is more than one plain budget row.
        DeclarationError: the processes declared different budgets, or use unequally many devices.
    """
    with listening():
        return _solve(problem, tolerance, Deadline(time_limit), devices)


def _solve(
    problem: Problem, tolerance: float, deadline: Deadline, devices: Sequence[Any] | None
) -> ShardedSolution:
    program = problem.program
    if not is_plain(program) or program.minimize:
        raise UnsupportedProblemError(NOT_PLAIN.format("sharded.solve"))
    coefficient = compact(coefficient_of(program))
    source = ShardedSource(program, coefficient, devices=devices)
    budget = _shared_budget(source, program, coefficient)
    tokens = np.empty(program.n)

    def keep(block: Block, found: FloatArray) -> None:
        tokens[block.index] = found

    run = LargeRow(source, budget, deadline=deadline)
    try:
        found = run.solve(keep, exact=True)
    except Infeasible:
        return ShardedSolution(
            "infeasible", None, math.nan, -math.inf, math.nan, (math.nan, math.nan), math.nan,
            source.size, run.passes, deadline.spent,
            "the lower bounds alone cost more than the budget",
        )  # fmt: skip
    # Checked by each process in NumPy, and added up.
    alone = replace(program, rows=sparse.csr_array((0, program.n)), senses=(),
                    right_hand_side=np.zeros(0), constraints=())  # fmt: skip
    checked = source.gathered(
        (
            program.objective(tokens),
            accurate_sum(np.broadcast_to(coefficient, tokens.shape) * tokens),
            check_feasibility(alone, tokens),
            program.offset,
        )
    )
    objective = math.fsum(part[0] for part in checked)
    bound = found.bound + math.fsum(part[3] for part in checked)
    spent = math.fsum(part[1] for part in checked)
    missed = next((part[2] for part in checked if not part[2].ok), None)
    over = math.isfinite(budget) and spent - budget > FEASIBILITY_TOLERANCE * max(budget, spent)
    message = found.message
    if missed is not None or over:
        where = "the budget" if missed is None else missed.where
        message = f"the allocation misses {where} and is withheld"
        return ShardedSolution(
            "feasible", None, math.nan, bound, found.price, found.price_interval, spent,
            source.size, found.passes, deadline.spent, message,
        )  # fmt: skip
    proven = relative_gap(objective, bound) <= max(tolerance, 1e-12)
    return ShardedSolution(
        "optimal" if proven else "feasible", counted(program, tokens), objective, bound,
        found.price, found.price_interval, spent, source.size, found.passes,
        deadline.spent, message,
    )  # fmt: skip


def _shared_budget(source: ShardedSource, program: Program, coefficient: FloatArray) -> float:
    """The budget, which every process has declared alike."""
    declared = (
        float(program.right_hand_side[0]) if program.rows.shape[0] else math.inf,
        budget_of(program, coefficient),
    )
    given = source.gathered(declared)
    if len({budget for budget, _ in given}) > 1:
        raise DeclarationError(
            "sharded.solve: the processes declared different budgets "
            f"({', '.join(f'{budget:g}' for budget, _ in given)}); it is shared, so each of them "
            "declares all of it"
        )
    # Rounded down only where every process counts whole tokens at whole costs.
    return max(budget for _, budget in given)
