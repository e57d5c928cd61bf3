"""Both real branches of Lambert's W, w e^w = x, to full double precision.

Written once over the array namespace of the argument, so that the same lines run in NumPy and,
traced, in JAX (which has no Lambert W). SciPy's complex routine is off by 1e-6 near the branch
point x = -1/e and some fifty times slower.

Method: a starting value good to a few 1e-4, then iterations of Fritsch, Shafer and Crowley (1973),
each of fourth order; near the branch point, where that iteration loses digits, the series in
p = sqrt(2 (e x + 1)) of Corless et al. (1996, eq. 4.22 to 4.25).
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
    p = xp.sqrt(-2.0 * xp.expm1(-delta))
    near = p < _SERIES_RADIUS
    safe = xp.where(near, 1.0, delta)
    # Barry et al. (2000), relative error 2.5e-4 for moderate arguments; far out, t ~ L + log(L).
    root = xp.sqrt(safe)
    correction = 0.3361 * root / math.sqrt(2.0) / (1.0 - 0.0042 * safe * xp.exp(-0.0201 * root))
    start = 1.0 + safe + 2.0 / 0.3361 * (1.0 - 1.0 / (1.0 + correction))
    t = xp.where(safe > 100.0, 1.0 + safe + xp.log(1.0 + safe), start)
    for _ in range(2):
        t = -_fritsch(-t, (t - 1.0) - xp.log(t) - safe)
    return xp.where(near, -_polynomial(_COEFFICIENTS, -xp.minimum(p, _SERIES_RADIUS)), t)


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


_COEFFICIENTS = _branch_point_coefficients(_SERIES_TERMS)
