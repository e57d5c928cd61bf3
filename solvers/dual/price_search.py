"""The price of one row: minimise the dual function D(price), convex, of one variable.

D is evaluated together with its slope (the row's slack), so that every evaluation is a tangent from
below and a valid bound from above. The next price is where the tangents at the two ends of the
bracket cross (exact at a kink, where a marginal query jumps) or where the slopes' secant vanishes
(fast where demand is smooth), in turn, with bisection as a safeguard. The search stops when the
crossing of the tangents, a lower bound on min D, meets the best D: the dual gap is then closed to
rounding whatever the shape of D.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from clearopt.deadline import NEVER, Deadline

# A price: D there and its slope (budget minus demand).
Evaluate = Callable[[float], tuple[float, float]]


@dataclass(frozen=True)
class Point:
    """One evaluation of D: a tangent from below, and a bound from above."""

    price: float
    value: float
    slope: float


@dataclass(frozen=True)
class Bracket:
    """The cheapest price that meets the budget (`high`) and the dearest that does not (`low`).

    `low` is None where the budget is not binding: everything is bought at `high`.
    """

    low: Point | None
    high: Point
    evaluations: int
    cut_short: bool = False  # by the deadline, before `high` and `low` were known

    @property
    def best(self) -> Point:
        if self.low is None or self.high.value <= self.low.value:
            return self.high
        return self.low

    @property
    def share(self) -> float:
        """The weight of `low`'s purchases in the mixture that uses up the budget exactly."""
        if self.low is None:
            return 0.0
        return self.high.slope / (self.high.slope - self.low.slope)


class _Oracle:
    """D as points, counted."""

    def __init__(self, evaluate: Evaluate, limit: int, deadline: Deadline) -> None:
        self._evaluate = evaluate
        self._limit = limit
        self._deadline = deadline
        self.count = 0

    def __call__(self, price: float) -> Point:
        self.count += 1
        return Point(price, *self._evaluate(price))

    @property
    def exhausted(self) -> bool:
        return self.count >= self._limit or self._deadline.over


def search_price(
    evaluate: Evaluate,
    *,
    start: float,
    equality: bool = False,
    cutoff: float = -math.inf,
    tolerance: float = 1e-14,
    limit: int = 400,
    deadline: Deadline = NEVER,
) -> Bracket:
    """Bracket the minimiser of D over price >= 0 (all prices for an equality row).

    Args:
        evaluate: price -> (D, slope). Slopes rise with the price.
        start: a positive guess of the price.
        cutoff: stop as soon as some D <= cutoff (a branch that cannot improve).
        tolerance: relative gap between the best D and the tangents' crossing.
        limit: evaluations at most; the bracket is valid whenever the search stops.
        deadline: after which there are no more evaluations than one.

    Returns:
        The bracket. `high.slope < 0` means that no price made demand fit the budget, unless the
        search was `cut_short`.
    """
    oracle = _Oracle(evaluate, limit, deadline)
    start = start if 0 < start < math.inf else 1.0
    point = oracle(start)
    low: Point | None = None
    high: Point | None = None
    step = 2.0
    # Outward from the guess, by growing factors, until demand is above and below the budget.
    while True:
        if point.slope >= 0:
            high = point
        else:
            low = point
        if (low is not None and high is not None) or point.value <= cutoff or oracle.exhausted:
            break
        if low is not None:  # demand is still above the budget
            if point.price > 1e290:
                break
            following = point.price * step if point.price > 0 else start
        elif point.price > 0:
            # Once the price no longer matters to D, the row is priced at nothing.
            negligible = point.price * point.slope <= 1e-16 * abs(point.value)
            following = point.price / step
            following = 0.0 if following < 1e-290 or negligible else following
        elif equality and point.slope > 0:  # a budget nobody wants to spend: the price is negative
            if point.price < -1e290:
                break
            following = -1e-6 * start if point.price == 0 else point.price * step
        else:
            break
        point = oracle(following)
        step = min(step * step, 1e16)
    if low is None or high is None:
        return Bracket(None, point, oracle.count, cut_short=deadline.over)
    return _narrow(oracle, low, high, cutoff, tolerance)


def _narrow(oracle: _Oracle, low: Point, high: Point, cutoff: float, tolerance: float) -> Bracket:
    width_before = math.inf
    by_tangents = True
    while not oracle.exhausted and high.slope > 0:
        best = min(low.value, high.value)
        width = high.price - low.price
        rise = high.slope - low.slope
        # Where the tangents at both ends cross: a lower bound on the minimum of D.
        offset = (low.value - high.value + high.slope * width) / rise
        floor = low.value + low.slope * offset
        if best <= cutoff or best - floor <= tolerance * abs(best):
            break
        middle = low.price + 0.5 * width
        if not low.price < middle < high.price:
            break
        if low.price > 0 and high.price > 16 * low.price:
            price = math.sqrt(low.price) * math.sqrt(high.price)
        elif width > 0.5 * width_before:
            price = middle
        elif by_tangents:
            price = low.price + offset
        else:
            price = low.price + width * (-low.slope / rise)
        by_tangents = not by_tangents
        width_before = width
        point = oracle(price if low.price < price < high.price else middle)
        if point.slope >= 0:
            high = point
        else:
            low = point
    return Bracket(low, high, oracle.count)
