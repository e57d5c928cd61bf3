"""Answers whose length is lognormal: the accuracy under a cap, and what a cap really costs.

With T the tokens a right answer takes, log T normal with mean log(median) and standard deviation
`spread`, and z = log(b / median) / spread, the accuracy under a cap of b tokens is a Phi(z). The
hazard of T rises and then falls, so this curve is S-shaped in its expected tokens as well, wherever
`LognormalTokens` spreads at least as widely.
"""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from clearopt.errors import UnsupportedProblemError
from clearopt.utilities import normal
from clearopt.utilities.base import Utility
from clearopt.utilities.cost_curves import CostCurve, amounts
from clearopt.utilities.family import checked_parameters, warn_above_one
from clearopt.utilities.lambertw import namespace_of
from clearopt.validation import require

_SATURATION = 8.3  # Phi(8.3) rounds to 1
_EXPONENT_LIMIT = 745.0  # exp(-745) is the smallest positive double
_LARGEST = 1e300  # stands for amounts past the range of a double
_ORDINARY = (1e-250, 1e250)  # quotients that have neither over- nor underflown
_NEWTON_STEPS = 8  # from the start below; quadratic, and as many for any spread
_WIDE = 100.0  # spreads from here on touch the line where b underflows: an expansion does
_ROUNDING = 8 * float(np.finfo(np.float64).eps)  # by which C may be off
_INVERSE_STEPS = 400  # Newton steps for an inverse; a few, but next to saturation

_NO_FORMULA = (
    "{name} has no algebraic expression: modelling languages lack the normal distribution "
    'function; use solver="dual", "highs" or "cvxpy", which take the curve itself'
)


class _Lognormal:
    """The law of lengths both are made of: log(length) ~ N(log(median), spread^2)."""

    median: Any
    spread: Any

    def _log_ratio(self, amount: Any) -> Any:
        """log(b / median), some number where b is 0; its digits are kept next to the median."""
        xp = namespace_of(amount)
        some = xp.where(amount > 0, amount, self.median)
        quotient = some / self.median
        ordinary = (quotient > _ORDINARY[0]) & (quotient < _ORDINARY[1])
        # An infinite amount has an infinite logarithm, but no slope to JAX there.
        wide = xp.log(some) - xp.log(self.median)
        return xp.where(ordinary, xp.log(xp.where(ordinary, quotient, 1.0)), wide)

    def _z(self, amount: Any) -> Any:
        return self._log_ratio(amount) / self.spread

    def _amount(self, z: Any) -> Any:
        """median e^(spread z), rounded upwards: a steep curve rises within one rounding error."""
        xp = namespace_of(z)
        exponent = xp.clip(self.spread * z, -2 * _EXPONENT_LIMIT, _EXPONENT_LIMIT)
        amount = xp.minimum(self.median * xp.exp(exponent), _LARGEST)
        short = (amount > 0) & (self._z(amount) < z)
        return xp.where(short, xp.nextafter(amount, xp.inf), amount)


