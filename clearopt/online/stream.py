"""A stream answered one query after the other, and what the offline optimum would have made of it.

The yardstick knows all queries beforehand and solves one problem for the whole stream; its bound is
rigorous, so that a regret is never understated.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clearopt.allocation import Allocation
from clearopt.errors import DeclarationError
from clearopt.grouping import mean, sum_
from clearopt.online.market import PostedPrice, Quote, members_of
from clearopt.online.windows import Windows
from clearopt.problem import Maximize, Problem
from clearopt.solution import Solution
from clearopt.utilities import Utility
from clearopt.validation import FloatArray, as_float_array, broadcast_to_length

_TOLERANCE = 1e-5  # of the offline optimum, relative


@dataclass(frozen=True, eq=False)
class StreamRun:
    """What became of n queries, in their order. Arrays have shape (n,).

    Attributes:
        tokens: caps; 0 where abandoned.
        spent: what was used of them.
        accuracy: expected under the caps.
        prices: at which each bought, accuracy per token.
        budget: tokens for all.
    """

    tokens: FloatArray
    spent: FloatArray
    accuracy: FloatArray
    prices: FloatArray
    budget: float

    @property
    def value(self) -> float:
        """Expected right answers."""
        return math.fsum(self.accuracy.tolist())

    @property
    def funded(self) -> NDArray[np.bool_]:
        """(n,) who got tokens."""
        return self.tokens > 0


def run_posted(
    market: PostedPrice,
    utility: Utility,
    upper: float | FloatArray,
    *,
    tiers: Sequence[Hashable] | None = None,
    needed: FloatArray | None = None,
    delay: int = 0,
) -> StreamRun:
    """Send a stream through a market, one query at a time.

    Args:
        market: as it is after earlier queries, if there were any; it goes on learning.
        utility: of the n queries, in their order.
        upper: the most each may have, one or (n,).
        tiers: (n,) whose floor each query counts for.
        needed: (n,) tokens that each answer takes if nothing cuts it; what it spends is no more.
            By default all of the cap.
        delay: how many queries come before an answer is complete and its rest is returned.
    """
    n = members_of(utility)
    members, most = utility.broadcast(n), _upper(upper, n)
    length = _lengths(needed, n)
    tokens, spent, accuracy, prices = np.zeros((4, n))
    waiting: list[int] = []
    quotes: list[Quote] = []

    def complete(k: int) -> None:
        if quotes[k].funded:
            market.settle(quotes[k], spent[k])

    for k in range(n):
        tier = None if tiers is None else tiers[k]
        quote = market.quote(members.take(slice(k, k + 1)), float(most[k]), tier)
        quotes.append(quote)
        tokens[k], accuracy[k], prices[k] = quote.tokens, quote.accuracy, quote.price
        spent[k] = min(quote.tokens, float(length[k]))
        waiting.append(k)
        if len(waiting) > delay:
            complete(waiting.pop(0))
    for k in waiting:
        complete(k)
    return StreamRun(tokens, spent, accuracy, prices, market.budget)


def run_windows(
    windows: Windows,
    utility: Utility,
    upper: float | FloatArray,
    size: int,
    *,
    needed: FloatArray | None = None,
) -> StreamRun:
    """Send a stream through windows of `size` queries; arguments as in `run_posted`."""
    if size < 1:
        raise DeclarationError(f"run_windows: size = {size!r}: must be at least 1")
    n = members_of(utility)
    members, most = utility.broadcast(n), _upper(upper, n)
    length = _lengths(needed, n)
    tokens, spent, accuracy, prices = np.zeros((4, n))
    for start in range(0, n, size):
        part = slice(start, min(start + size, n))
        solution = windows.allocate(members.take(part), most[part])
        if solution.allocation is None:
            continue
        tokens[part], prices[part] = solution.allocation, _price(solution)
        accuracy[part] = solution.utilities
        spent[part] = np.minimum(tokens[part], length[part])
        windows.refund(math.fsum((tokens[part] - spent[part]).tolist()))
    return StreamRun(tokens, spent, accuracy, prices, windows.budget)


def offline_optimum(
    utility: Utility,
    budget: float,
    upper: float | FloatArray,
    *,
    tiers: Sequence[Hashable] | None = None,
    floors: Mapping[Hashable, float] | None = None,
    whole: bool = True,
    tolerance: float = _TOLERANCE,
) -> Solution:
    """The best allocation of a stream that is known beforehand; its `bound` is the yardstick.

    Args:
        utility: of the n queries.
        budget: tokens for all of them.
        upper: the most each may have, one or (n,).
        tiers: (n,) labels, for floors.
        floors: label -> promised mean accuracy of its queries.
        whole: caps are whole tokens.
        tolerance: relative gap.
    """
    n = members_of(utility)
    tokens = Allocation(n, upper=_upper(upper, n), integer=whole, name="tokens")
    accuracy = utility(tokens)
    rows = [(sum_(tokens) <= budget).named("budget")]
    if floors:
        labels = [] if tiers is None else list(tiers)
        for label, level in floors.items():
            members = np.flatnonzero([x == label for x in labels])
            if members.size:
                rows.append((mean(accuracy[members]) >= level).named(f"floor of {label}"))
    return Problem(Maximize(sum_(accuracy)), rows).solve(tolerance=tolerance)


def price_of_history(
    utility: Utility, rate: float, upper: float | FloatArray, *, whole: bool = True
) -> float:
    """The price to begin with, from queries that came before: the optimum's, at `rate` a query.

    Args:
        utility: of the earlier queries.
        rate: tokens a query that the coming stream may spend.
        upper: the most each may have, one or (n,).
        whole: caps are whole tokens.

    Raises:
        DeclarationError: the earlier queries leave tokens over at this rate: their price is 0.
    """
    if not 0 < rate < math.inf:
        raise DeclarationError(f"price_of_history: rate = {rate!r}: must be positive")
    n = members_of(utility)
    solution = offline_optimum(utility, rate * n, upper, whole=whole)
    price = _price(solution)
    if not price > 0:
        raise DeclarationError(
            f"price_of_history: {rate:g} tokens a query are ample for the earlier queries, whose "
            "price is 0; no price needs to be learnt from them"
        )
    return price


def _price(solution: Solution) -> float:
    """Of the budget row, accuracy per token."""
    price = solution.prices["budget"]
    assert isinstance(price, float)
    return price


def _lengths(needed: FloatArray | None, n: int) -> FloatArray:
    """(n,) tokens that answers take; without an end where nothing is known."""
    length = np.full(n, math.inf) if needed is None else as_float_array(needed, "needed")
    if length.shape != (n,):
        raise DeclarationError(f"needed has shape {length.shape}, expected ({n},)")
    return length


def _upper(upper: float | FloatArray, n: int) -> FloatArray:
    return broadcast_to_length(np.asarray(upper, dtype=np.float64), n, "upper")
