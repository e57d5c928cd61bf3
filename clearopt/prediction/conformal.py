"""Intervals around predictions that hold whatever the law of the errors: cross-conformal (CV+).

With R_i the error of query i under the model that did not see its fold, and m_i(x) what that model
predicts for a new query, the interval at level 1 - alpha reaches from the floor(alpha (n + 1))-th
smallest of m_i(x) - R_i to the ceil((1 - alpha)(n + 1))-th smallest of m_i(x) + R_i. If old and new
queries are exchangeable it covers the new target with probability at least 1 - 2 alpha, less
a term of order 1/sqrt(n), and in practice about 1 - alpha (Barber, Candes, Ramdas and Tibshirani,
Annals of Statistics 49, 2021). Around a pair of quantiles instead of a mean it is the same with
R_i how far outside of the pair the target lies (Romano, Patterson and Candes, NeurIPS 2019).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clearopt.errors import DeclarationError
from clearopt.prediction.regression import CrossFitted, Model, folds_of, quantile_path
from clearopt.validation import FloatArray

_FOLDS = 5  # of quantile regression
_BLOCK = 4_000_000  # entries held at once


@dataclass(frozen=True, eq=False)
class Conformal:
    """What intervals are made from; `around_mean` and `around_quantiles` make it.

    Attributes:
        lower, upper: (K,) models fitted without one fold; the same where they are a mean.
        fold: (n,) which of them did not see a query.
        below, above: (n,) how far each query's own target lies below the lower of the two, and
            above the upper; negative where it does not.
        level: the only level that intervals are made for; None where any is.
    """

    lower: tuple[Model, ...]
    upper: tuple[Model, ...]
    fold: NDArray[np.intp]
    below: FloatArray
    above: FloatArray
    level: float | None = None

    def interval(self, x: FloatArray, level: float | None) -> tuple[FloatArray, FloatArray]:
        """(n,) lower and upper ends at (n, d) features; infinite where there are too few queries.

        Raises:
            DeclarationError: the level is not between 0 and 1, or not the one of the quantiles.
        """
        if level is None:
            level = 0.9 if self.level is None else self.level
        if not 0 < level < 1:
            raise DeclarationError(f"level = {level!r}: must lie between 0 and 1")
        if self.level is not None and level != self.level:
            raise DeclarationError(
                f"level = {level!r}: the quantiles were fitted for {self.level:g}; fit again with "
                f"level={level:g}, or with intervals='conformal' for any level"
            )
        outside = np.maximum(self.below, self.above)
        low = self._reached(self.lower, -1.0, outside, x, level)
        return -low, self._reached(self.upper, 1.0, outside, x, level)

    def upper_end(self, x: FloatArray, level: float) -> FloatArray:
        """(n,) the upper end alone: the target lies below it with probability of about `level`."""
        if not 0 < level < 1:
            raise DeclarationError(f"level = {level!r}: must lie between 0 and 1")
        return self._reached(self.upper, 1.0, self.above, x, level)

    def _reached(
        self, models: tuple[Model, ...], sign: float, score: FloatArray, x: FloatArray, level: float
    ) -> FloatArray:
        """(n,) the ceil(level (n + 1))-th smallest of sign * m_i(x) + R_i."""
        count = score.size
        place = math.ceil(level * (count + 1) - 1e-9)
        if place > count:
            return np.full(x.shape[0], np.inf)
        found = np.empty(x.shape[0])
        block = max(1, _BLOCK // count)
        for start in range(0, x.shape[0], block):
            part = slice(start, start + block)
            by_fold = sign * np.stack([model(x[part]) for model in models], axis=1)
            reached = by_fold[:, self.fold] + score
            found[part] = np.partition(reached, place - 1, axis=1)[:, place - 1]
        return found


def around_mean(regression: CrossFitted, y: FloatArray) -> Conformal:
    """Intervals of one width around a regression's predictions, at any level."""
    above = y - regression.held_out
    return Conformal(regression.folds, regression.folds, regression.fold, -above, above)


def around_quantiles(
    x: FloatArray, y: FloatArray, weight: FloatArray, level: float, seed: int
) -> Conformal:
    """Intervals as wide as the features say, from quantile regression, at one level.

    Raises:
        DeclarationError: the level is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise DeclarationError(f"level = {level!r}: must lie between 0 and 1")
    levels = ((1.0 - level) / 2.0, (1.0 + level) / 2.0)
    fold, below, above = folds_of(y.size, _FOLDS, seed), np.empty(y.size), np.empty(y.size)
    pairs = []
    for k in range(int(fold.max()) + 1):
        seen, left = fold != k, fold == k
        low, high = quantile_path(x[seen], y[seen], weight[seen], levels)
        below[left], above[left] = low(x[left]) - y[left], y[left] - high(x[left])
        pairs.append((low, high))
    lower, upper = zip(*pairs, strict=True)
    return Conformal(lower, upper, fold, below, above, level)
