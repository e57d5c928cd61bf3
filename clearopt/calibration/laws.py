"""What an answer says of its query: the laws of length, and the likelihood of one rollout.

Two numbers stand for a query's lengths, both logarithms of tokens or of a spread, so that any real
number is allowed: a *location* u and a *shape* v. With p the probability of a right answer with
ample tokens, every rollout has a likelihood that is linear in p,

    p A + (1 - p) B,

    right, whole:   A = f(T; u, v)        B = 0
    wrong, whole:   A = 0                 B = f(T / stretch; u, v)
    cut at T:       A = S(T; u, v)        B = S(T / stretch; u, v)

with f the density of the length and S the probability of a longer answer: a cut answer has a length
of more than T and may be either. Wrong answers take `stretch` times the tokens (they wander about),
and say as much of their query's length as right ones. One answer in a hundred follows no law at all
(empty, looping, broken off) and must not decide a query's curve: f and S are mixed with a wide law
common to all queries.

The surges are the paper's (arXiv 2606.03092) and their integral.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.special import log_ndtr

from clearopt.validation import FloatArray

STRAY = 0.01  # the share of answers that follow no law
_FLOOR = 1e-30  # stands for 0 before a logarithm is taken
_LARGEST = 700.0  # e^700 is a number still


class Wide(NamedTuple):
    """Mean and deviation of the logarithm of a stray answer's length; None: there are no strays."""

    mean: float
    deviation: float


class Law:
    """A law of length over (u, v); y is a log-length, arrays broadcast."""

    name: str
    smooth = True  # whether the density has neither a jump nor a kink
    jumps = False  # whether it starts at more than 0: the likelihood then has no slope in a stretch

    def log_density(self, y: FloatArray, u: FloatArray, v: FloatArray) -> FloatArray:
        """log f, as a density in y."""
        raise NotImplementedError

    def log_survival(self, y: FloatArray, u: FloatArray, v: FloatArray) -> FloatArray:
        """log P(log-length > y)."""
        raise NotImplementedError

    def whole(self, y: FloatArray, u: FloatArray, v: FloatArray, wide: Wide | None) -> FloatArray:
        """log A of a right answer; log B of a wrong one, its y less log(stretch)."""
        if wide is None:
            return self.log_density(y, u, v)
        z = (y - wide.mean) / wide.deviation
        stray = STRAY * np.exp(-0.5 * z * z) / (wide.deviation * math.sqrt(2.0 * math.pi))
        return np.log((1 - STRAY) * np.exp(self.log_density(y, u, v)) + np.maximum(stray, _FLOOR))

    def mixed(
        self, y: FloatArray, u: FloatArray, v: FloatArray, stretch: float, wide: Wide | None
    ) -> tuple[FloatArray, FloatArray]:
        """log A and log B of an answer that may be either: one that was cut."""
        if wide is None:
            return self.log_survival(y, u, v), self.log_survival(y - stretch, u, v)
        stray = math.log(STRAY) + log_ndtr((wide.mean - y) / wide.deviation)
        right, wrong = (
            np.logaddexp(math.log1p(-STRAY) + self.log_survival(at, u, v), stray)
            for at in (y, y - stretch)
        )
        return right, wrong


class LognormalLaw(Law):
    """log T ~ N(u, e^2v): u is the logarithm of the median, v that of the spread."""

    name = "lognormal"

    def log_density(self, y: FloatArray, u: FloatArray, v: FloatArray) -> FloatArray:
        z = (y - u) * np.exp(-v)
        return -0.5 * z * z - v - 0.5 * math.log(2.0 * math.pi)

    def log_survival(self, y: FloatArray, u: FloatArray, v: FloatArray) -> FloatArray:
        return np.asarray(log_ndtr((u - y) * np.exp(-v)))


class CumulativeSurgeLaw(Law):
    """T = e^u + Gamma(2, e^-v): threshold e^u, rate e^-v."""

    name = "cumulative-surge"
    smooth = False

    def log_density(self, y: FloatArray, u: FloatArray, v: FloatArray) -> FloatArray:
        x = np.maximum(_past(y, u, v), _FLOOR)
        return (y - v) + np.log(x) - x

    def log_survival(self, y: FloatArray, u: FloatArray, v: FloatArray) -> FloatArray:
        x = np.maximum(_past(y, u, v), 0.0)
        return np.log1p(x) - x


class ShiftedSurgeLaw(Law):
    """P(T <= b) = e x e^-x for x = (b - e^u) e^-v in [0, 1]: threshold e^u, rate e^-v.

    That is the surge up to its peak, where all right answers have ended. Its decay past the peak
    is the harm of a budget that the model is made to use up: no answer that ends when it likes can
    show it, and no allocation goes there.
    """

    name = "shifted-surge"
    smooth = False
    jumps = True

    def log_density(self, y: FloatArray, u: FloatArray, v: FloatArray) -> FloatArray:
        x = _past(y, u, v)
        inside = np.where((x >= 0) & (x < 1), 1.0 - x, _FLOOR)
        return (y - v) + np.log(inside) + 1.0 - np.clip(x, 0.0, 1.0)

    def log_survival(self, y: FloatArray, u: FloatArray, v: FloatArray) -> FloatArray:
        x = np.clip(_past(y, u, v), _FLOOR, 1.0)
        return np.log(np.maximum(-np.expm1(1.0 + np.log(x) - x), _FLOOR))


LAWS: Mapping[str, Law] = {
    law.name: law for law in (LognormalLaw(), CumulativeSurgeLaw(), ShiftedSurgeLaw())
}


def _past(y: FloatArray, u: FloatArray, v: FloatArray) -> FloatArray:
    """x = (T - threshold) rate, negative before the threshold."""
    return np.exp(np.minimum(y - v, _LARGEST)) - np.exp(np.minimum(u - v, _LARGEST))
