"""Where the best price is not unique: the interval of prices that prove the same bound."""

from __future__ import annotations

import math

from clearopt.solvers.dual.one_row import OneRow

_BESIDE = 1e-9  # relative distance at which the slope of the dual function is looked at
_NO_SLACK = 1e-12  # of the budget: demand this close to it is equal to it
_HALVINGS = 60


def price_interval(row: OneRow, price: float) -> tuple[float, float]:
    """(lowest, highest) price at which the dual function is as low as at `price`, the best one.

    It is flat where its slope, the budget less the demand, is zero; at a unique best price it
    falls before and rises after. Two evaluations tell, some sixty more measure a flat stretch.
    """
    queries = row.queries

    def flat(at: float) -> bool:
        _, demand = queries.totals(at, row.coefficient, queries.lower, queries.upper)
        return abs(row.budget - demand) <= _NO_SLACK * max(abs(row.budget), abs(demand))

    # Not looked into: an equality row that pays for tokens, and what there is no time for.
    if price < 0 or row.deadline.over:
        return price, price
    low = high = price
    if price > 0 and flat(price * (1 - _BESIDE)):
        low = 0.0 if flat(0.0) else _edge(flat, price, 0.0)
    above = price * (1 + _BESIDE) if price > 0 else 1e-290
    if flat(above):
        far = above
        while far < 1e290 and flat(far):
            far *= 1e3
        high = math.inf if far >= 1e290 else _edge(flat, above, far)
    return low, high


def _edge(flat: object, near: float, far: float) -> float:
    """The last flat price on the way from `near`, which is, to `far`, which is not."""
    assert callable(flat)
    for _ in range(_HALVINGS):
        middle = math.sqrt(near * far) if min(near, far) > 0 else 0.5 * (near + far)
        if middle in (near, far):
            break
        near, far = (middle, far) if flat(middle) else (near, middle)
    return near
