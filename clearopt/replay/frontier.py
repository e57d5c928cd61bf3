"""Cost against accuracy: the Pareto frontier of a policy over its budgets, and its area."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from clearopt.validation import FloatArray

Point = tuple[float, float]


def frontier_points(costs: ArrayLike, accuracies: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """The points that no cheaper point equals or betters, by cost; both (k,).

    Args:
        costs: (m,) at least 0.
        accuracies: (m,) at least 0.
    """
    x, y = (np.asarray(a, dtype=np.float64) for a in (costs, accuracies))
    order = np.lexsort((-y, x))
    x, y = x[order], y[order]
    before = np.concatenate([[-np.inf], np.maximum.accumulate(y)[:-1]])
    return x[y > before], y[y > before]


def normalised_area(
    costs: ArrayLike, accuracies: ArrayLike, *, cost: float, accuracy: float
) -> float:
    """Mean accuracy over costs from 0 to `cost`, as a share of `accuracy`.

    Between two points of the frontier lies the mixture of both, served at random; before the first
    the mixture with nothing, and past the last what the last reaches. 1 would be the full accuracy
    for no tokens.

    Args:
        costs, accuracies: (m,) the points.
        cost: the largest cost, positive.
        accuracy: what is reached with ample tokens, positive.
    """
    x, y = frontier_points(costs, accuracies)
    x, y = np.concatenate([[0.0], x, [max(cost, float(x.max(initial=0.0)))]]), _ends(y)
    inside = x < cost
    x, y = np.append(x[inside], cost), np.append(y[inside], np.interp(cost, x, y))
    return float(np.trapezoid(y, x) / (cost * accuracy))


def _ends(y: FloatArray) -> FloatArray:
    return np.concatenate([[0.0], y, y[-1:] if y.size else [0.0]])


def efficient(points: Sequence[Point], others: Sequence[Point]) -> list[bool]:
    """Which points no other betters: more accuracy for no more cost, or as much for less."""
    return [not any((y > b and x <= a) or (y >= b and x < a) for x, y in others) for a, b in points]
