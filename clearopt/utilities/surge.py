"""The two surge utilities of arXiv 2606.03092 and their closed forms.

Notation: threshold tau (tokens), rate beta (1/tokens), scale a, x = max(b - tau, 0), y = beta x,
s = beta tau.
"""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from clearopt.utilities import lambertw
from clearopt.utilities.base import Utility
from clearopt.utilities.family import checked_parameters, warn_above_one
from clearopt.utilities.lambertw import namespace_of

_EXPONENT_LIMIT = 745.0  # exp(-745) is the smallest positive double
_SATURATION = 45.0  # (1 + 45) e^-45 is below half a rounding error of 1
_SERIES_LIMIT = 0.5  # below this y, 1 - (1 + y) e^-y loses digits to cancellation
# 1 - (1 + y) e^-y = y^2 sum_k (-1)^k (k + 1) y^k / (k + 2)!
_SERIES = tuple((-1) ** k * (k + 1) / math.factorial(k + 2) for k in range(15))


class _Surge(Utility):
    """What both surges share: their parameters, checked, and the excess counted from tau."""

    parameter_names = ("scale", "threshold", "rate")
    always_stationary = True

    scale: Any
    threshold: Any
    rate: Any

    def __init__(self, scale: ArrayLike, threshold: ArrayLike, rate: ArrayLike) -> None:
        name = type(self).__name__
        checked = checked_parameters(
            name,
            {"scale": scale, "threshold": threshold, "rate": rate},
            {
                "scale": (">=", "the accuracy reached when tokens are ample"),
                "threshold": (">=", "tokens before the surge"),
                "rate": (">", "1/tokens; the surge lasts a few times 1/rate tokens"),
            },
        )
        warn_above_one(name, checked["scale"])
        for key, array in checked.items():
            object.__setattr__(self, key, array)

    @property
    def origin(self) -> Any:
        return self.threshold

    def in_units(self, tokens: Any, accuracy: float) -> Self:
        return self.from_parameters(
            self.scale / accuracy, self.threshold / tokens, self.rate * tokens
        )

    def _scaled(self, excess: Any) -> Any:
        """y = rate * excess, kept where e^-y is still a number."""
        return namespace_of(excess).minimum(self.rate * excess, _EXPONENT_LIMIT)

    def _log_price_ratio(self, price: Any, log_top: float) -> Any:
        """log(greatest marginal / price) >= 0, and `inf` at prices of 0."""
        xp = namespace_of(price)
        active = (price > 0) & (self.scale > 0)
        log_ratio = (
            xp.log(xp.where(active, self.scale, 1.0))
            + xp.log(self.rate)
            + log_top
            - xp.log(xp.where(active, price, 1.0))
        )
        return xp.where(active, log_ratio, xp.where(self.scale > 0, math.inf, 0.0))


class ShiftedSurge(_Surge):
    """The paper's utility: nothing before the threshold, a surge, a decay past the peak.

    U(b) = a y e^(1 - y): the peak value `scale` is reached at b = threshold + 1/rate, and too
    many tokens harm (overthinking). In the paper's own parameters U = alpha x e^(-beta x) with
    alpha = a e beta.

    Args:
        scale: peak accuracy a, number or (m,); at least 0, usually at most 1.
        threshold: tau in tokens, at least 0.
        rate: beta in 1/tokens, positive.

    Raises:
        DeclarationError: a parameter is NaN, infinite, negative, or of the wrong shape.
    """

    def value_at(self, excess: Any) -> Any:
        y = self._scaled(excess)
        return self.scale * y * namespace_of(excess).exp(1.0 - y)

    def marginal_at(self, excess: Any) -> Any:
        y = self._scaled(excess)
        return self.scale * self.rate * (1.0 - y) * namespace_of(excess).exp(1.0 - y)

    def stationary_excess(self, price: Any) -> Any:
        # y = 1 - W_0(q), q = price / (a beta). Near the greatest marginal, q = e, this cancels:
        # there y is the root of y - log(1 - y) = log(greatest marginal / price), by Newton.
        xp = namespace_of(price)
        base = self.scale * self.rate
        q = xp.where(base > 0, price / xp.where(base > 0, base, 1.0), math.e)
        y = 1.0 - lambertw.principal(xp.minimum(q, math.e))
        close = y < 0.5
        target = xp.maximum(self._log_price_ratio(xp.where(close, price, 0.0), 1.0), 0.0)
        refined = xp.where(close, y, 0.0)
        refined = xp.where(close & (refined <= 0), 0.5 * target, refined)
        refined = refined - (refined - xp.log1p(-refined) - target) * (1 - refined) / (2 - refined)
        return xp.maximum(xp.where(close, refined, y), 0.0) / self.rate

    @property
    def inflection_excess(self) -> Any:
        return 0.0 * self.rate

    @property
    def greatest_marginal(self) -> Any:
        return self.scale * self.rate * math.e

    @property
    def saturation_excess(self) -> Any:
        return 1.0 / self.rate

    def tangent_from_zero(self) -> tuple[Any, Any]:
        # (1 - y)(s + y) = y, i.e. y^2 + s y - s = 0, in a form that neither cancels nor overflows.
        s = self.rate * self.threshold
        with np.errstate(all="ignore"):
            y = np.where(s > 0, 2.0 / (1.0 + np.sqrt(1.0 + 4.0 / np.where(s > 0, s, 1.0))), 0.0)
            rest = np.where(s > 0, y / (s + y), 1.0)  # 1 - y, without cancellation for large s
        return y / self.rate, self.scale * self.rate * rest * np.exp(rest)

    def expression(self, excess: Any, exp: Any, member: int) -> Any:
        scale, _, rate = (float(parameter[member]) for parameter in self.parameters)
        return scale * rate * math.e * excess * exp(-rate * excess)


