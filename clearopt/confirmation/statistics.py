"""Paired bootstrap over queries: intervals for an accuracy, and for its ratio to a baseline's."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from clearopt.errors import DeclarationError
from clearopt.validation import FloatArray

_BLOCK = 4_000_000  # resampled entries held at once


@dataclass(frozen=True)
class Interval:
    """A value with its interval; None where there is none (see `paired_bootstrap`)."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Comparison:
    """Accuracy, and ratio of accuracies to the baseline's."""

    accuracy: Interval
    ratio: Interval


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
    if not 0 < level < 1 or resamples < 1:
        raise DeclarationError(
            f"paired_bootstrap: level = {level!r} must lie between 0 and 1, "
            f"resamples = {resamples!r} must be at least 1"
        )
    sums, other_sums = _resampled_sums(mine, other, resamples, np.random.default_rng(seed))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where((sums == 0) & (other_sums == 0), 1.0, sums / other_sums)
    tails = ((1 - level) / 2, (1 + level) / 2)
    # Order statistics: between a finite and an infinite ratio there is nothing to interpolate.
    ratio_low, ratio_high = np.quantile(ratios, tails, method="inverted_cdf")
    low, high = np.quantile(sums / mine.size, tails, method="inverted_cdf")
    base = other.mean()
    return Comparison(
        accuracy=Interval(float(mine.mean()), float(low), float(high)),
        ratio=Interval(
            float(mine.mean() / base) if base > 0 else None, _finite(ratio_low), _finite(ratio_high)
        ),
    )


def _resampled_sums(
    mine: FloatArray, other: FloatArray, resamples: int, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    block = max(1, _BLOCK // mine.size)
    parts = []
    for start in range(0, resamples, block):
        drawn = rng.integers(mine.size, size=(min(block, resamples - start), mine.size))
        parts.append((mine[drawn].sum(axis=1), other[drawn].sum(axis=1)))
    first, second = zip(*parts, strict=True)
    return np.concatenate(first), np.concatenate(second)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
