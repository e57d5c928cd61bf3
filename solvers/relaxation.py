"""The concave relaxation of a `Program`, in NumPy: implied bounds, envelopes, the Lagrangian bound.

Shared by the back-ends that hand a model to a general solver: cutting planes for it, and a bound
that does not rest on that solver's own numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from clearopt.program import Program, UtilityBlock
from clearopt.solvers.choices import Choices
from clearopt.utilities import Utility
from clearopt.validation import FloatArray

_HALVINGS = 200  # from any excess to any other, to the last bit
_WHOLE_SLACK = 1e-9  # a bound this close to a whole number is meant to be it
_STEEP_REACH = 1e-8  # of the bounds' width, to the tangent of an infinitely steep start
_SAFETY = 1.0 + 1e-12  # a chord's slope is rounded up, so that it stays above the curve


# -------------------------------------------------------------------------------- bounds
def implied_bounds(program: Program) -> tuple[FloatArray, FloatArray]:
    """Bounds in tokens, (n,) each, that cut off no optimal allocation; `upper` may stay infinite.

    Upper bounds are tightened by what the rows leave when everybody else takes the least, and by
    saturation where more tokens could serve nothing: no utility, no gain, and no row still asking
    for them. Bounds of whole tokens are whole. Rows that cannot be met at all are left to the
    solver to prove so: `upper` never falls below `lower`.
    """
    lower = np.where(program.integer, np.ceil(program.least - _WHOLE_SLACK), program.least)
    upper = np.minimum(program.upper, np.inf)
    at_most, limit = _at_most(program, program.rows)
    curved, _ = _at_most(program, program.curve_rows)
    entries, bent = at_most.tocoo(), curved.tocoo()
    row, query, coefficient = entries.row, entries.col, entries.data
    charged = coefficient > 0
    with np.errstate(invalid="ignore", over="ignore"):
        for _ in range(2):  # an upper bound tightened in one row helps the next
            ends = np.where(charged, lower[query], upper[query])
            least = np.bincount(row, weights=coefficient * ends, minlength=limit.size)
            if bent.nnz:
                dear = np.where(bent.data > 0, lower[bent.col], upper[bent.col])
                cheap = _curve_at(program, bent.col, dear)
                least = least + np.bincount(bent.row, bent.data * cheap, minlength=limit.size)
            room = (limit - least)[row[charged]] / coefficient[charged]
            reach = lower[query[charged]] + np.where(np.isnan(room), np.inf, room)
            np.minimum.at(upper, query[charged], reach)
            if bent.nnz:
                up = bent.data > 0
                room = (limit - least)[bent.row[up]] / bent.data[up] + cheap[up]
                reach = _curve_inverse(program, bent.col[up], np.maximum(room, 0.0))
                np.minimum.at(upper, bent.col[up], np.where(np.isnan(reach), np.inf, reach))
    enough = np.where(program.semicontinuous, program.lower, lower)
    for block in program.utilities:
        # Rounded upwards: origin + excess may round to the origin, where there is no utility yet.
        saturated = np.nextafter(block.family.origin + block.family.saturation_excess, np.inf)
        enough[block.index] = np.maximum(enough[block.index], saturated)
    enough = np.maximum(enough, _asked_for(program, lower, upper))
    upper = np.minimum(upper, np.where(program.integer, np.ceil(enough), enough))
    upper = np.where(program.integer, np.floor(upper + _WHOLE_SLACK), upper)
    upper = np.where(program.semicontinuous & (upper < program.lower), 0.0, upper)
    return lower, np.maximum(upper, lower)


def _at_most(program: Program, rows: sparse.csr_array) -> tuple[sparse.csr_array, FloatArray]:
    """Every row as `<=`: a `>=` row negated, an `==` row its `<=` half."""
    sign = np.where(program.sense_array == ">=", -1.0, 1.0)
    return sparse.csr_array(rows.multiply(sign[:, None])), sign * program.right_hand_side


def _curve_at(program: Program, query: np.ndarray, tokens: FloatArray) -> FloatArray:
    """C of the queries named, (m,), at `tokens` of each, (m,)."""
    return _of_curves(program, query, tokens, "value")


def _curve_inverse(program: Program, query: np.ndarray, cost: FloatArray) -> FloatArray:
    """The tokens that cost each of the queries named so much, (m,)."""
    # A hair more, so that rounding in the inverse cuts nothing off.
    return _of_curves(program, query, cost * (1 + 1e-12), "inverse") * (1 + 1e-12)


def _of_curves(program: Program, query: np.ndarray, at: FloatArray, what: str) -> FloatArray:
    found = np.zeros(query.size)
    member = np.full(program.n, -1, dtype=np.intp)
    for block in program.curves:
        member[:] = -1
        member[block.index] = np.arange(block.index.size)
        here = np.flatnonzero(member[query] >= 0)
        if here.size:
            family = block.family.take(member[query[here]])
            found[here] = getattr(family, what)(at[here])
    return found


def _asked_for(program: Program, lower: FloatArray, upper: FloatArray) -> FloatArray:
    """(n,) tokens with which query i alone meets every row that asks for its tokens.

    Infinite where there is no such amount, or where tokens are paid for.
    """
    entries = program.rows.tocoo()
    sense = program.sense_array[entries.row]
    sign = np.where(sense == "<=", -1.0, 1.0)  # every row as >=
    coefficient = sign * entries.data
    with np.errstate(invalid="ignore", over="ignore"):
        ends = np.where(coefficient > 0, lower[entries.col], upper[entries.col])
        least = np.bincount(
            entries.row, weights=coefficient * ends, minlength=program.rows.shape[0]
        )
        level = np.where(program.sense_array == "<=", -1.0, 1.0) * program.right_hand_side
        missing = np.maximum((level - least)[entries.row], 0.0)
        asking = coefficient > 0
        alone = lower[entries.col] + missing / np.where(asking, coefficient, 1.0)
    asked = np.where((program.cost < 0) | (program.curve_cost < 0), np.inf, lower)
    if program.curve_rows.nnz:  # a row that asks for expected tokens: any number may be wanted
        bent = program.curve_rows.tocoo()
        of = program.sense_array[bent.row]
        wanted = (of == "==") | ((of == ">=") == (bent.data > 0))
        asked[bent.col[wanted]] = np.inf
    alone = np.where(np.isnan(alone), np.inf, alone)
    np.maximum.at(asked, entries.col[asking], alone[asking])
    asked[entries.col[sense == "=="]] = np.inf  # tokens may have to balance those of others
    return asked


def is_unbounded_direction(program: Program) -> bool:
    """Whether tokens can be added for ever at a gain: utilities are bounded, so costs decide."""
    endless = np.isinf(program.upper)
    if not np.any(endless & (program.cost < 0)):
        return False
    if program.has_curves:
        return False  # cost curves may limit what rows of tokens do not
    rows = [np.flatnonzero(program.sense_array == sense) for sense in ("<=", ">=", "==")]
    inequality = sparse.vstack([program.rows[rows[0]], -program.rows[rows[1]]])
    equality = program.rows[rows[2]]
    ray = linprog(
        program.cost,
        A_ub=inequality if inequality.shape[0] else None,
        b_ub=np.zeros(inequality.shape[0]) if inequality.shape[0] else None,
        A_eq=equality if equality.shape[0] else None,
        b_eq=np.zeros(equality.shape[0]) if equality.shape[0] else None,
        bounds=np.column_stack([np.zeros(program.n), np.where(endless, 1.0, 0.0)]),
        method="highs",
    )
    return bool(ray.status == 0 and ray.fun < -1e-9 * np.abs(program.cost).max())


# -------------------------------------------------------------------------------- envelope
@dataclass(frozen=True, eq=False)
class Envelope:
    """The concave non-decreasing envelope of every utility over [lower, upper].

    From (lower, U(lower)) the tangent to the curve, then, from the point of contact, the concave
    part up to the peak; flat after it. Where `upper` lies before the contact: the chord. A cut is
    `utility <= height + slope * (b - lower)`. Amounts are excesses, as in `Utility`: a threshold
    plus a tiny excess rounds to the threshold. All arrays are (n,); queries without a utility
    have the envelope 0.
    """

    program: Program
    lower: FloatArray
    upper: FloatArray
    offset: FloatArray  # origin - lower: tokens above the lower bound = offset + excess
    contact: FloatArray  # excess from which the envelope is the curve
    end: FloatArray  # excess at which the envelope stops growing
    base: FloatArray  # U(lower)
    chord: FloatArray  # slope of the first, straight part
    peak: FloatArray  # the envelope's greatest value
    blocks: tuple[UtilityBlock, ...]  # the curves it follows: the utilities, or their hulls

    @property
    def reach(self) -> FloatArray:
        """Tokens above `lower` over which the envelope is straight."""
        width = np.maximum(self.offset + np.minimum(self.contact, self.end), 0.0)
        return np.where(self.contact > self.end, self.upper - self.lower, width)

    def excess(self, tokens: FloatArray) -> FloatArray:
        """max(b - origin, 0)."""
        return np.maximum((tokens - self.lower) - self.offset, 0.0)

    def cuts(self, excess: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(height, slope) of the tangent at `excess`, an amount before the contact moved to it."""
        curved = (excess > self.contact) & (self.contact < self.end)
        at = np.where(curved, np.minimum(excess, self.end), self.contact)
        slope, height = self.chord.copy(), self.base.copy()
        for block in self.blocks:
            i = block.index
            with np.errstate(all="ignore"):
                tangent = np.maximum(block.family.marginal_at(at[i]), 0.0)
                value = block.family.value_at(at[i])
                start = value - tangent * (self.offset[i] + at[i])
            slope[i] = np.where(curved[i], tangent, slope[i])
            height[i] = np.where(curved[i], start, height[i])
        return height, slope

    def value(self, tokens: FloatArray) -> FloatArray:
        """The envelope at an allocation, (n,)."""
        excess = self.excess(tokens)
        straight = self.base + self.chord * (tokens - self.lower)
        values = np.zeros_like(straight)
        for block in self.blocks:
            i = block.index
            curve = block.family.value_at(np.minimum(excess[i], self.end[i]))
            before = (excess[i] < self.contact[i]) | (self.contact[i] >= self.end[i])
            values[i] = np.minimum(np.where(before, straight[i], curve), self.peak[i])
        return values

    def demand(self, price: FloatArray) -> FloatArray:
        """The excess at which the envelope's slope is `price`, within [contact, end]."""
        excess = self.contact.copy()
        for block in self.blocks:
            i = block.index
            with np.errstate(all="ignore"):
                wanted = block.family.stationary_excess(np.maximum(price[i], 0.0))
            excess[i] = np.clip(wanted, self.contact[i], np.maximum(self.contact[i], self.end[i]))
        return excess


