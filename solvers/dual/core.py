"""The few queries that a bracket of prices leaves undecided: settled exactly, in NumPy.

Between the two prices everybody else moves smoothly, and next to linearly. So the price at which
the whole demand crosses the budget is found on the undecided alone; they are then bought in the
order in which they break even, and what that leaves of the budget goes to the others at equal
marginal utility.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clearopt.solvers.dual.blocks import Columns, Group
from clearopt.solvers.dual.exchange import PAIRED, best_pairs
from clearopt.solvers.dual.kernels import STEEP, response_in_numpy, see
from clearopt.validation import FloatArray

_SAME_PRICE = 2e-15  # relative distance of prices that are one price
_SHRINK = 64  # parts of a bracket, after which those who no longer differ are left out
_AT_ONCE, _MOST_PRICES = 2_048, 31  # queries times prices, and prices, that are asked at once


@dataclass(frozen=True)
class Others:
    """What everybody else is charged at the two ends of the bracket, and between them, linearly."""

    dear: float
    cheap: float
    at_dear: float
    at_cheap: float

    @property
    def slope(self) -> float:
        """Tokens' charge per unit of price, at most 0."""
        return min((self.at_dear - self.at_cheap) / (self.dear - self.cheap), 0.0)

    def at(self, price: float) -> float:
        return self.at_dear + self.slope * (price - self.dear)


@dataclass(frozen=True, eq=False)
class Decision:
    """Prices, and tokens of the undecided (in their order)."""

    price: float  # where demand crosses the budget
    spent_at: float  # the price whose purchases, the undecided as decided, spend the budget
    # One array a group; infinite where only this is decided, that the query buys past its
    # inflection: it follows the price.
    tokens: tuple[FloatArray, ...]
    amounts: tuple[FloatArray, ...]  # the same, at `price` where they follow it
    flat: tuple[float, float]  # prices at which demand is the budget, as far as the core can tell


def charge(groups: list[Group], price: float) -> float:
    """What the row charges the groups for their purchases at a price."""
    return math.fsum(
        float(np.sum(g.columns.coefficient * response_in_numpy(g.kind, g.columns, price)[1]))
        for g in groups
        if g.size
    )


