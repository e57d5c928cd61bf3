"""Prices: the multipliers that prove the dual bound, and what the bounds are worth at them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from clearopt.deadline import NEVER, Deadline
from clearopt.errors import DeclarationError
from clearopt.least_squares import bounded_least_squares
from clearopt.marginal_values import Slopes, pressing
from clearopt.prices import Multipliers
from clearopt.program import Program
from clearopt.utilities import CostCurve, Utility
from clearopt.utilities.per_cost import PerCost
from clearopt.validation import FloatArray

_INDIFFERENT = 1e-6  # relative change of price at which a purchase may jump


def price_multipliers(
    program: Program,
    row_prices: FloatArray | None,
    floor_prices: FloatArray | None,
    deadline: Deadline = NEVER,
) -> Multipliers | None:
    """The multipliers that prove a bound, with what the bounds themselves are worth at them.

    `floor_prices` carry the sign of `Solution.prices`: at most 0. What a bound is worth is
    NaN where the deadline comes first.
    """
    if row_prices is None and floor_prices is None:
        return None
    rows = np.zeros(program.rows.shape[0]) if row_prices is None else row_prices
    floors = np.zeros(program.floors.shape[0]) if floor_prices is None else floor_prices
    above, below = np.zeros(program.n), np.zeros(program.n)
    if any(group.bounds is not None for group in program.constraints):
        above, below = _worth_of_bounds(program, rows, floors, deadline)
    return Multipliers(rows, floors, above, below)


def _worth_of_bounds(
    program: Program, rows: FloatArray, floors: FloatArray, deadline: Deadline
) -> tuple[FloatArray, FloatArray]:
    """The slopes of the dual bound in every query's upper and lower bound, (n,) each.

    Each is the slope of the query's Lagrangian where it responds at that bound. At the best prices
    a few queries are indifferent between two purchases, and the bound rests on a mixture of both
    that meets the rows: each purchase counts with its share in it.
    """
    weight = program.weight - program.floors.T @ floors
    price = program.cost + program.rows.T @ rows
    curve_price = program.curve_cost + program.curve_rows.T @ rows
    # A hair cheaper and a hair dearer, the indifferent make up their minds.
    many, few = (
        purchases(program, weight, price - turn * np.abs(price),
                  curve_price - turn * np.abs(curve_price))
        for turn in (_INDIFFERENT, -_INDIFFERENT)
    )  # fmt: skip
    share = mixture(program, rows, floors, many, few, deadline)
    above, below = np.zeros(program.n), np.zeros(program.n)
    for tokens, part in ((many, share), (few, 1.0 - share)):
        side = Slopes.at(program, tokens, 1)
        slope = np.where(weight > 0, weight * side.utility, 0.0) - price - curve_price * side.curve
        upwards, downwards = pressing(program, tokens, slope)
        above, below = above + part * upwards, below + part * downwards
    return above, below


def purchases(
    program: Program, weight: FloatArray, price: FloatArray, curve_price: FloatArray
) -> FloatArray:
    """(n,) tokens that maximise weight U(b) - price b - curve_price C(b) within the bounds."""
    lower = program.least
    least = np.where(program.semicontinuous, program.lower, 0.0)
    high = np.where(np.isinf(program.upper), lower, program.upper)
    for block in program.utilities:
        i, family = block.index, block.family
        # Past saturation nothing is gained: a stand-in for an infinite bound.
        enough = np.maximum(np.ceil(family.origin + family.saturation_excess) + 1.0, least[i])
        high[i] = np.where(np.isinf(program.upper[i]), np.maximum(enough, lower[i]), high[i])

    def gains(tokens: FloatArray) -> FloatArray:
        curved = curve_price * program.curve_value(tokens) if curve_price.any() else 0.0
        return weight * program.utility(tokens) - price * tokens - curved

    # Without a utility either end is best, and, with it, what the family answers.
    tokens = np.where(gains(high) > gains(lower), high, lower)
    for block in program.utilities:
        i, integer = block.index, program.integer[block.index]
        with np.errstate(all="ignore"):
            tokens[i] = block.family.best_response(
                weight[i],
                price[i],
                lower[i],
                high[i],
                integer if integer.any() else None,
                least[i] if least[i].any() else None,
            ).tokens
    if curve_price.any():
        for i, utility, curve in _curved(program, curve_price):
            tokens[i] = _buy_at_expected_cost(
                utility, curve, weight[i], price[i], curve_price[i], lower[i], least[i], high[i],
                whole=bool(program.integer[i[0]]),
            )  # fmt: skip
    chosen = program.choice >= 0
    if chosen.any():  # one of each choice, with the most surplus
        surplus = np.where(chosen, gains(tokens) - gains(np.zeros(program.n)), -np.inf)
        best = np.full(int(program.choice.max()) + 1, -np.inf)
        np.maximum.at(best, program.choice[chosen], surplus[chosen])
        order = np.flatnonzero(chosen & (surplus == best[program.choice]))[::-1]
        winner = np.full(best.size, -1)
        winner[program.choice[order]] = order  # ties: the first option
        tokens[chosen & (winner[program.choice] != np.arange(program.n))] = 0.0
    return tokens


def _curved(
    program: Program, curve_price: FloatArray
) -> Iterator[tuple[NDArray[np.intp], Utility, CostCurve]]:
    """The queries that pay for a cost curve, by utility, curve and wholeness."""
    member = np.full(program.n, -1, dtype=np.intp)
    for curve in program.curves:
        member[:] = -1
        member[curve.index] = np.arange(curve.index.size)
        for block in program.utilities:
            paying = (member[block.index] >= 0) & (curve_price[block.index] != 0)
            for whole in (False, True):
                mine = np.flatnonzero(paying & (program.integer[block.index] == whole))
                if mine.size:
                    i = block.index[mine]
                    yield i, block.family.take(mine), curve.family.take(member[i])


def _buy_at_expected_cost(
    utility: Utility,
    curve: CostCurve,
    weight: FloatArray,
    price: FloatArray,
    curve_price: FloatArray,
    lower: FloatArray,
    least: FloatArray,
    high: FloatArray,
    *,
    whole: bool,
) -> FloatArray:
    """As `purchases`, of queries that pay for a cost curve.

    Closed forms in the expected cost where nothing else is paid for; else whole tokens one by one
    (other tokens have no dual back-end there).
    """
    if not whole or (price == 0).all():
        try:
            family = PerCost.of(utility, curve, high, np.full(high.size, whole))
        except DeclarationError:
            if not whole:
                raise
        else:
            with np.errstate(all="ignore"):
                spent = family.best_response(
                    weight,
                    curve_price,
                    curve.value(lower),
                    curve.value(high),
                    np.full(high.size, True) if whole else None,
                    curve.value(least) if least.any() else None,
                ).tokens
            return np.where(spent > 0, np.minimum(family.tokens(spent), high), 0.0)

    def gain(tokens: FloatArray) -> FloatArray:
        paid = price * tokens + curve_price * curve.value(tokens)
        return np.asarray(weight * utility.value(tokens) - paid)

    best, tokens = gain(lower), lower.copy()
    first = np.maximum(lower, least)
    for count in range(int((high - first).max()) + 1):
        amount = np.minimum(first + count, high)
        found = gain(amount)
        better = (found >= best) & (amount >= first)
        best, tokens = np.where(better, found, best), np.where(better, amount, tokens)
    return tokens


def mixture(
    program: Program,
    rows: FloatArray,
    floors: FloatArray,
    many: FloatArray,
    few: FloatArray,
    deadline: Deadline = NEVER,
) -> FloatArray:
    """(n,) in [0, 1], how much of `many` and not of `few` it takes to meet the priced rows.

    The options of one choice go together. Least squares; 1 for all who are not indifferent, NaN for
    the others where the deadline comes first.
    """
    group = np.where(program.choice >= 0, program.n + program.choice, np.arange(program.n))
    differs = np.abs(many - few) > 1e-4 * np.maximum(many, few)
    groups, of_query = np.unique(group, return_inverse=True)
    indifferent = np.zeros(groups.size, dtype=bool)
    indifferent[of_query[differs]] = True
    column = np.where(indifferent, np.cumsum(indifferent) - 1, -1)[of_query]
    share = np.ones(program.n)
    k, j = np.flatnonzero(rows), np.flatnonzero(floors)
    if not indifferent.any() or k.size + j.size == 0:
        return share
    inside = np.flatnonzero(column >= 0)
    to_group = sparse.csr_array(
        (np.ones(inside.size), (inside, column[inside])), (program.n, int(indifferent.sum()))
    )

    def met(tokens: FloatArray) -> FloatArray:
        return np.r_[program.activity(tokens)[k], (program.floors @ program.utility(tokens))[j]]

    change = many - few
    utility = program.utility(many) - program.utility(few)
    curve = program.curve_value(many) - program.curve_value(few)
    parts = [
        program.rows[k].multiply(change[None, :]) + program.curve_rows[k].multiply(curve[None, :]),
        program.floors[j].multiply(utility[None, :]),
    ]
    matrix = sparse.csr_array(sparse.vstack(parts) @ to_group)
    base = np.where(column >= 0, few, many)
    missing = np.r_[program.right_hand_side[k], program.floor_levels[j]] - met(base)
    size = abs(matrix).max(axis=1).toarray().ravel()
    useful = np.flatnonzero(size > 0)
    if not useful.size:
        return share
    matrix = sparse.csr_array(matrix[useful].multiply(1.0 / size[useful, None]))
    aim = missing[useful] / size[useful]
    found = bounded_least_squares(matrix, aim, (0.0, 1.0), deadline, lsmr_tol=1e-12)
    share[inside] = np.nan if found is None else found[column[inside]]
    return share
