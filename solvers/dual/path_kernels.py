"""Best responses to one price after another, of queries in the order in which they are given up.

What no price changes is worked out once (bounds past which nobody needs to buy, the worth of buying
nothing), and since dearer prices only ever lose buyers, a pass stops where the last one stands: the
rest have their least amounts, whose sums are known. One call of JAX walks over the others in chunks
that stay in the cache.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from clearopt.solvers.dual.blocks import Group, padded
from clearopt.solvers.dual.kernels import ROW, rows, see
from clearopt.utilities.lambertw import namespace_of
from clearopt.validation import FloatArray

CHUNK = 2**12  # queries; a multiple of `ROW`
_STEPS = 10  # of Newton's method, within a bracket some per cent wide
_CLOSE = 1e-10  # relative distance of prices that are as good as one


class Ready(NamedTuple):
    """Queries of one kind, ready to be asked at any price: arrays (m,), m a multiple of `CHUNK`."""

    parameters: tuple[Any, ...]
    weight: Any
    cost: Any
    coefficient: Any
    least: Any  # tokens of those who do not buy
    low: Any  # tokens from which those who buy do: at the inflection, or at the lower bound
    high: Any
    idle: Any  # weight times utility at `least`
    integer: Any  # None where nobody's tokens are counted whole

    def map(self, change: Any) -> Ready:
        """The same with every array changed alike."""
        rest = (None if array is None else change(array) for array in self[1:])
        return Ready(tuple(change(p) for p in self.parameters), *rest)


def make_ready(group: Group) -> Ready:
    """The queries of a group, padded by queries that count for nothing."""
    count = group.size
    places = max(-(-count // CHUNK) * CHUNK, CHUNK)
    columns, valid = padded(group.columns, count, places)
    with np.errstate(all="ignore"):
        seen = see(group.kind, columns, valid)
        low = np.maximum(seen.lower, seen.bend)
        low = np.minimum(low, seen.upper)
        idle = seen.weight * seen.utility.value_at(seen.utility.excess_of(seen.lower))
    return Ready(
        tuple(np.asarray(p) for p in columns.parameters),
        seen.weight, seen.cost, seen.coefficient, np.asarray(seen.lower), low, seen.upper, idle,
        columns.integer,
    )  # fmt: skip


def answer(kind: Any, ready: Ready, price: Any) -> tuple[Any, Any, Any]:
    """(m,) tokens, (3, m / ROW) sums of gains, their sizes and charges, and where tokens are whole
    (m,) what the next one adds per unit that the row is charged; -inf where there is none.

    An S-shaped utility is best served at its least amount or on its concave part, where the
    stationary point, held within the bounds, is best.
    """
    xp = namespace_of(ready.low)
    utility = kind.from_parameters(*ready.parameters)
    charged = ready.cost + price * ready.coefficient
    nothing = ready.idle - charged * ready.least
    if ready.integer is None:
        tokens, excess = past_inflection(utility, ready, price)
        worth = ready.weight * utility.value_at(excess)
        gain = worth - charged * tokens
    else:  # the best whole amount may stand one below the inflection
        best = utility.best_response(ready.weight, charged, ready.least, ready.high, ready.integer)
        tokens, gain, worth = best.tokens, best.gain, ready.weight * best.utility
    buys = (gain >= nothing) & ((worth > ready.idle) | (ready.low <= ready.least))
    tokens = xp.where(buys, tokens, ready.least)
    size = xp.abs(xp.where(buys, worth, ready.idle)) + charged * tokens
    bargain = None
    if ready.integer is not None:
        more = utility.whole_after(tokens)
        step = more - tokens
        added = ready.weight * utility.value_at(utility.excess_of(more)) - worth
        able = buys & ready.integer & (more <= ready.high) & (ready.coefficient > 0)
        scale = xp.where(able, ready.coefficient * step, 1.0)
        bargain = xp.where(able, (added - ready.cost * step) / scale, -xp.inf)
    sums = rows(xp.maximum(gain, nothing), size, ready.coefficient * tokens)
    return tokens, sums, bargain


def past_inflection(utility: Any, ready: Ready, price: Any) -> tuple[Any, Any]:
    """(m,) tokens, and past the threshold: the best on the concave part, fractions of tokens."""
    xp = namespace_of(ready.low)
    charged = ready.cost + price * ready.coefficient
    positive = ready.weight > 0
    ratio = xp.where(positive, charged / xp.where(positive, ready.weight, 1.0), xp.inf)
    excess = utility.stationary_excess(ratio)
    excess = xp.clip(excess, utility.excess_of(ready.low), utility.excess_of(ready.high))
    tokens = utility.origin + excess
    # Rounded upwards, as in `Utility.best_response`.
    tokens = xp.where(tokens - utility.origin < excess, xp.nextafter(tokens, xp.inf), tokens)
    return xp.clip(tokens, ready.low, ready.high), excess


@cache
def compiled_answer(kind: Any, past: bool = False) -> Any:
    """`answer` over the first so many chunks, compiled; call it within `enable_x64`.

    What is not asked is 0. With `past` the last answer is what each would buy on its concave part.
    """
    import jax

    def ask(ready: Ready, price: Any, chunks: Any) -> tuple[Any, Any, Any]:
        places = ready.low.shape[0]

        def step(number: Any, found: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
            start = number * CHUNK
            part = ready.map(lambda array: jax.lax.dynamic_slice(array, (start,), (CHUNK,)))
            tokens, sums, bargain = answer(kind, part, price)
            if past:
                utility = kind.from_parameters(*part.parameters)
                bargain = past_inflection(utility, part, price)[0]
            put: Any = jax.lax.dynamic_update_slice
            return (
                put(found[0], tokens, (start,)),
                put(found[1], sums, (0, number * (CHUNK // ROW))),
                None if bargain is None else put(found[2], bargain, (start,)),
            )

        zeros = jax.numpy.zeros
        bargains = zeros(places) if past or ready.integer is not None else None
        return jax.lax.fori_loop(
            0, chunks, step, (zeros(places), zeros((3, places // ROW)), bargains)
        )

    return jax.jit(ask)


@cache
def compiled_past(kind: Any) -> Any:
    """(m,) what each would buy at a price on its concave part, compiled."""
    import jax

    def past(ready: Ready, price: Any) -> Any:
        return past_inflection(kind.from_parameters(*ready.parameters), ready, price)[0]

    return jax.jit(past)


@cache
def compiled_entry(kind: Any) -> Any:
    """(m,) prices at which queries start to buy, and their tokens then.

    Asked for brackets (m,): each buys at the cheaper end and does not at the dearer one. What
    buying gains over not buying is convex in the price and falls: Newton's steps from the cheaper
    end stay on its side of the root.
    """
    import jax

    def entry(ready: Ready, cheap: Any, dear: Any) -> tuple[Any, Any]:
        xp = jax.numpy
        utility = kind.from_parameters(*ready.parameters)

        def step(_: Any, ends: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
            low, high, first = ends
            charged = ready.cost + low * ready.coefficient
            worth = ready.weight * utility.value_at(utility.excess_of(first)) - ready.idle
            more = first - ready.least
            saved = worth - charged * more
            step = saved / xp.where(more > 0, ready.coefficient * more, 1.0)
            # Where rounding has the last word, or a step too small to matter: the middle.
            price = low + xp.maximum(step, _CLOSE * low)
            price = xp.where((price > low) & (price < high), price, 0.5 * (low + high))
            tokens = answer(kind, ready, price)[0]
            buys = tokens > ready.least
            return (
                xp.where(buys, price, low),
                xp.where(buys, high, price),
                xp.where(buys, tokens, first),
            )

        first = answer(kind, ready, cheap)[0]
        low, _, first = jax.lax.fori_loop(0, _STEPS, step, (cheap, dear, first))
        return low, first

    return jax.jit(entry)


def idle_sums(ready: Ready) -> FloatArray:
    """(3, chunks + 1): worth, its size and charge of the least amounts, from each chunk on.

    The gain of those who do not buy is their worth less price times charge; sizes likewise.
    """
    with np.errstate(all="ignore"):
        paid = ready.cost * ready.least
        terms = rows(ready.idle - paid, np.abs(ready.idle) + paid, ready.coefficient * ready.least)
    by_chunk = terms.reshape(3, -1, CHUNK // ROW)
    found = np.zeros((3, by_chunk.shape[1] + 1))
    if terms.any():
        for number in range(by_chunk.shape[1]):
            found[:, number] = [math.fsum(part.ravel()) for part in by_chunk[:, number:]]
    return found
