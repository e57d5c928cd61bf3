"""Several rows, accuracy floors and choices: a rigorous dual bound at the best prices.

With the prices fixed the problem is n one-dimensional ones, whatever the number of rows. The dual
function is convex and nonsmooth only where a query jumps; L-BFGS-B descends it well. What to make
of the prices is in `rounding`.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, sparse

from clearopt.deadline import Deadline
from clearopt.program import Program
from clearopt.solvers.dual.separable import Effective, Separable, rigorous_sum
from clearopt.utilities import BestResponse
from clearopt.validation import FloatArray


@dataclass(frozen=True, eq=False)
class SeveralRows:
    """Rows as lambda >= 0 prices them: `<=` rows, `>=` turned round, `==` free; floors V >= 0."""

    queries: Separable
    rows: sparse.csr_array  # (K, n)
    curve_rows: sparse.csr_array  # (K, n), charged on the cost curves of whole-token queries
    budgets: FloatArray
    equality: NDArray[np.bool_]
    floors: sparse.csr_array  # (J, n)
    levels: FloatArray

    @classmethod
    def of(cls, program: Program, queries: Separable) -> tuple[SeveralRows, FloatArray]:
        """From a program, and the signs (K,) that turned its rows round."""
        sign = np.where(program.sense_array == ">=", -1.0, 1.0)

        def turned(matrix: sparse.csr_array) -> sparse.csr_array:
            signed = sparse.csr_array(matrix.multiply(sign[:, None]))
            return sparse.csr_array(signed[:, queries.order])

        rows, curve_rows = turned(program.rows), turned(program.curve_rows)
        problem = cls(
            queries=queries,
            rows=rows,
            curve_rows=curve_rows,
            budgets=_whole_budgets(
                queries, rows, curve_rows, sign * program.right_hand_side, program.sense_array
            ),
            equality=program.sense_array == "==",
            floors=sparse.csr_array(program.floors[:, queries.order]),
            levels=program.floor_levels,
        )
        return problem, sign

    def activity(self, tokens: FloatArray) -> FloatArray:
        """What every row charges for an allocation, (K,)."""
        charged = self.rows @ tokens
        return charged + self.curve_rows @ self.queries.curve(tokens)

    def gains(self, tokens: FloatArray, at: Effective | None = None) -> FloatArray:
        """(n,) what each query adds to the objective, or to the Lagrangian at given prices."""
        q = self.queries
        return q.gain(tokens, Effective(q.weight, q.cost, q.curve_cost) if at is None else at)

    def gain_of(self, query: int, tokens: float) -> float:
        """What one query adds to the objective with so many tokens."""
        q, one = self.queries, np.array([query])
        utility, cost = q.at(one, np.array([tokens]))
        paid = q.cost[query] * tokens + q.curve_cost[query] * cost[0]
        return float(q.weight[query] * utility[0] - paid)

    def value(self, tokens: FloatArray) -> float:
        """The objective, without its constant."""
        return math.fsum(self.gains(tokens))

    def effective(self, row_prices: FloatArray, floor_prices: FloatArray) -> Effective:
        """What a unit of utility, a token and a unit of cost are worth to each query."""
        q = self.queries
        return Effective(
            q.weight + self.floors.T @ floor_prices,
            q.cost + self.rows.T @ row_prices,
            q.curve_cost + self.curve_rows.T @ row_prices,
        )

    def rigorous_bound(
        self, prices: FloatArray, effective: Effective, response: BestResponse
    ) -> float:
        """D at these prices (K + J,), rounded upwards: valid in floating point."""
        queries, k = self.queries, self.rows.shape[0]
        # What the terms of a price add up to, whatever of them cancels.
        paid = np.abs(prices[:k])
        charged = (np.abs(queries.cost) + abs(self.rows).T @ paid) * response.tokens
        if queries.grid is not None:
            curved = np.abs(queries.curve_cost) + abs(self.curve_rows).T @ paid
            charged = charged + curved * queries.curve(response.tokens)
        bound = rigorous_sum(
            response.gain, response.utility, effective.weight, charged, np.ones(queries.n)
        )
        terms = prices * np.r_[self.budgets, -self.levels]
        return bound + math.fsum(terms) + 1e-15 * math.fsum(np.abs(terms))

    def without_idle_rows(self, prices: FloatArray) -> FloatArray:
        """Prices (K + J,), 0 for rows over queries that are all fixed: any price would do there."""
        fixed = self.queries.lower == self.queries.upper
        if not fixed.any():
            return prices
        idle = np.ones(self.budgets.size, dtype=bool)
        for matrix in (self.rows, self.curve_rows):
            entries = matrix.tocoo()
            idle[entries.row[~fixed[entries.col] & (entries.data != 0)]] = False
        return np.where(np.r_[idle, np.zeros(self.levels.size, dtype=bool)], 0.0, prices)

    def feasible(self, tokens: FloatArray) -> bool:
        """Every row and floor met to 5e-10 of its own size, half of what is finally checked."""
        q = self.queries
        size = abs(self.rows) @ np.abs(tokens) + abs(self.curve_rows) @ q.curve(tokens)
        size = np.maximum(np.abs(self.budgets), size)
        excess = self.activity(tokens) - self.budgets
        excess = np.where(self.equality, np.abs(excess), excess)
        short = self.levels - self.floors @ q.utility(tokens)
        met = (excess <= 5e-10 * size).all() and (short <= 5e-10 * np.abs(self.levels)).all()
        if q.least is not None:
            met = met and not ((tokens > 0) & (tokens < q.least)).any()
        return bool(met and (q.choice is None or not q.choice.broken(tokens)))


def _whole_budgets(
    queries: Separable,
    rows: sparse.csr_array,
    curve_rows: sparse.csr_array,
    budgets: FloatArray,
    senses: NDArray[np.str_],
) -> FloatArray:
    """Budgets rounded down where whole tokens are charged whole numbers: nothing is cut off."""
    if queries.integer is None:
        return budgets
    fractional = ~queries.integer
    for family in queries.families:
        if not family.utility.counts_tokens:
            fractional[family.part] = True
    entries = rows.tocoo()
    broken = (entries.data != np.round(entries.data)) | (
        fractional[entries.col] & (entries.data != 0)
    )
    plain = np.bincount(entries.row[broken], minlength=budgets.size) == 0
    plain &= (np.diff(curve_rows.indptr) == 0) & (senses != "==")
    return np.where(plain, np.floor(budgets + 1e-9 * np.maximum(1.0, np.abs(budgets))), budgets)


class _OutOfTime(Exception):
    """Between two evaluations of one descent."""


def polish(
    problem: SeveralRows,
    first: FloatArray,
    lower: FloatArray,
    upper: FloatArray,
    deadline: Deadline,
) -> FloatArray:
    """Better prices (K + J,) where D is piecewise and the queries are many: L-BFGS-B from `first`.

    Whole tokens and measured curves leave D kinks that the interior-point method smooths over.
    """
    queries, k = problem.queries, problem.rows.shape[0]
    least, best = math.inf, first
    # Scaled so that all rows look alike to the quasi-Newton method.
    sizes = np.abs(np.r_[problem.budgets, problem.levels])
    scale = 1.0 / np.where(sizes > 1e-12, sizes, 1.0)

    def evaluate(scaled: FloatArray) -> tuple[float, FloatArray]:
        nonlocal least, best
        if deadline.over:
            raise _OutOfTime
        prices = scaled * scale
        at = problem.effective(prices[:k], prices[k:])
        response = queries.respond(at.price, lower, upper, at.weight, at.curve_price)
        fixed = math.fsum(prices * np.r_[problem.budgets, -problem.levels])
        value = float(response.gain.sum()) + fixed
        if value < least:
            least, best = value, prices
        slack = np.r_[
            problem.budgets - problem.activity(response.tokens),
            problem.floors @ response.utility - problem.levels,
        ]
        return value, slack * scale

    free = np.r_[problem.equality, np.zeros(problem.levels.size, dtype=bool)]
    with suppress(_OutOfTime):
        optimize.minimize(
            evaluate,
            np.where(free, first, np.maximum(first, 0.0)) / scale,
            jac=True,
            method="L-BFGS-B",
            bounds=[(None if f else 0.0, None) for f in free],
            options={"maxiter": 40, "maxfun": 80, "ftol": 1e-13, "gtol": 1e-12, "maxcor": 30},
        )
    return best


def first_prices(problem: SeveralRows, row_price: float) -> FloatArray:
    """(K + J,) prices to start from: `row_price` shared by the rows; floors at what tokens cost.

    A floor needs a price of its own where nothing else pays for utility (fewest tokens for a
    promised accuracy): what its queries' break-even tokens cost, a unit of utility.
    """
    queries, k = problem.queries, problem.rows.shape[0]
    rows = np.where(problem.equality, 0.0, row_price / max(k, 1))
    floors = np.zeros(problem.levels.size)
    if floors.size and not queries.weight.any():
        with np.errstate(all="ignore"):
            slopes = np.concatenate(
                [np.asarray(f.utility.tangent_from_zero()[1]) for f in queries.families]
            )
            worth = (queries.cost + queries.curve_cost) / slopes
        for j in range(floors.size):
            part = slice(problem.floors.indptr[j], problem.floors.indptr[j + 1])
            ratio = worth[problem.floors.indices[part]] / problem.floors.data[part]
            ratio = ratio[np.isfinite(ratio) & (ratio > 0)]
            floors[j] = float(np.median(ratio)) if ratio.size else 0.0
    return np.r_[rows, floors]