def concave_envelope(program: Program, lower: FloatArray, upper: FloatArray) -> Envelope:
    """The envelopes over [lower, upper], two (n,) arrays of tokens; `upper` may be infinite."""
    n = program.n
    offset, contact, end, base, chord, peak = (np.zeros(n) for _ in range(6))
    blocks = tuple(
        UtilityBlock(block.family.concave_hull(lower[block.index], upper[block.index]), block.index)
        for block in program.utilities
    )
    for block in blocks:
        i = block.index
        family, low, high = block.family, lower[i], upper[i]
        with np.errstate(all="ignore"):
            start, top = family.excess_of(low), family.excess_of(high)
            offset[i] = family.origin - low
            base[i] = family.value_at(start)
            end[i] = np.maximum(np.minimum(top, family.saturation_excess), start)
            contact[i] = _contact(family, low)
            # Infinitely steep at the lower bound: the tangent a little later, which starts above.
            steep = (end[i] > start) & np.isinf(family.marginal_at(start))
            if steep.any():
                later = start + _STEEP_REACH * (end[i] - start)
                raised = family.value_at(later) - family.marginal_at(later) * (offset[i] + later)
                contact[i] = np.where(steep, later, contact[i])
                base[i] = np.where(steep, np.maximum(raised, base[i]), base[i])
            # Semicontinuous: straight from nothing to the least amount, at the least.
            gap = program.semicontinuous[i] & (low == 0)
            first = np.where(gap, np.maximum(program.lower[i] - family.origin, 0.0), 0.0)
            first = np.minimum(first, top)
            contact[i], end[i] = np.maximum(contact[i], first), np.maximum(end[i], first)
            peak[i] = np.maximum(family.value_at(end[i]), base[i])
            at = np.minimum(contact[i], end[i])
            width = np.where(contact[i] > end[i], high - low, offset[i] + at)
            rise = np.maximum(family.value_at(at) - base[i], 0.0)
            # No straight part: the envelope starts on the curve, with the curve's own slope.
            tangent = np.where(end[i] > start, np.maximum(family.marginal_at(start), 0.0), 0.0)
            straight = (contact[i] > start) & (width > 0)
            chord[i] = np.where(straight, rise / np.where(width > 0, width, 1.0), tangent) * _SAFETY
    return Envelope(program, lower, upper, offset, contact, end, base, chord, peak, blocks)


