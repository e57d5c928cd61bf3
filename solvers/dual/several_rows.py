"""Several rows and accuracy floors: a rigorous dual bound, and a feasible allocation near it.

With the prices fixed the problem is n one-dimensional ones, whatever the number of rows. The dual
function is convex and nonsmooth only where a query jumps; L-BFGS-B descends it well. At the best
prices at most about one query a row is left between its two versions; these few are decided by a
small MILP over points of the curves, and the amounts of all funded queries by linear programs whose
points close in on the solution (both with the HiGHS that SciPy ships).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, sparse

from clearopt.program import Program
from clearopt.solvers.dual.separable import Separable, rigorous_sum
from clearopt.utilities import BestResponse
from clearopt.validation import FloatArray

# Points are the purchases at these multiples of a query's own price: dense near 1.
_WIDE = np.array([0.05, 0.2, 0.4, 0.6, 0.8, 0.92, 1.0, 1.09, 1.25, 1.6, 2.5, 6.0])
_UNDECIDED = 60  # queries closest to breaking even, left to the MILP
_LARGEST_LP = 20_000  # queries; beyond, only the plain repair is tried


@dataclass(frozen=True, eq=False)
class SeveralRows:
    """Rows as lambda >= 0 prices them: `<=` rows, `>=` turned round, `==` free; floors V >= 0."""

    queries: Separable
    rows: sparse.csr_array  # (K, n)
    budgets: FloatArray
    equality: NDArray[np.bool_]
    floors: sparse.csr_array  # (J, n)
    levels: FloatArray

    @classmethod
    def of(cls, program: Program, queries: Separable) -> tuple[SeveralRows, FloatArray]:
        """From a program, and the signs (K,) that turned its rows round."""
        sign = np.where(program.sense_array == ">=", -1.0, 1.0)
        rows = sparse.csr_array(program.rows.multiply(sign[:, None]))[:, queries.order]
        problem = cls(
            queries=queries,
            rows=sparse.csr_array(rows),
            budgets=sign * program.right_hand_side,
            equality=program.sense_array == "==",
            floors=sparse.csr_array(program.floors[:, queries.order]),
            levels=program.floor_levels,
        )
        return problem, sign

    def value(self, tokens: FloatArray) -> float:
        q = self.queries
        return math.fsum(q.weight * q.utility(tokens) - q.cost * tokens)

    def feasible(self, tokens: FloatArray) -> bool:
        """Every row and floor met to 5e-10 of its own size, half of what is finally checked."""
        activity = self.rows @ tokens
        size = np.maximum(np.abs(self.budgets), abs(self.rows) @ np.abs(tokens))
        excess = activity - self.budgets
        excess = np.where(self.equality, np.abs(excess), excess)
        short = self.levels - self.floors @ self.queries.utility(tokens)
        return bool((excess <= 5e-10 * size).all() and (short <= 5e-10 * np.abs(self.levels)).all())


@dataclass(frozen=True, eq=False)
class Ascent:
    """The best prices found, their rigorous bound, and what is bought at them."""

    row_prices: FloatArray
    floor_prices: FloatArray
    bound: float
    response: BestResponse
    price: FloatArray  # (n,) effective price of each query
    weight: FloatArray  # (n,) effective weight
    evaluations: int


def ascend(problem: SeveralRows, start: float, deadline: float) -> Ascent:
    """Descend the dual function over all prices; every evaluation is a valid bound."""
    queries = problem.queries
    rows, floors = problem.rows, problem.floors
    k, j = rows.shape[0], floors.shape[0]
    rows_t, floors_t = sparse.csr_array(rows.T), sparse.csr_array(floors.T)
    # Scale prices so that all rows look alike to the quasi-Newton method.
    row_scale = 1.0 / np.maximum(np.abs(problem.budgets), 1e-300)
    row_scale = np.where(row_scale > 1e200, 1.0, row_scale)
    floor_scale = 1.0 / np.where(np.abs(problem.levels) > 1e-12, np.abs(problem.levels), 1.0)
    scale = np.r_[row_scale, floor_scale]
    best: list[Ascent] = []
    count = 0

    def evaluate(scaled: FloatArray) -> tuple[float, FloatArray]:
        nonlocal count
        count += 1
        multipliers = scaled * scale
        prices, floor_prices = multipliers[:k], multipliers[k:]
        price = queries.cost + rows_t @ prices
        weight = queries.weight + floors_t @ floor_prices
        response = queries.respond(price, queries.lower, queries.upper, weight)
        fixed = math.fsum(prices * problem.budgets) - math.fsum(floor_prices * problem.levels)
        value = float(response.gain.sum()) + fixed
        if not best or value < best[0].bound:
            best[:] = [Ascent(prices, floor_prices, value, response, price, weight, count)]
        slack = np.r_[
            problem.budgets - rows @ response.tokens,
            floors @ response.utility - problem.levels,
        ]
        return value, slack * scale

    def stop(_: FloatArray) -> None:
        if time.perf_counter() > deadline:
            raise StopIteration

    free = np.r_[problem.equality, np.zeros(j, dtype=bool)]
    bounds = [(None if f else 0.0, None) for f in free]
    first = np.r_[np.full(k, start) / row_scale, np.zeros(j)]
    first = np.where(free, 0.0, first / max(k, 1))
    for _ in range(4):  # a restart forgets the curvature that a kink has spoilt
        before = best[0].bound if best else math.inf
        found = optimize.minimize(
            evaluate,
            first,
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            callback=stop,
            options={"maxiter": 300, "maxfun": 600, "ftol": 1e-13, "gtol": 1e-12, "maxcor": 30},
        )
        first = found.x
        if time.perf_counter() > deadline or before - best[0].bound < 1e-9 * abs(before):
            break
    top = best[0]
    bound = rigorous_sum(
        top.response.gain, top.response.utility, top.weight, top.price, top.response.tokens
    )
    terms = np.r_[top.row_prices * problem.budgets, -top.floor_prices * problem.levels]
    bound += math.fsum(terms) + 1e-15 * math.fsum(np.abs(terms))
    return Ascent(
        top.row_prices, top.floor_prices, bound, top.response, top.price, top.weight, count
    )


def misses(problem: SeveralRows) -> tuple[FloatArray, NDArray[np.bool_]] | None:
    """By how much each row (K,) is missed by the allocation that misses least, and which rows
    have a part in it; None if no row is missed.

    A linear program over the bounds alone: whole tokens and floors are left out, so that a miss
    proves the program infeasible, and no miss proves nothing.
    """
    queries, k = problem.queries, problem.rows.shape[0]
    if k == 0:
        return None
    scale = np.maximum(np.abs(problem.budgets), 1.0)
    rows = sparse.csr_array(problem.rows.multiply(1.0 / scale[:, None]))
    excess = sparse.csr_array(np.eye(k))
    limit = problem.budgets / scale
    answer = optimize.linprog(
        np.r_[np.zeros(queries.n), np.ones(k)],
        A_ub=sparse.vstack(
            [
                sparse.hstack([rows, -excess]),
                sparse.hstack([-rows[problem.equality], -excess[problem.equality]]),
            ]
        ),
        b_ub=np.r_[limit, -limit[problem.equality]],
        bounds=np.r_[
            np.column_stack([queries.lower, queries.upper]),
            np.column_stack([np.zeros(k), np.full(k, np.inf)]),
        ],
        method="highs",
    )
    if answer.x is None or answer.fun <= 1e-7:
        return None
    part = np.abs(answer.ineqlin.marginals[:k]) > 1e-9
    part[problem.equality] |= np.abs(answer.ineqlin.marginals[k:]) > 1e-9
    return np.asarray(answer.x[queries.n :] * scale), part


def drop_to_fit(problem: SeveralRows, ascent: Ascent) -> FloatArray | None:
    """Abandon the least solvent queries of each row that is overspent, then check everything."""
    queries = problem.queries
    tokens = ascent.response.tokens.copy()
    surplus = ascent.response.gain - (
        ascent.weight * queries.utility(queries.lower) - ascent.price * queries.lower
    )
    for k in range(problem.rows.shape[0]):
        index = problem.rows.indices[problem.rows.indptr[k] : problem.rows.indptr[k + 1]]
        data = problem.rows.data[problem.rows.indptr[k] : problem.rows.indptr[k + 1]]
        saved = data * (tokens[index] - queries.lower[index])
        excess = math.fsum(data * tokens[index]) - problem.budgets[k]
        useful = np.flatnonzero(saved > 0)
        if excess <= 0 or useful.size == 0:
            continue
        order = useful[np.argsort(surplus[index[useful]] / saved[useful], kind="stable")]
        enough = int(np.searchsorted(np.cumsum(saved[order]), excess)) + 1
        chosen = index[order[:enough]]
        tokens[chosen] = queries.lower[chosen]
    return tokens if problem.feasible(tokens) else None


def allocate(
    problem: SeveralRows,
    ascent: Ascent,
    deadline: float,
    mend: Callable[[FloatArray], FloatArray | None],
) -> FloatArray | None:
    """A feasible allocation near the bound, or None where none was found.

    `mend` makes whole tokens of an allocation that is nearly feasible, moving it little.
    """
    best, value = None, -math.inf

    def offer(tokens: FloatArray | None) -> None:
        nonlocal best, value
        if tokens is None or not problem.feasible(tokens):
            return
        worth = problem.value(tokens)
        if worth > value:
            best, value = tokens, worth

    queries = problem.queries
    for plain in (queries.lower, np.clip(queries.saturation, queries.lower, queries.upper)):
        offer(plain)  # nothing for anyone, or everyone at the peak
    offer(drop_to_fit(problem, ascent))
    if queries.n > _LARGEST_LP or time.perf_counter() > deadline:
        return best
    sides = _decide(problem, ascent, deadline)
    if sides is None:
        return best
    for tokens in _fill(problem, ascent, sides, deadline):
        if queries.integer is None:
            offer(tokens)
            continue
        offer(_whole(problem, tokens))
        if problem.floors.shape[0] or problem.equality.any():  # rounding down may miss these
            offer(mend(tokens))
    return best


def _bend(problem: SeveralRows) -> FloatArray:
    """Where each query's concave part begins, inside its bounds."""
    queries = problem.queries
    bend = np.clip(queries.inflection, queries.lower, queries.upper)
    if queries.integer is not None:
        bend = np.where(queries.integer, np.minimum(np.ceil(bend), queries.upper), bend)
    return bend