class CumulativeSurge(_Surge):
    """The S-curve of accuracy under a cap: an answer that ends before the cap is not harmed by it.

    U(b) = a [1 - (1 + y) e^-y], the integral of the shifted surge and the distribution function
    of a Gamma(2, rate) answer length after the threshold. Inflection at y = 1, never decays.

    Args:
        scale: accuracy a reached with ample tokens, number or (m,); at least 0, usually <= 1.
        threshold: tau in tokens, at least 0.
        rate: beta in 1/tokens, positive.

    Raises:
        DeclarationError: a parameter is NaN, infinite, negative, or of the wrong shape.
    """

    def value_at(self, excess: Any) -> Any:
        xp = namespace_of(excess)
        y = self._scaled(excess)
        small = y < _SERIES_LIMIT
        if xp is np and not small.any():
            return self.scale * (1.0 - (1.0 + y) * np.exp(-y))
        z = xp.where(small, y, 0.0)
        series = z * 0.0 + _SERIES[-1]
        for coefficient in reversed(_SERIES[:-1]):
            series = series * z + coefficient
        return self.scale * xp.where(small, z * z * series, 1.0 - (1.0 + y) * xp.exp(-y))

    def marginal_at(self, excess: Any) -> Any:
        y = self._scaled(excess)
        return self.scale * self.rate * y * namespace_of(excess).exp(-y)

    def stationary_excess(self, price: Any) -> Any:
        # y = -W_{-1}(-price / (a beta)), as the root t >= 1 of t - log t = 1 + delta with
        # delta = log(greatest marginal / price): never out of range.
        xp = namespace_of(price)
        delta = self._log_price_ratio(price, -1.0)
        y = lambertw.lower_from_log(xp.minimum(delta, 1e4))
        return xp.where(xp.isinf(delta), _SATURATION, y) / self.rate

    @property
    def inflection_excess(self) -> Any:
        return 1.0 / self.rate

    @property
    def greatest_marginal(self) -> Any:
        return self.scale * self.rate / math.e

    @property
    def saturation_excess(self) -> Any:
        return _SATURATION / self.rate

    def tangent_from_zero(self) -> tuple[Any, Any]:
        # The positive root of e^y = 1 + (1 + s) y + y^2, i.e. y = log1p((1 + s) y + y^2).
        # It depends on s alone and is at least 1.793; Newton descends to it from above.
        s = np.asarray(self.rate * self.threshold, dtype=np.float64)
        y = 3.0 + 1.25 * np.log1p(s)
        for _ in range(12):
            inner = (1.0 + s) * y + y * y
            y = y - (y - np.log1p(inner)) / (1.0 - ((1.0 + s) + 2.0 * y) / (1.0 + inner))
        return y / self.rate, self.scale * self.rate * y * np.exp(-y)

    def expression(self, excess: Any, exp: Any, member: int) -> Any:
        scale, _, rate = (float(parameter[member]) for parameter in self.parameters)
        return scale * (1 - (1 + rate * excess) * exp(-rate * excess))
