"""Utilities under an uncertain threshold: what to expect, and what to count on.

The threshold of a query is predicted but for an error, log(true / predicted) ~ N(0, s^2). What a
cap of b tokens is then worth is the expectation of U(b) over that law, again a curve of b:

- of a `Lognormal` it is a `Lognormal` with spread^2 + s^2: normal laws of log(length) add up;
- of a surge it has no closed form, and is tabulated at places between which it is nearly straight.

A cumulative surge stays S-shaped: it is the distribution function of threshold + Gamma(2), the
Gamma(2) law is log-concave, and adding such a length to one of any unimodal law leaves it unimodal
(Ibragimov, Theory of Probability and its Applications 1, 1956). A mean over a few thresholds that
lie apart surges several times. Either is a table here, which every certifying back-end solves
exactly whatever its shape, so nothing has to be refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from clearopt.errors import DeclarationError
from clearopt.utilities import CumulativeSurge, Lognormal, ShiftedSurge, Tabulated, Utility
from clearopt.validation import FloatArray, as_float_array, require

_KNOTS = 160  # of a table
_NODES = 256  # of a quadrature
_REACH = 5.0  # standard deviations of log(threshold), to either side
_LAST = 40.0  # 1 / rate after which a surge is over: (1 + 40) e^-40 < 2e-16
_NARROW = 2.0  # spread of the threshold, in units of 1 / rate, up to which it is integrated over


def expected_utility(utility: Utility, log_spread: ArrayLike) -> Utility:
    """The expectation of a utility whose threshold is known but for a factor e^N(0, log_spread^2).

    The threshold that `utility` has is taken as the middle (median) of the law.

    Args:
        utility: a `Lognormal` (whose `median` is the threshold), `CumulativeSurge` or
            `ShiftedSurge`.
        log_spread: standard deviation of log(threshold), number or (m,); at least 0.

    Returns:
        A `Lognormal`, exact; of a surge a `Tabulated`, within 1e-3 of the scale.

    Raises:
        DeclarationError: another family, or a spread that is negative or not finite.
    """
    spread = _checked_spread(utility, log_spread)
    if isinstance(utility, Lognormal):
        return Lognormal(utility.scale, utility.median, np.hypot(utility.spread, spread))
    if not isinstance(utility, CumulativeSurge | ShiftedSurge):
        raise _unknown(utility, "expected_utility")
    members = _members(utility.scale, utility.threshold, utility.rate, spread)
    law = _cumulative if isinstance(utility, CumulativeSurge) else _shifted
    tables = []
    for scale, threshold, rate, s in members:
        nodes = threshold * np.exp(s * np.linspace(-_REACH, _REACH, 41))
        curve = partial(law, threshold=threshold, rate=rate, s=s)
        grid, values = _table(curve, nodes, rate)
        tables.append((grid, scale * values))
    grids, values = (np.stack(column) for column in zip(*tables, strict=True))
    return Tabulated(grids, values)


def mixture_utility(
    utility: Utility, thresholds: ArrayLike, weights: ArrayLike | None = None
) -> Tabulated:
    """The mean of a utility over k thresholds a query: samples of a posterior, or an ensemble's.

    Args:
        utility: a `Lognormal`, `CumulativeSurge` or `ShiftedSurge`; its own threshold is not used.
        thresholds: (m, k) tokens; positive for a `Lognormal`.
        weights: (k,) at least 0, of sum 1; by default all alike.

    Returns:
        A table of m curves, within 1e-3 of the scale; exact in its shape, however often it surges.

    Raises:
        DeclarationError: another family, a threshold that is negative or not finite, or weights
            that do not sum to 1.
    """
    if not isinstance(utility, CumulativeSurge | ShiftedSurge | Lognormal):
        raise _unknown(utility, "mixture_utility")
    given = np.asarray(thresholds, dtype=np.float64)
    if given.ndim != 2 or not given.size:
        raise DeclarationError(
            f"thresholds: expected (queries, samples), got {given.shape}: give one row a query"
        )
    for k, column in enumerate(given.T):
        require(
            column, np.isfinite(column) & (column >= 0), f"thresholds, sample {k}",
            "must be finite, at least 0 tokens",
        )  # fmt: skip
    m, count = given.shape
    share = np.full(count, 1.0 / count) if weights is None else as_float_array(weights, "weights")
    if share.shape != (count,):
        raise DeclarationError(f"weights: shape {share.shape} for {count} samples a query")
    require(share, share >= 0, "weights", "must be at least 0")
    if not math.isclose(float(share.sum()), 1.0, rel_tol=1e-9):
        raise DeclarationError(f"weights: they sum to {share.sum():g}; they must sum to 1")
    whole = utility.broadcast(m)
    tables = []
    for i in range(m):
        each = with_threshold(whole.take(np.full(count, i)), given[i])
        rate = whole.rate[i] if not isinstance(whole, Lognormal) else 1.0 / given[i].max()
        nodes = given[i]
        if isinstance(whole, Lognormal):
            spread = np.linspace(-_REACH, _REACH, 41) * whole.spread[i]
            nodes = np.ravel(given[i][:, None] * np.exp(spread))
        tables.append(_table(partial(_averaged, utility=each, share=share), nodes, rate))
    grids, values = (np.stack(column) for column in zip(*tables, strict=True))
    return Tabulated(grids, values)


def chance_constrained(
    utility: Utility, log_spread: ArrayLike, risk: float, *, jointly: bool = False
) -> Utility:
    """The utility at the threshold that is exceeded with probability `risk` alone.

    A cap that this curve credits with some accuracy reaches it, or more, with probability
    1 - risk: the utility falls as the threshold rises. With `jointly` all queries do so at once
    with probability 1 - risk, each of n at risk / n (Bonferroni), however their errors depend on
    each other; with many queries that is a dear promise.

    Args:
        utility: a `Lognormal` or `CumulativeSurge`; its threshold (`median`) is the middle of the
            law. A `ShiftedSurge` is refused: too low a threshold harms it as well.
        log_spread: standard deviation of log(threshold), number or (m,); at least 0.
        risk: in (0, 1); below 0.5 it is a margin, at 0.5 none.
        jointly: for all queries at once.

    Raises:
        DeclarationError: another family, a risk outside (0, 1), or a spread that is negative.
    """
    from scipy.special import ndtri

    if not 0 < risk < 1:
        raise DeclarationError(f"risk = {risk!r}: must lie between 0 and 1")
    spread = _checked_spread(utility, log_spread)
    if isinstance(utility, ShiftedSurge):
        raise DeclarationError(
            "chance_constrained: a ShiftedSurge decays past its peak, so a threshold lower than "
            "predicted harms it too; use a CumulativeSurge, or expected_utility"
        )
    if not isinstance(utility, CumulativeSurge | Lognormal):
        raise _unknown(utility, "chance_constrained")
    queries = max(int(np.size(value)) for value in (*utility.parameters, spread))
    each = risk / queries if jointly else risk
    return with_threshold(utility, threshold_of(utility) * np.exp(-ndtri(each) * spread))


# -------------------------------------------------------------------------------- thresholds
def threshold_of(utility: Utility) -> Any:
    """The threshold of a surge, the median of a `Lognormal`; tokens."""
    if isinstance(utility, Lognormal):
        return utility.median
    if isinstance(utility, CumulativeSurge | ShiftedSurge):
        return utility.threshold
    raise _unknown(utility, "a threshold")


def with_threshold(utility: Utility, threshold: ArrayLike) -> Utility:
    """The same curves, surging elsewhere."""
    if isinstance(utility, Lognormal):
        return Lognormal(utility.scale, threshold, utility.spread)
    if isinstance(utility, CumulativeSurge | ShiftedSurge):
        return type(utility)(utility.scale, threshold, utility.rate)
    raise _unknown(utility, "a threshold")


def _checked_spread(utility: Utility, log_spread: ArrayLike) -> FloatArray:
    spread = as_float_array(log_spread, "log_spread")
    require(spread, spread >= 0, "log_spread", "must be at least 0")
    lengths = {int(np.size(v)) for v in utility.parameters if np.ndim(v)}
    if spread.ndim and lengths and spread.size not in lengths:
        raise DeclarationError(
            f"log_spread has length {spread.size}, the utility {max(lengths)}: give one number, or "
            "one a query"
        )
    return spread


def _unknown(utility: Utility, what: str) -> DeclarationError:
    return DeclarationError(
        f"{what}: got {type(utility).__name__}; known are Lognormal, CumulativeSurge and "
        "ShiftedSurge. Of another curve, tabulate the expectation: Tabulated(grid, values)"
    )


def _members(*parameters: Any) -> list[tuple[float, ...]]:
    """One tuple a query."""
    arrays = np.broadcast_arrays(*(np.atleast_1d(np.asarray(value)) for value in parameters))
    return list(zip(*(array.tolist() for array in arrays), strict=True))


# -------------------------------------------------------------------------------- the integral
# Two quadratures of the same integral. Over the threshold, while its law is no wider than the
# surge, so that the nodes lie close in units of 1 / rate; else over what follows the threshold,
# where the threshold's own distribution function, or density, is the smooth factor.
@lru_cache(maxsize=1)
def _gauss() -> tuple[FloatArray, FloatArray]:
    """(nodes,) places in [-1, 1] and their weights."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return nodes, weights


