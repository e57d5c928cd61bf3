"""Several rows, accuracy floors and choices: a rigorous dual bound at the best prices.

With the prices fixed the problem is n one-dimensional ones, whatever the number of rows. The dual
function is convex and nonsmooth only where a query jumps; L-BFGS-B descends it well. What to make
of the prices is in `rounding`.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, sparse

from clearopt.program import Program
from clearopt.solvers.dual.separable import Separable, rigorous_sum
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

        problem = cls(
            queries=queries,
            rows=turned(program.rows),
            curve_rows=turned(program.curve_rows),
            budgets=sign * program.right_hand_side,
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
        if at is None:
            at = Effective(q.weight, q.cost, q.curve_cost)
        gains = at.weight * q.utility(tokens) - at.price * tokens
        return gains if q.grid is None else gains - at.curve_price * q.curve(tokens)

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


@dataclass(frozen=True, eq=False)
class Effective:
    """Each query's effective weight, price per token and price per unit of its cost, (n,)."""

    weight: FloatArray
    price: FloatArray
    curve_price: FloatArray

    def scaled(self, factor: float) -> Effective:
        """The same with all prices multiplied."""
        return Effective(self.weight, factor * self.price, factor * self.curve_price)


@dataclass(frozen=True, eq=False)
class Ascent:
    """The best prices found, their rigorous bound, and what is bought at them."""

    row_prices: FloatArray
    floor_prices: FloatArray
    bound: float
    response: BestResponse
    effective: Effective
    evaluations: int


def ascend(problem: SeveralRows, first: FloatArray, deadline: float) -> Ascent:
    """Descend the dual function over all prices; every evaluation is a valid bound.

    Args:
        problem: the program.
        first: (K + J,) prices to start from.
        deadline: of `time.perf_counter`.
    """
    queries = problem.queries
    k = problem.rows.shape[0]
    # Scale prices so that all rows look alike to the quasi-Newton method.
    sizes = np.abs(np.r_[problem.budgets, problem.levels])
    scale = 1.0 / np.where(sizes > 1e-12, sizes, 1.0)
    best: list[Ascent] = []
    count = 0

    def evaluate(scaled: FloatArray) -> tuple[float, FloatArray]:
        nonlocal count
        count += 1
        multipliers = scaled * scale
        prices, floor_prices = multipliers[:k], multipliers[k:]
        effective = problem.effective(prices, floor_prices)
        response = queries.respond(
            effective.price,
            queries.lower,
            queries.upper,
            effective.weight,
            effective.curve_price,
        )
        fixed = math.fsum(prices * problem.budgets) - math.fsum(floor_prices * problem.levels)
        value = float(response.gain.sum()) + fixed
        if not best or value < best[0].bound:
            best[:] = [Ascent(prices, floor_prices, value, response, effective, count)]
        slack = np.r_[
            problem.budgets - problem.activity(response.tokens),
            problem.floors @ response.utility - problem.levels,
        ]
        return value, slack * scale

    def stop(_: FloatArray) -> None:
        if time.perf_counter() > deadline:
            raise StopIteration

    free = np.r_[problem.equality, np.zeros(problem.levels.size, dtype=bool)]
    bounds = [(None if f else 0.0, None) for f in free]
    start = np.where(free, first, np.maximum(first, 0.0)) / scale
    evaluate(start)
    for _ in range(4 if start.size else 0):  # a restart forgets the curvature a kink has spoilt
        before = best[0].bound
        found = optimize.minimize(
            evaluate,
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            callback=stop,
            options={"maxiter": 300, "maxfun": 600, "ftol": 1e-13, "gtol": 1e-12, "maxcor": 30},
        )
        start = found.x
        if time.perf_counter() > deadline or before - best[0].bound < 1e-9 * abs(before):
            break
    top = best[0]
    at, response = top.effective, top.response
    charged = at.price * response.tokens
    if queries.grid is not None:
        charged = np.abs(charged) + np.abs(at.curve_price * queries.curve(response.tokens))
    bound = rigorous_sum(response.gain, response.utility, at.weight, charged, np.ones(queries.n))
    terms = np.r_[top.row_prices * problem.budgets, -top.floor_prices * problem.levels]
    bound += math.fsum(terms) + 1e-15 * math.fsum(np.abs(terms))
    return Ascent(top.row_prices, top.floor_prices, bound, response, at, count)


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