class Lognormal(_Lognormal, Utility):
    """Accuracy under a cap where right answers have lognormal lengths.

        U(b) = a Phi(z),  z = log(b / median) / spread,  U'(b) = a phi(z) / (spread b)

    It has no threshold, but next to nothing is reached before e^(-2 spread) medians. The curve
    that `calibration.fit_curves` fits.

    Args:
        scale: accuracy a reached with ample tokens, number or (m,); at least 0, usually <= 1.
        median: tokens within which half of the right answers end, positive.
        spread: standard deviation of log(length), positive; 0.3 is a narrow law, 1 a wide one.

    Raises:
        DeclarationError: a parameter is NaN, infinite, out of range, or of the wrong shape.
    """

    parameter_names = ("scale", "median", "spread")

    scale: Any

    def __init__(self, scale: ArrayLike, median: ArrayLike, spread: ArrayLike) -> None:
        checked = checked_parameters(
            "Lognormal",
            {"scale": scale, "median": median, "spread": spread},
            {
                "scale": (">=", "the accuracy reached when tokens are ample"),
                "median": (">", "tokens within which half of the right answers end"),
                "spread": (">", "the standard deviation of log(length)"),
            },
        )
        warn_above_one("Lognormal", checked["scale"])
        for key, array in checked.items():
            object.__setattr__(self, key, array)

    @property
    def origin(self) -> Any:
        return 0.0 * self.scale

    def value_at(self, excess: Any) -> Any:
        xp = namespace_of(excess)
        return xp.where(excess > 0, self.scale * normal.distribution(self._z(excess)), 0.0)

    def marginal_at(self, excess: Any) -> Any:
        xp = namespace_of(excess)
        inside = (excess > 0) & (excess < xp.inf)
        some = xp.where(inside, excess, self.median)
        slope = self.scale * normal.density(self._z(some)) / self.spread / some
        return xp.where(inside, slope, 0.0)

    def stationary_excess(self, price: Any) -> Any:
        # log U' = log p reads z^2/2 + s z + c = 0 with c = log(p s median sqrt(2 pi) / a), whose
        # larger root, s^2 - 2 c under the root, is written so that nothing cancels.
        xp = namespace_of(price)
        paid = (price > 0) & (self.scale > 0) & xp.isfinite(price)
        some = xp.where(paid, price, 1.0)
        c = xp.log(some) - xp.log(xp.where(self.scale > 0, self.scale, 1.0))
        c = c + xp.log(self.spread) + xp.log(self.median) + math.log(normal.ROOT_TWO_PI)
        root = xp.sqrt(xp.maximum(self.spread * self.spread - 2.0 * c, 0.0))
        z = xp.maximum(-2.0 * c / (self.spread + root), -self.spread)
        dear = xp.where((price > 0) & (self.scale > 0), self.inflection_excess, 0.0)
        ample = xp.where(self.scale > 0, self.saturation_excess, 0.0)
        return xp.where(paid, self._amount(z), xp.where(price > 0, dear, ample))

    @property
    def inflection_excess(self) -> Any:
        return self._amount(-self.spread)

    @property
    def greatest_marginal(self) -> Any:
        # At z = -s: a / (s median sqrt(2 pi)) e^(s^2 / 2), infinite to a double for s > 38.
        xp = namespace_of(self.spread)
        rise = xp.exp(0.5 * self.spread * self.spread)
        top = self.scale * rise / self.spread / self.median / normal.ROOT_TWO_PI
        return xp.where(self.scale > 0, top, 0.0)

    @property
    def saturation_excess(self) -> Any:
        return self._amount(_SATURATION + 0.0 * self.spread)

    def tangent_from_zero(self) -> tuple[Any, Any]:
        # U = b U' where phi(z) / Phi(z) = s. The logarithm of the left side is concave and falls:
        # the first Newton step lands right of the root, and the others come down to it.
        with np.errstate(all="ignore"):
            s = np.asarray(self.spread, dtype=np.float64)
            near = np.minimum(s, _WIDE)
            z = np.where(near < 0.3, np.sqrt(-2.0 * np.log(near * normal.ROOT_TWO_PI)), 1.0 - near)
            for _ in range(_NEWTON_STEPS):
                log_mills = normal.log_inverse_mills(z)
                z = z + (log_mills - np.log(near)) / (z + np.exp(log_mills))
            z = np.where(s > _WIDE, 1.0 / s - s, z)
            excess = self._amount(z)
            reached = self.scale * normal.distribution(self._z(excess))
            slope = np.where(excess > 0, reached / np.where(excess > 0, excess, 1.0), np.inf)
            return excess, np.where(self.scale > 0, slope, 0.0)

    def in_units(self, tokens: Any, accuracy: float) -> Self:
        return self.from_parameters(self.scale / accuracy, self.median / tokens, self.spread)

    def expression(self, excess: Any, exp: Any, member: int) -> Any:
        raise UnsupportedProblemError(_NO_FORMULA.format(name="Lognormal"))


