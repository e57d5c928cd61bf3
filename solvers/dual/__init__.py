"""`dual`: the exact solver. Lagrangian dual ascent, then the gap closed and certified."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearopt.assemble import make_solution
from clearopt.errors import DeclarationError, UnsupportedProblemError
from clearopt.program import Program
from clearopt.solution import Solution
from clearopt.solvers.base import ALL_FEATURES, Backend, SolveOptions
from clearopt.solvers.conflict import REASONS_TIME_LIMIT, infeasibility_message
from clearopt.solvers.dual.branch_and_bound import BranchAndBound, Limits, Outcome
from clearopt.solvers.dual.components import component_labels, components
from clearopt.solvers.dual.large_program import NOT_PLAIN, is_large, is_plain, solve_large
from clearopt.solvers.dual.many_rows import ManyRows
from clearopt.solvers.dual.one_row import OneRow, guess_price, relax
from clearopt.solvers.dual.price_interval import price_interval
from clearopt.solvers.dual.separable import Separable, Unbounded, separate, view
from clearopt.solvers.dual.several_rows import SeveralRows, first_prices
from clearopt.solvers.exact_conflict import Exact
from clearopt.solvers.in_cost import InCost
from clearopt.solvers.progress import Ticker
from clearopt.solvers.repair import repair
from clearopt.validation import FloatArray

__all__ = ["Dual"]

_MOST_COMPONENTS = 2_000  # independent groups that are solved one by one
_FEW = 64  # queries with measured curves for which column generation is worth its time


class Dual(Backend):
    """Exact for one row: price search, variable fixing, branch and bound, certificate.

    Own options:
        node_limit: branch-and-bound nodes at most (default 20 000 under one row; under several,
            where a node costs more, 2 000, and fewer from 100 queries on).
        engine: "auto" (JAX from some thousand queries on), "jax", "numpy", or "sharded": one plain
            budget row, its queries spread over all devices of this process.
    """

    name = "dual"
    summary = "exact: Lagrangian dual ascent, gap closed by branch and bound"
    supports = ALL_FEATURES - {"fractional mixed charges", "no upper bound"}
    certifies = "optimum"
    modules = ("jax",)
    own_options = frozenset({"node_limit", "engine"})

    def solve(self, program: Program, options: SolveOptions) -> Solution:
        started = time.perf_counter()
        engine = options.extra.get("engine", "auto")
        if engine not in ("auto", "jax", "numpy", "sharded"):
            raise DeclarationError(
                f"engine = {engine!r}: must be 'auto', 'jax', 'numpy' or 'sharded'"
            )
        nodes = options.extra.get("node_limit", None)
        if nodes is None:
            several = program.rows.shape[0] > 1 or program.floors.shape[0] > 0
            nodes = min(max(200_000 // program.n, 3), 2_000) if several else 20_000
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

        if engine == "sharded" and not is_plain(program):
            raise UnsupportedProblemError(NOT_PLAIN.format("engine = 'sharded'"))
        if engine == "sharded" or is_large(program, engine):
            found = self._solve_large(program, options, started)
            if found is not None:
                large = finish(**found)
                if large.status == "optimal" or found["message"] or engine == "sharded":
                    return large
        engine = "auto" if engine == "sharded" else engine
        if program.rows.shape[0] + program.floors.shape[0] > 1:
            count, labels = component_labels(program)
            if 1 < count <= _MOST_COMPONENTS:
                return finish(**self._solve_apart(program, count, labels, options, started))
        try:
            seen = view(program)
        except Unbounded as reason:
            return finish(allocation=None, unbounded=True, message=str(reason))
        queries = separate(seen, engine)
        limit = math.inf if options.time_limit is None else options.time_limit
        limits = Limits(
            tolerance=options.tolerance,
            deadline=started + limit,
            nodes=nodes,
            eager_nodes=500 if program.n <= 64 else 64 if program.n <= 256 else 0,
        )
        if not is_one_row(queries, program):
            limits = replace(limits, eager_nodes=limits.eager_nodes // 5)
            with Ticker(self.name, verbose=options.verbose) as ticker:
                found = _solve_several_rows(
                    program, seen, queries, limits, ticker, options.warm_start
                )
            return finish(**found)
        with Ticker(self.name, verbose=options.verbose) as ticker:
            found = _solve_one_row(seen, queries, limits, ticker, options.warm_start)
        if found["infeasible"]:
            found["message"] = infeasibility_message(program, REASONS_TIME_LIMIT) or ""
        return finish(**found)

    def _solve_apart(
        self,
        program: Program,
        count: int,
        labels: NDArray[np.intp],
        options: SolveOptions,
        started: float,
    ) -> dict[str, Any]:
        """Groups that nothing connects, one after the other, each with its share of the time."""
        tokens = np.zeros(program.n)
        row_prices, floor_prices = (
            np.zeros(program.rows.shape[0]),
            np.zeros(program.floors.shape[0]),
        )
        bounds, messages, nodes, complete = [], [], 0, True
        for done, part in enumerate(components(program, count, labels)):
            limit = None
            if options.time_limit is not None:
                left = started + options.time_limit - time.perf_counter()
                limit = max(left / (count - done), 1e-3)
            solution = self.solve(part.program, replace(options, time_limit=limit, warm_start=None))
            if solution.status == "unbounded":
                return {"allocation": None, "unbounded": True, "message": solution.message}
            if solution.status == "infeasible":
                exact = Exact(_is_empty, _bound)
                conflict = infeasibility_message(program, REASONS_TIME_LIMIT, exact)
                message = conflict or "branch and bound left no part open"
                return {"allocation": None, "infeasible": True, "message": message}
            if solution.allocation is None:
                complete = False
            else:
                tokens[part.queries] = solution.allocation
            bounds.append(program.sign * solution.bound)
            nodes += solution.statistics.get("nodes", 0)
            messages += [solution.message] if solution.message else []
            if solution.row_prices is not None:
                row_prices[part.rows] = solution.row_prices
            if solution.floor_prices is not None:
                floor_prices[part.floors] = solution.floor_prices
        return {
            "allocation": tokens if complete else None,
            "bound": program.offset + math.fsum(bounds),
            "row_prices": row_prices,
            "floor_prices": floor_prices,
            "message": messages[0] if messages else "",
            "statistics": {"nodes": nodes, "components": count},
        }

    def _solve_large(
        self, program: Program, options: SolveOptions, started: float
    ) -> dict[str, Any] | None:
        """One row over very many queries, in passes over blocks."""
        limit = math.inf if options.time_limit is None else options.time_limit
        warm = None if options.warm_start is None else options.warm_start.row_prices
        start = float(abs(warm[0])) if warm is not None and warm.size == 1 else None
        with Ticker(self.name, verbose=options.verbose) as ticker:
            return solve_large(
                program,
                deadline=started + limit,
                start=start,
                tell=ticker.say,
                sharded=options.extra.get("engine") == "sharded",
            )


def is_one_row(queries: Separable, program: Program) -> bool:
    """Whether one price couples all queries, and a price search with branching is the way.

    Measured curves have kinks on which a mixture may rest; with few queries these matter, and
    column generation sees all of them.
    """
    plain = queries.choice is None and queries.grid is None
    plain = plain and (queries.n > _FEW or bool(queries.convex_before.all()))
    return plain and program.rows.shape[0] <= 1 and program.floors.shape[0] == 0


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
    whole = whole and all(f.utility.counts_tokens for f in queries.families)
    if whole and not equality:
        budget = math.floor(budget + 1e-9)
    return OneRow(queries, coefficient, budget, equality), sign


def _solve_one_row(
    seen: InCost, queries: Separable, limits: Limits, ticker: Ticker, warm: Solution | None
) -> dict[str, Any]:
    program = seen.program
    row, sign = one_row_program(program, queries)
    known = None if warm is None else warm.row_prices
    start = guess_price(row)
    if known is not None and known.shape == (program.rows.shape[0],) and known.size:
        start = abs(float(known[0])) or start
    outcome = BranchAndBound(row, limits, start, ticker).solve()
    tokens = None if outcome.tokens is None else seen.tokens(restore(queries, outcome.tokens))
    price = _declared_price(program, queries, row, outcome.root)
    return {
        "allocation": tokens,
        "bound": program.offset + outcome.bound,
        "row_prices": np.array([sign * price])[: program.rows.shape[0]],
        "infeasible": outcome.stopped == "infeasible",
        "message": _stopped(outcome.stopped),
        "statistics": {
            "nodes": outcome.nodes,
            "core": outcome.core,
            "engine": queries.engine,
            "price_interval": tuple(
                sorted(
                    sign * end
                    for end in (
                        price_interval(row, price) if price == outcome.root else (price, price)
                    )
                )
            ),
        },
    }


def _declared_price(program: Program, queries: Separable, row: OneRow, price: float) -> float:
    """The row's price over the bounds as declared.

    The bounds searched over take from the row what it implies for single queries; where they are
    tighter for it, their price is that of another problem (0 where they alone keep the budget).
    """
    lower, upper = program.least[queries.order], program.upper[queries.order]
    enough = np.maximum(queries.saturation, queries.upper)
    upper = np.where(np.isinf(upper), enough, upper)
    lower, upper = queries.whole_above(lower), queries.whole_below(upper)
    slack = 1e-9 * np.maximum(1.0, upper)
    as_declared = (queries.upper >= upper - slack).all() and (queries.lower <= lower + slack).all()
    if as_declared and (row.coefficient >= 0).all() and not row.equality:
        return price
    return relax(row, lower, upper, start=price if price > 0 else guess_price(row)).price


def _solve_several_rows(
    program: Program,
    seen: InCost,
    queries: Separable,
    limits: Limits,
    ticker: Ticker,
    warm: Solution | None,
) -> dict[str, Any]:
    problem, sign = SeveralRows.of(seen.program, queries)
    first = first_prices(problem, _guess_rows(problem))
    if warm is not None and warm.row_prices is not None and warm.floor_prices is not None:
        known = (
            np.r_[sign * warm.row_prices, -warm.floor_prices]
            if warm.row_prices.shape == sign.shape
            else np.zeros(0)
        )
        first = known if known.shape == first.shape else first

    def mend(amounts: FloatArray) -> FloatArray | None:
        left = limits.deadline - time.perf_counter()
        tokens = seen.tokens(restore(queries, amounts))
        found = repair(program, tokens, time_limit=max(min(left, 10.0), 0.01))
        return None if found is None else seen.amounts(found)[queries.order]

    rows = ManyRows(problem, limits.deadline, mend)
    outcome = BranchAndBound(rows, limits, first, ticker).solve()
    tokens, message = outcome.tokens, _stopped(outcome.stopped)
    infeasible = outcome.stopped == "infeasible"
    if tokens is None:
        exact = Exact(_is_empty, _bound) if infeasible else None
        conflict = infeasibility_message(program, REASONS_TIME_LIMIT, exact)
        infeasible = infeasible or conflict is not None
        message = conflict or ("branch and bound left no part open" if infeasible else message)
    prices, k = problem.without_idle_rows(np.asarray(outcome.root)), sign.size
    bound = outcome.bound
    return {
        "allocation": None if tokens is None else seen.tokens(restore(queries, tokens)),
        "bound": program.offset + bound,
        "row_prices": sign * prices[:k],
        "floor_prices": 0.0 - prices[k:],
        "infeasible": infeasible,
        "message": message,
        "statistics": {"nodes": outcome.nodes, "core": outcome.core, "engine": queries.engine},
    }


def _searched(program: Program, deadline: float, tolerance: float) -> Outcome | None:
    """A quick search of a program by itself; None where it cannot be searched."""
    try:
        seen = view(program)
        queries = separate(seen, "numpy")
    except (Unbounded, UnsupportedProblemError, DeclarationError):
        return None
    problem, _ = SeveralRows.of(seen.program, queries)
    limits = Limits(tolerance=tolerance, deadline=deadline, nodes=400, eager_nodes=0)
    prices = first_prices(problem, _guess_rows(problem))
    with Ticker("dual", verbose=False) as ticker:
        return BranchAndBound(ManyRows(problem, deadline), limits, prices, ticker).solve()


def _is_empty(program: Program, deadline: float) -> bool | None:
    found = _searched(program, deadline, 1.0)
    if found is None or (found.tokens is None and found.stopped != "infeasible"):
        return None
    return found.tokens is None


def _bound(program: Program, deadline: float) -> float:
    found = _searched(program, deadline, 1e-4)
    return math.inf if found is None or found.stopped == "infeasible" else found.bound


def _stopped(reason: str) -> str:
    return "" if reason in ("closed", "infeasible") else f"stopped at the {reason}"


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
