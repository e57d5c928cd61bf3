"""What a utility family must answer, and all that follows from S-shapedness alone.

A utility U maps an allocation b (tokens) to expected accuracy. It is S-shaped: non-decreasing and
convex up to an inflection point (a kink counts), concave from there to its peak. Therefore
`max_b W U(b) - P b` over an interval is attained at an end of the interval or at the one
stationary point of the concave part. A family only has to supply that stationary point; the
exact best response, the demand and the break-even price are derived here once for all.

Everything a solver calls is elementwise over `(m,)` arrays and written over the array namespace
of its arguments, so that the same lines run in NumPy and, traced, in JAX.

Amounts are handed around as the *excess* x = b - threshold beside b itself: threshold + x rounds
to the threshold when x is tiny, and a value computed from the rounded b would be wrong.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike

from clearopt.errors import DeclarationError, UnsupportedProblemError
from clearopt.utilities.family import Family
from clearopt.utilities.lambertw import namespace_of
from clearopt.validation import FloatArray, as_float_array, require

if TYPE_CHECKING:
    from clearopt.expressions import Expression


class BestResponse(NamedTuple):
    """What every query buys at given prices: arrays of shape (m,)."""

    tokens: Any  # the allocation b
    gain: Any  # W U(b) - P b, computed from the unrounded excess
    utility: Any  # U(b), likewise


class Utility(Family, ABC):
    """A family of S-shaped utilities, one member per query.

    Parameters are numbers or arrays of shape (m,), where m is the number of queries of the
    allocation (or of its part) that the utility is called on.

    Attributes:
        traceable: whether its lines may be traced by JAX; families that search numerically are
            evaluated in NumPy.
        s_shaped: whether it is convex before its inflection. False for measured curves, which
            answer every question by enumeration: nothing is concluded from a shape they lack.
        smooth: whether its concave part bends everywhere; False where it is straight in places,
            where demand jumps at a price.
        counts_tokens: whether amounts are tokens, so that whole ones are whole numbers.
        always_stationary: whether, at prices above 0, the stationary excess held within bounds is
            as good as the upper bound itself, also where there is none: a closed form is.
    """

    traceable: ClassVar[bool] = True
    s_shaped: ClassVar[bool] = True
    smooth: ClassVar[bool] = True
    counts_tokens: ClassVar[bool] = True
    always_stationary: ClassVar[bool] = False

    def __call__(self, tokens: Expression) -> Expression:
        """Apply to an allocation, or to a part of it: the vector of its queries' utilities."""
        # The expression knows how: this module lies below the language and does not import it.
        apply: Callable[[Utility], Expression] | None = getattr(tokens, "apply_utility", None)
        if apply is None:
            name = type(self).__name__
            raise DeclarationError(
                f"{name}(...)(...): got {type(tokens).__name__}; a utility applies to an "
                "Allocation or a part of it; for the value at given numbers write "
                f"{name}(...).value(tokens)"
            )
        return apply(self)

    # ---------------------------------------------------------------- what a family answers
    @property
    @abstractmethod
    def origin(self) -> Any:
        """Tokens before which the utility is flat; the excess is counted from here."""

    @abstractmethod
    def value_at(self, excess: Any) -> Any:
        """U at origin + excess, for excess >= 0."""

    @abstractmethod
    def marginal_at(self, excess: Any) -> Any:
        """U' (accuracy per token) at origin + excess, from the right at a kink."""

    @abstractmethod
    def stationary_excess(self, price: Any) -> Any:
        """The excess on the concave part with U' = price.

        Where the price exceeds every marginal utility: the excess of the greatest one. Where it
        lies below all of them: the excess at which the utility is at its peak to rounding.
        """

    @property
    @abstractmethod
    def inflection_excess(self) -> Any:
        """The excess from which the utility is concave."""

    @property
    @abstractmethod
    def greatest_marginal(self) -> Any:
        """The greatest marginal utility (accuracy per token)."""

    @property
    @abstractmethod
    def saturation_excess(self) -> Any:
        """The smallest excess at which U has its peak value to double precision."""

    @abstractmethod
    def tangent_from_zero(self) -> tuple[Any, Any]:
        """(excess, slope) where the line from 0 tokens, (0, U(0)), touches the curve."""

    @abstractmethod
    def in_units(self, tokens: Any, accuracy: float) -> Self:
        """The same members where 1 stands for `tokens` tokens, (m,), and `accuracy`."""

    @abstractmethod
    def expression(self, excess: Any, exp: Any, member: int) -> Any:
        """U of one member as an algebraic expression of `excess`, for modelling languages.

        `exp` is the language's exponential; `excess` its variable or expression, at least 0.
        Besides, `+ - * / **` and `abs` may be used. This is the whole export: Pyomo, SCIP and
        others share it.
        """

    # What a concave solver may know of the concave part, beyond single tangents of it.
    @property
    def corners(self) -> Any:
        """(m, C) excesses between which the concave part is straight; None where it bends."""
        return None

    @property
    def has_cone_form(self) -> Any:
        """(m,) bool: for which members `cone_form` gives their concave part exactly."""
        return np.zeros(np.shape(self.origin), dtype=np.bool_)

    def cone_form(self, excess: Any, cvxpy: Any) -> tuple[Any, list[Any]]:
        """U on its concave part up to its peak, as a concave expression of CVXPY.

        Args:
            excess: CVXPY expression, (m,), between the inflection and the saturation excess.
            cvxpy: the module, which nothing here imports.

        Returns:
            The expression, (m,), and constraints that belong to it.

        Raises:
            UnsupportedProblemError: a member has no such form.
        """
        raise UnsupportedProblemError(f"{type(self).__name__} has no form in cones")

    # ---------------------------------------------------------------- what follows
    def expression_up_to(self, excess: Any, exp: Any, member: int, most: float) -> Any:
        """As `expression`, where the excess is known to be `most` at most: it may be simpler."""
        return self.expression(excess, exp, member)

    def excess_of(self, tokens: Any) -> Any:
        """max(b - origin, 0), tokens."""
        return namespace_of(tokens).maximum(tokens - self.origin, 0.0)

    def value(self, tokens: ArrayLike) -> Any:
        """U(b): expected accuracy, elementwise."""
        tokens = _array(tokens)
        with np.errstate(all="ignore"):
            return self.value_at(self.excess_of(tokens))

    def marginal(self, tokens: ArrayLike) -> Any:
        """U'(b): accuracy per token, elementwise; 0 before the threshold, from the right at it."""
        tokens = _array(tokens)
        xp = namespace_of(tokens)
        with np.errstate(all="ignore"):
            slope = self.marginal_at(self.excess_of(tokens))
            return xp.where(tokens < self.origin, 0.0, slope)

    def best_response(
        self,
        weight: Any,
        price: Any,
        lower: Any,
        upper: Any,
        integer: Any = None,
        least: Any = None,
        *,
        saturated: bool = False,
    ) -> BestResponse:
        """The global maximiser of weight * U(b) - price * b over [lower, upper], elementwise.

        Ties go to the larger amount. `upper` must be finite. Where `integer`, both bounds are
        whole amounts and so is the answer: on the concave part a whole maximiser stands next to
        the continuous one, on the convex part at its lower end. With `least`, amounts strictly
        between 0 and `least` are not to be had: where `lower` is 0, it is nothing, or at least
        that (semicontinuous; `least` is 0 elsewhere). With `saturated` the caller vouches for
        prices of at least 0, for no upper bound past saturation (but for rounding), and for one
        amount alone where the weight is 0: that may save a look at the upper bound.
        """
        xp = namespace_of(lower)
        positive = weight > 0
        ratio = xp.where(positive, price / xp.where(positive, weight, 1.0), math.inf)
        bottom = lower if least is None else xp.minimum(xp.maximum(lower, least), upper)
        excess_low, excess_high = self.excess_of(bottom), self.excess_of(upper)
        excess = xp.clip(self.stationary_excess(ratio), excess_low, excess_high)
        tokens = self.origin + excess
        # Rounded upwards: threshold + x may round to the threshold, where nothing is bought yet.
        tokens = xp.where(tokens - self.origin < excess, xp.nextafter(tokens, xp.inf), tokens)
        tokens = xp.clip(tokens, bottom, upper)
        candidates = [] if least is None else [(lower, self.excess_of(lower))]
        candidates.append((bottom, excess_low))
        if integer is None:
            candidates.append((tokens, excess))
        else:
            below = xp.where(integer, self.whole_below(tokens), tokens)
            above = xp.where(integer, xp.minimum(self.whole_after(below), upper), tokens)
            for whole in (below, above):
                candidates.append((whole, xp.where(integer, self.excess_of(whole), excess)))
        if not (saturated and self.always_stationary):
            candidates.append((upper, excess_high))

        best_tokens = best_gain = best_utility = None
        for amount, at in candidates:
            utility = self.value_at(at)
            gain = weight * utility - price * amount
            if best_gain is None:
                best_tokens, best_gain, best_utility = amount, gain, utility
                continue
            better = gain >= best_gain
            best_tokens = xp.where(better, amount, best_tokens)
            best_gain = xp.where(better, gain, best_gain)
            best_utility = xp.where(better, utility, best_utility)
        return BestResponse(best_tokens, best_gain, best_utility)

    # Amounts are counted in tokens; a family whose amounts are something else says what a whole
    # one is.
    def whole_below(self, amount: Any) -> Any:
        """The largest whole amount that is at most `amount`."""
        return namespace_of(amount).floor(amount)

    def whole_above(self, amount: Any) -> Any:
        """The smallest whole amount that is at least `amount`."""
        return namespace_of(amount).ceil(amount)

    def whole_after(self, amount: Any) -> Any:
        """The whole amount that follows a whole one."""
        return amount + 1.0

    def whole_before(self, amount: Any) -> Any:
        """The whole amount that a whole one follows."""
        return amount - 1.0

    def concave_hull(self, lower: FloatArray, upper: FloatArray) -> Utility:
        """What the envelope over [lower, upper] tokens, (m,), is made from, itself if S-shaped."""
        return self

    def demand(
        self, price: ArrayLike, lower: ArrayLike = 0.0, upper: ArrayLike = math.inf
    ) -> FloatArray:
        """Tokens in [lower, upper] bought at `price` (accuracy per token): argmax U(b) - price * b.

        Ties go to the larger amount, so at price 0 a utility that never decays buys `upper`.
        """
        price = as_float_array(price, "price", allow_infinite=True)
        lower = as_float_array(lower, "lower")
        upper = as_float_array(upper, "upper", allow_infinite=True)
        with np.errstate(all="ignore"):
            # An infinite upper bound is stood in for by saturation: past it nothing is gained,
            # so free tokens are taken and others are not.
            enough = np.maximum(self.origin + self.saturation_excess, lower)
            endless = np.isinf(upper)
            price, lower, upper, endless, enough = np.broadcast_arrays(
                price, lower, upper, endless, enough
            )
            require(upper, lower <= upper, "upper", "lies below the lower bound of the same query")
            finite = np.where(endless, enough, upper)
            tokens = np.asarray(self.best_response(1.0, price, lower, finite).tokens)
            at_infinity = self.value_at(np.asarray(math.inf))
            free = (price == 0) & (at_infinity >= self.value_at(self.excess_of(tokens)))
            return np.where(endless & ((price < 0) | free), upper, tokens)

    def break_even_price(self, upper: ArrayLike = math.inf) -> FloatArray:
        """The highest price (accuracy per token) at which anything is bought from [0, upper].

        The slope of the line from the origin that touches the curve, or, where `upper` lies
        before the point of contact, of the chord to `upper`.
        """
        upper = np.asarray(upper, dtype=np.float64)
        with np.errstate(all="ignore"):
            excess, slope = self.tangent_from_zero()
            contact = self.origin + excess
            before = upper < contact
            at = np.where(before, upper, 1.0)
            chord = (self.value(at) - self.value(0.0 * at)) / at
            return np.where(before, np.where(upper > 0, chord, 0.0), slope)

    def break_even_tokens(self) -> FloatArray:
        """b*: nothing is ever bought between 0 and this amount (rational abandonment)."""
        with np.errstate(all="ignore"):
            return np.asarray(self.origin + self.tangent_from_zero()[0])

    def envelope(self, tokens: ArrayLike, upper: ArrayLike = math.inf) -> FloatArray:
        """The least concave, non-decreasing function that lies nowhere below U on [0, upper].

        What a price search sees of the curve: straight from 0 tokens up to `break_even_tokens()`
        (to `upper`, if that comes first), then the curve up to its peak, and flat from there.

        Args:
            tokens: amounts, at least 0; past `upper` the envelope stays what it is there.
            upper: the most tokens that are to be had.
        """
        amount = as_float_array(tokens, "tokens", allow_infinite=True)
        most = as_float_array(upper, "upper", allow_infinite=True)
        require(amount, amount >= 0, "tokens", "must be at least 0")
        require(most, most >= 0, "upper", "must be at least 0")
        with np.errstate(all="ignore"):
            amount = np.minimum(amount, most)
            price = self.break_even_price(most)
            straight = self.value(0.0 * amount) + price * amount
            curve = self.value_at(np.minimum(self.excess_of(amount), self.saturation_excess))
            before = amount < np.minimum(self.break_even_tokens(), most)
            return np.where(before, straight, curve)


def _array(value: ArrayLike) -> Any:
    if hasattr(value, "__array_namespace__"):
        return value
    return as_float_array(value, "tokens", allow_infinite=True)