def _averaged(tokens: FloatArray, utility: Utility, share: FloatArray) -> FloatArray:
    """(G,) the mean of the members, with these weights, at tokens (G,)."""
    return np.asarray(utility.value(tokens[:, None]) @ share)


def _over_thresholds(
    surge: CumulativeSurge | ShiftedSurge, tokens: FloatArray, s: float
) -> FloatArray:
    nodes, weights = _gauss()
    z = _REACH * nodes
    weight = weights * np.exp(-0.5 * z * z)
    places = surge.threshold * np.exp(s * z)
    value = type(surge)(1.0, places, surge.rate).value(tokens[:, None])
    return np.asarray(value @ (weight / weight.sum()))


def _cumulative(tokens: FloatArray, threshold: float, rate: float, s: float) -> FloatArray:
    """(G,) E[1 - (1 + y) e^-y], at tokens (G,)."""
    from scipy.special import ndtr

    if s * rate * threshold <= _NARROW:
        return _over_thresholds(CumulativeSurge(1.0, threshold, rate), tokens, s)
    nodes, weights = _gauss()
    y = 0.5 * _LAST * (1.0 + nodes)
    weight = weights * y * np.exp(-y)
    before = np.maximum(tokens[:, None] - y / rate, 0.0)
    with np.errstate(divide="ignore"):
        reached = ndtr(np.log(before / threshold) / s)
    return np.asarray(reached @ (weight / weight.sum()))


