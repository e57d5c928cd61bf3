"""`dual`: the exact solver. Lagrangian dual ascent, then the gap closed and certified."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearopt.assemble import make_solution
from clearopt.errors import DeclarationError
from clearopt.program import Program
from clearopt.solution import Solution
from clearopt.solvers.base import ALL_FEATURES, Backend, SolveOptions
from clearopt.solvers.dual.branch_and_bound import BranchAndBound, Limits
from clearopt.solvers.dual.one_row import OneRow, guess_price, relax
from clearopt.solvers.dual.separable import Separable, Unbounded, separate
from clearopt.solvers.dual.several_rows import SeveralRows, allocate, ascend, misses
from clearopt.solvers.progress import Ticker
from clearopt.solvers.repair import repair
from clearopt.validation import FloatArray

__all__ = ["Dual"]


class Dual(Backend):
    """Exact for one row: price search, variable fixing, branch and bound, certificate.

    Own options:
        node_limit: branch-and-bound nodes at most (default 20 000).
        engine: "auto" (JAX from some thousand queries on), "jax" or "numpy".
    """

    name = "dual"
    summary = "exact: Lagrangian dual ascent, gap closed by branch and bound"
    supports = ALL_FEATURES
    certifies = "optimum"
    modules = ("jax",)
    own_options = frozenset({"node_limit", "engine"})

    def solve(self, program: Program, options: SolveOptions) -> Solution:
        started = time.perf_counter()
        engine = options.extra.get("engine", "auto")
        if engine not in ("auto", "jax", "numpy"):
            raise DeclarationError(f"engine = {engine!r}: must be 'auto', 'jax' or 'numpy'")
        nodes = options.extra.get("node_limit", 20_000)
        if not isinstance(nodes, int) or nodes < 1:
            raise DeclarationError(f"node_limit = {nodes!r}: must be a whole number, at least 1")

        def finish(**found: Any) -> Solution:
            return make_solution(
                program,
                solver=self.name,
                seconds=time.perf_counter() - started,
                tolerance=options.tolerance,
                **found,
            )

        try:
            queries = separate(program, engine)
        except Unbounded as reason:
            return finish(allocation=None, unbounded=True, message=str(reason))
        limit = math.inf if options.time_limit is None else options.time_limit
        limits = Limits(
            tolerance=options.tolerance,
            deadline=started + limit,
            nodes=nodes,
            eager_nodes=500 if program.n <= 64 else 64 if program.n <= 256 else 0,
        )
        one_row = program.rows.shape[0] <= 1 and program.floors.shape[0] == 0
        if not one_row:
            return finish(**_solve_several_rows(program, queries, limits))
        with Ticker(self.name, verbose=options.verbose) as ticker:
            return finish(**_solve_one_row(program, queries, limits, ticker))


def one_row_program(program: Program, queries: Separable) -> tuple[OneRow, float]:
    """The program's row (or none) as `<=` or `==`, and the sign that turned it round."""
    coefficient = np.zeros(program.n)
    budget, sign, equality = 0.0, 1.0, False
    if program.rows.shape[0]:
        sense = program.senses[0]
        sign = -1.0 if sense == ">=" else 1.0
        equality = sense == "=="
        coefficient = sign * program.rows[[0]].toarray().ravel()[queries.order]
        budget = sign * float(program.right_hand_side[0])
    whole = program.integer.all() and bool((coefficient == np.round(coefficient)).all())
    if whole and not equality:
        budget = math.floor(budget + 1e-9)
    return OneRow(queries, coefficient, budget, equality), sign


def _solve_one_row(
    program: Program, queries: Separable, limits: Limits, ticker: Ticker
) -> dict[str, Any]:
    row, sign = one_row_program(program, queries)
    outcome = BranchAndBound(row, limits, guess_price(row), ticker).solve()
    tokens = None if outcome.tokens is None else restore(queries, outcome.tokens)
    price = _declared_price(program, queries, row, outcome.price)
    return {
        "allocation": tokens,
        "bound": program.offset + outcome.bound,
        "row_prices": np.array([sign * price])[: program.rows.shape[0]],
        "infeasible": outcome.stopped == "infeasible",
        "message": ""
        if outcome.stopped in ("closed", "infeasible")
        else f"stopped at the {outcome.stopped}",
        "statistics": {"nodes": outcome.nodes, "core": outcome.core, "engine": queries.engine},
    }


def _declared_price(program: Program, queries: Separable, row: OneRow, price: float) -> float:
    """The row's price over the bounds as declared.

    The bounds searched over take from the row what it implies for single queries; where they are
    tighter for it, their price is that of another problem (0 where they alone keep the budget).
    """
    lower, upper = program.lower[queries.order], program.upper[queries.order]
    enough = np.maximum(queries.saturation, queries.upper)
    upper = np.where(np.isinf(upper), enough, upper)
    if queries.integer is not None:
        lower = np.where(queries.integer, np.ceil(lower), lower)
        upper = np.where(queries.integer, np.floor(upper), upper)
    slack = 1e-9 * np.maximum(1.0, upper)
    as_declared = (queries.upper >= upper - slack).all() and (queries.lower <= lower + slack).all()
    if as_declared and (row.coefficient >= 0).all() and not row.equality:
        return price
    return relax(row, lower, upper, start=price if price > 0 else guess_price(row)).price


def _solve_several_rows(program: Program, queries: Separable, limits: Limits) -> dict[str, Any]:
    problem, sign = SeveralRows.of(program, queries)
    ascent = ascend(problem, _guess_rows(problem), limits.deadline)

    def mend(tokens: FloatArray) -> FloatArray | None:
        left = limits.deadline - time.perf_counter()
        found = repair(program, restore(queries, tokens), time_limit=max(min(left, 10.0), 0.01))
        return None if found is None else found[queries.order]

    tokens = allocate(problem, ascent, limits.deadline, mend)
    late = time.perf_counter() > limits.deadline
    missed = misses(problem) if tokens is None else None
    if missed is not None:
        return {"allocation": None, "infeasible": True, "message": _conflict(program, *missed)}
    return {
        "allocation": None if tokens is None else restore(queries, tokens),
        "bound": program.offset + ascent.bound,
        "row_prices": sign * ascent.row_prices,
        "floor_prices": 0.0 - ascent.floor_prices,
        "message": "stopped at the time limit" if late else "",
        "statistics": {"evaluations": ascent.evaluations, "engine": queries.engine},
    }


def _conflict(program: Program, missed: FloatArray, part: NDArray[np.bool_]) -> str:
    """Which constraints conflict, and by how much the nearest allocation misses them."""
    rows = [group for group in program.constraints if group.kind == "row"]
    names = [repr(group.name) for group in rows if part[group.rows].any()]
    misses = [
        f"{group.name!r} by {missed[group.rows].sum():.6g}"
        for group in rows
        if missed[group.rows].sum() > 0
    ]
    return (
        f"{' and '.join(names)} conflict: the allocation nearest to them all misses "
        f"{' and '.join(misses)}"
    )


def _guess_rows(problem: SeveralRows) -> float:
    """One price for all rows to start from: as if they were a single one."""
    together = np.asarray(abs(problem.rows).sum(axis=0)).ravel()
    return guess_price(
        OneRow(problem.queries, together, float(np.abs(problem.budgets).sum()), False)
    )


def restore(queries: Separable, tokens: FloatArray) -> FloatArray:
    """Back to the program's order of queries."""
    original = np.empty_like(tokens)
    original[queries.order] = tokens
    return original
