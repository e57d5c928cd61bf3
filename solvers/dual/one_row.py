"""One budget row: its relaxation at a price, and feasible allocations made from it.

With one row the dual function has one price. At the best price every query is settled except
those that *jump* there, from nothing to their full purchase; the two ends of the price bracket
give both versions, and mixing them spends the budget exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from clearopt.deadline import NEVER, Deadline
from clearopt.solvers.dual.coupling import Candidates, Relaxed
from clearopt.solvers.dual.price_search import Bracket, search_price
from clearopt.solvers.dual.separable import (
    JAX_FROM,
    ROUNDING,
    Effective,
    Separable,
    rigorous_sum,
)
from clearopt.utilities import BestResponse
from clearopt.validation import FloatArray


@dataclass(frozen=True, eq=False)
class OneRow:
    """max sum of gains s.t. coefficient @ tokens <= budget (or == where `equality`)."""

    queries: Separable
    coefficient: FloatArray
    budget: float
    equality: bool
    deadline: Deadline = NEVER  # for what takes long within one box

    def demand(self, tokens: FloatArray) -> float:
        return math.fsum(self.coefficient * tokens)

    def value(self, tokens: FloatArray) -> float:
        q = self.queries
        return math.fsum(q.weight * q.utility(tokens) - q.cost * tokens)

    def holds_nothing(self, lower: FloatArray, upper: FloatArray) -> bool:
        """Whether the box costs more than the budget even at its cheapest (proof of emptiness)."""
        if (lower > upper).any():
            return True
        ends = self.coefficient * lower, self.coefficient * upper
        least, most = float(np.minimum(*ends).sum()), float(np.maximum(*ends).sum())
        slack = 1e-12 * max(abs(self.budget), float(np.abs(ends[0]).sum()))
        too_little = self.equality and most < self.budget - slack
        return least > self.budget + slack or too_little

    def propagate(self, lower: FloatArray, upper: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The box without the amounts that the row rules out, whatever the other queries do."""
        a = self.coefficient
        used = a != 0
        safe = np.where(used, a, 1.0)
        least = np.minimum(a * lower, a * upper)
        # The slack keeps what rounding of the sums might otherwise cut off.
        slack = 1e-12 * max(abs(self.budget), float(np.abs(least).sum()))
        limit = (self.budget + slack - (float(least.sum()) - least)) / safe
        high = np.where(used & (a > 0), np.minimum(upper, limit), upper)
        low = np.where(used & (a < 0), np.maximum(lower, limit), lower)
        if self.equality:
            most = np.maximum(a * lower, a * upper)
            limit = (self.budget - slack - (float(most.sum()) - most)) / safe
            low = np.where(used & (a > 0), np.maximum(low, limit), low)
            high = np.where(used & (a < 0), np.minimum(high, limit), high)
        if self.queries.integer is not None:
            low = np.where(low > lower, self.queries.whole_above(low, 1e-9), lower)
            high = np.where(high < upper, self.queries.whole_below(high, 1e-9), upper)
        low, high = self.queries.opened(low, high)
        # Where the two cross by rounding alone a point is left; by more, the row cannot be met.
        close = (low > high) & (low - high <= 1e-9 * np.maximum(1.0, np.abs(high)))
        return np.where(close, high, low), high

    def prices(self, price: float) -> FloatArray:
        """What one token costs each query when the row has this price."""
        return self.queries.cost + price * self.coefficient

    # ---------------------------------------------------------------- as a `Coupling`
    resolution = 4 * ROUNDING

    @cached_property
    def free_disposal(self) -> NDArray[np.bool_]:
        return (self.coefficient >= 0) & (self.queries.cost >= 0) & (not self.equality)

    def columns(self, index: NDArray[np.intp]) -> FloatArray:
        return self.coefficient[index, None]

    def simple(self, lower: FloatArray, upper: FloatArray) -> list[FloatArray]:
        cheap = np.where(self.coefficient >= 0, lower, upper)
        dear = np.where(self.coefficient >= 0, upper, lower)
        least, most = self.demand(cheap), self.demand(dear)
        if not (self.equality and least < self.budget < most < math.inf):
            return [cheap, dear]
        return [cheap + (self.budget - least) / (most - least) * (dear - cheap)]

    def accepts(self, tokens: FloatArray) -> bool:
        excess = self.demand(tokens) - self.budget
        size = max(abs(self.budget), math.fsum(np.abs(self.coefficient * tokens)))
        return abs(excess) <= 1e-11 * size if self.equality else excess <= 1e-15 * size

    def relax(self, lower: FloatArray, upper: FloatArray, start: float, cutoff: float) -> Relaxed:
        found = relax(self, lower, upper, start=start, cutoff=cutoff)
        at = Effective(self.queries.weight, self.prices(found.price), self.queries.curve_cost)
        # A search that stopped at the cutoff says nothing of who fits.
        fits = found.fits or found.bracket.cut_short or found.bound <= cutoff
        return Relaxed(found.bound, found.price, fits, at, found.at_price, found, cutoff)

    def candidates(self, relaxed: Relaxed, lower: FloatArray, upper: FloatArray) -> Candidates:
        found: Relaxation = relaxed.detail
        mixture = mix(self, found)
        allocations = [mixture.tokens, spend_whole_tokens(self, mixture.tokens, upper)]
        split = mixture.split
        versions = [mixture.tokens]
        if split is not None:
            versions = [mixture.tokens.copy(), mixture.tokens.copy()]
            versions[0][split], versions[1][split] = found.under[split], found.over[split]
        for version in versions:
            refilled = refill(self, version, lower, upper, found.price, relaxed.cutoff)
            if refilled is None:
                continue
            allocations.append(refilled)
            if split is not None:
                allocations.append(spend_whole_tokens(self, refilled, upper))
        part = 0.0 if split is None else float(mixture.tokens[split])
        return Candidates(allocations, split, part)


