"""From prices to allocations: decide who is funded, then how much, near the dual bound.

At the best prices at most about one query a row is left between its two versions; these few are
decided by a small MILP over points of the curves, and the amounts of all funded queries by linear
programs whose points close in on the solution (both with the HiGHS that SciPy ships).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, sparse

from clearopt.solvers.dual.separable import Separable
from clearopt.solvers.dual.several_rows import Ascent, Effective, SeveralRows
from clearopt.validation import FloatArray

# Points are the purchases at these multiples of a query's own price: dense near 1.
_WIDE = np.array([0.05, 0.2, 0.4, 0.6, 0.8, 0.92, 1.0, 1.09, 1.25, 1.6, 2.5, 6.0])
_UNDECIDED = 60  # queries closest to breaking even, left to the MILP
_LARGEST_MENU = 20_000  # whole amounts of all queries together that a MILP is given
_MENU_SECONDS = 5.0  # for it
_LARGEST_LP = 20_000  # queries; beyond, only the plain repair is tried


def drop_to_fit(problem: SeveralRows, ascent: Ascent) -> FloatArray | None:
    """Abandon the least solvent queries of each row that is overspent, then check everything."""
    queries = problem.queries
    tokens = ascent.response.tokens.copy()
    surplus = ascent.response.gain - problem.gains(queries.lower, ascent.effective)
    least = queries.curve(queries.lower)
    for k in range(problem.rows.shape[0]):
        row = _dense(problem.rows, k), _dense(problem.curve_rows, k)
        index = np.flatnonzero((row[0] != 0) | (row[1] != 0))
        now = queries.curve(tokens)
        saved = (row[0] * (tokens - queries.lower) + row[1] * (now - least))[index]
        excess = math.fsum(row[0] * tokens) + math.fsum(row[1] * now) - problem.budgets[k]
        useful = np.flatnonzero(saved > 0)
        if excess <= 0 or useful.size == 0:
            continue
        order = useful[np.argsort(surplus[index[useful]] / saved[useful], kind="stable")]
        enough = int(np.searchsorted(np.cumsum(saved[order]), excess)) + 1
        chosen = index[order[:enough]]
        tokens[chosen] = queries.lower[chosen]
    return tokens if problem.feasible(tokens) else None


def _dense(matrix: sparse.csr_array, k: int) -> FloatArray:
    """Row k, (n,)."""
    row = np.zeros(matrix.shape[1])
    part = slice(matrix.indptr[k], matrix.indptr[k + 1])
    row[matrix.indices[part]] = matrix.data[part]
    return row


def allocate(
    problem: SeveralRows,
    ascent: Ascent,
    deadline: float,
    tolerance: float,
    mend: Callable[[FloatArray], FloatArray | None],
) -> FloatArray | None:
    """A feasible allocation near the bound, or None where none was found.

    `mend` makes whole tokens of an allocation that is nearly feasible, moving it little. Within
    `tolerance` of the bound, relatively, the search ends early.
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
    enough = np.clip(queries.saturation, queries.lower, queries.upper)
    if queries.choice is not None:
        enough = np.where(queries.choice.best(problem.gains(enough)), enough, queries.lower)
    for plain in (queries.lower, enough):
        offer(plain)  # nothing for anyone, or everyone at the peak
    offer(drop_to_fit(problem, ascent))
    if queries.n > _LARGEST_LP or time.perf_counter() > deadline:
        return best
    sides = _decide(problem, ascent, deadline)
    for tokens in [] if sides is None else _fill(problem, ascent, sides, deadline):
        if queries.integer is None:
            offer(tokens)
            continue
        offer(_whole(problem, tokens))
        if problem.floors.shape[0] or problem.equality.any():  # rounding down may miss these
            offer(mend(tokens))
    if ascent.bound - value > tolerance * abs(ascent.bound):
        offer(_every_amount(problem, deadline))
    return best


def _every_amount(problem: SeveralRows, deadline: float) -> FloatArray | None:
    """A MILP over all whole amounts of everybody, where they are few enough to be written down."""
    queries = problem.queries
    if queries.integer is None or not queries.integer.all():
        return None
    most = _LARGEST_MENU // queries.n
    column = queries.lower
    columns, included = [column], [np.ones(queries.n, dtype=bool)]
    while (column < queries.upper).any():
        if len(columns) > most:
            return None
        following = queries.whole_after(column)
        if queries.least is not None:
            following = np.where(column == 0, np.maximum(following, queries.least), following)
        included.append((following > column) & (following <= queries.upper))
        column = np.where(included[-1], following, queries.upper)
        columns.append(column)
    points, chosen = np.column_stack(columns), np.column_stack(included)
    soon = min(deadline, time.perf_counter() + _MENU_SECONDS)
    mixture = _solve_points(problem, points, chosen, chosen, soon)
    if mixture is None:
        return None
    return points[np.arange(queries.n), np.argmax(mixture, axis=1)]


def _bend(problem: SeveralRows) -> FloatArray:
    """Where each query's concave part begins, inside its bounds."""
    queries = problem.queries
    bend = np.clip(queries.inflection, queries.lower, queries.upper)
    return np.minimum(queries.whole_above(bend), queries.upper)


