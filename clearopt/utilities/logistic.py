"""Sigmoids without a threshold: the logistic curve, and Hill's, logistic in the logarithm of b.

Both are a sigma(z) with sigma(z) = 1 / (1 + e^-z): the logistic with z = rate (b - midpoint), so
that a little accuracy costs nothing, Hill's with z = power log(b / half).
"""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from clearopt.utilities.base import Utility
from clearopt.utilities.family import checked_parameters, warn_above_one
from clearopt.utilities.lambertw import namespace_of

_SATURATION = 37.0  # 1 / (1 + e^-37) rounds to 1
_EXPONENT_LIMIT = 745.0  # exp(-745) is the smallest positive double
_LARGEST = 1e300  # stands for amounts past the range of a double
_ORDINARY = (1e-250, 1e250)  # quotients that have neither over- nor underflown
_EXPORT_LIMIT = 40.0  # e^40 is a number to SCIP, to which 1e20 is infinity; e^-40 is none to 1
_NEWTON_STEPS = 8  # from the start below; quadratic, and as many for any parameters
_HILL_STEPS = 8  # likewise
# sinh(d) / d - 1 = d^2 sum_k d^(2k) / (2k + 3)!
_SINH = tuple(1.0 / math.factorial(2 * k + 3) for k in range(11))


def _sigmoid(z: Any) -> Any:
    """1 / (1 + e^-z), neither overflowing nor losing digits for negative z."""
    xp = namespace_of(z)
    size = xp.where(z >= 0, z, -z)  # not abs, whose derivative at 0 is 0 to JAX
    small = xp.exp(-xp.minimum(size, _EXPONENT_LIMIT))
    return xp.where(z >= 0, 1.0, small) / (1.0 + small)


def _softplus(z: Any) -> Any:
    """log(1 + e^z)."""
    xp = namespace_of(z)
    return xp.maximum(z, 0.0) + xp.log1p(xp.exp(-xp.abs(z)))


def _log_expm1(t: Any) -> Any:
    """log(e^t - 1), where log(1 + e^w) is t; -inf for t <= 0."""
    xp = namespace_of(t)
    some = xp.where(t > 0, t, 1.0)
    return xp.where(t > 0, some + xp.log(-xp.expm1(-some)), -xp.inf)


class _Sigmoid(Utility):
    """What both have in common: amounts counted from 0 tokens, and a scale."""

    scale: Any

    @property
    def origin(self) -> Any:
        return 0.0 * self.scale

    def _log_top_ratio(self, price: Any, top: Any) -> Any:
        """log(top / price), `inf` at prices of at most 0 and -inf where `top` is 0."""
        xp = namespace_of(price)
        paid = price > 0
        return xp.where(paid, xp.log(top / xp.where(paid, price, 1.0)), xp.inf)