def _contact(family: Utility, lower: FloatArray) -> FloatArray:
    """The excess where the line from (lower, U(lower)) touches the curve from above.

    There U(t) - U(l) = U'(t) (t - l). On the concave part the left side minus the right grows
    from at most 0, at the inflection, to at least 0, at the peak.
    """
    start = family.excess_of(lower)
    base = family.value_at(start)
    offset = family.origin - lower
    near = np.maximum(family.inflection_excess + 0.0 * start, start)
    far = np.maximum(family.saturation_excess, near)
    closed_form, _ = family.tangent_from_zero()
    for _ in range(_HALVINGS):
        middle = 0.5 * (near + far)
        if np.all((middle <= near) | (middle >= far)):
            break
        rise = family.value_at(middle) - base
        above = rise >= family.marginal_at(middle) * (offset + middle)
        near, far = np.where(above, near, middle), np.where(above, middle, far)
    # Already on the concave part: past the inflection, and not on the flat part before the origin.
    concave = (offset <= 0) & (start >= family.inflection_excess)
    contact = np.where(concave, start, far)
    return np.where((lower == 0) & (offset > 0), closed_form, contact)


# -------------------------------------------------------------------------------- the bound
def lagrangian_bound(
    program: Program,
    lower: FloatArray,
    upper: FloatArray,
    row_prices: FloatArray,
    floor_prices: FloatArray,
) -> float:
    """The dual function at any multipliers of the right sign: an upper bound on the optimum.

    Cost curves are left out: a program that charges them is given as `in_cost` sees it.

    Args:
        program: the program.
        lower, upper: bounds as from `implied_bounds`.
        row_prices: (K,) at least 0 for `<=`, at most 0 for `>=`, objective per unit.
        floor_prices: (J,) mu, at least 0.

    Returns:
        The bound; infinite where tokens without end would pay at these prices.
    """
    weight = program.weight + program.floors.T @ floor_prices
    price = program.cost + program.rows.T @ row_prices
    least = np.where(program.semicontinuous, program.lower, 0.0)
    with np.errstate(invalid="ignore"):
        gain = -price * np.where(price < 0, upper, lower)  # a query without a utility
    gain = np.where(price == 0, 0.0, gain)
    for block in program.utilities:
        i = block.index
        low, w, p = lower[i], weight[i], price[i]
        with np.errstate(all="ignore"):
            # Past saturation a token at a price of at least 0 gains nothing: a stand-in for an
            # infinite bound. Below 0 an infinite number is taken, for an infinite gain.
            enough = np.maximum(low, np.ceil(block.family.origin + block.family.saturation_excess))
            finite = np.where(np.isinf(upper[i]), enough, upper[i])
            whole = program.integer[i]
            best = block.family.best_response(
                w,
                p,
                low,
                finite,
                whole if whole.any() else None,
                least[i] if least[i].any() else None,
            )
        gain[i] = np.where((p < 0) & np.isinf(upper[i]), np.inf, best.gain)
    choices = Choices.of(program.choice)
    if choices is not None:
        idle = weight * program.utility(np.zeros(program.n))
        gain = np.where(choices.best(gain - idle), gain, idle)
    if np.isinf(gain).any():
        return math.inf
    terms = np.concatenate(
        [
            gain,
            row_prices * program.right_hand_side,
            -floor_prices * program.floor_levels,
            [program.offset],
        ]
    )
    return math.fsum(terms)
