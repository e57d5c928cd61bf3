"""From multipliers to what a user reads: by constraint name, per unit on its right-hand side.

Two notions, never mixed. *Prices* are the multipliers that prove the bound. *Marginal values* are
the value function's own slopes at the allocation found, with the funded set as it is.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import lsq_linear, nnls

from clearopt.errors import DeclarationError
from clearopt.program import BoundEntries, ConstraintGroup, Program
from clearopt.utilities import CostCurve, Utility
from clearopt.utilities.per_cost import PerCost
from clearopt.validation import FloatArray

Price = float | FloatArray | dict[Hashable, float]

_BINDING = 1e-7  # relative slack up to which a row counts as binding
_AT_BOUND = 1e-9  # relative distance up to which tokens are at a bound
_BESIDE = 1e-9  # relative distance at which one side of a kink is looked at
_INDIFFERENT = 1e-6  # relative change of price at which a purchase may jump
_DENSE = 5_000_000  # entries up to which least squares are solved as a dense problem


class ByName(dict[str, Price]):
    """Prices by constraint name; a name that is none says which there are."""

    def __missing__(self, name: str) -> Price:
        known = ", ".join(repr(key) for key in self) or "none (this solver gives no prices)"
        raise KeyError(f"no constraint is named {name!r}; there are {known}")


class Multipliers(NamedTuple):
    """Objective per unit of what stands on the right of each constraint."""

    rows: FloatArray  # (K,)
    floors: FloatArray  # (J,), at most 0
    above: FloatArray  # (n,) each query's upper bound in tokens, at least 0
    below: FloatArray  # (n,) its lower bound, at most 0


def by_name(program: Program, multipliers: Multipliers) -> dict[str, Price]:
    """The multipliers as `Solution.prices` shows them."""
    named = ByName()
    for group in program.constraints:
        if group.bounds is not None:
            part = _of_bounds(program, group.bounds, multipliers)
        else:
            per_row = multipliers.rows if group.kind == "row" else multipliers.floors
            part = np.asarray(per_row[group.rows], dtype=np.float64)
        named[group.name] = _shaped(group, part)
    return named


def _shaped(group: ConstraintGroup, part: FloatArray) -> Price:
    if group.labels is not None:
        by_label = dict(zip(group.labels, part.tolist(), strict=True))
        return by_label | dict.fromkeys(group.unlimited, 0.0)
    if group.scalar:
        return float(part.sum())  # of one entry, or of none where unlimited
    everywhere = np.zeros(part.size + len(group.unlimited))
    limited = np.ones(everywhere.shape, dtype=bool)
    limited[np.asarray(group.unlimited, dtype=np.intp)] = False
    everywhere[limited] = part
    return everywhere


def _of_bounds(program: Program, bounds: BoundEntries, multipliers: Multipliers) -> FloatArray:
    """The part of each entry: its query's bound's, where this very limit is the one that holds."""
    limit, query = bounds.level / bounds.factor, bounds.query
    at_most = (bounds.sense == "==") | ((bounds.sense == "<=") == (bounds.factor > 0))
    at_least = (bounds.sense == "==") | ((bounds.sense == ">=") == (bounds.factor > 0))
    finite = np.isfinite(limit)
    limit = np.where(finite, limit, 0.0)
    near = np.where(program.integer[query], 1.0 - 1e-9, 1e-12 * np.maximum(1.0, np.abs(limit)))
    above = finite & at_most & (np.abs(program.upper[query] - limit) <= near)
    below = finite & at_least & (np.abs(program.lower[query] - limit) <= near)
    tokens_more = np.where(above, multipliers.above[query], 0.0)
    tokens_more = tokens_more + np.where(below, multipliers.below[query], 0.0)
    return tokens_more / bounds.factor + 0.0  # no -0.0


# -------------------------------------------------------------------------------- slopes
class _Slopes(NamedTuple):
    """What one more token (`side` 1) or the last one (-1) of each query is worth, (n,) each.

    Derivatives, one-sided at kinks and jumps; differences of one token where tokens are whole.
    """

    utility: FloatArray  # U'
    curve: FloatArray  # C'
    smooth: NDArray[np.bool_]  # the same on both sides

    @classmethod
    def at(cls, program: Program, tokens: FloatArray, side: int) -> _Slopes:
        found, smooth = [], ~program.integer
        # Past the last token there may be one more, before the first none.
        whole = np.maximum(tokens + side, 0.0)
        step = np.where(whole != tokens, whole - tokens, 1.0)
        for value, marginal in (
            (program.utility, program.marginal),
            (program.curve_value, program.curve_marginal),
        ):
            here, level = marginal(tokens), value(tokens)
            before = tokens * (1.0 - _BESIDE)
            ends = marginal(before), marginal(tokens * (1.0 + _BESIDE))
            alike = np.abs(ends[1] - ends[0]) <= 1e-4 * np.maximum(*np.abs(ends))
            # A step shows in no derivative, but in a rise that none of them explains.
            rise = level - value(before)
            jump = rise > 1e-3 * np.abs(level) + 10.0 * _BESIDE * tokens * np.abs(here)
            smooth = smooth & alike & ~jump
            one_sided = ends[1] if side > 0 else np.where(jump, np.inf, ends[0])
            slope = np.where(alike & ~jump, here, one_sided)
            if program.integer.any():
                slope = np.where(program.integer, (value(whole) - level) / step, slope)
            found.append(slope)
        return cls(found[0], found[1], smooth)

    def gain(self, program: Program) -> FloatArray:
        """(n,) of the objective."""
        paid = program.cost + program.curve_cost * self.curve
        return np.where(program.weight > 0, program.weight * self.utility, 0.0) - paid

    def charged(self, program: Program, rows: NDArray[np.intp]) -> sparse.csr_array:
        """What a token of each query is charged in these rows, (rows, n)."""
        matrix = program.rows[rows]
        if program.curve_rows.nnz:
            matrix = matrix + program.curve_rows[rows].multiply(self.curve[None, :])
        return sparse.csr_array(matrix)


def _bounds_met(
    program: Program, tokens: FloatArray
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(n,) who has as few tokens as the bounds allow, and who has as many."""
    near = np.where(program.integer, 0.5, _AT_BOUND * tokens)
    return tokens <= program.lower + near, tokens >= program.upper - near


