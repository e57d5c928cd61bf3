"""The dual bound of a few hundred queries by column generation, to the last kink.

The relaxation mixes amounts: of every query a convex combination of known points of its curve, so
that all rows and floors are met (Dantzig and Wolfe 1960). This restricted master is a linear
program, its value a lower bound on the least dual value; its prices are handed to the queries,
whose best responses are the next points, and give an upper bound. Where tokens are whole or curves
are measured both meet after finitely many rounds, which no smooth method can promise.

One HiGHS instance is kept over all boxes of a branch and bound: a box closes the columns outside of
it, and the simplex method starts from the last basis.
"""

from __future__ import annotations

from dataclasses import dataclass

import highspy
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from clearopt.deadline import NEVER, Deadline
from clearopt.solvers.dual.several_rows import SeveralRows
from clearopt.validation import FloatArray

_PENALTY = 1e5  # what missing a row costs, in units of what the row is worth
_IMPROVES = 1e-13  # of the objective: smaller reduced costs are rounding


@dataclass(frozen=True, eq=False)
class Mixture:
    """A convex combination of points of every query, meeting the rows if any known points do."""

    prices: FloatArray  # (K + J,)
    value: float  # of the mixture, at least that of any feasible allocation of known points
    query: NDArray[np.intp]  # of the points used
    amount: FloatArray
    share: FloatArray


class _Quiet(highspy.Highs):  # type: ignore[misc]  # comes without types
    """HiGHS without its banner, which the usual constructor prints before it can be silenced."""

    def __init__(self) -> None:
        super(highspy.Highs, self).__init__()
        self.setOptionValue("output_flag", False)


