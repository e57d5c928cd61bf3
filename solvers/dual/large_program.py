"""A program with one row and very many queries, solved in passes over blocks of its arrays."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from clearopt.deadline import Deadline
from clearopt.program import Program
from clearopt.solvers.dual.blocks import (
    BLOCK,
    ArraySource,
    Block,
    Group,
    Source,
    compact,
    traceable,
)
from clearopt.solvers.dual.core import followers, next_tokens
from clearopt.solvers.dual.large import LargeRow
from clearopt.solvers.dual.large_plan import Infeasible
from clearopt.solvers.dual.sharding import ShardedSource
from clearopt.sums import accurate_sum_of
from clearopt.validation import FloatArray

LARGE_FROM = 20_000  # queries
_SAME = 1e-11  # relative; what is that close differs by rounding
NOT_PLAIN = (
    "{} takes one budget row, <=, with coefficients and costs of at least 0, and S-shaped "
    "utilities that JAX can trace; no floors, choices, cost curves or semicontinuous tokens"
)


def is_large(program: Program, engine: str) -> bool:
    """Whether `solve_large` takes the program: one `<=` row or none, and nothing unusual."""
    if program.n < LARGE_FROM or engine == "numpy":
        return False
    return is_plain(program)


def is_large_under_rows(program: Program, engine: str) -> bool:
    """Whether it is worth looking whether its several rows are caps, and plain otherwise."""
    large = program.n >= LARGE_FROM and program.rows.shape[0] > 1 and engine in ("auto", "jax")
    return large and is_plain_but_for_rows(program)


def is_plain(program: Program) -> bool:
    """One `<=` row (or none), and plain otherwise."""
    return program.rows.shape[0] <= 1 and is_plain_but_for_rows(program)


def is_plain_but_for_rows(program: Program) -> bool:
    """`<=` rows with coefficients, costs and weights of at least 0; S-shaped utilities that JAX
    can trace; no floors, choices, cost curves or semicontinuous tokens."""
    rows = program.rows
    return bool(
        all(sense == "<=" for sense in program.senses)
        and not program.floors.shape[0]
        and not program.has_curves
        and not program.semicontinuous.any()
        and (program.choice.size == 0 or int(program.choice.max()) < 0)
        and (rows.nnz == 0 or float(rows.data.min()) >= 0)
        and float(program.cost.min()) >= 0
        and float(program.weight.min()) >= 0
        and traceable([block.family for block in program.utilities])
    )


def coefficient_of(program: Program) -> FloatArray:
    """(n,) what the row charges for a token; a view where every query is charged."""
    rows, n = program.rows, program.n
    if rows.shape[0] == 0:
        return np.zeros(())
    if rows.nnz == n and (n < 2 or bool((rows.indices[1:] > rows.indices[:-1]).all())):
        return np.asarray(rows.data)
    return np.asarray(rows[[0]].toarray().ravel())


def budget_of(program: Program, coefficient: FloatArray) -> float:
    """The row's right-hand side, whole where everything it counts is; infinite without a row."""
    if program.rows.shape[0] == 0:
        return math.inf
    budget = float(program.right_hand_side[0])
    if program.integer.all() and bool((coefficient == np.round(coefficient)).all()):
        budget = float(math.floor(budget + 1e-9))
    return budget


def solve_large(
    program: Program,
    *,
    deadline: Deadline,
    start: float | None,
    tell: Callable[[str], None],
    heard: Callable[[float, float], None] | None = None,
    places: int | None = None,
    sharded: bool = False,
    exact: bool = False,
) -> dict[str, Any] | None:
    """What `make_solution` needs of a plain program; None where its lower bounds do not fit.

    With `sharded` the queries are spread over all devices that this process has. `exact` spends the
    budget at equal marginal utility to the last digits, by two or three passes more. `heard` is
    told every (value, bound) that a pass comes to, without the program's offset.
    """
    coefficient = compact(coefficient_of(program))
    budget = at_least(budget_of(program, coefficient), charged(coefficient, program.lower))
    source: Source
    if sharded:
        source = ShardedSource(program, coefficient, places=places)
    else:
        source = ArraySource(program, coefficient, places)
    tokens = np.empty(program.n)

    def keep(block: Block, found: FloatArray) -> None:
        tokens[block.index] = found

    run = LargeRow(source, budget, deadline=deadline, tell=tell, heard=heard)
    try:
        found = run.solve(keep, start=start, exact=exact)
    except Infeasible:
        return None
    if math.isfinite(budget):
        rest = ArraySource(program, coefficient, BLOCK)
        if not found.message:  # else there is no time for it
            spend_the_rest(rest, coefficient, tokens, budget, priced=found.price > 0)
        if charged(coefficient, tokens) > budget * (1 + 1e-10):
            run.retreat(keep)
    if heard is not None:
        heard(program.objective(tokens) - program.offset, found.bound)
    return {
        "allocation": tokens,
        "handed_over": True,
        "bound": program.offset + found.bound,
        "row_prices": np.full(program.rows.shape[0], found.price),
        "message": found.message,
        "statistics": {"nodes": 1, "engine": "sharded" if sharded else "jax", **found.statistics},
    }


def at_least(budget: float, least: float) -> float:
    """The budget, but `least` where it falls short of it by rounding alone.

    A budget that is the sum of the lower bounds, added up in another order, is meant to be it.
    """
    return least if budget < least <= budget + _SAME * abs(budget) else budget


def charged(coefficient: FloatArray, tokens: FloatArray) -> float:
    """What the row comes to; `coefficient` is (n,) or (), `tokens` (n,)."""
    if coefficient.ndim == 0:
        return accurate_sum_of(tokens.size, lambda part: coefficient * tokens[part])
    return accurate_sum_of(tokens.size, lambda part: coefficient[part] * tokens[part])


def spend_the_rest(
    source: Source, coefficient: FloatArray, tokens: FloatArray, budget: float, *, priced: bool
) -> None:
    """Spend what the linear model of demand has left, or take back what it has overspent.

    Spread over many fractional purchases, in proportion, it costs a second-order little of what
    equal marginal utilities are worth; the last rounding error goes to one query alone. Whole
    tokens go where the next one adds most.
    """
    left = budget - charged(coefficient, tokens)
    for block in source.blocks():
        if left == 0 or (left > 0 and not priced):
            return
        group = Group(block.kind, block.host.full(block.count))
        held = tokens[block.index].copy()
        able = followers(group, held)
        spent = float(np.sum((group.columns.coefficient * held)[able]))
        if spent > 0:
            changed = held[able] * (1.0 + min(max(left / spent, -1e-3), 1e-3))
            bounds = group.columns.lower[able], group.columns.upper[able]
            held[able] = np.clip(changed, *bounds)
            tokens[block.index] = held
            left = budget - charged(coefficient, tokens)
            largest = int(np.argmax(np.where(able, group.columns.coefficient * held, 0.0)))
            for _ in range(4):
                if left >= 0 or abs(left) > 1e-9 * spent:
                    break
                held[largest] += left * (1 + 1e-15) / group.columns.coefficient[largest]
                tokens[block.index] = held
                left = budget - charged(coefficient, tokens)
            if 0 <= left <= 1e-9 * spent:
                return
        elif left > 0 and group.columns.integer is not None:
            next_tokens(group, held, left)
            tokens[block.index] = held
            left = budget - charged(coefficient, tokens)
