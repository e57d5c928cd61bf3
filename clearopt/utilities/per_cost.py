"""A utility seen as a function of its expected cost, z = C(b).

Where rows charge a cost curve C(b) instead of b, the problem of one query is still one-dimensional:
its variable is z, its utility U(C^-1(z)), with slope r(b) = U'(b) / C'(b). That is S-shaped in z
where r rises to one place and falls from there; what is not is refused. Everything is searched
for in tokens b, where both U and C are given, and then said in z.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from clearopt.errors import DeclarationError, UnsupportedProblemError
from clearopt.utilities.base import Utility
from clearopt.utilities.cost_curves import CostCurve
from clearopt.utilities.curve_search import Curve
from clearopt.utilities.numeric import CompoundUtility
from clearopt.validation import FloatArray, as_float_array, broadcast_to_length, require

# C and its inverse are good to a few rounding errors of the cost; costs this close are the same.
_SAME_COST = 16 * float(np.finfo(np.float64).eps)
_ALMOST = 1.0 - 1e-9  # a count of tokens this close to the next whole one is meant to be it
_RELATIVE = 1e-9  # by which a slope may be off
_CANCELLED = 1e-13  # of the greatest slope: what may be left where a slope is 0
_FREE = 1e-200  # slopes below this have lost their digits, or will soon
_REMEMBERED = 6  # inverses kept


class PerCost(CompoundUtility):
    """U(C^-1(z)) over expected costs z >= 0; made by `PerCost.of`.

    Amounts, prices and slopes are per token of expected cost; a whole amount is the cost C(k) of
    a whole number k of tokens.
    """

    advice: ClassVar[str] = (
        "in its expected cost the utility is not convex up to one inflection and concave from "
        "there. Count tokens whole, Allocation(..., integer=True), which is solved on their grid"
    )

    counts_tokens: ClassVar[bool] = False

    parts: tuple[Any, ...]  # the utility, the cost curve
    own: tuple[Any, ...]  # most, last useful amount, where the search ends; all tokens
    # The last inverses: a search over prices asks for the same two bounds at every price.
    _recent: tuple[tuple[FloatArray, FloatArray], ...] = ()

    @classmethod
    def of(
        cls,
        utility: Utility,
        curve: CostCurve,
        most: Any,
        whole: NDArray[np.bool_] | None = None,
    ) -> Self:
        """The utility in its expected cost, checked to be S-shaped.

        Args:
            utility, curve: of one length (m,), broadcast.
            most: (m,) the most tokens that matter, finite and at least 0.
            whole: (m,) whether tokens are counted whole; then `most` is whole too. It matters
                only where tokens are free (C' = 0): the best of them is taken, of the whole ones.

        Raises:
            DeclarationError: the utility has no shape (measured curves), `most` is infinite or
                negative, or the utility is not S-shaped in its cost.
        """
        name = f"{type(utility).__name__} in its expected cost"
        if not utility.s_shaped:
            raise DeclarationError(
                f"{name}: {type(utility).__name__} has no shape to rely on; count tokens whole, "
                "Allocation(..., integer=True), which is solved on their grid"
            )
        length = int(np.size(utility.origin))
        limit = as_float_array(most, f"{name}: most")
        require(limit, limit >= 0, f"{name}: most", "must be at least 0 tokens")
        limit = broadcast_to_length(limit, length, f"{name}: most")
        with np.errstate(all="ignore"):
            useful = _useful(utility, limit, np.zeros(length, bool) if whole is None else whole)
            # Where the utility decays past its peak, so does the search, as long as tokens cost.
            decays = utility.value(limit) < utility.value(useful)
            paid = np.minimum(np.asarray(curve.inverse(curve.value(limit))), limit)
            reach = np.where(decays, np.maximum(useful, paid), useful)
        family = cls._around((utility, curve), (limit, useful, reach))
        _ = family.shape  # refuses what is not S-shaped
        return family

    @property
    def utility(self) -> Utility:
        """U, a family of tokens."""
        return self.parts[0]

    @property
    def curve(self) -> CostCurve:
        """C, a family of tokens."""
        return self.parts[1]

    # ---------------------------------------------------------------- the curve searched
    @property
    def _name(self) -> str:
        return f"{type(self.utility).__name__} per {type(self.curve).__name__}"

    @property
    def _width(self) -> int:
        return max(int(np.size(value)) // max(len(value), 1) for value in self.parameters)

    @property
    def marks(self) -> FloatArray:
        utility = self.utility
        start = np.asarray(utility.origin)
        columns = [start, start + utility.inflection_excess, start + utility.saturation_excess]
        return np.column_stack([*columns, np.reshape(self.curve.kinks, (start.size, -1))])

    def _curve(self, members: NDArray[np.intp] | None) -> Curve:
        return Curve(
            value=self.utility.value,
            slope=self._slope,
            amount=self.curve.value,
            tokens=lambda b: b,
            end=self.own[2],
            marks=self.marks,
            name=self._name,
            member=members,
            advice=self.advice,
            noise=self._noise,
        )

    def _noise(self, x: FloatArray) -> Any:
        """How far off r may be: U' cancels next to its peak, C' never does."""
        cost = self.curve.marginal(x)
        allowed = _RELATIVE * np.abs(self._slope(x))
        greatest = np.asarray(self.utility.greatest_marginal)
        steepest = np.where(np.isfinite(greatest), greatest, 0.0)
        allowed = allowed + _CANCELLED * steepest / np.where(cost > _FREE, cost, 1.0)
        return np.where(np.isfinite(allowed), allowed, 0.0)

    def _slope(self, x: FloatArray) -> Any:
        """r(b) = U'(b) / C'(b); infinite where tokens are free and worth something."""
        gain, cost = self.utility.marginal(x), self.curve.marginal(x)
        paid = cost > _FREE
        free = np.where(gain > _FREE, np.inf, np.minimum(gain, 0.0))
        return np.where(paid, gain / np.where(paid, cost, 1.0), free)

    def _excess(self, x: Any) -> Any:
        return self.curve.value(x)

    # ---------------------------------------------------------------- what a family answers
    @property
    def origin(self) -> Any:
        return np.zeros(np.shape(self.own[0]))

    @property
    def reach_excess(self) -> Any:
        return self.curve.value(self.own[2])

    def tokens(self, cost: Any) -> Any:
        """The allocation b in tokens for an expected cost z, elementwise, at most `most`.

        Of the amounts with that cost the best one; its cost is at most `cost`, to rounding.
        """
        cost = np.asarray(cost, dtype=np.float64)
        for known, found in self._recent:
            if np.array_equal(known, cost):
                return found
        most, useful, _ = self.own
        enough, total = self._ends
        tokens = np.minimum(self.curve.inverse(np.maximum(cost, 0.0)), most)
        # Past the last useful token: it or more, unless they cost the same.
        same = np.minimum(cost, total) <= enough * (1 + _SAME_COST)
        beyond = np.where(same, useful, np.maximum(tokens, useful))
        found = np.where(cost >= enough * (1 - _SAME_COST), beyond, np.minimum(tokens, useful))
        found.setflags(write=False)
        self._recent = ((cost.copy(), found), *self._recent[: _REMEMBERED - 1])
        return found

    @cached_property
    def _ends(self) -> tuple[FloatArray, FloatArray]:
        """(m,) the costs of the last useful amount, and of the most."""
        most, useful, _ = self.own
        return np.asarray(self.curve.value(useful)), np.asarray(self.curve.value(most))

    def value_at(self, excess: Any) -> Any:
        return self.utility.value(self.tokens(excess))

    def marginal_at(self, excess: Any) -> Any:
        tokens = self.tokens(excess)
        return np.where(tokens < self.own[2], self._slope(tokens), 0.0)

    # ---------------------------------------------------------------- whole tokens
    def whole_tokens(self, cost: Any) -> Any:
        """The largest whole number of tokens whose expected cost is at most `cost`, to rounding."""
        cost = np.asarray(cost, dtype=np.float64)
        tokens = np.asarray(self.tokens(cost))
        count = np.floor(tokens)
        count = np.where(tokens - count > _ALMOST, count + 1.0, count)
        allowed = cost * (1 + _SAME_COST)
        count = np.where(self.curve.value(count) > allowed, count - 1.0, count)
        # Where C is nearly flat its inverse is coarse: another token may cost the same.
        following = count + 1.0
        limit = np.where(tokens > self.own[1], np.ceil(tokens), self.own[1])
        more = (following <= limit) & (self.curve.value(following) <= allowed)
        return np.maximum(np.where(more, following, count), 0.0)

    def whole_below(self, amount: Any) -> Any:
        return np.minimum(self.curve.value(self.whole_tokens(amount)), amount)

    def whole_above(self, amount: Any) -> Any:
        amount = np.asarray(amount, dtype=np.float64)
        count = self.whole_tokens(amount)
        below = np.asarray(self.curve.value(count))
        met = below >= amount * (1 - _SAME_COST)
        return np.maximum(np.where(met, below, self.curve.value(count + 1.0)), amount)

    def whole_after(self, amount: Any) -> Any:
        return self.curve.value(self.whole_tokens(amount) + 1.0)

    def whole_before(self, amount: Any) -> Any:
        return self.curve.value(np.maximum(self.whole_tokens(amount) - 1.0, 0.0))

    # ---------------------------------------------------------------- never asked for
    def in_units(self, tokens: Any, accuracy: float) -> Self:
        raise UnsupportedProblemError(f"{self._name}: has no other units")

    def expression(self, excess: Any, exp: Any, member: int) -> Any:
        raise UnsupportedProblemError(
            f"{self._name}: has no algebraic expression; state the model in tokens"
        )


def _useful(utility: Utility, most: FloatArray, whole: NDArray[np.bool_]) -> FloatArray:
    """(m,) the last amount that adds anything, tokens, at most `most`; whole where asked for."""
    # Rounded upwards: origin + excess may round to the origin, where there is no utility yet.
    peak = np.nextafter(utility.origin + utility.saturation_excess, np.inf)
    useful = np.minimum(peak, most)
    below, above = np.floor(useful), np.minimum(np.ceil(useful), most)
    nearest = np.where(utility.value(above) >= utility.value(below), above, below)
    return np.where(whole, nearest, useful)