def crossing(groups: list[Group], factor: float, others: Others, budget: float) -> tuple[
    float, float
]:  # fmt: skip
    """The two neighbouring prices (dear, cheap) between which demand crosses the budget.

    `factor`: how many undecided queries each in the groups stands for.
    """
    dear, cheap, parts = others.dear, others.cheap, 1
    while dear - cheap > _SAME_PRICE * dear:
        # Few are asked at many prices in the time that they are asked at one.
        size = sum(group.size for group in groups)
        many = min(max(_AT_ONCE // max(size, 1), 1), _MOST_PRICES)
        prices = cheap + (dear - cheap) * (np.arange(1, many + 1) / (many + 1))
        prices = prices[(prices > cheap) & (prices < dear)]
        if not prices.size:
            break
        demand = np.array([others.at(price) for price in prices.tolist()])
        fits = demand + factor * charges(groups, prices) <= budget
        first = int(np.argmax(fits)) if fits.any() else prices.size
        dear = float(prices[first]) if first < prices.size else dear
        cheap = float(prices[first - 1]) if first else cheap
        parts *= many + 1
        if parts > _SHRINK and cheap < dear:
            parts = 1
            groups, others = _still_open(groups, factor, others, dear, cheap)
    return dear, cheap


def charges(groups: list[Group], prices: FloatArray) -> FloatArray:
    """(k,) what the row charges the groups for their purchases at each of the prices."""
    if prices.size == 1:
        return np.array([charge(groups, float(prices[0]))])
    total = np.zeros(prices.size)
    for group in groups:
        if group.size:
            again = group.columns.take(np.tile(np.arange(group.size), prices.size))
            at = np.repeat(prices, group.size)
            tokens = response_in_numpy(group.kind, again, at)[1]
            total += np.sum((again.coefficient * tokens).reshape(prices.size, -1), axis=1)
    return total


def _still_open(
    groups: list[Group], factor: float, others: Others, dear: float, cheap: float
) -> tuple[list[Group], Others]:
    """Those who jump between the two prices, and all others, who move next to linearly."""
    open_, at_dear, at_cheap = [], [others.at(dear)], [others.at(cheap)]
    for group in groups:
        seen, few = response_in_numpy(group.kind, group.columns, dear)
        many = response_in_numpy(group.kind, group.columns, cheap)[1]
        # As in `straddle`.
        jumps = (few < seen.bend) | (many - few > STEEP * (1.0 - cheap / dear) * many)
        if group.columns.integer is not None:
            jumps = jumps | group.columns.integer
        jumps &= many > few
        settled = np.where(jumps, 0.0, group.columns.coefficient)
        at_dear.append(factor * float(np.sum(settled * few)))
        at_cheap.append(factor * float(np.sum(settled * many)))
        if jumps.any():
            open_.append(Group(group.kind, group.columns.take(np.flatnonzero(jumps))))
    return open_, Others(dear, cheap, math.fsum(at_dear), math.fsum(at_cheap))


def decide(groups: list[Group], others: Others, budget: float, *, follow: bool = True) -> Decision:
    """Fund the undecided in the order in which they break even, as far as the budget goes.

    Without `follow` amounts are those at the price of the crossing, and the caller spends the rest.
    """
    dear, cheap = crossing(groups, 1.0, others, budget)
    seen = [response_in_numpy(g.kind, g.columns, dear) for g in groups]
    tokens = [few.copy() for _, few in seen]
    room = budget - others.at(dear) - _charged(groups, tokens)
    # At the crossing itself all are equally good bargains: in the order of the queries.
    for group, held in zip(groups, tokens, strict=True):
        more = response_in_numpy(group.kind, group.columns, cheap)[1]
        step = group.columns.coefficient * (more - held)
        rising = np.flatnonzero(more > held)
        taken = rising[: int(np.searchsorted(np.cumsum(step[rising]), room, side="right"))]
        held[taken] = more[taken]
        room -= float(np.sum(step[taken]))
    whole = [g.columns.integer is not None and bool(np.any(g.columns.integer)) for g in groups]
    if not any(whole):
        room = _exchange(groups, tokens, others.slope, dear, room)
    for group, held, some in zip(groups, tokens, whole, strict=True):
        if some:
            room -= _whole_tokens(group, held, room, others.cheap)
    spent_at = dear
    if others.slope < 0:
        spent_at = max(dear + room / others.slope, 0.0)
    amounts = tuple(held.copy() for held in tokens)
    for group, held in zip(groups, tokens, strict=True):
        held[followers(group, held)] = np.inf
    return Decision(dear, spent_at, tuple(tokens), amounts, _flat(groups, others, budget, dear))


def _charged(groups: list[Group], tokens: list[FloatArray]) -> float:
    return math.fsum(
        float(np.sum(g.columns.coefficient * t)) for g, t in zip(groups, tokens, strict=True)
    )


def _exchange(
    groups: list[Group], tokens: list[FloatArray], slope: float, price: float, room: float
) -> float:
    """Abandon or fund one or two of the undecided where that makes better use of the budget.

    Returns what is left of `room` then; see `exchange`.
    """
    if not groups:
        return room
    surplus, step, on, amounts, place = [], [], [], [], []
    for number, (group, held) in enumerate(zip(groups, tokens, strict=True)):
        with np.errstate(all="ignore"):
            seen = see(group.kind, group.columns, np.ones(held.shape, dtype=np.bool_))
            past = seen.at(np.asarray(price), np.maximum(seen.lower, seen.bend), seen.upper)
            charged = seen.cost + price * seen.coefficient
            idle = seen.weight * seen.utility.value_at(seen.utility.excess_of(seen.lower))
        open_ = np.flatnonzero((seen.lower < seen.bend) & (past.tokens > seen.lower))
        surplus.append((past.gain - (idle - charged * seen.lower))[open_])
        step.append((seen.coefficient * (past.tokens - seen.lower))[open_])
        on.append((held > seen.lower)[open_])
        amounts.append(np.column_stack([seen.lower, past.tokens])[open_])
        place.append(np.column_stack([np.full(open_.size, number), open_]))
    value, width = np.concatenate(surplus), np.concatenate(step)
    nearest = np.argsort(np.abs(value), kind="stable")[:PAIRED]
    if not nearest.size:
        return room
    state = np.concatenate(on)[nearest]
    loss = np.where(state, value[nearest], -value[nearest])
    change = np.where(state, width[nearest], -width[nearest])
    one = (np.array([number]) for number in (room, slope, price))
    for chosen in best_pairs(loss[None], change[None], *one)[0].tolist():
        if chosen >= 0:
            k = nearest[chosen]
            number, member = np.concatenate(place)[k]
            tokens[number][member] = np.concatenate(amounts)[k, 0 if state[chosen] else 1]
            room += float(change[chosen])
    return room


def _whole_tokens(group: Group, held: FloatArray, room: float, cheap: float) -> float:
    """Spend `room` on what whole tokens would be bought down to the cheap price, the best first."""
    columns, spent = group.columns, 0.0
    seen, most = response_in_numpy(group.kind, columns, cheap)
    whole = np.broadcast_to(columns.integer, held.shape)
    with np.errstate(all="ignore"):
        for _ in range(64):
            step = columns.coefficient * (most - held)
            able = np.flatnonzero(whole & (most > held) & (step > 0) & (step <= room - spent))
            if not able.size:
                break
            value = seen.utility.value_at(seen.utility.excess_of(most))
            value = value - seen.utility.value_at(seen.utility.excess_of(held))
            bargain = (seen.weight * value - seen.cost * (most - held))[able] / step[able]
            able = able[np.argsort(-bargain, kind="stable")]
            taken = able[np.cumsum(step[able]) <= room - spent]
            taken = taken if taken.size else able[:1]
            held[taken] = most[taken]
            spent += float(np.sum(step[taken]))
    return spent


def followers(group: Group, held: FloatArray, *, whole: bool = False) -> NDArray[np.bool_]:
    """Who is on the concave part, within bounds, and so follows the price; `whole` tokens too."""
    with np.errstate(all="ignore"):
        seen = see(group.kind, group.columns, np.ones(held.shape, dtype=np.bool_))
    concave = (held >= seen.bend) & (held > seen.lower) & (held < seen.upper)
    if group.columns.integer is not None and not whole:
        concave &= ~np.broadcast_to(group.columns.integer, held.shape)
    return np.asarray(concave)


def next_tokens(group: Group, held: FloatArray, room: float) -> None:
    """Spend `room` on one more whole token of those that are funded, where each adds most."""
    columns = group.columns
    with np.errstate(all="ignore"):
        seen = see(group.kind, columns, np.ones(held.shape, dtype=np.bool_))
        for _ in range(8):
            more = np.minimum(seen.utility.whole_after(held), seen.upper)
            step = columns.coefficient * (more - held)
            able = columns.integer & (held >= seen.bend) & (held > seen.lower)
            able = np.flatnonzero(able & (step > 0) & (step <= room))
            if not able.size:
                return
            value = seen.utility.value_at(seen.utility.excess_of(more))
            value = value - seen.utility.value_at(seen.utility.excess_of(held))
            gain = (seen.weight * value - seen.cost * (more - held))[able] / step[able]
            able = able[np.argsort(-gain, kind="stable")][: int(np.sum(gain > 0))]
            taken = able[np.cumsum(step[able]) <= room]
            if not taken.size:  # the best one does not fit: others may
                taken = able[:1]
            held[taken] = more[taken]
            room -= float(np.sum(step[taken]))


def _flat(groups: list[Group], others: Others, budget: float, price: float) -> tuple[float, float]:
    """The prices around `price` at which demand is exactly the budget (just `price` mostly)."""
    if others.slope < 0 or others.at(price) + charge(groups, price) != budget:
        return price, price

    def end(far: float) -> float:
        near = price
        while abs(far - near) > _SAME_PRICE * price:
            middle = 0.5 * (near + far)
            if middle in (near, far):
                break
            same = others.at(middle) + charge(groups, middle) == budget
            near, far = (middle, far) if same else (near, middle)
        return near

    return end(others.cheap), end(others.dear)


def joined(parts: list[Group]) -> Group:
    """Groups of one kind as one, in their order."""
    columns = [p.columns for p in parts]
    parameters = tuple(
        np.concatenate(c) for c in zip(*(c.parameters for c in columns), strict=True)
    )
    rest: list[NDArray[np.generic] | None] = []
    for position in range(1, len(Columns._fields)):
        column = [c[position] for c in columns]
        rest.append(None if column[0] is None else np.concatenate(column))
    return Group(parts[0].kind, Columns(parameters, *rest))
