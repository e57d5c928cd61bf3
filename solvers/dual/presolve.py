"""A first price for very many queries, from the demand of a sample of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from clearopt.solvers.dual.blocks import Group
from clearopt.solvers.dual.kernels import in_numpy
from clearopt.validation import FloatArray


@dataclass(frozen=True)
class Point:
    """A price and what all queries together are charged at it."""

    price: float
    demand: float


def presolve(
    sample: list[tuple[Group, float]],
    budget: float,
    start: float | None,
    floors: list[FloatArray] | None = None,
) -> tuple[float, float, bool]:
    """(price, elasticity, ample): where the sample's demand meets the budget, and how it falls.

    With `floors`, one array a group, each query pays no less than its own whatever the price.

    The elasticity is -d log(demand) / d log(price) around there; `ample` where the sample cannot
    rule out that the budget suffices for all that anybody wants.
    """

    def demand(price: float) -> float:
        prices = [price] * len(sample) if floors is None else [np.maximum(price, f) for f in floors]
        return math.fsum(
            factor * float(in_numpy("measure", g.kind, g.columns, paid)[2].sum())
            for (g, factor), paid in zip(sample, prices, strict=True)
        )

    ample = demand(0.0) <= 1.5 * budget
    most = max(_dearest(group) for group, _ in sample)
    price = start if start and 0 < start < math.inf else _break_even_guess(sample, budget)
    low: Point | None = None
    high: Point | None = None
    factor = 1.5
    for _ in range(60):
        point = Point(price, demand(price))
        if point.demand <= budget:
            high = point
        else:
            low = point
        if abs(logarithm(point.demand) - logarithm(budget)) < 1e-3:
            break
        if low is None or high is None:
            if (high is not None and price < 1e-290) or (low is not None and price >= most):
                break
            price = min(price * factor, most) if high is None else price / factor
            factor = min(factor * factor, 1e16)
            continue
        ends = logarithm(low.price), logarithm(high.price)
        if ends[1] - ends[0] < 1e-3:
            break
        rise = logarithm(low.demand) - logarithm(high.demand)
        share = (logarithm(low.demand) - logarithm(budget)) / rise
        price = priced(ends[0] + min(max(share, 0.2), 0.8) * (ends[1] - ends[0]))
    few, many = demand(price * 1.02), demand(price / 1.02)
    elasticity = (logarithm(many) - logarithm(few)) / (2.0 * math.log(1.02))
    return price, min(max(elasticity, 0.05), 50.0), ample


def _dearest(group: Group) -> float:
    """From this price on nobody of the group wants more than the least."""
    columns = group.columns
    with np.errstate(all="ignore"):
        steepest = group.kind.from_parameters(*columns.parameters).greatest_marginal
        price = (columns.weight * np.asarray(steepest) - columns.cost) / columns.coefficient
    wanted = price[price > 0]
    steep = not np.isfinite(price).all()
    return 1e290 if steep or not wanted.size else min(2.0 * float(wanted.max()), 1e290)


def _break_even_guess(sample: list[tuple[Group, float]], budget: float) -> float:
    """Fund the sample by falling break-even price until the budget is spent."""
    prices, charges = [np.zeros(0)], [np.zeros(0)]
    with np.errstate(all="ignore"):
        for group, factor in sample:
            price, charge = break_even(group)
            prices.append(price)
            charges.append(factor * charge)
    price, charge = np.concatenate(prices), np.concatenate(charges)
    usable = np.flatnonzero(np.isfinite(price) & (price > 0) & np.isfinite(charge))
    if not usable.size:
        return 1.0
    order = usable[np.argsort(-price[usable], kind="stable")]
    last = int(np.searchsorted(np.cumsum(charge[order]), budget))
    return float(price[order[min(last, order.size - 1)]])


def break_even(group: Group) -> tuple[FloatArray, FloatArray]:
    """The prices at which the queries of a group start to buy, and what they are charged then."""
    columns = group.columns
    with np.errstate(all="ignore"):
        utility = group.kind.from_parameters(*columns.parameters)
        excess, slope = utility.tangent_from_zero()
        tokens = np.minimum(np.asarray(utility.origin + excess), columns.upper)
        price = (columns.weight * np.asarray(slope) - columns.cost) / columns.coefficient
        return np.broadcast_to(price, tokens.shape), columns.coefficient * tokens


# -------------------------------------------------------------------------------- small things


def logarithm(value: float) -> float:
    """log(value), of nothing as small as that of the smallest number."""
    return math.log(value) if value > 0 else -745.0


def priced(log_price: float) -> float:
    """exp(log_price), within what floats can hold."""
    return math.exp(min(max(log_price, -690.0), 690.0))