class Master:
    """The linear program over known points."""

    def __init__(self, problem: SeveralRows, size: float) -> None:
        self.problem = problem
        queries = problem.queries
        n, self.rows, self.floors = queries.n, problem.rows.shape[0], problem.floors.shape[0]
        self.size = max(size, 1e-300)
        level = np.r_[problem.budgets, problem.levels]
        heavy = np.r_[
            _row_sizes(problem.rows, queries.upper) + _row_sizes(problem.curve_rows, queries.upper),
            _row_sizes(problem.floors, np.ones(n)),
        ]
        scale = np.where(np.abs(level) > 1e-9 * heavy, np.abs(level), heavy)
        self.scale = np.where(scale > 0, scale, 1.0)
        columns = sparse.csc_array(
            sparse.vstack([problem.rows, problem.curve_rows, problem.floors])
        )
        self.columns = columns
        self.choice = None if queries.choice is None else queries.choice.matrix().tocsc()
        self.options = 0 if self.choice is None else self.choice.shape[0]
        self.query = np.zeros(0, dtype=np.intp)
        self.amount = np.zeros(0)
        self._known: set[tuple[int, float]] = set()
        self._open()
        self._elastic(level)

    # ------------------------------------------------------------------ the model
    def _open(self) -> None:
        model = _Quiet()
        for option, value in (
            # Not `threads`: HiGHS refuses to run where another model of the process has set it.
            ("parallel", "off"),
            ("presolve", "off"),
            ("solver", "simplex"),
            ("primal_feasibility_tolerance", 1e-10),
            ("dual_feasibility_tolerance", 1e-10),
        ):
            model.setOptionValue(option, value)
        problem, infinity = self.problem, highspy.kHighsInf
        budgets = problem.budgets / self.scale[: self.rows]
        lower = np.r_[
            np.where(problem.equality, budgets, -infinity),
            problem.levels / self.scale[self.rows :],
            np.ones(problem.queries.n),
            np.full(self.options, -infinity),
        ]
        upper = np.r_[
            budgets,
            np.full(self.floors, infinity),
            np.ones(problem.queries.n + self.options),
        ]
        empty = np.zeros(0)
        model.addRows(
            lower.size, lower, upper, 0, np.zeros(lower.size, dtype=np.int32),
            np.zeros(0, dtype=np.int32), empty,
        )  # fmt: skip
        self.model = model

    def _elastic(self, level: FloatArray) -> None:
        """Columns that meet every row at a penalty, so that the program is never infeasible."""
        count = self.rows + self.floors
        # A `<=` row is missed from above, a floor from below, an equality from either side.
        index = [*range(count), *np.flatnonzero(self.problem.equality).tolist()]
        sign = np.r_[np.full(self.rows, -1.0), np.ones(self.floors)]
        sign = np.r_[sign, np.ones(len(index) - count)]
        self.elastic = len(index)
        if not index:
            return
        self.model.addCols(
            len(index), np.full(len(index), _PENALTY), np.zeros(len(index)),
            np.full(len(index), highspy.kHighsInf), len(index),
            np.arange(len(index), dtype=np.int32), np.array(index, dtype=np.int32), sign,
        )  # fmt: skip

    def add(self, query: NDArray[np.intp], amount: FloatArray) -> int:
        """Points not known yet; returns how many they are."""
        fresh = [
            k
            for k, point in enumerate(zip(query.tolist(), amount.tolist(), strict=True))
            if point not in self._known and not self._known.add(point)  # type: ignore[func-returns-value]
        ]
        if not fresh:
            return 0
        query, amount = query[fresh], amount[fresh]
        problem, queries = self.problem, self.problem.queries
        utility, cost = queries.at(query, amount)
        gain = queries.weight[query] * utility - queries.cost[query] * amount
        gain = gain - queries.curve_cost[query] * cost
        taken = self.columns[:, query]
        k = problem.rows.shape[0]
        charged = taken[:k].multiply(amount[None, :]) + taken[k : 2 * k].multiply(cost[None, :])
        counted = taken[2 * k :].multiply(utility[None, :])
        body = sparse.vstack([charged, counted]).multiply(1.0 / self.scale[:, None])
        convex = sparse.csc_array(
            (np.ones(query.size), (query, np.arange(query.size))), (queries.n, query.size)
        )
        parts = [body, convex]
        if self.choice is not None:
            parts.append(self.choice[:, query].multiply((amount > 0).astype(float)[None, :]))
        matrix = sparse.csc_array(sparse.vstack(parts))
        matrix.eliminate_zeros()
        self.model.addCols(
            query.size, -gain / self.size, np.zeros(query.size),
            np.full(query.size, highspy.kHighsInf),
            matrix.nnz, matrix.indptr[:-1].astype(np.int32),
            matrix.indices.astype(np.int32), matrix.data,
        )  # fmt: skip
        self.query, self.amount = np.r_[self.query, query], np.r_[self.amount, amount]
        return len(fresh)

    # ------------------------------------------------------------------ solving
    def confine(self, lower: FloatArray, upper: FloatArray) -> None:
        """Close the points outside of a box."""
        queries = self.problem.queries
        inside = (self.amount >= lower[self.query]) & (self.amount <= upper[self.query])
        if queries.least is not None:
            inside &= (self.amount == 0) | (self.amount >= queries.least[self.query])
        index = np.arange(self.query.size, dtype=np.int32) + self.elastic
        bound = np.where(inside, highspy.kHighsInf, 0.0)
        self.model.changeColsBounds(index.size, index, np.zeros(index.size), bound)

    def solve(self, deadline: Deadline = NEVER) -> Mixture | None:
        """None where HiGHS gives up or time does, which costs a bound and no more."""
        # HiGHS counts from its own beginning, over all programs that it has solved.
        self.model.setOptionValue("time_limit", self.model.getRunTime() + deadline.left)
        self.model.run()
        if self.model.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            return None
        solution = self.model.getSolution()
        value = np.asarray(solution.col_value)
        dual = np.asarray(solution.row_dual)[: self.rows + self.floors]
        sign = np.r_[np.full(self.rows, -1.0), np.ones(self.floors)]
        with np.errstate(all="ignore"):
            prices = sign * dual * self.size / self.scale
        if not np.isfinite(prices).all():
            return None
        free = np.r_[self.problem.equality, np.zeros(self.floors, dtype=bool)]
        prices = np.where(free, prices, np.maximum(prices, 0.0))
        share = value[self.elastic :]
        used = np.flatnonzero(share > 0)
        objective = -self.model.getInfo().objective_function_value * self.size
        return Mixture(prices, objective, self.query[used], self.amount[used], share[used])


def _row_sizes(matrix: sparse.csr_array, amounts: FloatArray) -> FloatArray:
    return np.asarray(abs(matrix) @ np.abs(amounts))