@dataclass(frozen=True, eq=False)
class Relaxation:
    """The dual bound over a box, and the purchases on both sides of its price."""

    bound: float
    price: float
    bracket: Bracket
    under: FloatArray  # purchases that fit the budget
    over: FloatArray  # purchases just past it; equal to `under` where the budget is ample
    fits: bool  # False where no price makes demand fit: the box holds no feasible point
    at_price: BestResponse  # what proves the bound


def relax(
    row: OneRow,
    lower: FloatArray,
    upper: FloatArray,
    *,
    start: float,
    cutoff: float = -math.inf,
    tolerance: float = 1e-14,
) -> Relaxation:
    """Minimise the dual function over the box [lower, upper]."""
    queries, remembered = row.queries, {}

    def evaluate(price: float) -> tuple[float, float]:
        if queries.engine == "jax":
            gain, demand = queries.totals(price, row.coefficient, lower, upper)
        else:
            response = queries.respond(row.prices(price), lower, upper)
            if queries.n <= JAX_FROM:  # larger ones are cheaper to ask again than to keep
                remembered[price] = response
            gain, demand = float(response.gain.sum()), float(row.coefficient @ response.tokens)
        return gain + price * row.budget, row.budget - demand

    # Where no price makes demand fit, prices rise until the total gain is minus infinity.
    with np.errstate(over="ignore"):
        bracket = search_price(
            evaluate,
            start=start,
            equality=row.equality,
            cutoff=cutoff,
            tolerance=tolerance,
            deadline=row.deadline,
        )

    def response_at(price: float) -> BestResponse:
        if price not in remembered:
            remembered[price] = queries.respond(row.prices(price), lower, upper)
        return remembered[price]

    best = bracket.best
    response = response_at(best.price)
    bound = rigorous_sum(
        response.gain, response.utility, queries.weight, row.prices(best.price), response.tokens
    )
    spent = best.price * row.budget
    bound += spent + abs(spent) * 1e-15
    fits = bracket.high.slope >= 0
    under = response_at(bracket.high.price).tokens
    over = under if bracket.low is None else response_at(bracket.low.price).tokens
    return Relaxation(bound, best.price, bracket, under, over, fits, response)


@dataclass(frozen=True, eq=False)
class Mixture:
    """An allocation that spends the budget; at most one query is left between its two versions."""

    tokens: FloatArray
    split: int | None  # the query bought in part


def mix(row: OneRow, relaxation: Relaxation) -> Mixture:
    """Spend what `under` leaves: smoothly where utilities are concave, one by one on jumps."""
    queries = row.queries
    under, over = relaxation.under, relaxation.over
    step = over - under
    room = row.budget - row.demand(under)
    total = math.fsum(row.coefficient * step)
    if room <= 0 or total <= 0:
        return Mixture(under.copy(), None)
    share = min(room / total, 1.0)
    between = under + share * step
    low_value, high_value = queries.utility(under), queries.utility(over)
    lost = (1 - share) * low_value + share * high_value - queries.utility(between)
    jumps = (step != 0) & (lost > 1e-14 * np.abs(high_value))
    if queries.integer is not None:
        jumps |= (step != 0) & queries.integer
    if queries.least is not None:
        jumps |= (between > 0) & (between < queries.least)
    tokens = np.where(jumps, under, between)
    jumping = np.flatnonzero(jumps)
    if jumping.size == 0:
        return Mixture(_fit(row, tokens, under), None)
    # All of them break even at this price; where they do not quite, the better bargain is first.
    charge = row.coefficient[jumping] * step[jumping]
    profit = queries.weight[jumping] * (high_value - low_value)[jumping]
    profit = profit - queries.cost[jumping] * step[jumping]
    with np.errstate(divide="ignore", invalid="ignore"):
        bargain = np.where(charge > 0, profit / charge, np.inf)
    # Ties keep the order of the queries: identical ones are then filled from the first on.
    jumping = jumping[np.argsort(-np.round(bargain, 12), kind="stable")]
    charge = row.coefficient[jumping] * step[jumping]
    room = row.budget - row.demand(tokens)
    reached = int(np.searchsorted(np.cumsum(charge), room * (1 + 1e-15), side="right"))
    tokens[jumping[:reached]] = over[jumping[:reached]]
    split = None
    if reached < jumping.size:
        split = int(jumping[reached])
        room = max(row.budget - row.demand(tokens), 0.0)
        part = under[split] + math.copysign(room / abs(row.coefficient[split]), step[split])
        part = queries.rounded("whole_below" if step[split] > 0 else "whole_above", split, part)
        if queries.least is None or part >= queries.least[split]:
            tokens[split] = part
    return Mixture(_fit(row, tokens, under), split)


