"""Both real branches of Lambert's W, w e^w = x, to full double precision.

Written once over the array namespace of the argument, so that the same lines run in NumPy and,
traced, in JAX (which has no Lambert W). SciPy's complex routine is off by 1e-6 near the branch
point x = -1/e and some fifty times slower.

Method: a starting value good to a few 1e-4, then iterations of Fritsch, Shafer and Crowley (1973),
each of fourth order (for the lower branch the first of them in single precision); near the branch
point, where that iteration loses digits, a series: in p = sqrt(2 (e x + 1)), of Corless et al.
(1996, eq. 4.22 to 4.25), or in the root of the logarithm where that is what is given.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

# 1/e as an unevaluated sum of two doubles: x + 1/e must keep its digits when x is close to -1/e.
_INV_E_HIGH = 0.36787944117144233
_INV_E_LOW = -1.2428753672788363e-17
_SERIES_RADIUS = 0.25  # below this |p|, 22 terms leave less than one rounding error
_SERIES_TERMS = 22
_LOG_SERIES_RADIUS = 0.3  # below this q, 15 terms leave less than one rounding error
_LOG_SERIES_TERMS = 15


def _branch_point_coefficients(terms: int) -> tuple[float, ...]:
    """Coefficients mu_k of W = sum_k mu_k p^k (Corless et al. 1996, eq. 4.23 and 4.24)."""
    mu, alpha = [-1.0, 1.0], [2.0, -1.0]
    for k in range(2, terms):
        alpha.append(math.fsum(mu[j] * mu[k + 1 - j] for j in range(2, k)))
        mu.append(
            (k - 1) / (k + 1) * (mu[k - 2] / 2 + alpha[k - 2] / 4)
            - alpha[k] / 2
            - mu[k - 1] / (k + 1)
        )
    return tuple(mu)


def _distance_from_branch_point(x: Any) -> Any:
    """p = sqrt(2 (e x + 1)), to full precision next to -1/e; past p = 2 its value has no use."""
    xp = namespace_of(x)
    # A constant correction XLA would fold into the constant before it, and lose.
    correction = xp.where(x < 0, _INV_E_LOW, 0.0)
    above_branch = xp.clip((x + _INV_E_HIGH) + correction, 0.0, 1.0)
    return xp.sqrt(2.0 * math.e * above_branch)


def _polynomial(coefficients: tuple[float, ...], p: Any) -> Any:
    total = p * 0.0 + coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        total = total * p + coefficient
    return total


def namespace_of(array: Any) -> ModuleType:
    """The array namespace (numpy or jax.numpy) that `array` belongs to."""
    return array.__array_namespace__()


def principal(x: Any) -> Any:
    """W_0(x) for x >= -1/e, elementwise; smaller x is taken as -1/e (where W = -1)."""
    xp = namespace_of(x)
    p = _distance_from_branch_point(x)
    near = p < _SERIES_RADIUS
    tiny = xp.abs(x) < 1e-9  # here W = x - x^2 to full precision, and log(x / w) has no meaning
    huge = x > 1e300  # 1 + x may overflow below
    safe = xp.where(near | tiny, 1.0, x)
    # Starting value: the series where it is good to 1e-7, else Winitzki (2003), good to 2e-2.
    log_x = xp.where(huge, xp.log(xp.maximum(safe, 1.0)), xp.log1p(xp.where(huge, 1.0, safe)))
    series = _polynomial(_COEFFICIENTS, xp.minimum(p, 0.7))
    w = xp.where(p < 0.7, series, log_x * (1.0 - xp.log1p(log_x) / (2.0 + log_x)))
    w = xp.where(near | tiny, 0.5, w)
    for _ in range(2):
        w = _fritsch(w, xp.log(safe / w) - w)
    small = xp.where(tiny, x, 0.0)
    return xp.where(tiny, small - small * small, xp.where(near, series, w))


def lower_from_log(delta: Any) -> Any:
    """t = -W_{-1}(-e^{-(1 + delta)}), the root t >= 1 of t - log(t) = 1 + delta, for delta >= 0.

    In this form the lower branch neither over- nor underflows: `delta` may be a thousand where
    e^{-delta} is no longer a number. Negative `delta` is taken as 0 (t = 1).
    """
    xp = namespace_of(delta)
    delta = xp.maximum(delta, 0.0)
    q = xp.sqrt(2.0 * delta)
    near = q < _LOG_SERIES_RADIUS
    endless = delta > 1e30  # t is delta to full precision, and single precision may overflow
    safe = xp.where(near | endless, 1.0, delta)
    t = xp.asarray(_lower_start(xp, safe.astype(xp.float32)), dtype=safe.dtype)
    t = -_fritsch(-t, (t - 1.0) - xp.log(t) - safe)
    series = _polynomial(_LOG_COEFFICIENTS, xp.minimum(q, _LOG_SERIES_RADIUS))
    return xp.where(near, series, xp.where(endless, delta, t))


def _lower_start(xp: ModuleType, delta: Any) -> Any:
    """`lower_from_log` to single precision, in single precision: that costs a fraction.

    Barry et al. (2000), relative error 2.5e-4 for moderate arguments (far out, t ~ L + log(L)), and
    one step of fourth order.
    """
    root = xp.sqrt(delta)
    correction = (0.3361 / math.sqrt(2.0)) * root
    correction = correction / (1.0 - 0.0042 * delta * xp.exp(-0.0201 * root))
    start = 1.0 + delta + (2.0 / 0.3361) * (1.0 - 1.0 / (1.0 + correction))
    t = xp.where(delta > 100.0, 1.0 + delta + xp.log(1.0 + delta), start)
    return -_fritsch(-t, (t - 1.0) - xp.log(t) - delta)


def lower(x: Any) -> Any:
    """W_{-1}(x) for -1/e <= x < 0, elementwise (-inf at 0); outside, the nearest end is taken."""
    xp = namespace_of(x)
    p = _distance_from_branch_point(x)
    near = p < _SERIES_RADIUS
    zero = x >= 0.0
    safe = xp.where(zero | near, -0.1, x)
    far = -lower_from_log(-xp.log(-safe) - 1.0)
    w = xp.where(near, _polynomial(_COEFFICIENTS, -xp.minimum(p, _SERIES_RADIUS)), far)
    return xp.where(zero, -math.inf, w)


def _fritsch(w: Any, z: Any) -> Any:
    """One step of fourth order from `w`, given z = log(x / w) - w."""
    # As published, q = 2 (1 + w) (1 + w + 2 z / 3) and w (1 + z / (1 + w) * (q - z) / (q - 2 z));
    # divided through by 1 + w, so that no square can overflow.
    one_plus_w = 1.0 + w
    r = z / one_plus_w
    return w * (1.0 + r * (1.0 + r / (2.0 * (one_plus_w + 2.0 / 3.0 * z) - 2.0 * r)))


def _log_coefficients(terms: int) -> tuple[float, ...]:
    """Coefficients a_k of t = sum_k a_k q^k for t - log(t) = 1 + q^2 / 2.

    From (t - 1) dt/dq = q t; the series converges up to |q| = 2 sqrt(pi).
    """
    a = [1.0, 1.0]
    for k in range(2, terms):
        # The coefficients of q^k on both sides, the terms with a_k on the left.
        inner = math.fsum(a[j] * (k + 1 - j) * a[k + 1 - j] for j in range(2, k))
        a.append((a[k - 1] - inner) / (k + 1))
    return tuple(a)


_COEFFICIENTS = _branch_point_coefficients(_SERIES_TERMS)
_LOG_COEFFICIENTS = _log_coefficients(_LOG_SERIES_TERMS)
