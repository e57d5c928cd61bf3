"""`dual`: the exact solver. Lagrangian dual ascent, then the gap closed and certified."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearopt.assemble import make_solution
from clearopt.deadline import NEVER, Deadline, listening
from clearopt.errors import DeclarationError, UnsupportedProblemError
from clearopt.program import Program
from clearopt.solution import Solution
from clearopt.solvers.base import ALL_FEATURES, Backend, SolveOptions
from clearopt.solvers.conflict import REASONS_TIME_LIMIT, infeasibility_message
from clearopt.solvers.dual.apart_progress import Together
from clearopt.solvers.dual.branch_and_bound import BranchAndBound, Limits, Outcome
from clearopt.solvers.dual.components import all_from, component_labels, components
from clearopt.solvers.dual.large_caps import solve_large_caps
from clearopt.solvers.dual.large_plan import OutOfTime
from clearopt.solvers.dual.large_program import (
    NOT_PLAIN,
    at_least,
    is_large,
    is_large_under_rows,
    is_plain,
    solve_large,
)
from clearopt.solvers.dual.linking import find_linking
from clearopt.solvers.dual.many_rows import ManyRows
from clearopt.solvers.dual.nested import LEFT_BY_LINKING, Nested, better_of
from clearopt.solvers.dual.one_row import OneRow, guess_price, relax
from clearopt.solvers.dual.price_interval import price_interval
from clearopt.solvers.dual.price_path import FINEST_TOLERANCE, PATH_FROM, NoPath, PricePath
from clearopt.solvers.dual.separable import Separable, Unbounded, separate, view
from clearopt.solvers.dual.several_rows import SeveralRows, first_prices
from clearopt.solvers.dual.whole_table import NODES_BEFORE, SHARE_BEFORE, closed, table_of
from clearopt.solvers.exact_conflict import Exact
from clearopt.solvers.in_cost import InCost
from clearopt.solvers.progress import Ticker, listener
from clearopt.solvers.repair import repair
from clearopt.solvers.warm_start import known_prices, not_worse
from clearopt.sums import accurate_sum
from clearopt.validation import FloatArray

__all__ = ["Dual"]

_MOST_COMPONENTS = 2_000  # independent groups that are solved one by one
_GRACE = 0.5  # seconds past a limit for saying what constraints conflict
_NESTED_FROM = 200  # queries from which groups under linking rows are searched one by one
_SEARCHED_WHOLE = 2_000  # queries up to which a gap left by that is searched all together
_FEW = 64  # queries with measured curves for which column generation is worth its time


class Dual(Backend):
    """Exact for one row: price search, variable fixing, branch and bound, certificate.

    Own options:
        node_limit: branch-and-bound nodes at most, of independent groups together (default 20 000
            under one row; under several, where a node costs more, 2 000, and fewer from 100
            queries on; for each independent group).
        engine: "auto" (JAX from some thousand queries on), "jax", "numpy", or "sharded": one plain
            budget row, its queries spread over all devices of this process.
    """

    name = "dual"
    summary = "exact: Lagrangian dual ascent, gap closed by branch and bound"
    supports = ALL_FEATURES - {"fractional mixed charges", "no upper bound"}
    certifies = "optimum"
    modules = ("jax",)
    own_options = frozenset({"node_limit", "engine"})

    interruptible = True

    def solve(self, program: Program, options: SolveOptions) -> Solution:
        with listening():
            solution = self._solve(program, options, Deadline(options.time_limit))
            return not_worse(solution, options.warm_start)

    def _solve(
        self, program: Program, options: SolveOptions, deadline: Deadline, *, apart: bool = True
    ) -> Solution:
        """With `apart` False as one of independent groups, or several of them together."""
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
                seconds=deadline.spent,
                tolerance=options.tolerance,
                **found,
            )

        heard = listener(program, options, deadline.started, offset=program.offset)
        if engine == "sharded" and not is_plain(program):
            raise UnsupportedProblemError(NOT_PLAIN.format("engine = 'sharded'"))
        if engine == "sharded" or is_large(program, engine):
            found = self._solve_large(program, options, deadline, heard)
            if found is not None:
                large = finish(**found)
                if large.status == "optimal" or found["message"] or engine == "sharded":
                    return large
        engine = "auto" if engine == "sharded" else engine
        capped = self._solve_caps(program, options, deadline) if apart else None
        if capped is not None:
            under_caps = finish(**capped)
            if under_caps.status == "optimal" or capped["message"]:
                return under_caps
        found = self._solve_rows(program, options, deadline, engine, nodes, heard, apart=apart)
        exact = finish(**found)
        if capped is not None and under_caps.gap <= exact.gap:
            return under_caps
        return exact

    def _solve_rows(
        self,
        program: Program,
        options: SolveOptions,
        deadline: Deadline,
        engine: str,
        nodes: int,
        heard: Callable[[float, float], None] | None,
        *,
        apart: bool,
    ) -> dict[str, Any]:
        """By branch and bound, independent groups one by one."""
        if apart and program.rows.shape[0] + program.floors.shape[0] > 1:
            count, labels = component_labels(program)
            if 1 < count <= _MOST_COMPONENTS:
                together = None if heard is None else Together(program, count, labels, heard)
                return self._solve_apart(program, count, labels, options, deadline, together)
        try:
            seen = view(program)
        except Unbounded as reason:
            return {"allocation": None, "unbounded": True, "message": str(reason)}
        queries = separate(seen, engine)
        limits = Limits(
            tolerance=options.tolerance,
            deadline=deadline,
            nodes=nodes,
            eager_nodes=500 if program.n <= 64 else 64 if program.n <= 256 else 0,
        )
        one_row = is_one_row(queries, program)
        if not one_row:
            limits = replace(limits, eager_nodes=limits.eager_nodes // 5)

        def search(limits: Limits) -> dict[str, Any]:
            with Ticker(self.name, verbose=options.verbose, heard=heard) as ticker:
                if one_row:
                    return _solve_one_row(seen, queries, limits, ticker, options.warm_start)
                return _solve_several_rows(
                    program, seen, queries, limits, ticker, options.warm_start, reasons=apart
                )

        table = table_of(program) if "node_limit" not in options.extra else None
        if table is None:
            found = search(limits)
        else:
            early = replace(
                limits, nodes=min(nodes, NODES_BEFORE), deadline=deadline.part(SHARE_BEFORE)
            )
            found = search(early)
            if not _is_proven(program, found, options.tolerance):
                found = closed(program, table, found, deadline)
        if one_row and found["infeasible"] and apart:
            found["message"] = _conflict(program, deadline) or ""
        return found

    def solve_each(self, programs: Sequence[Program], options: SolveOptions) -> Iterator[Solution]:
        """As every back-end; many budgets over very many queries share a price path."""
        path = self._path(programs, options)
        if path is None:
            yield from super().solve_each(programs, options)
            return
        last, searched, before = options.warm_start, 0, time.perf_counter()
        for done, (program, found) in enumerate(zip(programs, path.answers(), strict=True)):
            solution = None
            if found is not None:
                seconds = time.perf_counter() - before
                solution = path.solution(program, found, solver=self.name, seconds=seconds)
            if solution is None or solution.status != "optimal":
                start = last if solution is None else solution
                solution = self.solve(program, replace(options, warm_start=start))
                searched += 1
            last = solution if solution.allocation is not None else last
            yield solution
            if searched > max(8, done // 2):  # the path is no help: prices vary too much
                rest = programs[done + 1 :]
                yield from super().solve_each(rest, replace(options, warm_start=last))
                return
            before = time.perf_counter()

    def _path(self, programs: Sequence[Program], options: SolveOptions) -> PricePath | None:
        """The price path of these programs, where there is one that is worth its while."""
        engine = options.extra.get("engine", "auto")
        if len(programs) < PATH_FROM or engine not in ("auto", "jax"):
            return None
        first = programs[0]
        if not is_large(first, engine) or first.rows.shape[0] != 1:
            return None
        if options.tolerance < FINEST_TOLERANCE or not all(
            program.differs_in_levels_alone(first) for program in programs
        ):
            return None
        with Ticker(self.name, verbose=options.verbose) as ticker:
            try:
                return PricePath(
                    programs,
                    tolerance=options.tolerance,
                    deadline=Deadline(options.time_limit),
                    tell=ticker.say,
                )
            except (NoPath, OutOfTime):
                return None

    def _solve_apart(
        self,
        program: Program,
        count: int,
        labels: NDArray[np.intp],
        options: SolveOptions,
        deadline: Deadline,
        together: Together | None,
    ) -> dict[str, Any]:
        """Groups that nothing connects, one after the other, each with its share of the time.

        Once time or nodes have run out, those that are left are bounded together.
        """
        tokens = np.zeros(program.n)
        row_prices, floor_prices = (
            np.zeros(program.rows.shape[0]),
            np.zeros(program.floors.shape[0]),
        )
        bounds, messages, nodes, complete = [], [], 0, True
        known = known_prices(program, options.warm_start)
        node_limit = options.extra.get("node_limit", None)
        parts = iter(components(program, count, labels))
        for done in range(count):
            mine = dict(options.extra)
            if node_limit is not None:  # one is kept for each group to come
                mine["node_limit"] = max(node_limit - nodes - (count - done - 1), 1)
            last = deadline.over or (node_limit is not None and node_limit - nodes <= 1)
            part = all_from(program, labels, done) if last else next(parts)
            if deadline.over:  # a compilation would take longer than what is left to do
                mine["engine"] = "numpy"
            told = None
            if together is not None:
                told = together.part(done, part.program.sign, rest=last)
            solution = self._solve(
                part.program,
                replace(
                    options,
                    warm_start=part.part_of(options.warm_start, *known),
                    on_progress=told,
                    extra=mine,
                ),
                deadline.part(1.0 / (count - done)),
                apart=False,
            )
            if solution.status == "unbounded":
                return {"allocation": None, "unbounded": True, "message": solution.message}
            if solution.status == "infeasible":
                conflict = _conflict(program, deadline, Exact(_is_empty, _bound))
                message = conflict or "branch and bound left no part open"
                return {"allocation": None, "infeasible": True, "message": message}
            if solution.allocation is None:
                complete = False
            else:
                tokens[part.queries] = solution.allocation
            bounds.append(program.sign * solution.bound)
            if told is not None:
                told(deadline.spent, solution.objective, solution.bound)
            nodes += solution.statistics.get("nodes", 0)
            messages += [solution.message] if solution.message else []
            if solution.row_prices is not None:
                row_prices[part.rows] = solution.row_prices
            if solution.floor_prices is not None:
                floor_prices[part.floors] = solution.floor_prices
            if last:
                break
        if not complete:
            conflict = _conflict(program, deadline)
            if conflict is not None:
                return {"allocation": None, "infeasible": True, "message": conflict}
        return {
            "allocation": tokens if complete else None,
            "bound": program.offset + math.fsum(bounds),
            "row_prices": row_prices,
            "floor_prices": floor_prices,
            "message": messages[0] if messages else "",
            "statistics": {"nodes": nodes, "components": count},
        }

    def _solve_caps(
        self, program: Program, options: SolveOptions, deadline: Deadline
    ) -> dict[str, Any] | None:
        """Caps on groups of very many queries, in chunks."""
        engine = options.extra.get("engine", "auto")
        if not is_large_under_rows(program, engine):
            return None
        known, _ = known_prices(program, options.warm_start)
        with Ticker(self.name, verbose=options.verbose) as ticker:
            return solve_large_caps(
                program,
                tolerance=options.tolerance,
                deadline=deadline,
                known=np.abs(known),
                ticker=ticker,
                nodes=options.extra.get("node_limit", None),
            )

    def _solve_large(
        self,
        program: Program,
        options: SolveOptions,
        deadline: Deadline,
        heard: Callable[[float, float], None] | None,
    ) -> dict[str, Any] | None:
        """One row over very many queries, in passes over blocks."""
        known, _ = known_prices(program, options.warm_start)
        start = float(abs(known[0])) if np.isfinite(known).any() else None
        with Ticker(self.name, verbose=options.verbose) as ticker:
            return solve_large(
                program,
                deadline=deadline,
                start=start,
                tell=ticker.say,
                heard=heard,
                sharded=options.extra.get("engine") == "sharded",
            )


def _is_proven(program: Program, found: dict[str, Any], tolerance: float) -> bool:
    solution = make_solution(program, solver=Dual.name, seconds=0.0, tolerance=tolerance, **found)
    return solution.status in ("optimal", "infeasible")


def is_one_row(queries: Separable, program: Program) -> bool:
    """Whether one price couples all queries, and a price search with branching is the way.

    Measured curves have kinks on which a mixture may rest; with few queries these matter, and
    column generation sees all of them.
    """
    plain = queries.choice is None and queries.grid is None
    plain = plain and (queries.n > _FEW or bool(queries.convex_before.all()))
    return plain and program.rows.shape[0] <= 1 and program.floors.shape[0] == 0


def one_row_program(
    program: Program, queries: Separable, deadline: Deadline = NEVER
) -> tuple[OneRow, float]:
    """The program's row (or none) as `<=` or `==`, and the sign that turned it round."""
    coefficient = np.zeros(program.n)
    budget, sign, equality = 0.0, 1.0, False
    if program.rows.shape[0]:
        sense = program.senses[0]
        sign = -1.0 if sense == ">=" else 1.0
        equality = sense == "=="
        coefficient = sign * program.rows[[0]].toarray().ravel()[queries.order]
        budget = sign * float(program.right_hand_side[0])
        ends = np.where(coefficient > 0, queries.lower, queries.upper)
        budget = at_least(budget, accurate_sum(coefficient * ends))
    whole = program.integer.all() and bool((coefficient == np.round(coefficient)).all())
    whole = whole and all(f.utility.counts_tokens for f in queries.families)
    if whole and not equality:
        budget = math.floor(budget + 1e-9)
    return OneRow(queries, coefficient, budget, equality, deadline), sign