def _decide(problem: SeveralRows, ascent: Ascent, deadline: float) -> NDArray[np.bool_] | None:
    """Who is funded: settled by the prices, except near break-even, where a MILP decides."""
    queries = problem.queries
    bend = _bend(problem)
    funded_gain = queries.respond(ascent.price, bend, queries.upper, ascent.weight).gain
    at_lower = ascent.weight * queries.utility(queries.lower) - ascent.price * queries.lower
    surplus = funded_gain - at_lower
    choice = bend > queries.lower  # others are concave throughout: nothing to decide
    funded = surplus >= 0
    open_ = np.zeros(queries.n, dtype=bool)
    candidates = np.flatnonzero(choice)
    # Few binaries where the rows are few; more of them the more rows may each leave one open.
    many = min(candidates.size, _UNDECIDED + 2 * (problem.rows.shape[0] + problem.floors.shape[0]))
    open_[candidates[np.argsort(np.abs(surplus[candidates]), kind="stable")[:many]]] = True
    points = _points(problem, ascent.price, ascent.weight, bend, _WIDE)
    included = np.ones(points.shape, dtype=bool)
    included[:, 1:] = (funded | open_ | ~choice)[:, None]
    included[:, 0] = ~choice | ~funded | open_
    binary = np.zeros(points.shape, dtype=bool)
    binary[:, 0] = open_ & choice
    mixture = _solve_points(problem, points, included, binary, deadline)
    if mixture is None:  # all of the sides open, as a relaxation with many binaries
        included[:] = True
        binary[:, 0] = choice
        mixture = _solve_points(problem, points, included, binary, deadline)
    return None if mixture is None else ~choice | (mixture[:, 0] < 0.5)


