"""Many rows, floors and choices as branch and bound sees them: relaxation, candidates, propagation.

Smooth curves are relaxed by the interior-point method; where tokens are whole, curves measured or
both currencies charged, D is piecewise and column generation follows, which ends at the last kink.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from clearopt.deadline import NEVER, Deadline
from clearopt.solvers.dual.coupling import Candidates, Relaxed
from clearopt.solvers.dual.interior import Box, descend
from clearopt.solvers.dual.rounding import whole_tokens
from clearopt.solvers.dual.separable import Effective, Separable
from clearopt.solvers.dual.several_rows import SeveralRows, polish
from clearopt.utilities import BestResponse
from clearopt.validation import FloatArray

if TYPE_CHECKING:
    from clearopt.solvers.dual.master import Master, Mixture

_ROUNDS = 60  # of column generation in one box
LARGEST_MASTER = 2_000  # queries whose points one linear program holds
_ENDLESS = 1e150  # prices on the way to proving that nothing is feasible
_MENDED = 3  # boxes whose mixture is mended where rounding alone meets no floor
_MET = 2e-11  # of the bound: a mixture this close to it proves that no price is better
_WORTHLESS = 1e-14  # of the bound
_NOTHING = 1e-11  # shares below this are none
_DECIDED = 1e-6  # the interior-point method leaves no share at 0 or 1
_NO_LOSS = 1e-13  # of the bound: what a mixture may be better than its mean by rounding


@dataclass(frozen=True, eq=False)
class Blend:
    """A mixture, query by query, (n,) each."""

    mean: FloatArray
    utility: FloatArray  # of the mixture, at least that of the mean where it spans a jump
    under: FloatArray  # the least and the most of the amounts mixed
    over: FloatArray
    share: FloatArray  # of the most


@dataclass(frozen=True, eq=False)
class Bounded:
    """A rigorous bound, and what every query buys where it holds."""

    bound: float
    prices: FloatArray
    effective: Effective
    response: BestResponse


class ManyRows:
    """`Coupling` for several rows; see there.

    Args:
        problem: the rows.
        deadline: for what takes long within one box.
        mend: makes whole tokens of an allocation that nearly meets the rows, moving it little.
        thorough: go to the last kink of D, and try several allocations in each box, not only the
            likeliest.
    """

    # Prices and amounts come from linear systems, which leave some more than single sums do.
    resolution = 1e-10

    def __init__(
        self,
        problem: SeveralRows,
        deadline: Deadline = NEVER,
        mend: Callable[[FloatArray], FloatArray | None] | None = None,
        *,
        thorough: bool = True,
    ) -> None:
        self.problem, self.thorough = problem, thorough
        self._mend, self._mended = mend, 0
        self.queries: Separable = problem.queries
        self.deadline = deadline
        queries = problem.queries
        self.kinked = (
            queries.integer is not None
            or queries.grid is not None
            or not bool(queries.convex_before.all())
            or not all(family.utility.smooth for family in queries.families)
        )
        self._master: Master | None = None
        self._tried: set[bytes] = set()
        self._cutoff = -math.inf
        # Whole tokens at whole costs, and nothing else: every allocation is worth a whole number.
        whole = queries.integer is not None and bool(queries.integer.all())
        whole = whole and not queries.weight.any() and not queries.curve_cost.any()
        whole = whole and all(f.utility.counts_tokens for f in queries.families)
        self.whole = whole and bool((queries.cost == np.round(queries.cost)).all())
        # No allocation is worth less: a bound below this proves that there is none.
        ends = np.maximum(queries.cost * queries.lower, queries.cost * queries.upper)
        paid = queries.curve_cost * queries.curve(queries.upper)
        self.worst = -math.fsum(np.maximum(ends, 0.0)) - math.fsum(np.maximum(paid, 0.0))

    # ------------------------------------------------------------------ rows
    @cached_property
    def free_disposal(self) -> NDArray[np.bool_]:
        problem, queries = self.problem, self.queries
        asked = np.zeros(queries.n, dtype=bool)
        for matrix in (problem.rows, problem.curve_rows):
            entries = matrix.tocoo()
            asked[entries.col[(entries.data < 0) | problem.equality[entries.row]]] = True
        return ~asked & (queries.cost >= 0) & (queries.curve_cost >= 0)

    def columns(self, index: NDArray[np.intp]) -> FloatArray:
        problem = self.problem
        matrices = (problem.rows, problem.curve_rows, problem.floors)
        stacked = sparse.csc_array(sparse.vstack(matrices))
        return np.asarray(stacked[:, index].toarray()).T

    def simple(self, lower: FloatArray, upper: FloatArray) -> list[FloatArray]:
        useful = np.clip(self.queries.saturation, lower, upper)
        signs = self.problem.rows.sum(axis=0) + self.problem.curve_rows.sum(axis=0)
        cheap = np.where(np.asarray(signs).ravel() >= 0, lower, upper)
        # Between the two ends, row by row, as far as each equality asks.
        equal = self.problem.rows[np.flatnonzero(self.problem.equality)]
        least, most = equal @ lower, equal @ upper
        share = self.problem.budgets[self.problem.equality] - least
        share = np.clip(share / np.where(most > least, most - least, 1.0), 0.0, 1.0)
        between = lower + (abs(equal) > 0).astype(np.float64).T @ share * (upper - lower)
        return [lower, between, useful, upper, cheap]

    def accepts(self, tokens: FloatArray) -> bool:
        return self.problem.feasible(tokens)

    def value(self, tokens: FloatArray) -> float:
        return self.problem.value(tokens)

    def holds_nothing(self, lower: FloatArray, upper: FloatArray) -> bool:
        if (lower > upper).any():
            return True
        problem = self.problem
        least, most = _activity(problem.rows, lower, upper)
        curves = self.queries.curve(lower), self.queries.curve(upper)
        bent = _activity(problem.curve_rows, *curves)
        least, most = least + bent[0], most + bent[1]
        size = np.maximum(np.abs(problem.budgets), np.maximum(np.abs(least), np.abs(most)))
        over = least > problem.budgets + 1e-9 * size
        short = problem.equality & (most < problem.budgets - 1e-9 * size)
        return bool(over.any() or short.any())

    def propagate(self, lower: FloatArray, upper: FloatArray) -> tuple[FloatArray, FloatArray]:
        queries, problem = self.queries, self.problem
        lower, upper = lower.copy(), upper.copy()
        choice = queries.choice
        if choice is not None:  # where one must have tokens the others have none
            taken = np.zeros(queries.n)
            taken[choice.members] = np.maximum.reduceat(lower[choice.members], choice.starts)[
                choice.number
            ]
            upper = np.where(choice.membership & (taken > 0) & (lower == 0), 0.0, upper)
        row, query, a = self._entries
        least, most = _activity(problem.rows, lower, upper)
        size = np.maximum(np.abs(problem.budgets), np.maximum(np.abs(least), np.abs(most)))
        # What a row of one query equals is known to the last digit.
        slack = np.where(problem.equality & self._single, 1e-15 * size, 1e-9 * size)
        ends = np.minimum(a * lower[query], a * upper[query])
        room = (problem.budgets + slack - least)[row] + ends
        up, down = a > 0, a < 0
        high, low = upper.copy(), lower.copy()
        np.minimum.at(high, query[up], room[up] / a[up])
        np.maximum.at(low, query[down], room[down] / a[down])
        equal = problem.equality[row]
        ends = np.maximum(a * lower[query], a * upper[query])
        lack = (problem.budgets - slack - most)[row] + ends
        np.maximum.at(low, query[up & equal], (lack / a)[up & equal])
        np.minimum.at(high, query[down & equal], (lack / a)[down & equal])
        if queries.integer is not None:
            low = np.where(low > lower, queries.whole_above(low, 1e-7), lower)
            high = np.where(high < upper, queries.whole_below(high, 1e-7), upper)
        low, high = queries.opened(low, high)
        close = (low > high) & (low - high <= 1e-9 * np.maximum(1.0, np.abs(high)))
        return np.where(close, high, low), high

    @cached_property
    def _entries(self) -> tuple[NDArray[np.intp], NDArray[np.intp], FloatArray]:
        """Row, query and coefficient of the rows that charge tokens alone."""
        entries = self.problem.rows.tocoo()
        plain = np.diff(self.problem.curve_rows.indptr) == 0
        kept = plain[entries.row] & (entries.data != 0)
        return entries.row[kept], entries.col[kept], entries.data[kept]

    @cached_property
    def _single(self) -> NDArray[np.bool_]:
        """Which rows charge the tokens of one query alone."""
        row, _, _ = self._entries
        return np.bincount(row, minlength=self.problem.rows.shape[0]) == 1

    # ------------------------------------------------------------------ relaxation
    def bound_at(self, prices: FloatArray, lower: FloatArray, upper: FloatArray) -> Bounded:
        """D over the box, rigorously; infinite where the prices have run out of range."""
        problem, queries = self.problem, self.queries
        k = problem.rows.shape[0]
        with np.errstate(all="ignore"):
            effective = problem.effective(prices[:k], prices[k:])
            response = queries.respond(
                effective.price, lower, upper, effective.weight, effective.curve_price
            )
            bound = problem.rigorous_bound(prices, effective, response)
        bound = math.inf if math.isnan(bound) else bound
        return Bounded(bound, prices, effective, response)

    def relax(
        self, lower: FloatArray, upper: FloatArray, start: FloatArray, cutoff: float
    ) -> Relaxed:
        cutoff = self._cutoff = max(cutoff, self.worst)
        start = np.where(np.isfinite(start), start, 0.0)
        best: Bounded | None = None
        blend: Blend | None = None
        value = math.inf
        holds = self.queries.n <= LARGEST_MASTER
        if not self.kinked or self._master is None:
            best, blend, value = self._smoothly(lower, upper, start, cutoff)
        if self.kinked and not holds and self.thorough:
            assert best is not None
            polished = polish(self.problem, best.prices, lower, upper, self.deadline)
            there = self.bound_at(polished, lower, upper)
            best = min(best, there, key=lambda found: found.bound)
        elif holds and (self.kinked or self._apart(best, value, cutoff)):
            first = start if best is None else best.prices
            best, mixture = self._generate(first, best, lower, upper, cutoff)
            if mixture is not None:
                blend = self._blend(mixture)
        assert best is not None
        return self._relaxed(best, blend, lower, upper)

    def _smoothly(
        self, lower: FloatArray, upper: FloatArray, start: FloatArray, cutoff: float
    ) -> tuple[Bounded, Blend, float]:
        """By the interior-point method: a bound, a mixture that nearly attains it, its value."""
        box = Box.of(self.problem, lower, upper)
        inside = descend(
            self.problem,
            box,
            start,
            deadline=self.deadline,
            cutoff=cutoff - abs(cutoff) * 1e-9,
            precision=1e-14 if self.queries.n <= LARGEST_MASTER else 1e-11,
        )
        best = self.bound_at(self._tidied(inside.prices, inside.best.value), lower, upper)
        share, on = inside.share, inside.last.on
        share = np.where(share < _NOTHING, 0.0, np.where(share > 1.0 - _NOTHING, 1.0, share))
        utility = box.off_utility + share * (on.utility - box.off_utility)
        mean = box.lower + share * (on.tokens - box.lower)
        over = np.where(share > _DECIDED, on.tokens, box.lower)
        under = np.where(share < 1.0 - _DECIDED, box.lower, on.tokens)
        return best, Blend(mean, utility, under, over, share), inside.value

    def _relaxed(
        self, best: Bounded, blend: Blend | None, lower: FloatArray, upper: FloatArray
    ) -> Relaxed:
        """The bound at its least, a whole number where every allocation is worth one."""
        if self.queries.n <= LARGEST_MASTER:
            # In a narrow box no price beats none: nothing is lost to rounding.
            free = self.bound_at(np.zeros_like(best.prices), lower, upper)
            best = min(best, free, key=lambda found: found.bound)
        fits = best.bound >= self.worst - 1e-9 * abs(self.worst)
        bound = best.bound
        if self.whole and math.isfinite(bound):
            bound = math.floor(bound + 1e-9 * max(1.0, abs(bound)))
        return Relaxed(bound, best.prices, fits, best.effective, best.response, blend)

    def _tidied(self, prices: FloatArray, value: float) -> FloatArray:
        """Prices that are 0 where they are worth nothing: none ends at 0 by itself."""
        prices = np.where(np.isfinite(prices), prices, 0.0)
        worth = np.abs(prices * np.r_[self.problem.budgets, self.problem.levels])
        free = np.r_[self.problem.equality, np.zeros(self.problem.levels.size, dtype=bool)]
        return np.where(~free & (worth < _WORTHLESS * abs(value)), 0.0, prices)

    @staticmethod
    def _apart(best: Bounded | None, mixture: float, cutoff: float) -> bool:
        """Whether the interior-point method has stopped short of the least bound."""
        if best is None or best.bound <= cutoff:
            return False
        return abs(best.bound - mixture) > _MET * max(abs(best.bound), abs(mixture))

    def _generate(
        self,
        start: FloatArray,
        best: Bounded | None,
        lower: FloatArray,
        upper: FloatArray,
        cutoff: float,
    ) -> tuple[Bounded, Mixture | None]:
        """Column generation from `start`."""
        queries, n = self.queries, np.arange(self.queries.n)
        if best is None:
            best = self.bound_at(start, lower, upper)
        if self._master is None:
            # HiGHS is imported where it is needed, and not with the package.
            from clearopt.solvers.dual.master import Master

            self._master = Master(self.problem, max(abs(best.bound), 1e-9))
        master = self._master
        for amount in (lower, upper, Box.of(self.problem, lower, upper).bend):
            master.add(n, amount)
        master.add(n, best.response.tokens)
        mixture: Mixture | None = None
        for _ in range(_ROUNDS):
            if self.deadline.over:
                break
            master.confine(lower, upper)
            mixture = master.solve(self.deadline)
            if mixture is None:
                break
            there = self.bound_at(mixture.prices, lower, upper)
            best = min(best, there, key=lambda found: found.bound)
            size = max(abs(best.bound), abs(mixture.value))
            if best.bound <= cutoff or best.bound - mixture.value <= 1e-12 * size:
                break
            alone = queries.respond(
                there.effective.price,
                lower,
                upper,
                there.effective.weight,
                there.effective.curve_price,
                alone=True,
            )
            if not master.add(n, alone.tokens):
                break
        return best, mixture

    def _blend(self, mixture: Mixture) -> Blend:
        queries = self.queries
        n = queries.n
        utility, _ = queries.at(mixture.query, mixture.amount)
        total = np.bincount(mixture.query, mixture.share, minlength=n)
        total = np.where(total > 0, total, 1.0)
        mean = np.bincount(mixture.query, mixture.share * mixture.amount, minlength=n) / total
        mixed = np.bincount(mixture.query, mixture.share * utility, minlength=n) / total
        under, over = np.full(n, np.inf), np.full(n, -np.inf)
        np.minimum.at(under, mixture.query, mixture.amount)
        np.maximum.at(over, mixture.query, mixture.amount)
        under, over = np.where(np.isinf(under), mean, under), np.where(np.isinf(over), mean, over)
        width = over - under
        share = np.where(width > 0, (mean - under) / np.where(width > 0, width, 1.0), 1.0)
        return Blend(mean, mixed, under, over, share)

    # ------------------------------------------------------------------ allocations
    def candidates(self, relaxed: Relaxed, lower: FloatArray, upper: FloatArray) -> Candidates:
        blend: Blend | None = relaxed.detail
        if blend is None:
            return Candidates([relaxed.response.tokens], None, 0.0)
        queries, weight = self.queries, np.minimum(relaxed.effective.weight, _ENDLESS)
        mean = blend.mean
        loss = weight * (blend.utility - queries.utility(mean))
        open_ = np.zeros(queries.n, dtype=bool)
        partial = (blend.share > 1e-9) & (blend.share < 1 - 1e-9)
        if queries.least is not None:
            open_ |= (mean > 0) & (mean < queries.least)
        exclusive = np.zeros(queries.n, dtype=bool)
        if queries.choice is not None:
            exclusive = self._contested(mean)
            open_ |= exclusive
        undecided = weight * (blend.utility - queries.utility(lower))
        undecided = np.maximum(undecided, np.abs(relaxed.effective.price) * mean)
        undecided = np.maximum(0.25 * undecided, 10 * _NO_LOSS * max(abs(relaxed.bound), 1e-300))
        loss = np.where(open_, np.maximum(loss, undecided), loss)
        blocked = loss.max(initial=0.0) > 0 and open_.any()
        allocations = [] if blocked else [self.pulled_back(mean, lower)]
        if self.deadline.over:  # prices that are no good yet leave little else that fits
            allocations += self._trimmed(relaxed, lower)
        split: int | None = None
        worst = int(np.argmax(loss)) if loss.size else 0
        jumped = loss.size > 0 and loss[worst] > _NO_LOSS * max(abs(relaxed.bound), 1e-300)
        if jumped:
            split = worst
            jumps = partial & (loss > 0.01 * loss[worst]) | open_
            sides = (blend.share >= 0.5, np.zeros(queries.n, dtype=bool))
            for keep in sides if self.thorough else sides[:1]:
                funded = np.where(jumps, keep, (blend.share >= 0.5) & (blend.over > lower))
                allocations += self._refill(funded, relaxed, lower, upper)
        elif queries.integer is not None:
            off = np.abs(mean - queries.whole_below(mean, 1e-9))
            next_ = queries.whole_after(queries.whole_below(mean, 1e-9))
            off = np.minimum(off, np.abs(next_ - mean))
            off = np.where(queries.integer & (off > 1e-9 * np.maximum(mean, 1.0)), off, 0.0)
            worth = off * np.maximum(np.abs(relaxed.effective.price), 1e-12)
            if (off > 0).any():
                split = int(np.argmax(worth))
        if queries.integer is not None:
            allocations.append(self._whole(np.clip(mean, lower, upper)))
            if jumped and self.thorough:
                under = np.clip(blend.under, lower, upper)
                allocations.append(self._whole(under))
            promised = self.problem.levels.size or self.problem.equality.any()
            if self._mend is not None and promised and self._mended < _MENDED:
                self._mended += 1
                mended = self._mend(mean)
                allocations += [] if mended is None else [mended]
        part = float(mean[split]) if split is not None else 0.0
        if split is not None and exclusive[split]:
            part = math.nan
        return Candidates(allocations, split, part)

    def _trimmed(self, relaxed: Relaxed, lower: FloatArray) -> list[FloatArray]:
        """Of the purchases at the prices found as many as every row has room for, the best first.

        Only where all rows are `<=` and charge tokens; nothing else is looked at.
        """
        problem, queries = self.problem, self.queries
        rows = problem.rows
        plain = not problem.equality.any() and not problem.levels.size and queries.choice is None
        if not plain or queries.grid is not None or (rows.nnz and rows.data.min() < 0):
            return []
        tokens = relaxed.response.tokens
        more = tokens - lower
        surplus = relaxed.response.gain - queries.gain(lower, relaxed.effective)
        with np.errstate(all="ignore"):
            bargain = np.nan_to_num(surplus / (relaxed.effective.price * more))
        order = np.argsort(-bargain, kind="stable")
        use = sparse.csr_array(rows[:, order].multiply(more[order]))
        use.sort_indices()
        room = problem.budgets - problem.activity(lower)
        fits = np.ones(order.size, dtype=bool)
        for k in range(use.shape[0]):
            part = slice(use.indptr[k], use.indptr[k + 1])
            fits[use.indices[part]] &= np.cumsum(use.data[part]) <= room[k]
        trimmed = lower.copy()
        trimmed[order[fits]] = tokens[order[fits]]
        return [trimmed]

    def _whole(self, tokens: FloatArray) -> FloatArray:
        return whole_tokens(self.problem, tokens, self.deadline)

    def _contested(self, mean: FloatArray) -> NDArray[np.bool_]:
        """(n,) options with tokens of choices in which several have some."""
        choice = self.queries.choice
        assert choice is not None
        on = mean[choice.members] > 1e-12 * np.maximum(self.queries.upper[choice.members], 1.0)
        several = np.add.reduceat(on.astype(np.intp), choice.starts)[choice.number] > 1
        contested = np.zeros(self.queries.n, dtype=bool)
        contested[choice.members] = on & several
        return contested

    def _refill(
        self, funded: NDArray[np.bool_], relaxed: Relaxed, lower: FloatArray, upper: FloatArray
    ) -> list[FloatArray]:
        """The best amounts with this set on its concave parts, and all others at their least."""
        if self.deadline.over:
            return []
        key = np.packbits(funded).tobytes() + lower.tobytes() + upper.tobytes()
        if key in self._tried:
            return []
        self._tried.add(key)
        box = Box.of(self.problem, lower, upper)
        low = np.where(funded, box.bend, lower)
        high = np.where(funded, upper, lower)
        if self.holds_nothing(low, high):
            return []
        inside = descend(
            self.problem,
            Box.of(self.problem, low, high),
            relaxed.start,
            deadline=self.deadline,
            cutoff=self._cutoff,
            precision=1e-12,
        )
        if inside.best.value < self._cutoff:  # no better than what is known, if feasible at all
            return []
        tokens = inside.last.on.tokens
        if self.queries.integer is not None:
            return [self._whole(tokens)]
        return [self.pulled_back(tokens, low)]

    def pulled_back(self, tokens: FloatArray, low: FloatArray) -> FloatArray:
        """A hair less wherever rounding left a `<=` row overspent."""
        problem = self.problem
        excess = problem.activity(tokens) - problem.budgets
        over = (excess > 0) & ~problem.equality
        if not over.any():
            return tokens
        room = abs(problem.rows) @ (tokens - low)
        with np.errstate(all="ignore"):
            share = np.where(over & (room > 0), excess / room, 0.0)
        if not (share < 1e-6).all():
            return tokens
        touched = np.zeros(tokens.size)
        entries = problem.rows.tocoo()
        np.maximum.at(touched, entries.col, share[entries.row] * (entries.data > 0))
        return tokens - 1.01 * touched * (tokens - low)


def _activity(
    matrix: sparse.csr_array, lower: FloatArray, upper: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """The least and the most of each row over a box, (K,)."""
    positive = sparse.csr_array(
        (np.maximum(matrix.data, 0.0), matrix.indices, matrix.indptr), matrix.shape
    )
    negative = sparse.csr_array(
        (np.minimum(matrix.data, 0.0), matrix.indices, matrix.indptr), matrix.shape
    )
    return positive @ lower + negative @ upper, positive @ upper + negative @ lower
