"""Paired bootstrap over queries: intervals for an accuracy, and for its ratio to a baseline's."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clearopt.errors import DeclarationError
from clearopt.validation import FloatArray

_BLOCK = 4_000_000  # resampled entries held at once
_TOLERANCE = 1e-12  # differences of accuracies below are rounding


@dataclass(frozen=True)
class Interval:
    """A value with its interval; None where there is none (see `paired_bootstrap`)."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, eq=False)
class Resampled:
    """Values of n queries under a resampling: their mean, and their sum in every draw."""

    mean: float
    sums: FloatArray


@dataclass(frozen=True)
class Comparison:
    """Accuracy, and ratio of accuracies to the baseline's."""

    accuracy: Interval
    ratio: Interval


class Resampling:
    """Bootstrap draws of n queries, the same for every comparison that is made with them.

    Args:
        n: how many queries there are, at least one.
        seed: of the draws; equal seeds draw equal queries.
        resamples: how many draws.
        level: of the intervals.

    Raises:
        DeclarationError: there is no query, or an option is out of range.
    """

    def __init__(
        self, n: int, *, seed: int = 0, resamples: int = 4000, level: float = 0.95
    ) -> None:
        if n < 1 or not 0 < level < 1 or resamples < 1:
            raise DeclarationError(
                f"Resampling: n = {n!r} and resamples = {resamples!r} must be at least 1, "
                f"level = {level!r} must lie between 0 and 1"
            )
        self.n = n
        self._tails = ((1 - level) / 2, (1 + level) / 2)
        # How often each draw has each query: a sum over a draw is then one product.
        times = _drawn_times(n, resamples, np.random.default_rng(seed))
        self._times = times if times.size > _BLOCK else times.astype(np.float64)

    def draw(self, values: FloatArray) -> Resampled:
        """(n,) values as they come out in every draw."""
        block = max(1, _BLOCK // self.n)
        starts = range(0, self._times.shape[0], block)
        sums = [self._times[start : start + block] @ values for start in starts]
        return Resampled(float(values.mean()), np.concatenate(sums))

    def compare(self, mine: Resampled, other: Resampled) -> Comparison:
        """The accuracy, and its ratio to the other's, with intervals."""
        with np.errstate(divide="ignore", invalid="ignore"):
            both_none = (mine.sums == 0) & (other.sums == 0)
            ratios = np.where(both_none, 1.0, mine.sums / other.sums)
        ratio = mine.mean / other.mean if other.mean > 0 else None
        return Comparison(
            accuracy=self._interval(mine.mean, mine.sums / self.n),
            ratio=self._interval(ratio, ratios),
        )

    def share_of_gain(self, mine: Resampled, base: Resampled, best: Resampled) -> Interval:
        """(mine - base) / (best - base); None where the best gains nothing on the base."""
        if best.mean - base.mean <= _TOLERANCE:
            return Interval(None, None, None)
        gain, most = mine.sums - base.sums, best.sums - base.sums
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = np.where(most > _TOLERANCE, gain / most, 0.0)
        return self._interval((mine.mean - base.mean) / (best.mean - base.mean), shares)

    def _interval(self, value: float | None, draws: FloatArray) -> Interval:
        # Order statistics: between a finite and an infinite ratio there is nothing to interpolate.
        low, high = np.quantile(draws, self._tails, method="inverted_cdf")
        return Interval(value, _finite(low), _finite(high))


def paired_bootstrap(
    correct: ArrayLike,
    baseline: ArrayLike,
    *,
    seed: int = 0,
    resamples: int = 4000,
    level: float = 0.95,
) -> Comparison:
    """Percentile intervals over queries, the same queries drawn for both sides.

    The interval covers the draw of evaluation queries and of the answers to them, not that of the
    calibration queries. A ratio to an accuracy of 0 is infinite, or 1 where both are 0; a value or
    a limit that is infinite is given as None, and so is the value where both accuracies are 0.

    Args:
        correct: (n,) whether each query was answered right.
        baseline: (n,) the same under the baseline.
        seed: of the resampling; equal seeds draw equal queries.
        resamples: how many.
        level: of the intervals.

    Raises:
        DeclarationError: lengths differ, there is no query, or an option is out of range.
    """
    mine, other = (np.asarray(a, dtype=np.float64) for a in (correct, baseline))
    if mine.ndim != 1 or mine.shape != other.shape or not mine.size:
        raise DeclarationError(
            f"paired_bootstrap: correct has shape {mine.shape}, baseline {other.shape}: give one "
            "entry a query in each, of at least one query"
        )
    resampling = Resampling(mine.size, seed=seed, resamples=resamples, level=level)
    return resampling.compare(resampling.draw(mine), resampling.draw(other))


def _drawn_times(n: int, resamples: int, rng: np.random.Generator) -> NDArray[np.uint16]:
    """(resamples, n) how often each query is drawn."""
    times = np.empty((resamples, n), dtype=np.uint16)
    block = max(1, _BLOCK // n)
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = rng.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        times[start : start + rows] = np.bincount(drawn.ravel(), minlength=rows * n).reshape(
            rows, n
        )
    return times


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