class Logistic(_Sigmoid):
    """The logistic curve U(b) = a / (1 + e^(-rate (b - midpoint))).

    It has no threshold, and is above 0 already at 0 tokens: an accuracy that costs nothing.
    Break-even is counted from (0, U(0)): what the tokens add to it.

    Args:
        scale: accuracy a reached with ample tokens, number or (m,); at least 0, usually <= 1.
        midpoint: tokens at which half of it is reached, at least 0; the inflection.
        rate: 1/tokens, positive; the rise lasts a few times 1/rate tokens on either side.

    Raises:
        DeclarationError: a parameter is NaN, infinite, negative, or of the wrong shape.
    """

    parameter_names = ("scale", "midpoint", "rate")

    midpoint: Any
    rate: Any

    def __init__(self, scale: ArrayLike, midpoint: ArrayLike, rate: ArrayLike) -> None:
        checked = checked_parameters(
            "Logistic",
            {"scale": scale, "midpoint": midpoint, "rate": rate},
            {
                "scale": (">=", "the accuracy reached when tokens are ample"),
                "midpoint": (">=", "tokens at which half of the scale is reached"),
                "rate": (">", "1/tokens; the rise lasts a few times 1/rate tokens"),
            },
        )
        warn_above_one("Logistic", checked["scale"])
        for key, array in checked.items():
            object.__setattr__(self, key, array)

    def value_at(self, excess: Any) -> Any:
        return self.scale * _sigmoid(self.rate * (excess - self.midpoint))

    def marginal_at(self, excess: Any) -> Any:
        z = self.rate * (excess - self.midpoint)
        return self.scale * self.rate * _sigmoid(z) * _sigmoid(-z)

    def stationary_excess(self, price: Any) -> Any:
        # sigma (1 - sigma) = price / (a rate) = q / 4: with h = tanh(z / 2), 1 - h^2 = q, and
        # z = log((1 + h) / (1 - h)) = 2 log(1 + h) - log q.
        xp = namespace_of(price)
        fall = xp.maximum(self._log_top_ratio(price, self.greatest_marginal), 0.0)  # -log q
        z = 2.0 * xp.log1p(xp.sqrt(-xp.expm1(-fall))) + fall
        return self._after_midpoint(xp.where(xp.isinf(fall), _SATURATION, z))

    def _after_midpoint(self, z: Any) -> Any:
        """midpoint + z / rate, rounded upwards: a steep curve rises within one rounding error."""
        xp = namespace_of(z)
        step = z / self.rate
        excess = self.midpoint + step
        return xp.where(excess - self.midpoint < step, xp.nextafter(excess, xp.inf), excess)

    @property
    def inflection_excess(self) -> Any:
        return self.midpoint

    @property
    def greatest_marginal(self) -> Any:
        return 0.25 * self.scale * self.rate

    @property
    def saturation_excess(self) -> Any:
        return self._after_midpoint(_SATURATION + 0.0 * self.rate)

    def tangent_from_zero(self) -> tuple[Any, Any]:
        # With k = rate * midpoint and d = (z + k) / 2, sigma(z) - sigma(-k) = (z + k) sigma'(z)
        # is sinh(d)/d cosh(z/2) = cosh(k/2). Its logarithm is convex and increasing in z >= 0:
        # Newton descends to the root, k/2 for small k and about log(k) for large k.
        with np.errstate(all="ignore"):
            k = np.minimum(np.asarray(self.rate * self.midpoint, dtype=np.float64), _LARGEST)
            near = np.minimum(k, 1.0)
            z = near
            for _ in range(_NEWTON_STEPS):
                z = np.where(near > 0, z - _near_residual(z, near) / _residual_slope(z, near), 0.0)
            far, start = np.maximum(k, 1.0), np.log(2.0 * np.maximum(k, 1.0))
            y = np.minimum(start - np.log(np.tanh(0.5 * far)), far)
            for _ in range(_NEWTON_STEPS):
                y = y - _far_residual(y, far) / _residual_slope(y, far)
            z = np.maximum(np.where(k < 1.0, z, y), 0.0)
            slope = self.scale * self.rate * _sigmoid(z) * _sigmoid(-z)
            return np.where(k > 0, self._after_midpoint(z), 0.0), slope

    def in_units(self, tokens: Any, accuracy: float) -> Self:
        return self.from_parameters(
            self.scale / accuracy, self.midpoint / tokens, self.rate * tokens
        )

    def expression(self, excess: Any, exp: Any, member: int) -> Any:
        scale, midpoint, rate = (float(parameter[member]) for parameter in self.parameters)
        exponent = rate * (midpoint - excess)
        if rate * midpoint > _EXPORT_LIMIT:  # from there on nothing, to double precision
            exponent = 0.5 * (exponent + _EXPORT_LIMIT - abs(exponent - _EXPORT_LIMIT))
        return scale / (1 + exp(exponent))


def _near_residual(z: Any, k: Any) -> Any:
    """log(sinh(d)/d cosh(z/2) / cosh(k/2)) for small d = (z + k) / 2, to full precision."""
    square = 0.25 * (z + k) ** 2
    rise = square * 0.0 + _SINH[-1]
    for coefficient in reversed(_SINH[:-1]):
        rise = rise * square + coefficient
    log_cosh = [np.log1p(2.0 * np.sinh(0.25 * half) ** 2) for half in (z, k)]
    return np.log1p(square * rise) + log_cosh[0] - log_cosh[1]


def _far_residual(z: Any, k: Any) -> Any:
    """The same with the terms in k, large beside it, cancelled by hand."""
    both = np.log1p(np.exp(-z)) + np.log1p(-np.exp(-(z + k))) - np.log1p(np.exp(-k))
    return z + both - np.log(z + k)


def _residual_slope(z: Any, k: Any) -> Any:
    """The derivative in z of either: (coth d - 1/d + tanh(z/2)) / 2, d = (z + k) / 2."""
    d = 0.5 * (z + k)
    bend = np.where(d < 0.1, d / 3.0 - d**3 / 45.0, 1.0 / np.tanh(d) - 1.0 / d)
    return 0.5 * (bend + np.tanh(0.5 * z))