def _pressing(
    program: Program, tokens: FloatArray, slope: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """A slope upwards presses against an upper bound, one downwards against a lower, (n,) each."""
    fewest, most = _bounds_met(program, tokens)
    return (
        np.where(most & (slope > 0), slope, 0.0),
        np.where(fewest & (slope < 0) & (tokens >= program.lower), slope, 0.0),
    )


# -------------------------------------------------------------------------------- prices
def price_multipliers(
    program: Program, row_prices: FloatArray | None, floor_prices: FloatArray | None
) -> Multipliers | None:
    """The multipliers that prove a bound, with what the bounds themselves are worth at them.

    `floor_prices` carry the sign of `Solution.prices`: at most 0.
    """
    if row_prices is None and floor_prices is None:
        return None
    rows = np.zeros(program.rows.shape[0]) if row_prices is None else row_prices
    floors = np.zeros(program.floors.shape[0]) if floor_prices is None else floor_prices
    above, below = np.zeros(program.n), np.zeros(program.n)
    if any(group.bounds is not None for group in program.constraints):
        above, below = _worth_of_bounds(program, rows, floors)
    return Multipliers(rows, floors, above, below)


def _worth_of_bounds(
    program: Program, rows: FloatArray, floors: FloatArray
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
        _purchases(program, weight, price - turn * np.abs(price),
                   curve_price - turn * np.abs(curve_price))
        for turn in (_INDIFFERENT, -_INDIFFERENT)
    )  # fmt: skip
    share = _shares(program, rows, floors, many, few)
    above, below = np.zeros(program.n), np.zeros(program.n)
    for tokens, part in ((many, share), (few, 1.0 - share)):
        side = _Slopes.at(program, tokens, 1)
        slope = np.where(weight > 0, weight * side.utility, 0.0) - price - curve_price * side.curve
        upwards, downwards = _pressing(program, tokens, slope)
        above, below = above + part * upwards, below + part * downwards
    return above, below


def _purchases(
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
    """As `_purchases`, of queries that pay for a cost curve.

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


def _shares(
    program: Program,
    rows: FloatArray,
    floors: FloatArray,
    many: FloatArray,
    few: FloatArray,
) -> FloatArray:
    """(n,) in [0, 1], how much of `many` and not of `few` it takes to meet the priced rows.

    The options of one choice go together. Least squares; 1 for all who are not indifferent.
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
    found = lsq_linear(matrix, missing[useful] / size[useful], (0.0, 1.0), lsmr_tol=1e-12).x
    share[inside] = found[column[inside]]
    return share


# -------------------------------------------------------------------------------- marginal values
def marginal_multipliers(program: Program, tokens: FloatArray) -> Multipliers:
    """Multipliers of the binding rows, floors and bounds at the allocation.

    At a local optimum every query strictly between its bounds satisfies

        w U' - c - d C' = sum_k lambda_k (A_k + B_k C') - sum_j mu_j V_j U'

    Least squares where there are more such queries than multipliers. Whole tokens: U' and C' are
    what one more token adds.
    """
    more = _Slopes.at(program, tokens, 1)
    rows, floors = np.zeros(program.rows.shape[0]), np.zeros(program.floors.shape[0])
    binding, floor_binding = (np.flatnonzero(held) for held in _binding(program, tokens))
    if binding.size == 1 and not floor_binding.size:
        rows[binding] = _one_price(program, tokens, more, binding)
    elif binding.size + floor_binding.size:
        rows[binding], floors[floor_binding] = _several_prices(
            program, tokens, more, binding, floor_binding
        )
    paid = more.charged(program, np.arange(rows.size)).T @ rows
    promised = program.floors.T @ floors
    slope = more.gain(program) - paid + np.where(promised > 0, promised * more.utility, 0.0)
    above, below = _pressing(program, tokens, slope)
    return Multipliers(rows + 0.0, 0.0 - floors, above, below)


def _binding(program: Program, tokens: FloatArray) -> tuple[np.ndarray, np.ndarray]:
    """Which rows (K,) and floors (J,) hold with next to no slack."""
    level = program.right_hand_side
    size = np.maximum(np.abs(level), program.activity_size(tokens))
    slack = np.abs(program.activity(tokens) - level)
    allowed = _BINDING * size
    if program.integer.any() and level.size:
        # Whole tokens rarely fill a row to the last unit.
        largest = np.maximum(
            abs(program.rows).max(axis=1).toarray().ravel(),
            abs(program.curve_rows).max(axis=1).toarray().ravel(),
        )
        allowed = np.maximum(allowed, largest)
    over = program.floors @ program.utility(tokens) - program.floor_levels
    spare = _BINDING * np.maximum(np.abs(program.floor_levels), 1e-300)
    if program.integer.any() and over.size:
        # What one token fewer would take away.
        loss = program.utility(tokens) - program.utility(np.maximum(tokens - 1.0, program.least))
        entries = program.floors.multiply(np.where(program.integer, loss, 0.0)[None, :])
        spare = np.maximum(spare, np.asarray(entries.max(axis=1).toarray()).ravel())
    return slack <= allowed, over <= spare


def _wanted(program: Program, tokens: FloatArray, binding: NDArray[np.intp]) -> NDArray[np.bool_]:
    """(n,) whose tokens serve something: an accuracy, or a binding row that asks for them."""
    wanted = program.utility(tokens) > 0
    sign = np.select([program.sense_array == "<=", program.sense_array == ">="], [1.0, -1.0], 0.0)
    for matrix in (program.rows, program.curve_rows):
        entries = matrix[binding].tocoo()
        asked = entries.data * sign[binding][entries.row] <= 0
        wanted[entries.col[asked & (entries.data != 0)]] = True
    return wanted & (tokens > 0)


def _one_price(
    program: Program, tokens: FloatArray, more: _Slopes, binding: NDArray[np.intp]
) -> float:
    """The multiplier of the only binding row: what its next unit buys."""
    fewest, most = _bounds_met(program, tokens)
    wanted = _wanted(program, tokens, binding)
    gain = more.gain(program)
    coefficient = more.charged(program, binding).toarray()[0]
    settled = wanted & more.smooth & ~fewest & ~most & (coefficient != 0)
    if settled.any():  # all equal, to the accuracy of the allocation
        value = float(np.median(gain[settled] / coefficient[settled]))
    else:  # at kinks, at bounds, or whole: the best use of the next unit
        less = _Slopes.at(program, tokens, -1)
        returned = less.charged(program, binding).toarray()[0]
        up, down = wanted & ~most & (coefficient > 0), wanted & ~fewest & (returned < 0)
        uses = np.r_[gain[up] / coefficient[up], less.gain(program)[down] / returned[down]]
        value = float(uses.max()) if uses.size else 0.0
    sense = program.senses[int(binding[0])]
    return max(value, 0.0) if sense == "<=" else min(value, 0.0) if sense == ">=" else value


def _several_prices(
    program: Program,
    tokens: FloatArray,
    more: _Slopes,
    binding: NDArray[np.intp],
    floor_binding: NDArray[np.intp],
) -> tuple[FloatArray, FloatArray]:
    """The multipliers (K',), (J',) of the binding rows and floors, by least squares."""
    fewest, most = _bounds_met(program, tokens)
    free = _wanted(program, tokens, binding) & ~fewest & ~most & np.isfinite(more.utility)
    slope = np.where(np.isfinite(more.utility), more.utility, 0.0)
    floors = program.floors[floor_binding].multiply(-slope[None, :])
    matrix = sparse.csc_array(sparse.vstack([more.charged(program, binding), floors]))
    # At a kink or a whole amount the equation is an inequality: only where there is no other.
    settled = free & more.smooth
    alone = np.flatnonzero(abs(matrix[:, np.flatnonzero(settled)]).sum(axis=1) == 0)
    settled |= free & (abs(matrix[alone]).sum(axis=0) > 0)
    inside = np.flatnonzero(settled)
    senses = np.r_[program.sense_array[binding], np.full(floor_binding.size, "<=")]
    found = _fit(sparse.csr_array(matrix[:, inside].T), more.gain(program)[inside], senses)
    return found[: binding.size], found[binding.size :]


def _fit(matrix: sparse.csr_array, goal: FloatArray, senses: NDArray[np.str_]) -> FloatArray:
    """Least squares for matrix @ x = goal; x at least 0 for `<=`, at most 0 for `>=`."""
    size = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=0)).ravel())
    used, height = np.flatnonzero(size > 0), float(np.abs(goal).max(initial=0.0))
    found = np.zeros(matrix.shape[1])
    if not used.size or height == 0:
        return found
    # Columns of one size: rows count in tokens, floors in accuracy.
    sign = np.where(senses == ">=", -1.0, 1.0)[used]
    scaled = sparse.csr_array(matrix[:, used].multiply((sign / size[used])[None, :]))
    goal, either = goal / height, senses[used] == "=="
    if scaled.shape[0] * used.size <= _DENSE:
        # Exactly, on the triangular factor; what may have either sign is a difference of two.
        factor = np.asarray(np.linalg.qr(np.column_stack([scaled.toarray(), goal]), mode="r"))
        both = np.column_stack([factor[:, :-1], -factor[:, :-1][:, either]])
        positive, _ = nnls(both, factor[:, -1])
        x = positive[: used.size]
        x[either] -= positive[used.size :]
    else:
        low = np.where(either, -np.inf, 0.0)
        x = lsq_linear(scaled, goal, (low, np.inf), tol=1e-13, lsmr_tol=1e-13).x
    found[used] = x * sign * height / size[used]
    return found
