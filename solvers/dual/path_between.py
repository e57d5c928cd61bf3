"""Best responses between prices at which they are known: interpolated, with a bound all the same.

On its concave part, what a query buys is a smooth function of the log of the price. A cubic through
the tokens at the four prices next to the one asked for is off by so little that the value of the
tokens, which loses the square of it, is as good as the best response's; and it costs a fraction of
it. That a bound needs no exact response is the slope's doing: with the marginal utility m at tokens
t, any b on the concave part has

    w U(b) - P b  <=  w U(t) - P t + (w m - P) (b - t),

and the best b lies, as t does, between what is bought at the two neighbouring prices.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clearopt.solvers.dual.blocks import compact
from clearopt.solvers.dual.path_kernels import CHUNK, Ready
from clearopt.utilities import Utility
from clearopt.validation import FloatArray

_PIECE = 4 * CHUNK  # queries that are looked at together: what is in between stays in the cache
_NODES = 4  # prices that a polynomial goes through
_TRUST = 4e-6  # of the tokens at the neighbouring prices: how far they may be off
_SPREAD = 1e-6  # of their amounts past the inflection: how far the interpolated are moved
_SHORT = 1e-12  # of the budget: what may be left unspent


@dataclass(frozen=True, eq=False)
class _Node:
    """What all would buy at one price if they bought: of each stretch."""

    tokens: list[FloatArray]  # (m,)
    charged: list[FloatArray]  # (m + 1,) what the row charges the first so many


@dataclass(eq=False)
class Lane:
    """Queries of one kind, in the order in which dearer prices lose them."""

    utility: Utility
    ready: Ready
    keys: FloatArray  # (m,) falling: the price from which each buys
    idle: FloatArray  # see `idle_sums`
    past: Callable[[float], FloatArray]  # (m,) tokens on the concave part at a price

    def __post_init__(self) -> None:
        m, ready = self.size, self.ready
        # Arrays (m,), or one number that all share.
        self.weight, self.cost = compact(ready.weight[:m]), compact(ready.cost[:m])
        self.coefficient = compact(ready.coefficient[:m])
        self.least, self.nothing = compact(ready.least[:m]), compact(ready.idle[:m])
        self.least_charged = np.r_[0.0, np.cumsum(self.charged(ready.least[:m]))]

    @property
    def size(self) -> int:
        return int(self.keys.size)

    def count(self, price: float) -> int:
        """How many buy at a price."""
        return int(np.searchsorted(-self.keys, -price, side="right"))

    def charged(self, tokens: FloatArray) -> FloatArray:
        return np.asarray(self._of(self.coefficient, slice(0, tokens.size)) * tokens)

    @staticmethod
    def _of(column: FloatArray, part: slice) -> FloatArray:
        return column if column.ndim == 0 else column[part]

    def bound(
        self, price: float, at: slice, tokens: FloatArray, utility: FloatArray, width: FloatArray
    ) -> tuple[float, float]:
        """What these queries can gain at most at a price, and the size of the terms."""
        worth = self._of(self.weight, at) * utility
        charge = self._of(self.cost, at) + price * self._of(self.coefficient, at)
        paid = charge * tokens
        family = self.utility.take(at)
        slope = self._of(self.weight, at) * family.marginal_at(family.excess_of(tokens))
        slope -= charge
        np.abs(slope, out=slope)
        slope *= width
        gain = worth - paid
        gain += slope
        nothing = self._of(self.nothing, at) - charge * self._of(self.least, at)
        np.maximum(gain, nothing, out=gain)
        size = float(np.sum(np.abs(worth))) + float(np.sum(paid)) + float(np.sum(slope))
        if nothing.ndim or nothing:
            size += float(np.sum(np.abs(nothing))) * (tokens.size if nothing.ndim == 0 else 1)
        return float(np.sum(gain)), size


class Between:
    """Tokens and bounds at prices between `prices`, (k,), which rise.

    Args:
        lanes: the stretches.
        held: of each stretch (k,) how many buy at each of the prices.
        known: by price, of each lane what all would buy on their concave parts; where it says
            nothing, few prices are held in memory at a time.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        prices: FloatArray,
        held: Sequence[NDArray[np.intp]],
        known: Mapping[float, list[FloatArray]],
    ) -> None:
        self.lanes, self.held = lanes, held
        self._prices, self._logs = prices, np.log(prices)
        self._known = known
        self._keep = max(len(known), _NODES + 2)
        self._nodes: OrderedDict[int, _Node] = OrderedDict()

    def _node(self, number: int) -> _Node:
        found = self._nodes.get(number)
        if found is None:
            price = float(self._prices[number])
            tokens = self._known.get(price) or [lane.past(price) for lane in self.lanes]
            charged = [
                np.r_[0.0, np.cumsum(lane.charged(bought))]
                for lane, bought in zip(self.lanes, tokens, strict=True)
            ]
            found = self._nodes[number] = _Node(tokens, charged)
            while len(self._nodes) > self._keep:
                self._nodes.popitem(last=False)
        self._nodes.move_to_end(number)
        return found

    def _around(self, log_price: float) -> tuple[int, range] | None:
        """The number of the next cheaper price, and those the polynomial goes through."""
        below = int(np.searchsorted(self._logs, log_price, side="right")) - 1
        if not 0 <= below < self._logs.size - 1 or self._logs.size < _NODES:
            return None
        first = min(max(below - 1, 0), self._logs.size - _NODES)
        return below, range(first, first + _NODES)

    def _weights(self, nodes: range, log_price: float) -> list[float]:
        at = self._logs[nodes.start : nodes.stop].tolist()
        return [math.prod((log_price - b) / (a - b) for b in at if b != a) for a in at]

    def tokens(
        self, price: float, aim: float
    ) -> tuple[float, int, list[FloatArray], list[int]] | None:
        """Who buys at a price, and how much for the row to be charged `aim`; None if unknown.

        Returns the price that asks this much of them, the number of the next cheaper of the known
        prices, and for each stretch the tokens if they bought of all that may, and how many do.
        """
        counts = [lane.count(price) for lane in self.lanes]
        idle = math.fsum(
            float(lane.least_charged[-1] - lane.least_charged[count])
            for lane, count in zip(self.lanes, counts, strict=True)
        )
        found = self._spending(math.log(price), counts, aim - idle)
        if found is None:
            return None
        log_price, below, nodes = found
        weights = self._weights(nodes, log_price)
        known = [self._node(k) for k in nodes]
        cheap, dear = self._node(below), self._node(below + 1)
        bought = []
        for k, (lane, count) in enumerate(zip(self.lanes, counts, strict=True)):
            chunks = -(-max(count, int(self.held[k][below])) // CHUNK)
            limit = min(chunks * CHUNK, lane.size)
            tokens = np.empty(limit)
            for start in range(0, limit, _PIECE):
                at = slice(start, min(start + _PIECE, limit))
                part = weights[0] * known[0].tokens[k][at]
                for weight, node in zip(weights[1:], known[1:], strict=True):
                    part += weight * node.tokens[k][at]
                np.minimum(part, cheap.tokens[k][at], out=part)
                np.maximum(part, dear.tokens[k][at], out=tokens[at])
            bought.append(tokens)
        if not self._spend(bought, counts, aim - idle):
            return None
        return math.exp(log_price), below, bought, counts

    def _spending(
        self, log_price: float, counts: list[int], aim: float
    ) -> tuple[float, int, range] | None:
        """The log of the price at which the first so many are charged `aim`."""
        for _ in range(3):
            around = self._around(log_price)
            if around is None:
                return None
            below, nodes = around
            charged = [
                math.fsum(
                    float(c[count]) for c, count in zip(self._node(k).charged, counts, strict=True)
                )
                for k in nodes
            ]

            def off(at: float, nodes: range = nodes, charged: list[float] = charged) -> float:
                weights = self._weights(nodes, at)
                return math.fsum(w * c for w, c in zip(weights, charged, strict=True)) - aim

            before, at = log_price + 1e-4, log_price
            error, other = off(at), off(before)
            for _ in range(8):
                if other == error or abs(error) <= 0.1 * _SHORT * aim:
                    break
                before, at, other = at, at - error * (at - before) / (error - other), error
                if not math.isfinite(at):
                    return None
                error = off(at)
            if self._logs[below] <= at <= self._logs[below + 1]:
                return at, below, nodes
            log_price = at
        return None

    def _spend(self, bought: list[FloatArray], counts: list[int], aim: float) -> bool:
        """Move some of the tokens by next to nothing, so that the row is charged `aim`."""
        room = aim - self._charge(bought, counts)
        for pieces in (1, 4, 10**9):
            for _ in range(3):
                if abs(room) <= _SHORT * aim:
                    return True
                able, total = [], 0.0
                for lane, tokens, count in zip(self.lanes, bought, counts, strict=True):
                    at = slice(0, min(count, pieces * CHUNK))
                    more = np.maximum(tokens[at] - lane.ready.low[at], 0.0)
                    more[tokens[at] >= lane.ready.high[at]] = 0.0
                    able.append((tokens[at], more, lane.ready.high[at]))
                    total += float(np.sum(lane.charged(more)))
                if not abs(room) <= _SPREAD * total:
                    break
                for tokens, more, high in able:
                    tokens += (room / total) * more
                    np.minimum(tokens, high, out=tokens)
                room = aim - self._charge(bought, counts)
        return False

    def _charge(self, bought: list[FloatArray], counts: list[int]) -> float:
        return math.fsum(
            float(np.sum(lane.charged(tokens[:count])))
            for lane, tokens, count in zip(self.lanes, bought, counts, strict=True)
        )

    def gains(
        self, price: float, below: int, bought: list[FloatArray], utilities: list[FloatArray]
    ) -> tuple[float, float]:
        """What all can gain at most at a price next to those of `tokens`, and the terms' sizes.

        Args:
            utilities: of each stretch of the first so many `bought`, where they are known.
        """
        cheap, dear = self._node(below), self._node(below + 1)
        gains, sizes = [], []
        with np.errstate(all="ignore"):
            for k, (lane, tokens) in enumerate(zip(self.lanes, bought, strict=True)):
                for start in range(0, tokens.size, _PIECE):
                    at = slice(start, min(start + _PIECE, tokens.size))
                    utility = utilities[k][at]
                    missing = slice(at.start + utility.size, at.stop)
                    if missing.stop > missing.start:
                        family = lane.utility.take(missing)
                        more = family.value_at(family.excess_of(tokens[missing]))
                        utility = np.concatenate([utility, more])
                    most = cheap.tokens[k][at]
                    width = (1.0 + _TRUST) * most
                    width -= dear.tokens[k][at]
                    gain, size = lane.bound(price, at, tokens[at], utility, width)
                    gains.append(gain)
                    sizes.append(size)
                worth, size, charge = lane.idle[:, -(-tokens.size // CHUNK)]
                gains.append(worth - price * charge)
                sizes.append(size + price * charge)
        return math.fsum(gains), math.fsum(sizes)
