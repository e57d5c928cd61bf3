"""The price of every cap by itself, and what its queries do with it: many caps at a time.

A cap's price is where the demand of its queries crosses it. All caps of a chunk are searched side
by side, each in a bracket of its own: secants of log demand over log price, and halving where these
are slow, as they are next to a jump. At the crossing one or two queries change sides where that
makes better use of the cap (see `exchange`), and what is left goes to the funded at equal marginal
utility; whole tokens go where the next one adds most.

A cap that binds keeps its price and its allocation whatever the price of a budget over all of them,
as long as that is lower: the budget's part in what a token costs then takes the place of the cap's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clearopt.deadline import Deadline
from clearopt.solvers.dual.caps import Chunk
from clearopt.solvers.dual.exchange import best_pairs
from clearopt.solvers.dual.large_plan import Infeasible
from clearopt.solvers.dual.presolve import break_even
from clearopt.solvers.dual.separable import ROUNDING
from clearopt.validation import FloatArray

_CLOSED = 1e-11  # relative width of a bracket that is one price
_NO_PRICE, _LARGEST_PRICE = 1e-290, 1e299
_TRIES = 400  # passes at most
_SAMPLE = 2_048  # queries of a chunk, for first prices
_CANDIDATES = 64  # queries of a cap of which any two may change sides
_ASIDE = 1e-2  # relative change of price at which demand is looked at for its slope
_FILLINGS = 10  # passes at most for the price that spends a cap
_KEEP = 1e-12  # of a cap: kept back, as sums are only known to rounding
_SPREAD = 1e-10  # of a cap: what may be left to be spread in proportion
_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class Settled:
    """What the caps of a chunk come to by themselves: (g,) each, and tokens (m,).

    Attributes:
        price: of each cap; 0 where it is ample.
        bound: the most its queries can gain under it, rounded upwards.
        value: what they gain with `tokens`.
        used: what the cap counts then.
    """

    price: FloatArray
    bound: FloatArray
    value: FloatArray
    used: FloatArray
    tokens: FloatArray


def settle(chunk: Chunk, levels: FloatArray, deadline: Deadline) -> Settled:
    """Price and spend the caps of a chunk, whose levels are (g,).

    After the deadline a guess at the prices is all that there is.

    Raises:
        Infeasible: the lower bounds alone exceed a cap.
    """
    if deadline.over:
        return _hurried(chunk, levels)
    price = search(chunk, levels, deadline)
    at = price[chunk.label]
    gain, size, edge, least, most = chunk.ask("sides", at)
    bound = bounds(chunk, levels, price, gain, size)
    charge, tokens = chunk.ask("demanded", at)
    binds = price > 0
    if binds.any() and not deadline.over:
        on = edge > 0
        turned = _turned(chunk, levels, price, on, edge, least, most)
        spent = _spend(chunk, levels, price, turned, deadline)
        better = _better(chunk, levels, (charge, tokens), spent) & binds[chunk.label]
        tokens = np.where(better, spent, tokens)
    value, charge = chunk.ask("worth", tokens)
    return Settled(price, bound, chunk.totals(value), chunk.totals(charge), tokens)


def _hurried(chunk: Chunk, levels: FloatArray) -> Settled:
    """One pass at the prices that a sample suggests: of who buys then, as many as fit each cap.

    Raises:
        Infeasible: the lower bounds alone exceed a cap.
    """
    price = _first(chunk, levels)
    gain, size, charge, least, tokens, lower = chunk.ask("hurried", price[chunk.label])
    room = levels - chunk.totals(least)
    if (room < 0).any():
        raise Infeasible
    # In the order of the queries, which stand cap by cap: nobody buys at less than the price.
    more = np.cumsum(charge - least)
    starts = np.searchsorted(chunk.label, np.arange(chunk.count))
    spent = more - np.r_[0.0, more][starts][chunk.label]
    tokens = np.where(spent <= (room * (1 - _KEEP))[chunk.label], tokens, lower)
    value, used = chunk.ask("worth", tokens)
    bound = bounds(chunk, levels, price, gain, size)
    return Settled(price, bound, chunk.totals(value), chunk.totals(used), tokens)


def bounds(
    chunk: Chunk, levels: FloatArray, price: FloatArray, gain: FloatArray, size: FloatArray
) -> FloatArray:
    """(g,) the dual function of each cap at its price, rounded upwards.

    Sums of m terms in any order are off by m roundings of their sizes at most.
    """
    members = np.bincount(chunk.label, minlength=chunk.count)
    paid = price * levels
    found = chunk.totals(gain) + paid
    return np.asarray(
        found + (ROUNDING + _EPS * members) * chunk.totals(size) + 4 * _EPS * np.abs(paid)
    )


# -------------------------------------------------------------------------------- the search
def search(chunk: Chunk, levels: FloatArray, deadline: Deadline) -> FloatArray:
    """(g,) the least price at which each cap is kept, 0 where it is kept for nothing."""

    def demand(price: FloatArray) -> FloatArray:
        return chunk.totals(chunk.ask("demanded", price[chunk.label])[0])

    low, high = np.zeros(chunk.count), np.full(chunk.count, np.inf)
    over, under = demand(low), np.zeros(chunk.count)
    ample = over <= levels
    high[ample] = 0.0
    price = _first(chunk, levels)
    factor, before = np.full(chunk.count, 1.3), np.full(chunk.count, np.inf)
    for _ in range(_TRIES):
        known = np.isfinite(high)
        with np.errstate(all="ignore"):
            open_ = ~known | (~ample & (high - low > _CLOSED * high) & (high > _NO_PRICE))
        if deadline.over:
            open_ &= ~known
        if not open_.any():
            break
        if (price[open_] > _LARGEST_PRICE).any():
            raise Infeasible
        found = demand(np.where(open_, price, np.where(known, high, 0.0)))
        fits = found <= levels
        down, up = open_ & fits, open_ & ~fits
        high[down], under[down] = price[down], found[down]
        low[up], over[up] = price[up], found[up]
        inside = (low > 0) & np.isfinite(high)
        with np.errstate(all="ignore"):
            width = np.where(inside, np.log(high / low), np.inf)
            # Where the demand would be the cap if it fell evenly between the two prices.
            above = np.minimum(np.log(over / levels), 5.0)
            share = above / (above - np.maximum(np.log(under / levels), -5.0))
            slow = ~(width <= 0.5 * before) | ~np.isfinite(share)
            share = np.where(slow, 0.5, np.clip(share, 0.02, 0.98))
            between = np.where(
                width > 1e-2, low * np.exp(share * width), low + share * (high - low)
            )
            outside = np.where(np.isfinite(high), high / factor, low * factor)
        price = np.where(inside, between, outside)
        factor = np.where(inside, factor, np.minimum(factor * factor, 1e16))
        before = width
    if not np.isfinite(high).all():
        raise Infeasible
    return high


def _first(chunk: Chunk, levels: FloatArray) -> FloatArray:
    """(g,) the price up to which queries funded by falling break-even price fill each cap."""
    sample = chunk.sample(_SAMPLE)
    found = [break_even(group) for _, group, _ in sample]
    label = np.concatenate([of for of, _, _ in sample])
    price = np.concatenate([price for price, _ in found])
    charge = np.concatenate(
        [c * stands_for for (_, c), (*_, stands_for) in zip(found, sample, strict=True)]
    )
    usable = np.isfinite(price) & (price > 0) & np.isfinite(charge)
    label, price, charge = label[usable], price[usable], charge[usable]
    if not price.size:
        return np.ones(chunk.count)
    order = np.lexsort((-price, label))
    label, price, filled = label[order], price[order], np.cumsum(charge[order])
    starts, ends = (
        np.searchsorted(label, np.arange(chunk.count), side=s) for s in ("left", "right")
    )
    last = np.searchsorted(filled, np.r_[0.0, filled][starts] + levels)
    guess = price[np.clip(last, starts, ends - 1)]
    return np.where(ends > starts, guess, np.median(price))


# -------------------------------------------------------------------------------- the allocation
def _turned(
    chunk: Chunk,
    levels: FloatArray,
    price: FloatArray,
    on: NDArray[np.bool_],
    edge: FloatArray,
    least: FloatArray,
    most: FloatArray,
) -> NDArray[np.bool_]:
    """(m,) who is past its inflection: as the prices say, but for one or two under each cap."""
    label = chunk.label
    room = levels - chunk.totals(np.where(on, most, least))
    cheaper = chunk.ask("sides", (price * (1 - _ASIDE))[label])[4]
    with np.errstate(all="ignore"):
        slope = -chunk.totals(np.where(on, cheaper - most, 0.0)) / (_ASIDE * price)
    slope = np.where(np.isfinite(slope), np.minimum(slope, 0.0), 0.0)
    able = np.flatnonzero(np.isfinite(edge) & (most > least))
    able = able[np.lexsort((np.abs(edge[able]), label[able]))]
    rank = np.arange(able.size) - np.searchsorted(label[able], label[able])
    able, rank = able[rank < _CANDIDATES], rank[rank < _CANDIDATES]
    width = int(rank.max(initial=-1)) + 1
    if not width:
        return on
    loss = np.full((chunk.count, width), np.inf)
    change, query = np.zeros(loss.shape), np.zeros(loss.shape, dtype=np.intp)
    cell = label[able], rank
    query[cell] = able
    loss[cell] = np.abs(edge[able])
    change[cell] = np.where(on[able], 1.0, -1.0) * (most - least)[able]
    pairs = best_pairs(loss, change, room, slope, price)
    turned = on.copy()
    cap, which = np.nonzero(pairs >= 0)
    moved = query[cap, pairs[cap, which]]
    turned[moved] = ~turned[moved]
    return turned


def _spend(
    chunk: Chunk,
    levels: FloatArray,
    price: FloatArray,
    on: NDArray[np.bool_],
    deadline: Deadline,
) -> FloatArray:
    """(m,) tokens at the price that spends each cap, with the sides as decided."""
    label, aim = chunk.label, levels * (1 - _KEEP)
    charge, tokens, low, high = chunk.ask("filled", price[label], on)
    found, best = chunk.totals(charge), np.where(chunk.totals(charge) <= levels, price, np.inf)
    cheaper = price * (1 - _ASIDE)
    at, used = price, found
    last, before = cheaper, chunk.totals(chunk.ask("filled", cheaper[label], on)[0])
    dear = np.where(found <= levels, price, np.inf)
    cheap = np.where(found > levels, price, np.where(before > levels, cheaper, 0.0))
    for _ in range(_FILLINGS):
        if deadline.over:
            break
        left = aim - used
        done = (used <= levels) & (left <= _SPREAD * levels)
        with np.errstate(all="ignore"):
            slope = (used - before) / (at - last)
            there = np.where(slope < 0, at + (left - 0.25 * _SPREAD * levels) / slope, np.nan)
            middle = np.where(np.isfinite(dear), 0.5 * (dear + cheap), 1.5 * at)
        there = np.where((there > cheap) & (there < dear), there, middle)
        # Who has nobody to follow the price stays where it is.
        there = np.where(done | (used == before), at, there)
        if (there == at).all():
            break
        last, before = np.where(there == at, last, at), np.where(there == at, before, used)
        at = there
        charge, tokens, low, high = chunk.ask("filled", at[label], on)
        used = chunk.totals(charge)
        fits = used <= levels
        dear, cheap = np.where(fits, at, dear), np.where(fits, cheap, at)
        best = np.where(fits, np.minimum(best, at), best)
    again = np.where(np.isfinite(best), best, at)
    if (again != at).any():
        charge, tokens, low, high = chunk.ask("filled", again[label], on)
    tokens = _spread(chunk, aim, charge, tokens, low, high)
    return _next_tokens(chunk, levels, tokens, on, deadline) if chunk.whole else tokens


def _spread(
    chunk: Chunk,
    aim: FloatArray,
    charge: FloatArray,
    tokens: FloatArray,
    low: FloatArray,
    high: FloatArray,
) -> FloatArray:
    """What is left spread over the amounts that follow the price, in proportion.

    Next to equal marginal utilities that costs a second-order little.
    """
    follows = high > low
    spent = chunk.totals(np.where(follows, charge, 0.0))
    left = aim - chunk.totals(charge)
    with np.errstate(all="ignore"):
        share = np.where(spent > 0, np.clip(left / spent, -1e-3, 1e-3), 0.0)
    return np.where(follows, np.clip(tokens * (1 + share[chunk.label]), low, high), tokens)


def _next_tokens(
    chunk: Chunk,
    levels: FloatArray,
    tokens: FloatArray,
    on: NDArray[np.bool_],
    deadline: Deadline,
) -> FloatArray:
    """One more whole token for as many of the funded as a cap has room for, the best first."""
    for _ in range(8):
        if deadline.over:
            break
        more, charge, bargain = chunk.ask("following", tokens, on)
        room = levels - chunk.totals(chunk.ask("worth", tokens)[1])
        able = np.flatnonzero((bargain > 0) & (charge <= room[chunk.label]))
        if not able.size:
            break
        able = able[np.lexsort((-bargain[able], chunk.label[able]))]
        label, together = chunk.label[able], np.cumsum(charge[able])
        first = np.searchsorted(label, label)
        before = np.r_[0.0, together][first]
        taken = able[together - before <= room[label] * (1 - _EPS)]
        if not taken.size:
            break
        tokens = tokens.copy()
        tokens[taken] = more[taken]
    return tokens


def _better(
    chunk: Chunk,
    levels: FloatArray,
    plain: tuple[FloatArray, FloatArray],
    spent: FloatArray,
) -> NDArray[np.bool_]:
    """(m,) whether its cap is kept by `spent`, which is worth more than the plain (charge, tokens).

    Where the plain purchases break the cap, by rounding or for want of time, nothing is worth less.
    """
    value, charge = chunk.ask("worth", spent)
    fits = chunk.totals(charge) <= levels * (1 + 1e-13)
    before = chunk.totals(chunk.ask("worth", plain[1])[0])
    broken = chunk.totals(plain[0]) > levels * (1 + 1e-13)
    return np.asarray((fits & (broken | (chunk.totals(value) > before)))[chunk.label])