def _shifted(tokens: FloatArray, threshold: float, rate: float, s: float) -> FloatArray:
    """(G,) E[y e^(1 - y)], at tokens (G,)."""
    if s * rate * threshold <= _NARROW:
        return _over_thresholds(ShiftedSurge(1.0, threshold, rate), tokens, s)
    nodes, weights = _gauss()
    y = 0.5 * _LAST * (1.0 + nodes)
    weight = 0.5 * _LAST * weights * y * np.exp(1.0 - y)
    before = tokens[:, None] - y / rate
    some = np.where(before > 0, before, threshold)
    z = np.log(some / threshold) / s
    density = np.exp(-0.5 * z * z) / (math.sqrt(2.0 * math.pi) * s * some * rate)
    return np.asarray(np.where(before > 0, density, 0.0) @ weight)


def _table(
    curve: Callable[[FloatArray], FloatArray], thresholds: FloatArray, rate: float
) -> tuple[FloatArray, FloatArray]:
    """(knots,) places from 0 on and the curve's values there, denser where it bends more.

    Straight lines between knots h apart miss a curve by h^2 |U''| / 8 at most: knots are spaced
    like |U''|^(-1/2), which makes that the same everywhere.
    """
    after = np.concatenate([[0.0], np.geomspace(0.05, _LAST, 32)]) / rate
    chosen = thresholds[np.linspace(0, thresholds.size - 1, min(thresholds.size, 8)).astype(int)]
    dense = np.unique(np.concatenate([[0.0], thresholds, np.ravel(chosen[:, None] + after)]))
    dense = np.unique(np.concatenate([dense, 0.5 * (dense[1:] + dense[:-1])]))
    values = curve(dense)
    width = np.diff(dense)
    slope = np.diff(values) / width
    bend = np.abs(np.diff(slope)) / (0.5 * (width[1:] + width[:-1]))
    # What a stretch counts: its length by the root of the bend at its ends, a little at least.
    root = np.sqrt(np.concatenate([bend[:1], bend, bend[-1:]]))
    count = width * np.maximum(root[1:], root[:-1])
    count = count + 0.05 * count.sum() / count.size
    along = np.concatenate([[0.0], np.cumsum(count)])
    places = np.interp(np.linspace(0.0, along[-1], _KNOTS), along, dense)
    # At rounding's distance two knots would be one.
    places = np.maximum.accumulate(places)
    step = np.spacing(places[-1]) * np.arange(places.size)
    return places + step, np.clip(curve(places + step), 0.0, 1.0)