def _fill(
    problem: SeveralRows, ascent: Ascent, funded: NDArray[np.bool_], deadline: float
) -> list[FloatArray]:
    """Amounts of the funded: linear programs over points that close in on the solution."""
    queries = problem.queries
    bend = _bend(problem)
    low = np.where(funded, bend, queries.lower)
    high = np.where(funded, queries.upper, queries.lower)
    price, weight, multiples = ascent.price, ascent.weight, _WIDE
    found = []
    for _ in range(6):
        points = _points(problem, price, weight, low, multiples, high)
        points[:, 0] = low
        mixture = _solve_points(problem, points, np.ones(points.shape, dtype=bool), None, deadline)
        if mixture is None:
            break
        tokens = np.clip((mixture * points).sum(axis=1), low, high)
        found.append(tokens)
        # The next points surround this solution more closely.
        slope = _marginal(queries, tokens)
        price = np.where(slope > 0, weight * slope, price)
        multiples = multiples**0.3
        if time.perf_counter() > deadline:
            break
    return found


def _points(
    problem: SeveralRows,
    price: FloatArray,
    weight: FloatArray,
    low: FloatArray,
    multiples: FloatArray,
    high: FloatArray | None = None,
) -> FloatArray:
    """(n, G + 3) amounts: the lower bound, both ends of [low, high], and G purchases between."""
    queries = problem.queries
    high = queries.upper if high is None else high
    columns = [queries.lower, low, high]
    columns += [queries.respond(price * m, low, high, weight).tokens for m in multiples]
    return np.column_stack(columns)


def _marginal(queries: Separable, tokens: FloatArray) -> FloatArray:
    return np.concatenate(
        [np.asarray(f.utility.marginal(tokens[f.part])) for f in queries.families]
    )


