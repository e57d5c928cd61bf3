"""The saddle point of the Lagrangian as a differentiable function: prices and purchases.

At the best prices every query buys what is best for it; a query that is indifferent between two
purchases, `many` and `few`, buys a mixture that meets its row. Of row k, the price moves

- where a query is indifferent: so that it stays so, L(many) = L(few) for its gain L = W U - P b;
  the share of `many` then moves so that the row stays met;
- where none is: so that demand goes with the right-hand side, sum_i a_i db_i = dr_k, every query
  that is free keeping W U'(b) = P (implicit function theorem).

The dual value's derivative is the Lagrangian's with purchases and prices held (Danskin), and these
are differentiable themselves: so is every derivative of either.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clearopt.derivatives.inputs import Inputs, Names
from clearopt.derivatives.lines import Lines
from clearopt.derivatives.price_search import Found, PriceSearch
from clearopt.derivatives.separate_rows import SeparateRows

_STATIONARY = 1e-6  # relative step to where the slope is 0 that is none


class SaddlePoint:
    """`found(inputs)`, any number of times differentiable while who buys what stays the same."""

    def __init__(self, names: Names, lines: Lines) -> None:
        self._names, self._lines = names, lines
        self._rows = SeparateRows.of(names.program)
        self._search = PriceSearch(names, self._rows)
        kinked = [block.index for block in names.program.utilities if not block.family.smooth]
        self._kinked = np.zeros(names.program.n, dtype=bool)
        self._kinked[np.concatenate([[], *kinked]).astype(np.intp)] = True
        searched = jax.jit(lambda inputs: self._search(inputs, self._level(inputs)))

        @jax.custom_jvp
        def found(inputs: Inputs) -> Found:
            return searched(inputs)

        @found.defjvp
        def rule(primals: tuple[Inputs], tangents: tuple[Inputs]) -> tuple[Found, Found]:
            at = found(*primals)
            return at, self._change(at, *primals, *tangents)

        self.found = found

    def row_prices(self, at: Found) -> Any:
        """(K,) prices of the rows as the program has them, objective per unit."""
        return self._rows.sign * at.price

    # ------------------------------------------------------------------ pieces
    def _level(self, inputs: Inputs) -> Any:
        """(K,) right-hand sides, `>=` turned around."""
        level = jnp.asarray(self._names.program.right_hand_side)
        for group in self._names.program.constraints:
            if group.kind == "row" and group.count:
                level = level.at[group.rows].set(inputs["right_hand_side"][group.name])
        return self._rows.sign * level

    def _gain(self, tokens: Any, price: Any, inputs: Inputs) -> Any:
        """(n,) W U(b) - P b."""
        worth = inputs["weight"] * self._lines.utility(tokens, inputs)
        return worth - self._search.prices(price, inputs) * tokens

    def _slope(self, tokens: Any, price: Any, inputs: Inputs) -> Any:
        """(n,) W U'(b) - P."""
        worth = inputs["weight"] * self._lines.utility_slope(tokens, inputs)
        return worth - self._search.prices(price, inputs)

    def _peak(self, inputs: Inputs) -> Any:
        """(n,) tokens at which kinked utilities have their kink, 0 for the others."""
        purchases = self._search.purchases
        return purchases.together(
            [
                jnp.zeros(i.size) if family.smooth else family.origin + family.saturation_excess
                for family, i in purchases.families(inputs)
            ]
        )

    # ------------------------------------------------------------------ derivatives
    def _ends(self, tokens: Any, price: Any, inputs: Inputs, moved: Inputs) -> tuple[Any, Any, Any]:
        """How purchases answer, (n,) each: following a bound or kink, by themselves, to the price.

        A purchase moves by the first two and the third times the change of its row's price.
        """
        purchases, lines = self._search.purchases, self._lines
        lower, least = purchases.least(inputs)
        bottom = jnp.where((least > 0) & (tokens > 0), least, lower)
        at_lower = tokens <= bottom
        at_lower &= ~purchases.semicontinuous | (tokens > 0)
        nothing = purchases.semicontinuous & (tokens <= 0)
        at_upper = ~at_lower & ~nothing & (tokens >= purchases.most(inputs))
        inside = ~at_lower & ~at_upper & ~nothing
        following = jnp.where(at_lower, moved["lower"], 0.0)
        finite = at_upper & jnp.isfinite(inputs["upper"])
        following = jnp.where(finite, moved["upper"], following)
        if self._kinked.any():
            _, kink = jax.jvp(self._peak, (inputs,), (moved,))
            following = jnp.where(inside & self._kinked, kink, following)

        # Who is not free takes no part: its slopes are asked for where they are numbers.
        regular = jnp.where(inside, tokens, jnp.maximum(tokens, 1.0))
        slope, bend = jax.jvp(
            lambda b: inputs["weight"] * lines.utility_slope(b, inputs),
            (regular,),
            (jnp.ones_like(regular),),
        )
        # Free tokens of a utility that saturates are no stationary point: they stand still.
        rest = jnp.abs(slope - self._search.prices(price, inputs))
        free = inside & ~self._kinked & (bend < 0) & (rest <= _STATIONARY * -bend * regular)
        bend = jnp.where(free, bend, -1.0)
        _, by_inputs = jax.jvp(
            lambda inputs: self._slope(regular, price, inputs), (inputs,), (moved,)
        )
        itself = jnp.where(free, -by_inputs / bend, 0.0)
        to_price = jnp.where(free, self._rows.coefficient / bend, 0.0)
        return following, itself, to_price

    def _change(self, at: Found, inputs: Inputs, moved: Inputs) -> Found:
        search, a = self._search, self._rows.coefficient
        price, indifferent = at.price, at.jumps > 0
        _, to_level = jax.jvp(self._level, (inputs,), (moved,))
        ends, gains = [], []
        for tokens in (at.many, at.few):
            following, itself, to_price = self._ends(tokens, price, inputs, moved)
            ends.append((following + itself, to_price))
            # The rest of what a purchase moves by adds nothing: its slope is 0, or it jumps.
            _, gained = jax.jvp(
                lambda tokens, inputs: self._gain(tokens, price, inputs),
                (tokens, inputs),
                (following, moved),
            )
            gains.append(gained)
        value = (at.share * gains[0] + (1.0 - at.share) * gains[1]).sum() + price @ to_level

        (many, many_by_price), (few, few_by_price) = ends
        jump = search.sums(jnp.where(indifferent, a * (at.many - at.few), 0.0))
        split = jump > 0
        by_itself = at.share * many + (1.0 - at.share) * few
        by_price = at.share * many_by_price + (1.0 - at.share) * few_by_price
        give = search.sums(a * by_price)
        parted = search.sums(jnp.where(indifferent, gains[0] - gains[1], 0.0))
        missing = to_level - search.sums(a * by_itself)
        to_price = jnp.where(
            split,
            parted / jnp.where(split, jump, 1.0),
            jnp.where(give < 0, missing / jnp.where(give < 0, give, 1.0), 0.0),
        )
        held = (price != 0) | self._rows.equality
        to_price = jnp.where(held, to_price, 0.0)
        missing = missing - give * to_price
        share = jnp.where(split & held, missing / jnp.where(split, jump, 1.0), 0.0)
        own = search.spread(to_price)
        return Found(
            value,
            to_price,
            many + many_by_price * own,
            few + few_by_price * own,
            jnp.where(indifferent, search.spread(share), 0.0),
            jnp.zeros_like(at.jumps),
        )
