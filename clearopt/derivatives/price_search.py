"""The prices of rows that share no query, searched for inside JAX: batched, on any device.

The dual function of one row, D(price) = sum_i max_b [W U(b) - (c + price a) b] + price r, is
convex; its slope is the row's slack. All rows are bracketed side by side: outwards from 0 by
growing factors, then inwards to where the tangents at both ends cross (exact where a query's
purchase jumps), or where the secant of the slopes vanishes (fast where demand is smooth), in turn,
with bisection where neither halves the bracket.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clearopt.derivatives.inputs import Inputs, Names, values_in_order
from clearopt.derivatives.separate_rows import SeparateRows, may_be_endless

_EPS = float(np.finfo(np.float64).eps)
_ROUNDS = 400
_MET = 32 * _EPS  # slack, relative to what the row's queries use, that is none
_DEAREST = 1e290
_CHEAPEST = 1e-290
_NOTHING = 1e-16  # of D: what a row may be worth that is priced at nothing
# Parameters of the families that have more to obey than to be finite and at least 0.
_POSITIVE = ("rate", "half", "power", "width", "tokens_per_sample")
_CHANCES = ("success",)
_HAIR = 1e-13  # relative change of price at which the indifferent make up their minds
_JUMP = 1e-6  # relative difference of purchases across a closed bracket that is a jump


class Found(NamedTuple):
    """The saddle point of the Lagrangian of what is maximised; NaN where nothing is feasible."""

    value: Any  # () the dual value
    price: Any  # (K,) per unit of the rows as `SeparateRows` has them
    many: Any  # (n,) one purchase
    few: Any  # (n,) another, the same where the query is not indifferent
    share: Any  # (n,) how much of `many`
    jumps: Any  # (n,) 1 where the query is indifferent, else 0


class Purchases:
    """What every query buys at given prices, as a function of the inputs."""

    def __init__(self, names: Names) -> None:
        program = names.program
        self.n = program.n
        self.blocks = list(zip(names.utilities, program.utilities, strict=True))
        order = [block.index for _, block in self.blocks]
        idle = np.setdiff1d(np.arange(self.n), np.concatenate([[], *order]).astype(np.intp))
        self._idle = idle  # without a utility
        order = np.concatenate([*order, idle]).astype(np.intp)
        self._place = None if (order == np.arange(self.n)).all() else np.argsort(order)
        self.semicontinuous = np.asarray(program.semicontinuous)

    def families(self, inputs: Inputs) -> list[tuple[Any, Any]]:
        """The families with the parameters of `inputs`, and which queries are theirs."""
        return [
            (
                block.family.kind.from_parameters(
                    *map(jnp.asarray, values_in_order(block.family, inputs["utilities"][label]))
                ),
                block.index,
            )
            for label, block in self.blocks
        ]

    def together(self, parts: list[Any], idle: Any = 0.0) -> Any:
        """(n,) from one array a family, and what stands for the queries without a utility."""
        whole = jnp.concatenate([*parts, jnp.broadcast_to(idle, self._idle.shape)])
        return whole if self._place is None else whole[self._place]

    def least(self, inputs: Inputs) -> tuple[Any, Any]:
        """(n,) fewest tokens; fewest beside nothing where semicontinuous, 0 elsewhere."""
        lower, gap = inputs["lower"], self.semicontinuous
        return jnp.where(gap, 0.0, lower), jnp.where(gap, lower, 0.0)

    def most(self, inputs: Inputs) -> Any:
        """(n,) the upper bounds; past saturation nothing is gained, which stands for infinity."""
        # Only ever compared with, and rounded: no derivative is asked of it, nor known.
        inputs = jax.tree.map(jax.lax.stop_gradient, inputs)
        enough = self.together(
            [jnp.ceil(f.origin + f.saturation_excess) + 1.0 for f, _ in self.families(inputs)]
        )
        enough = jnp.maximum(enough, inputs["lower"])
        return jnp.where(jnp.isinf(inputs["upper"]), enough, inputs["upper"])

    def at(self, price: Any, inputs: Inputs) -> tuple[Any, Any]:
        """Tokens (n,) that maximise W U(b) - price b within the bounds, and that gain (n,)."""
        lower, least = self.least(inputs)
        most, weight = self.most(inputs), inputs["weight"]
        tokens, gains = [], []
        for family, i in self.families(inputs):
            gap = least[i] if self.semicontinuous[i].any() else None
            found = family.best_response(weight[i], price[i], lower[i], most[i], None, gap)
            tokens.append(found.tokens)
            gains.append(found.gain)
        i = self._idle
        end = jnp.where(price[i] < 0, most[i], lower[i])
        return self.together(tokens, end), self.together(gains, -price[i] * end)


class _Bracket(NamedTuple):
    """By row (K,): prices at which demand is above (low) and within (high) the right-hand side."""

    low: Any  # -inf where unknown
    low_value: Any
    low_slope: Any
    high: Any  # inf where unknown
    high_value: Any
    high_slope: Any
    step: Any  # factor of the next step outwards
    width: Any  # before the last step inwards
    stalled: Any  # steps inwards in a row that did not halve the bracket
    open: Any  # whether it is still searched
    round: Any  # ()


class PriceSearch:
    """The search for one program, as a function of the inputs."""

    def __init__(self, names: Names, rows: SeparateRows) -> None:
        self.rows, self.purchases = rows, Purchases(names)
        self._offset = names.program.offset
        self._may_give = rows.coefficient != 0
        for block in names.program.utilities:
            self._may_give[block.index] &= block.family.smooth
        self._whole = rows.rows == 1 and bool((rows.row == 0).all())

    def sums(self, values: Any) -> Any:
        """(K,) sums over each row's queries."""
        if self._whole:
            return jnp.sum(values)[None]
        if self.rows.rows == 1:
            return jnp.sum(jnp.where(self.rows.row == 0, values, 0.0))[None]
        return jax.ops.segment_sum(values, self.rows.row, self.rows.rows + 1)[:-1]

    def spread(self, values: Any) -> Any:
        """(n,) each query's row's value, 0 for none."""
        return jnp.concatenate([values, jnp.zeros(1)])[self.rows.row]

    def prices(self, price: Any, inputs: Inputs) -> Any:
        """(n,) what a token costs each query at these prices of the rows."""
        return inputs["cost"] + self.spread(price) * self.rows.coefficient

    def __call__(self, inputs: Inputs, level: Any) -> Found:
        """The saddle point; `level` (K,) are the right-hand sides as turned around."""
        a = self.rows.coefficient

        most = self.purchases.most(inputs)

        def evaluate(price: Any) -> tuple[Any, Any, Any, Any]:
            tokens, gain = self.purchases.at(self.prices(price, inputs), inputs)
            used = a * tokens
            size = jnp.maximum(jnp.abs(level), self.sums(jnp.abs(used)))
            slope = level - self.sums(used)
            met = jnp.abs(slope) <= _MET * size
            gives = self._may_give & (tokens > inputs["lower"]) & (tokens < most)
            return self.sums(gain) + price * level, slope, met, self.sums(gives * 1.0) > 0

        used = self.sums(jnp.abs(a) * most)
        worth = self.sums(
            inputs["weight"]
            * self.purchases.together(
                [f.value(most[i]) for f, i in self.purchases.families(inputs)]
            )
        )
        guess = jnp.where((worth > 0) & (used > 0), worth / jnp.where(used > 0, used, 1.0), 1.0)

        zero = jnp.zeros(self.rows.rows)
        state = _Bracket(
            low=zero - jnp.inf,
            low_value=zero + jnp.inf,
            low_slope=zero,
            high=zero + jnp.inf,
            high_value=zero + jnp.inf,
            high_slope=zero,
            step=zero + 2.0**0.5,
            width=zero + jnp.inf,
            stalled=zero,
            open=zero == 0,
            round=jnp.zeros((), dtype=jnp.int32),
        )
        if self.rows.rows:
            state = jax.lax.while_loop(
                lambda s: s.open.any() & (s.round < _ROUNDS),
                lambda s: self._step(s, evaluate, guess),
                state,
            )
        # Closed to a point, or to neighbouring prices; priced at nothing, what a hair buys fits.
        fits = jnp.isfinite(state.low) & jnp.isfinite(state.high)
        worthless = fits & (state.low == 0) & (state.high > 0)
        low = jnp.where(fits & ~worthless, state.low, jnp.where(fits, state.high, 0.0))
        high = jnp.where(fits, state.high, 0.0)
        price = jnp.where(worthless, 0.0, high)
        # A hair cheaper and a hair dearer, the indifferent make up their minds, whatever rounding.
        hair = _HAIR * jnp.abs(price)
        (many, bought, few), (_, gain, _) = jax.vmap(
            lambda price: self.purchases.at(self.prices(price, inputs), inputs)
        )(jnp.stack([low - hair, high, high + hair]))
        jumps = jnp.abs(many - few) > _JUMP * jnp.maximum(many, few)
        many, few = jnp.where(jumps, many, bought), jnp.where(jumps, few, bought)
        change = self.sums(a * (many - few))
        share = (level - self.sums(a * few)) / jnp.where(change > 0, change, 1.0)
        share = jnp.where(jumps, self.spread(jnp.clip(share, 0.0, 1.0)), 1.0)
        bound = jnp.minimum(state.low_value, state.high_value).sum()
        outside = jnp.where(self.rows.row == self.rows.rows, gain, 0.0).sum()
        valid = fits.all() & self._valid(inputs, level)
        found = Found(self._offset + bound + outside, price, many, few, share, jumps * 1.0)
        return Found(*(jnp.where(valid, part, jnp.nan) for part in found))

    def _valid(self, inputs: Inputs, level: Any) -> Any:
        """Whether a problem can have these numbers; under jit nothing can be raised."""
        lower, upper = inputs["lower"], inputs["upper"]
        endless = jnp.isinf(upper)
        valid = jnp.isfinite(level).all() & jnp.isfinite(inputs["cost"]).all()
        valid &= ((inputs["weight"] >= 0) & jnp.isfinite(inputs["weight"])).all()
        valid &= ((lower >= 0) & (lower <= upper) & jnp.isfinite(lower)).all()
        valid &= (~endless | (may_be_endless(self.rows) & (inputs["cost"] >= 0))).all()
        for parameters in inputs["utilities"].values():
            for name, array in parameters.items():
                valid &= ((array >= 0) & jnp.isfinite(array)).all()
                valid &= (array > 0).all() if name in _POSITIVE else True
                valid &= (array <= 1).all() if name in _CHANCES else True
        return valid

    def _step(self, s: _Bracket, evaluate: Any, guess: Any) -> _Bracket:
        width = s.high - s.low
        inside = jnp.isfinite(width)
        # Outwards: dearer, or, where nobody wants to spend the right-hand side, below zero.
        dearer = jnp.where(s.low > 0, s.low * s.step, guess)
        below = jnp.where(s.high < 0, s.high * s.step, -guess)
        outwards = jnp.where(jnp.isinf(s.high), dearer, below)
        outwards = jnp.where(s.round == 0, 0.0, outwards)
        # From 0 to the first price that is not too cheap.
        from_zero = inside & (s.low == 0)
        downwards = s.high / s.step

        rise = jnp.where(inside, s.high_slope - s.low_slope, 1.0)
        rise = jnp.where(rise > 0, rise, 1.0)
        width = jnp.where(inside, width, 1.0)
        low = jnp.where(inside, s.low, 0.0)
        by_tangents = low + (s.low_value - s.high_value + s.high_slope * width) / rise
        by_secant = low - s.low_slope / rise * width
        inwards = jnp.where(s.round % 2 == 0, by_tangents, by_secant)
        middle = low + 0.5 * width
        inwards = jnp.where((s.stalled >= 3) | ~jnp.isfinite(inwards), middle, inwards)
        far = (low > 0) & (s.high > 16 * low)
        inwards = jnp.where(far, jnp.sqrt(jnp.where(far, low, 1.0)) * jnp.sqrt(s.high), inwards)
        # Off the ends, and further off where that has not been enough to pass the other side.
        hair = 2 * _EPS * jnp.maximum(jnp.abs(low), jnp.abs(low + width)) * 8.0**s.stalled
        hair = jnp.minimum(hair, 0.25 * width)
        inwards = jnp.clip(inwards, low + hair, low + width - hair)

        at = jnp.where(from_zero, downwards, jnp.where(inside, inwards, outwards))
        at = jnp.where(s.open, at, jnp.where(jnp.isfinite(s.high), s.high, 0.0))
        value, slope, met, gives = evaluate(at)
        above = (slope < 0) & ~met
        # Where nobody would give way many prices meet the row; the least of them is wanted.
        met &= gives
        met |= (s.round == 0) & ~above & ~self.rows.equality  # enough for all: the price is 0
        to_low, to_high = s.open & (above | met), s.open & (~above | met)
        new_low = jnp.where(to_low, at, s.low)
        new_high = jnp.where(to_high, at, s.high)
        new_width = new_high - new_low
        halved = new_width <= 0.5 * width
        steady = inside & ~from_zero
        gap = jnp.maximum(jnp.abs(new_low), jnp.abs(new_high))
        closed = met | (jnp.isfinite(gap) & (new_width <= 16 * _EPS * gap))
        # Nothing lies between two neighbouring prices, or the row is worth nothing.
        closed |= steady & ((at <= s.low) | (at >= s.high))
        worthless = (at * slope <= _NOTHING * jnp.abs(value)) | (at < _CHEAPEST)
        closed |= from_zero & ~above & worthless
        lost = ~inside & (jnp.abs(at) > _DEAREST)
        return _Bracket(
            low=new_low,
            low_value=jnp.where(to_low, value, s.low_value),
            low_slope=jnp.where(to_low, slope, s.low_slope),
            high=new_high,
            high_value=jnp.where(to_high, value, s.high_value),
            high_slope=jnp.where(to_high, slope, s.high_slope),
            step=jnp.minimum(s.step * s.step, 1e16),
            width=new_width,
            stalled=jnp.where(steady & ~halved, jnp.minimum(s.stalled + 1, 12.0), 0.0),
            open=s.open & ~closed & ~lost,
            round=s.round + 1,
        )