def _decide(problem: SeveralRows, ascent: Ascent, deadline: float) -> NDArray[np.bool_] | None:
    """Who is funded: settled by the prices, except near break-even, where a MILP decides."""
    queries = problem.queries
    bend, at = _bend(problem), ascent.effective
    funded_gain = queries.respond(
        at.price, bend, queries.upper, at.weight, at.curve_price, alone=True
    ).gain
    surplus = funded_gain - problem.gains(queries.lower, at)
    decidable = bend > queries.lower  # others are concave throughout: nothing to decide
    if queries.choice is not None:
        # In a choice the best option competes with the second best, and the others with it.
        surplus = surplus - queries.choice.second(surplus)
        decidable = decidable | ((queries.choice.matrix().sum(axis=0) > 0) & (queries.upper > 0))
    funded = surplus >= 0
    open_ = np.zeros(queries.n, dtype=bool)
    candidates = np.flatnonzero(decidable)
    # Few binaries where the rows are few; more of them the more rows may each leave one open.
    many = min(candidates.size, _UNDECIDED + 2 * (problem.rows.shape[0] + problem.floors.shape[0]))
    open_[candidates[np.argsort(np.abs(surplus[candidates]), kind="stable")[:many]]] = True
    points = _points(problem, at, bend, _WIDE)
    included = np.ones(points.shape, dtype=bool)
    included[:, 1:] = (funded | open_ | ~decidable)[:, None]
    included[:, 0] = ~decidable | ~funded | open_
    binary = np.zeros(points.shape, dtype=bool)
    binary[:, 0] = open_ & decidable
    mixture = _solve_points(problem, points, included, binary, deadline)
    if mixture is None:  # all of the sides open, as a relaxation with many binaries
        included[:] = True
        binary[:, 0] = decidable
        mixture = _solve_points(problem, points, included, binary, deadline)
    return None if mixture is None else ~decidable | (mixture[:, 0] < 0.5)


def _fill(
    problem: SeveralRows, ascent: Ascent, funded: NDArray[np.bool_], deadline: float
) -> list[FloatArray]:
    """Amounts of the funded: linear programs over points that close in on the solution."""
    queries = problem.queries
    bend = _bend(problem)
    low = np.where(funded, bend, queries.lower)
    high = np.where(funded, queries.upper, queries.lower)
    at, multiples = ascent.effective, _WIDE
    found = []
    for _ in range(6):
        points = _points(problem, at, low, multiples, high)
        points[:, 0] = low
        mixture = _solve_points(problem, points, np.ones(points.shape, dtype=bool), None, deadline)
        if mixture is None:
            break
        tokens = np.clip((mixture * points).sum(axis=1), low, high)
        found.append(tokens)
        # The next points surround this solution more closely.
        slope = _marginal(queries, tokens)
        price = np.where((slope > 0) & (at.weight > 0), at.weight * slope, at.price)
        at = Effective(at.weight, price, at.curve_price)
        multiples = multiples**0.3
        if time.perf_counter() > deadline:
            break
    return found


def _points(
    problem: SeveralRows,
    at: Effective,
    low: FloatArray,
    multiples: FloatArray,
    high: FloatArray | None = None,
) -> FloatArray:
    """(n, G + 3) amounts: the lower bound, both ends of [low, high], and G purchases between."""
    queries = problem.queries
    high = queries.upper if high is None else high
    columns = [queries.lower, low, high]
    for multiple in multiples.tolist():
        then = at.scaled(multiple)
        columns.append(
            queries.respond(then.price, low, high, then.weight, then.curve_price, alone=True).tokens
        )
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
    costs = 0.0 * amounts
    if queries.grid is not None:
        costs = np.column_stack([queries.curve(points[:, g]) for g in range(width)])[query, column]
        rows = rows + problem.curve_rows @ (selector.multiply(costs[None, :]))
    # What is on in each choice: everything but the first column, which is nothing.
    options = sparse.csr_array((0, query.size))
    if queries.choice is not None:
        on = sparse.csr_array(selector.multiply((column > 0)[None, :].astype(np.float64)))
        options = sparse.csr_array(queries.choice.matrix() @ on)
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
    gain = gain - queries.curve_cost[query] * costs
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
        if options.shape[0]:
            constraints.append(optimize.LinearConstraint(options, -np.inf, 1.0))
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
        # Choices are settled here: only one option of each has more than one point.
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
    tokens = np.maximum(queries.whole_below(tokens, 1e-7), queries.lower)
    if problem.equality.any():
        return tokens
    columns, curve_columns = sparse.csc_array(problem.rows), sparse.csc_array(problem.curve_rows)
    room = problem.budgets - problem.activity(tokens)
    closed = np.zeros(queries.n, dtype=bool)
    for _ in range(4 * queries.n):
        more = np.minimum(queries.whole_after(tokens), queries.upper)
        added = problem.gains(more) - problem.gains(tokens)
        able = queries.integer & ~closed & (more > tokens)
        if queries.least is not None:
            able &= more >= queries.least
        if queries.choice is not None:
            able &= tokens > 0
        added = np.where(able, added, -np.inf)
        best = int(np.argmax(added))
        if not added[best] > 0:
            break
        use = np.zeros(room.size)
        part = slice(columns.indptr[best], columns.indptr[best + 1])
        use[columns.indices[part]] += columns.data[part] * (more[best] - tokens[best])
        if queries.grid is not None:
            part = slice(curve_columns.indptr[best], curve_columns.indptr[best + 1])
            rise = (queries.curve(more) - queries.curve(tokens))[best]
            use[curve_columns.indices[part]] += curve_columns.data[part] * rise
        if (room[use > 0] >= use[use > 0]).all():
            tokens[best] = more[best]
            room -= use
        else:
            closed[best] = True
    return tokens