class LognormalTokens(_Lognormal, CostCurve):
    """E[min(T, b)] for answers of lognormal length T, with z = log(b / median) / spread:

        C(b) = ends [median e^(spread^2 / 2) Phi(z - spread) + b Phi(-z)] + (1 - ends) b

    A `Lognormal` utility is S-shaped in this cost whatever the medians, if `spread` is at least
    the utility's own; where it is smaller, it may have to be solved in whole tokens.

    Args:
        median: tokens within which half of the answers end, positive.
        spread: standard deviation of log(length), positive.
        ends: the share of answers that end by themselves, in [0, 1]; the others use any cap up.

    Raises:
        DeclarationError: a parameter is NaN, infinite, out of range, or of the wrong shape.
    """

    parameter_names = ("median", "spread", "ends")

    ends: Any

    def __init__(self, median: ArrayLike, spread: ArrayLike, ends: ArrayLike = 1.0) -> None:
        checked = checked_parameters(
            "LognormalTokens",
            {"median": median, "spread": spread, "ends": ends},
            {
                "median": (">", "tokens within which half of the answers end"),
                "spread": (">", "the standard deviation of log(length)"),
                "ends": (">=", "the share of answers that end by themselves"),
            },
        )
        require(checked["ends"], checked["ends"] <= 1, "LognormalTokens: ends", "is a share, <= 1")
        for key, array in checked.items():
            object.__setattr__(self, key, array)

    def _mean(self) -> Any:
        """E[T] = median e^(spread^2 / 2)."""
        xp = namespace_of(self.spread)
        return self.median * xp.exp(xp.minimum(0.5 * self.spread**2, _EXPONENT_LIMIT))

    def value(self, tokens: ArrayLike) -> Any:
        amount: Any = amounts(tokens, "tokens")
        xp = namespace_of(amount)
        inside = (amount > 0) & (amount < xp.inf)
        some = xp.where(inside, amount, self.median)
        z = self._z(some)
        used = self._mean() * normal.distribution(z - self.spread)
        used = xp.minimum(used + some * normal.distribution(-z), some)
        cost = self.ends * used + (1.0 - self.ends) * some
        limit = xp.where(self.ends < 1.0, xp.inf, self._mean())
        return xp.where(inside, cost, xp.where(amount > 0, limit, 0.0))

    def marginal(self, tokens: ArrayLike) -> Any:
        amount: Any = amounts(tokens, "tokens")
        xp = namespace_of(amount)
        survives = xp.where(amount > 0, normal.distribution(-self._z(amount)), 1.0)
        return (1.0 - self.ends) + self.ends * survives

    def inverse(self, cost: ArrayLike) -> Any:
        wanted: Any = amounts(cost, "cost")
        with np.errstate(all="ignore"):
            limit = np.where(self.ends < 1.0, np.inf, self._mean())
            reached = (wanted <= limit * (1 + _ROUNDING)) & (wanted < np.inf)
            goal = np.where(reached, wanted, 0.0)
            tokens = goal + 0.0 * self.median
            # C is concave and C(b) <= b: from b = cost Newton climbs and never passes the root.
            for turn in range(_INVERSE_STEPS):
                step = (goal - self.value(tokens)) / np.maximum(self.marginal(tokens), 1e-300)
                # The first step may go down: the start may lie above the root by its rounding.
                moved = (step > 0) | (turn == 0)
                following = np.where(moved, np.maximum(tokens + step, goal), tokens)
                if np.array_equal(following, tokens):
                    break
                tokens = following
            # Where all but some 1e-17 of the tokens are used up, more are the same to a double.
            all_used = np.where(self.ends < 1.0, np.inf, self._amount(_SATURATION + self.spread))
            return np.where(reached, np.minimum(tokens, all_used), np.inf)

    @property
    def kinks(self) -> Any:
        # None; but where the curve bends most is a good place to look at.
        return np.asarray(self.median)[..., None]

    def expression(self, tokens: Any, exp: Any, member: int) -> Any:
        raise UnsupportedProblemError(_NO_FORMULA.format(name="LognormalTokens"))
