"""From what is known of a query to the curve that is bought from.

Not knowing a query's parameters, its accuracy under a cap is the mean over what they may be, the
*posterior predictive*: a mixture of curves, wider than any of them. It is given back as the member
of the family that is closest to it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from clearopt.calibration.population import Posterior
from clearopt.utilities import (
    CostCurve,
    CumulativeSurge,
    ExpectedTokens,
    Lognormal,
    LognormalTokens,
    ShiftedSurge,
    Utility,
)
from clearopt.validation import FloatArray

_TURNS = 30  # of Newton's method in two unknowns; four or five are needed
_LARGEST_LOG = 600.0  # of an amount of tokens


class Curves(NamedTuple):
    """A utility and a cost curve with one member a query."""

    utility: Utility
    cost: CostCurve


def predictive(law: str, posterior: Posterior, stretch: float) -> Curves:
    """The expected curves of each query.

    Args:
        law: which family.
        posterior: nodes (n, Q) with weights.
        stretch: log of what wrong answers take over right ones.
    """
    n = posterior.u.shape[0]
    utility, cost = _PREDICTIVE[law](posterior, stretch)
    return Curves(utility.broadcast(n), cost.broadcast(n))


def _lognormal(posterior: Posterior, stretch: float) -> Curves:
    u, spread, chance = posterior.u, np.exp(posterior.v), posterior.chance
    scale = posterior.mean(chance)
    weight = _of_right_answers(posterior, scale)
    median, width = closest_normal(u, spread, weight)
    # Of all answers, by the first two moments of log(length), which spread more widely than the
    # closest law of the right ones: that keeps the utility S-shaped in its cost.
    means = np.concatenate([u, u + stretch], axis=1)
    weights = np.concatenate([posterior.weight * chance, posterior.weight * (1 - chance)], axis=1)
    centre = (weights * means).sum(axis=1)
    spreads = np.concatenate([spread, spread], axis=1)
    variance = (weights * (spreads**2 + (means - centre[:, None]) ** 2)).sum(axis=1)
    return Curves(
        Lognormal(scale, _exp(median), width),
        LognormalTokens(_exp(centre), np.maximum(np.sqrt(variance), width)),
    )


def _of_right_answers(posterior: Posterior, scale: FloatArray) -> FloatArray:
    """(n, Q) the nodes' weights among right answers: those that make them likely count for more."""
    never = scale <= 0  # then any weights do
    weight = posterior.weight * np.where(never[:, None], 1.0, posterior.chance)
    return weight / np.where(never, 1.0, scale)[:, None]