def _solve_points(
    problem: SeveralRows,
    points: FloatArray,
    included: NDArray[np.bool_],
    binary: NDArray[np.bool_] | None,
    deadline: float,
) -> FloatArray | None:
    """The best mixture (n, G) of each query's points that meets every row and floor."""
    remaining = deadline - time.perf_counter()
    if remaining <= 0:
        return None
    queries = problem.queries
    n, width = points.shape
    query, column = np.nonzero(included)
    amounts = points[query, column]
    values = np.column_stack([queries.utility(points[:, g]) for g in range(width)])[query, column]
    selector = sparse.csr_array(
        (np.ones(query.size), (query, np.arange(query.size))), shape=(n, query.size)
    )
    rows = problem.rows @ (selector.multiply(amounts[None, :]))
    floors = problem.floors @ (selector.multiply(values[None, :]))
    # Rows scaled to 1, and kept a hair inside so that the solver's tolerance is not overstepped.
    size = np.maximum(np.abs(problem.budgets), abs(rows).max(axis=1).toarray().ravel())
    size = np.where(size > 0, size, 1.0)
    inside = np.where(problem.equality, 0.0, 2e-10)
    rows = sparse.csr_array(rows.multiply(1.0 / size[:, None]))
    budgets = problem.budgets / size - inside
    level_size = np.where(problem.levels > 0, problem.levels, 1.0)
    floors = sparse.csr_array(floors.multiply(1.0 / level_size[:, None]))
    levels = problem.levels / level_size + 2e-10
    gain = queries.weight[query] * values - queries.cost[query] * amounts
    largest = float(np.abs(gain).max(initial=0.0)) or 1.0
    limit = {} if math.isinf(remaining) else {"time_limit": remaining}
    solution: FloatArray | None
    if binary is not None and binary[query, column].any():
        constraints = [optimize.LinearConstraint(selector, 1.0, 1.0)]
        if rows.shape[0]:
            least = np.where(problem.equality, budgets, -np.inf)
            constraints.append(optimize.LinearConstraint(rows, least, budgets))
        if floors.shape[0]:
            constraints.append(optimize.LinearConstraint(floors, levels, np.inf))
        if math.isinf(remaining):
            limit = {"time_limit": 10.0}  # an incumbent is enough here, a proof is not needed
        answer = optimize.milp(
            -gain / largest,
            integrality=binary[query, column].astype(int),
            bounds=optimize.Bounds(0.0, 1.0),
            constraints=constraints,
            options={"mip_rel_gap": 1e-6, **limit},
        )
        solution = answer.x
    else:
        upper = rows[np.flatnonzero(~problem.equality)]
        equal = rows[np.flatnonzero(problem.equality)]
        answer = optimize.linprog(
            -gain / largest,
            A_ub=sparse.vstack([upper, -floors]) if upper.shape[0] + floors.shape[0] else None,
            b_ub=np.r_[budgets[~problem.equality], -levels]
            if upper.shape[0] + floors.shape[0]
            else None,
            A_eq=sparse.vstack([selector, equal]),
            b_eq=np.r_[np.ones(n), budgets[problem.equality]],
            bounds=(0.0, None),
            method="highs",
            options={
                "primal_feasibility_tolerance": 1e-10,
                "dual_feasibility_tolerance": 1e-10,
                **limit,
            },
        )
        solution = answer.x
    if solution is None:
        return None
    mixture = np.zeros((n, width))
    mixture[query, column] = np.maximum(solution, 0.0)
    total = mixture.sum(axis=1, keepdims=True)
    return mixture / np.where(total > 0, total, 1.0)


def _whole(problem: SeveralRows, tokens: FloatArray) -> FloatArray:
    """Round whole tokens down, then give single tokens back where rows allow and they add most."""
    queries = problem.queries
    assert queries.integer is not None
    tokens = np.where(queries.integer, np.floor(tokens + 1e-7), tokens)
    tokens = np.maximum(tokens, queries.lower)
    columns = sparse.csc_array(problem.rows)
    room = problem.budgets - problem.rows @ tokens
    if problem.equality.any():
        return tokens
    closed = np.zeros(queries.n, dtype=bool)
    for _ in range(4 * queries.n):
        more = np.minimum(tokens + 1.0, queries.upper)
        added = queries.weight * (queries.utility(more) - queries.utility(tokens))
        added = np.where(queries.integer & ~closed & (more > tokens), added - queries.cost, -np.inf)
        best = int(np.argmax(added))
        if not added[best] > 0:
            break
        start, stop = columns.indptr[best], columns.indptr[best + 1]
        touched, use = columns.indices[start:stop], columns.data[start:stop]
        if (room[touched] >= use).all():
            tokens[best] = more[best]
            room[touched] -= use
        else:
            closed[best] = True
    return tokens
