"""Diminishing returns from the first token after a threshold: 1 - e^-y, and best of n samples.

Notation: threshold tau (tokens), rate beta (1/tokens), scale a, x = max(b - tau, 0), y = beta x,
s = beta tau.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from clearopt.utilities import lambertw
from clearopt.utilities.base import Utility
from clearopt.utilities.family import checked_parameters, short, warn_above_one
from clearopt.utilities.lambertw import namespace_of
from clearopt.validation import require

_EXPONENT_LIMIT = 745.0  # exp(-745) is the smallest positive double
_SATURATION = 37.0  # e^-37 is below half a rounding error of 1
_LARGEST = 1e300  # stands for an overflown rate * threshold
_GREATEST = float(np.finfo(np.float64).max)
# e^y - 1 - y = y^2 sum_k y^k / (k + 2)!
_SERIES = tuple(1.0 / math.factorial(k + 2) for k in range(15))


class _Exponential(Utility):
    """a (1 - e^-y), concave from the threshold on."""

    scale: Any

    @property
    @abstractmethod
    def _rate(self) -> Any:
        """beta, 1/tokens; 0 where the utility is."""

    def value_at(self, excess: Any) -> Any:
        return -self.scale * namespace_of(excess).expm1(-self._scaled(excess))

    def marginal_at(self, excess: Any) -> Any:
        return self.greatest_marginal * namespace_of(excess).exp(-self._scaled(excess))

    def _scaled(self, excess: Any) -> Any:
        """y, kept where e^-y is still a number; 0 where the rate is, also at infinity."""
        xp = namespace_of(excess)
        return xp.minimum(self._rate * xp.minimum(excess, _GREATEST), _EXPONENT_LIMIT)

    def stationary_excess(self, price: Any) -> Any:
        # e^-y = price / (a beta)
        xp = namespace_of(price)
        rate, paid = self._rate, price > 0
        ratio = self.scale / xp.where(paid, price, 1.0) * rate
        y = xp.log(xp.clip(ratio, 1.0, xp.inf))
        return self._over_rate(xp.where(paid, xp.minimum(y, _EXPONENT_LIMIT), _SATURATION))

    @property
    def inflection_excess(self) -> Any:
        return 0.0 * self._rate

    @property
    def greatest_marginal(self) -> Any:
        return self.scale * self._rate

    @property
    def saturation_excess(self) -> Any:
        return self._over_rate(_SATURATION)

    def _over_rate(self, y: Any) -> Any:
        """y / beta, 0 where beta is."""
        rate = self._rate
        xp = namespace_of(rate)
        return xp.where(rate > 0, y / xp.where(rate > 0, rate, 1.0), 0.0)

    def tangent_from_zero(self) -> tuple[Any, Any]:
        # e^y = 1 + s + y: with t = 1 + s + y, t - log t = 1 + s and y = log t, which keeps its
        # digits for large s, where t - 1 - s would not; for small s, where t is close to 1, two
        # Newton steps on e^y - 1 - y = s give them back.
        with np.errstate(all="ignore"):
            s = np.minimum(np.asarray(self._rate * self.origin, dtype=np.float64), _LARGEST)
            y = np.log(lambertw.lower_from_log(s))
            near = (s > 0) & (s < 0.5)
            z = np.where(near, np.sqrt(2.0 * s) * (1.0 - np.sqrt(2.0 * s) / 6.0), 1.0)
            for _ in range(5):
                z = z - (z * z * _polynomial(z) - s) / np.expm1(z)
            y = np.where(near, z, np.where(s > 0, y, 0.0))
            return self._over_rate(y), self.greatest_marginal * np.exp(-y)

    @property
    def has_cone_form(self) -> Any:
        return np.ones(np.shape(self.scale), dtype=np.bool_)

    def cone_form(self, excess: Any, cvxpy: Any) -> tuple[Any, list[Any]]:
        # An exponential cone a member.
        scale, rate = np.asarray(self.scale), np.asarray(self._rate)
        return cvxpy.multiply(scale, 1 - cvxpy.exp(-cvxpy.multiply(rate, excess))), []

    def _formula(self, excess: Any, exp: Any, member: int) -> Any:
        scale, rate = float(np.asarray(self.scale)[member]), float(np.asarray(self._rate)[member])
        return scale * (1 - exp(-rate * excess))


def _polynomial(y: Any) -> Any:
    total = y * 0.0 + _SERIES[-1]
    for coefficient in reversed(_SERIES[:-1]):
        total = total * y + coefficient
    return total


class SaturatingExponential(_Exponential):
    """Nothing up to the threshold, then diminishing returns: U(b) = a (1 - e^-y).

    Args:
        scale: accuracy a reached with ample tokens, number or (m,); at least 0, usually <= 1.
        threshold: tau in tokens, at least 0.
        rate: beta in 1/tokens, positive.

    Raises:
        DeclarationError: a parameter is NaN, infinite, negative, or of the wrong shape.
    """

    parameter_names = ("scale", "threshold", "rate")

    threshold: Any
    rate: Any

    def __init__(self, scale: ArrayLike, threshold: ArrayLike, rate: ArrayLike) -> None:
        name = type(self).__name__
        checked = checked_parameters(
            name,
            {"scale": scale, "threshold": threshold, "rate": rate},
            {
                "scale": (">=", "the accuracy reached when tokens are ample"),
                "threshold": (">=", "tokens before the first return"),
                "rate": (">", "1/tokens; returns last a few times 1/rate tokens"),
            },
        )
        warn_above_one(name, checked["scale"])
        for key, array in checked.items():
            object.__setattr__(self, key, array)

    @property
    def origin(self) -> Any:
        return self.threshold

    @property
    def _rate(self) -> Any:
        return self.rate

    def in_units(self, tokens: Any, accuracy: float) -> Self:
        return self.from_parameters(
            self.scale / accuracy, self.threshold / tokens, self.rate * tokens
        )

    def expression(self, excess: Any, exp: Any, member: int) -> Any:
        return self._formula(excess, exp, member)


class BestOfN(_Exponential):
    """At least one of b/c independent samples is right: U(b) = 1 - (1 - p)^(b/c).

    For an allocation counted in samples, `tokens_per_sample` stays 1 and the allocation is
    declared with integer=True. With p = 1 a first whole sample gives 1 exactly; for less than one
    sample the rate is taken as 745/c, past which 1 - p is no longer told from 0.

    Args:
        success: p, the chance that one sample is right, number or (m,), in [0, 1].
        tokens_per_sample: c in tokens, positive.

    Raises:
        DeclarationError: a parameter is NaN, infinite, out of range, or of the wrong shape.
    """

    # The scale is 1 but in other units (`in_units`).
    parameter_names = ("success", "tokens_per_sample", "scale")

    success: Any
    tokens_per_sample: Any

    def __init__(self, success: ArrayLike, tokens_per_sample: ArrayLike = 1.0) -> None:
        checked = checked_parameters(
            "BestOfN",
            {"success": success, "tokens_per_sample": tokens_per_sample},
            {
                "success": (">=", "the chance that one sample is right"),
                "tokens_per_sample": (">", "what one sample costs"),
            },
        )
        chance = checked["success"]
        require(chance, chance <= 1, "BestOfN: success", "must be at most 1 (it is a probability)")
        for key, array in checked.items():
            object.__setattr__(self, key, array)
        object.__setattr__(self, "scale", np.ones_like(chance))

    @property
    def origin(self) -> Any:
        return 0.0 * self.success

    @property
    def _rate(self) -> Any:
        xp = namespace_of(self.success)
        sure = self.success >= 1
        rate = xp.where(sure, _EXPONENT_LIMIT, -xp.log1p(-xp.where(sure, 0.0, self.success)))
        return rate / self.tokens_per_sample

    def in_units(self, tokens: Any, accuracy: float) -> Self:
        return self.from_parameters(
            self.success, self.tokens_per_sample / tokens, self.scale / accuracy
        )

    def expression(self, excess: Any, exp: Any, member: int) -> Any:
        return self._formula(excess, exp, member)

    def __repr__(self) -> str:
        if (np.asarray(self.scale) != 1).any():
            return super().__repr__()
        success, tokens = short(self.success), short(self.tokens_per_sample)
        return f"BestOfN(success={success}, tokens_per_sample={tokens})"