def _solve_one_row(
    seen: InCost, queries: Separable, limits: Limits, ticker: Ticker, warm: Solution | None
) -> dict[str, Any]:
    program = seen.program
    row, sign = one_row_program(program, queries, limits.deadline)
    known, _ = known_prices(program, warm)
    start = guess_price(row)
    if np.isfinite(known).any():
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
    *,
    reasons: bool,
) -> dict[str, Any]:
    """With `reasons`, those of an infeasible program are looked for."""
    problem, sign = SeveralRows.of(seen.program, queries)
    first = first_prices(problem, _guess_rows(problem))
    row_prices, floor_prices = known_prices(program, warm)
    known = np.r_[sign * row_prices, -floor_prices]
    if known.shape == first.shape:
        first = np.where(np.isfinite(known), known, first)

    def mend(amounts: FloatArray) -> FloatArray | None:
        if limits.deadline.over:
            return None
        tokens = seen.tokens(restore(queries, amounts))
        found = repair(program, tokens, time_limit=min(limits.deadline.left, 10.0))
        return None if found is None else seen.amounts(found)[queries.order]

    linking = find_linking(problem) if queries.n >= _NESTED_FROM else None
    statistics: dict[str, Any] = {}
    # Nested groups are searched one by one: of all rows together the prices are enough.
    root_alone = limits if linking is None else replace(limits, nodes=1, eager_nodes=0)
    rows = ManyRows(problem, limits.deadline, mend, thorough=linking is None)
    outcome = BranchAndBound(rows, root_alone, first, ticker).solve()
    if linking is not None and outcome.stopped == "node limit":
        outcome = Nested(problem, linking, limits, ticker, mend).solve(outcome)
        statistics = {
            "groups": linking.count,
            "linking": int(linking.linking.sum()),
            "searched": outcome.core,  # groups by branch and bound, at most in one round
        }
        if outcome.stopped == LEFT_BY_LINKING and queries.n <= _SEARCHED_WHOLE:
            rows = ManyRows(problem, limits.deadline, mend)
            again = BranchAndBound(rows, limits, outcome.root, ticker).solve()
            outcome = better_of(outcome, again)
    tokens, message = outcome.tokens, _stopped(outcome.stopped)
    infeasible = outcome.stopped == "infeasible"
    if tokens is None and reasons:
        exact = Exact(_is_empty, _bound) if infeasible else None
        conflict = _conflict(program, limits.deadline, exact)
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
        "statistics": {
            "nodes": outcome.nodes,
            "core": outcome.core,
            "engine": queries.engine,
            **statistics,
        },
    }


def _conflict(program: Program, deadline: Deadline, exact: Exact | None = None) -> str | None:
    """Which constraints conflict; a little time for it there is even after the time limit."""
    limit = min(REASONS_TIME_LIMIT, deadline.extended(_GRACE).left)
    return infeasibility_message(program, limit, exact)


def _searched(program: Program, deadline: Deadline, tolerance: float) -> Outcome | None:
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


def _is_empty(program: Program, deadline: Deadline) -> bool | None:
    found = _searched(program, deadline, 1.0)
    if found is None or (found.tokens is None and found.stopped != "infeasible"):
        return None
    return found.tokens is None


def _bound(program: Program, deadline: Deadline) -> float:
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