def _fit(row: OneRow, tokens: FloatArray, under: FloatArray) -> FloatArray:
    """Take back what rounding spent above the budget, from one query bought above `under`."""
    for _ in range(4):
        excess = row.demand(tokens) - row.budget
        if excess <= 0 or row.equality:
            break
        able = np.where(tokens != under, np.abs(row.coefficient * (tokens - under)), 0.0)
        if row.queries.integer is not None:
            able = np.where(row.queries.integer, 0.0, able)
        k = int(np.argmax(able))
        if able[k] < excess:
            return under.copy()
        tokens[k] -= (1 + 1e-15) * excess / row.coefficient[k]
    return tokens


def refill(
    row: OneRow,
    tokens: FloatArray,
    lower: FloatArray,
    upper: FloatArray,
    price: float,
    cutoff: float = -math.inf,
) -> FloatArray | None:
    """The best allocation that keeps each query on its side of the inflection.

    Those on the concave part share the budget at equal marginal utility; the others keep what
    they have. A concave problem, so its own price search is exact. None where it does not fit,
    or is worth no more than `cutoff`.
    """
    queries = row.queries
    bend = np.clip(queries.inflection, lower, upper)
    bend = np.minimum(queries.whole_above(bend), upper)
    concave = tokens >= bend
    low = np.where(concave, np.maximum(bend, lower), tokens)
    high = np.where(concave, upper, tokens)
    cheapest = math.fsum(np.minimum(row.coefficient * low, row.coefficient * high))
    if cheapest > row.budget:
        return None
    relaxation = relax(row, low, high, start=price, cutoff=cutoff)
    if not relaxation.fits or relaxation.bound <= cutoff:
        return None
    return mix(row, relaxation).tokens


def spend_whole_tokens(row: OneRow, tokens: FloatArray, upper: FloatArray) -> FloatArray:
    """Whole tokens that still fit the budget, each given where it adds most (`<=` rows only)."""
    queries = row.queries
    if queries.integer is None or row.equality:
        return tokens
    tokens = tokens.copy()
    for _ in range(64):
        if row.deadline.over:
            break
        room = row.budget - row.demand(tokens)
        more = np.minimum(queries.whole_after(tokens), upper)
        fits = queries.integer & (more > tokens) & (row.coefficient * (more - tokens) <= room)
        if queries.least is not None:
            fits &= more >= queries.least
        if not fits.any():
            break
        added = queries.weight * (queries.utility(more) - queries.utility(tokens))
        added = np.where(fits, added - queries.cost * (more - tokens), -np.inf)
        best = int(np.argmax(added))
        if added[best] <= 0:
            break
        tokens[best] = more[best]
    return tokens


def guess_price(row: OneRow, sample: int = 4096) -> float:
    """Fund by falling break-even price until the budget is spent: near the price of the row."""
    queries = row.queries
    prices, amounts = [], []
    with np.errstate(all="ignore"):
        for family in queries.families:
            excess, slope = family.utility.tangent_from_zero()
            prices.append(np.asarray(slope))
            amounts.append(np.asarray(family.utility.origin + excess))
    stride = max(1, queries.n // sample)
    charge = np.abs(row.coefficient)[::stride]
    with np.errstate(all="ignore"):
        price = (queries.weight * np.concatenate(prices))[::stride] / charge
    amount = charge * np.minimum(np.concatenate(amounts), queries.upper)[::stride]
    usable = np.flatnonzero(np.isfinite(price) & (price > 0))
    if usable.size == 0:
        return 1.0
    order = usable[np.argsort(-price[usable])]
    spent = stride * np.cumsum(amount[order])
    last = min(int(np.searchsorted(spent, abs(row.budget))), order.size - 1)
    return float(price[order[last]])