class Hill(_Sigmoid):
    """Hill's curve U(b) = a b^h / (K^h + b^h): logistic in log b, with a heavy upper tail.

    S-shaped for h > 1, concave from the first token for h <= 1; for h < 1 its slope at 0 tokens
    is infinite, and every query buys something at any price.

    Args:
        scale: accuracy a reached in the limit, number or (m,); at least 0, usually at most 1.
        half: K in tokens, positive: where half of it is reached.
        power: h, positive; 2 and more is a steep rise.

    Raises:
        DeclarationError: a parameter is NaN, infinite, out of range, or of the wrong shape.
    """

    parameter_names = ("scale", "half", "power")

    half: Any
    power: Any

    def __init__(self, scale: ArrayLike, half: ArrayLike, power: ArrayLike) -> None:
        checked = checked_parameters(
            "Hill",
            {"scale": scale, "half": half, "power": power},
            {
                "scale": (">=", "the accuracy reached in the limit"),
                "half": (">", "tokens at which half of the scale is reached"),
                "power": (">", "the steepness; up to 1 the curve is concave"),
            },
        )
        warn_above_one("Hill", checked["scale"])
        for key, array in checked.items():
            object.__setattr__(self, key, array)

    def _log_share(self, excess: Any) -> Any:
        """v = log(b / K); some number where b is 0."""
        xp = namespace_of(excess)
        some = xp.where(excess > 0, excess, self.half)
        quotient = some / self.half
        ordinary = (quotient > _ORDINARY[0]) & (quotient < _ORDINARY[1])
        wide = xp.log(some) - xp.log(self.half)
        return xp.where(ordinary, xp.log(xp.where(ordinary, quotient, 1.0)), wide)

    def value_at(self, excess: Any) -> Any:
        xp = namespace_of(excess)
        reached = self.scale * _sigmoid(self.power * self._log_share(excess))
        return xp.where(excess > 0, reached, 0.0)

    def marginal_at(self, excess: Any) -> Any:
        # (a h / K) e^((h - 1) v) / (1 + e^(h v))^2, divided through by e^(2 h v) for v > 0.
        xp = namespace_of(excess)
        v, h = self._log_share(excess), self.power
        falls = xp.where(v < 0, (h - 1.0) * v, -(h + 1.0) * v)
        falls = falls + (xp.log(h) - xp.log(self.half))
        spread = 1.0 + xp.exp(-xp.abs(h * v))
        inside = self.scale * xp.exp(falls) / (spread * spread)
        at_zero = xp.where(h < 1, xp.inf, xp.where(h > 1, 0.0, self.scale / self.half))
        at_zero = xp.where(self.scale > 0, at_zero, 0.0)
        return xp.where(xp.isinf(excess), 0.0, xp.where(excess > 0, inside, at_zero))

    def stationary_excess(self, price: Any) -> Any:
        # In w = h log(b / K), log(U' K / (a h)) = c w - 2 log(1 + e^w) with c = 1 - 1/h. Less
        # log(price K / (a h)), G(w) is concave, and decreasing on the utility's concave part.
        # Newton steps on G come down to its root from the right, where they start: on the least
        # of the lines 0 <= log(1 + e^w) >= w, log(2) + w/2, or, next to the inflection, on the
        # parabola that touches G there.
        xp = namespace_of(price)
        h, c = self.power, (self.power - 1.0) / self.power
        paid = (price > 0) & (self.scale > 0) & xp.isfinite(price)
        some = xp.where(paid, price, 1.0)
        level = xp.log(some) - xp.log(xp.where(self.scale > 0, self.scale, 1.0))
        level = level + xp.log(self.half) - xp.log(h)
        w = xp.minimum(-level / (2.0 - c), -(level + 2.0 * math.log(2.0)) * h)
        w = xp.minimum(w, xp.where(c < 0, level / xp.where(c < 0, c, 1.0), xp.inf))
        bend = self._inflection_w()
        turn = xp.where(c > 0, bend, 0.0)
        height = xp.maximum(c * turn - 2.0 * _softplus(turn) - level, 0.0)
        curvature = 2.0 * _sigmoid(turn) * _sigmoid(-turn)
        near = turn + xp.sqrt(2.0 * height / curvature)
        w = xp.where(c > 0, xp.maximum(xp.minimum(w, near), turn), w)
        # For c near 0 steps in w are slow. There 2 log(1 + e^w) = c w - level, and c w is at most
        # what it is at any point `left` of the root, or 0.
        slight = xp.log(xp.where(c < 0, -c, 1.0))
        is_left = c * slight - 2.0 * _softplus(slight) >= level
        left = xp.where(is_left, slight, _log_expm1(-0.5 * level))
        most = _log_expm1(0.5 * (xp.where(c < 0, c * left, 0.0) - level))
        # For c far below 0 the lines are close, and no such point is known.
        most = xp.where(c < -1.0, xp.inf, most)
        w = xp.where((c < 0) | (most < 0), xp.minimum(w, most), w)
        w = xp.maximum(w, xp.where(c > 0, turn, xp.where(c < 0, -xp.inf, -_LARGEST)))
        for _ in range(_HILL_STEPS):
            slope = c - 2.0 * _sigmoid(w)
            value = c * w - 2.0 * _softplus(w) - level
            step = xp.where(slope < 0, value / xp.where(slope < 0, slope, 1.0), 0.0)
            w = xp.maximum(w - step, xp.where(c > 0, turn, -_LARGEST))
        amount = self._amount(w)
        dear = xp.where((price > 0) & (self.scale > 0), self.inflection_excess, 0.0)
        ample = xp.where(self.scale > 0, self.saturation_excess, 0.0)
        return xp.where(paid, amount, xp.where(price > 0, dear, ample))

    def _amount(self, w: Any) -> Any:
        """K e^(w / h), rounded upwards: a steep curve rises within one rounding error."""
        xp = namespace_of(w)
        v = xp.minimum(w / self.power, _EXPONENT_LIMIT)
        amount = xp.minimum(self.half * xp.exp(v), _LARGEST)
        short = (amount > 0) & (self.power * self._log_share(amount) < w)
        return xp.where(short, xp.nextafter(amount, xp.inf), amount)

    def _inflection_w(self) -> Any:
        """w at the inflection, e^w = (h - 1) / (h + 1); some number where h <= 1."""
        xp = namespace_of(self.power)
        h = xp.where(self.power > 1, self.power, 2.0)
        return xp.where(h < 2, xp.log((h - 1.0) / (h + 1.0)), xp.log1p(-2.0 / (1.0 + h)))

    @property
    def inflection_excess(self) -> Any:
        xp = namespace_of(self.power)
        bend = self.half * xp.exp(self._inflection_w() / self.power)
        return xp.where(self.power > 1, bend, 0.0)

    @property
    def greatest_marginal(self) -> Any:
        return self.marginal_at(self.inflection_excess)

    @property
    def saturation_excess(self) -> Any:
        return self._amount(_SATURATION + 0.0 * self.power)

    def tangent_from_zero(self) -> tuple[Any, Any]:
        # U = b U' where 1 - sigma = 1/h, i.e. (b/K)^h = h - 1.
        with np.errstate(all="ignore"):
            h = np.asarray(self.power, dtype=np.float64)
            steep = np.where(h > 1, h, 2.0)
            excess = self._amount(np.log(steep - 1.0))
            slope = self.scale * ((steep - 1.0) / steep) / excess
            at_zero = self.marginal_at(0.0 * self.half)
            return np.where(h > 1, excess, 0.0), np.where(h > 1, slope, at_zero)

    def in_units(self, tokens: Any, accuracy: float) -> Self:
        return self.from_parameters(self.scale / accuracy, self.half / tokens, self.power)

    @property
    def has_cone_form(self) -> Any:
        return np.asarray(self.power) <= 1.0

    def cone_form(self, excess: Any, cvxpy: Any) -> tuple[Any, list[Any]]:
        # a - a / (1 + q) with q <= (b / K)^h: a second-order cone a member, and for h < 1 a power
        # cone. For h > 1 no such form is known: the curve is convex first.
        share = cvxpy.multiply(1.0 / np.asarray(self.half), excess)
        power = np.asarray(self.power)
        bent = np.flatnonzero(power < 1.0)
        raised, beside = share, []
        if bent.size:
            raised = cvxpy.Variable(power.size)
            straight = np.flatnonzero(power >= 1.0)
            one = np.ones(bent.size)
            beside.append(cvxpy.PowCone3D(share[bent], one, raised[bent], power[bent]))
            if straight.size:
                beside.append(raised[straight] <= share[straight])
        return cvxpy.multiply(np.asarray(self.scale), 1 - cvxpy.inv_pos(1 + raised)), beside

    def expression(self, excess: Any, exp: Any, member: int) -> Any:
        scale, half, power = (float(parameter[member]) for parameter in self.parameters)
        return scale - scale / (1 + (excess / half) ** power)