def closest_normal(
    mean: FloatArray, deviation: FloatArray, weight: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Mean and deviation, (n,), of the normal law G closest to a mixture F of normal ones.

    Least integral of (F - G)^2, the continuous ranked probability score between them: what counts
    is the error of the distribution function, which is the curve, and not the tails that a
    likelihood or a variance would look at. With r = sqrt(s_q^2 + s^2), the conditions are

        sum_q w_q Phi((m - m_q) / r) = 1/2,
        sum_q w_q (s / r) phi((m - m_q) / r) = phi(0) / sqrt(2)
    """
    m = (weight * mean).sum(axis=1)
    variance = (weight * (deviation**2 + (mean - m[:, None]) ** 2)).sum(axis=1)
    s = np.sqrt(variance)
    goal = 1.0 / math.sqrt(4.0 * math.pi)
    for _ in range(_TURNS):
        r = np.sqrt(deviation**2 + (s * s)[:, None])
        t = (m[:, None] - mean) / r
        density = weight * np.exp(-0.5 * t * t) / math.sqrt(2.0 * math.pi)
        off_centre = (weight * ndtr(t)).sum(axis=1) - 0.5
        off_width = s * (density / r).sum(axis=1) - goal
        # Their derivatives in m, and in s, of which t depends through r.
        f_m = (density / r).sum(axis=1)
        f_s = -(density * t / r**2).sum(axis=1) * s
        g_m = -s * (density * t / r**2).sum(axis=1)
        g_s = f_m + s * s * (density * (t * t - 1.0) / r**3).sum(axis=1)
        determinant = f_m * g_s - f_s * g_m
        safe = np.where(np.abs(determinant) > 1e-12 * (f_m * f_m), determinant, np.inf)
        step_m = (g_s * off_centre - f_s * off_width) / safe
        step_s = (f_m * off_width - g_m * off_centre) / safe
        m = m - np.clip(step_m, -0.5 * s, 0.5 * s)
        s = np.clip(s - step_s, 0.6 * s, 1.5 * s)
        if np.max(np.abs(step_m) + np.abs(step_s), initial=0.0) < 1e-12:
            break
    return m, s


class _Moments(NamedTuple):
    """Of a surge's law, in units of 1 / rate past the threshold: mean and standard deviation."""

    mean: float
    deviation: float


_GAMMA = _Moments(2.0, math.sqrt(2.0))  # of Gamma(2)
_RISE = _Moments(3.0 - math.e, math.sqrt(2.0 + 2.0 * math.e - math.e**2))  # P = e x e^-x, x <= 1


def _cumulative(posterior: Posterior, stretch: float) -> Curves:
    scale = posterior.mean(posterior.chance)
    tau, theta = _closest_surge(posterior, _of_right_answers(posterior, scale), _GAMMA)
    all_tau, all_theta = _of_all_answers(posterior, stretch, _GAMMA)
    # A surge is S-shaped in the tokens of another one that is as wide and starts before its bend.
    all_theta = np.maximum(all_theta, theta)
    return Curves(
        CumulativeSurge(scale, tau, 1.0 / theta),
        ExpectedTokens(np.minimum(all_tau, tau + all_theta), 1.0 / all_theta),
    )


def _shifted(posterior: Posterior, stretch: float) -> Curves:
    scale = posterior.mean(posterior.chance)
    tau, theta = _closest_surge(posterior, _of_right_answers(posterior, scale), _RISE)
    all_tau, all_theta = _of_all_answers(posterior, stretch, _RISE)
    return Curves(ShiftedSurge(scale, tau, 1.0 / theta), ExpectedTokens(all_tau, 1.0 / all_theta))


def _of_all_answers(
    posterior: Posterior, stretch: float, law: _Moments
) -> tuple[FloatArray, FloatArray]:
    """Threshold and 1 / rate of the Gamma(2) law closest to that of right and wrong answers."""
    chance = posterior.chance
    both = replace(
        posterior,
        u=np.concatenate([posterior.u, posterior.u + stretch], axis=1),
        v=np.concatenate([posterior.v, posterior.v + stretch], axis=1),
    )
    weight = np.concatenate([posterior.weight * chance, posterior.weight * (1 - chance)], axis=1)
    return _closest_surge(both, weight, law, _GAMMA)


def _closest_surge(
    posterior: Posterior, weight: FloatArray, law: _Moments, target: _Moments | None = None
) -> tuple[FloatArray, FloatArray]:
    """Threshold and 1 / rate, (n,), by the mean and variance of a mixture of surges of `law`."""
    target = law if target is None else target
    width = _exp(posterior.v)
    means = _exp(posterior.u) + law.mean * width
    mean = (weight * means).sum(axis=1)
    spreads = (law.deviation * width) ** 2 + (means - mean[:, None]) ** 2
    theta = np.sqrt((weight * spreads).sum(axis=1)) / target.deviation
    theta = np.minimum(theta, mean / target.mean)
    return np.maximum(mean - target.mean * theta, 0.0), theta


def _exp(logarithm: FloatArray) -> FloatArray:
    return np.exp(np.clip(logarithm, -_LARGEST_LOG, _LARGEST_LOG))


_PREDICTIVE = {
    "lognormal": _lognormal,
    "cumulative-surge": _cumulative,
    "shifted-surge": _shifted,
}
