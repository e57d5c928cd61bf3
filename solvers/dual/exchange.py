"""Which one or two queries to put on their other side: who is funded is not, or the other way.

Next to the best price a few queries are all but indifferent. What such a price leaves of a budget
goes to everybody else at falling marginal utility, which costs left^2 / (2 |slope|) of what the
bound promises, and overspending costs as much; where nobody follows the price it stays unspent. A
query on its other side costs its surplus. Of all pairs the cheapest is taken.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clearopt.validation import FloatArray

PAIRED = 256  # undecided queries of which any two may change sides
_LINEAR = 0.05  # relative change of price within which demand is taken to be linear
_AT_ONCE = 2**18  # pairs that are looked at together


def best_pairs(
    loss: FloatArray, change: FloatArray, room: FloatArray, slope: FloatArray, price: FloatArray
) -> NDArray[np.intp]:
    """(G, 2): of each budget's K queries the two to turn round, as numbers; -1 where nobody is.

    Args:
        loss: (G, K) what turning each round costs, at least 0; infinite where there is none.
        change: (G, K) what that adds to what is left of the budget.
        room: (G,) what is left of it now.
        slope: (G,) of what everybody else is charged, per unit of price, at most 0.
        price: (G,) of the budget.
    """
    count, width = loss.shape
    found = np.full((count, 2), -1, dtype=np.intp)
    together = max(_AT_ONCE // (width + 1) ** 2, 1)
    for start in range(0, count, together):
        part = slice(start, start + together)
        found[part] = _of_each(loss[part], change[part], room[part], slope[part], price[part])
    return found


def _of_each(
    loss: FloatArray, change: FloatArray, room: FloatArray, slope: FloatArray, price: FloatArray
) -> NDArray[np.intp]:
    nobody = np.zeros((loss.shape[0], 1))
    loss, change = np.hstack([nobody, loss]), np.hstack([nobody, change])
    room, slope, price = (array[:, None, None] for array in (room, slope, price))
    left = room + change[:, :, None] + change[:, None, :]
    with np.errstate(all="ignore"):
        near = (np.abs(left) <= _LINEAR * price * -slope) | (left == room)
        followed = np.where(near, left * left / (-2.0 * slope), np.inf)
        unspent = np.where(left >= 0, price * left, np.inf)
        total = loss[:, :, None] + loss[:, None, :] + np.where(slope < 0, followed, unspent)
    twice = np.arange(1, loss.shape[1])
    total[:, twice, twice] = np.inf
    flat = total.reshape(total.shape[0], -1)
    best = np.argmin(flat, axis=1)
    best = np.where(flat[np.arange(best.size), best] < flat[:, 0], best, 0)
    return np.stack(np.unravel_index(best, total.shape[1:]), axis=1) - 1
