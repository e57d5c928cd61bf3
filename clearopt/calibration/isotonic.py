"""Curves without a formula: the share of answers seen to be right within a cap.

With cut answers, the share is that of competing risks (Aalen and Johansen, Scandinavian Journal of
Statistics 5, 1978): an answer that was cut may still be either, and is taken to go on as the others
of its query did that were longer. Without any it is the plain share.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import gammaln, ndtri

from clearopt.calibration.predictive import Curves
from clearopt.calibration.rollouts import Rollouts
from clearopt.utilities import CostCurve, ExpectedTokens, Lognormal, Tabulated, Utility
from clearopt.validation import FloatArray

_BASE_POINTS = 32  # lengths that stand for a law with a formula
_BINS = 8  # of length, in which answers are compared with the base
_MOST_SAMPLES = 256  # equally likely lengths that stand for a law
_STRENGTHS = (1e-2, 1e4)  # of the base, in answers


@dataclass(frozen=True)
class Law:
    """Lengths at which answers ended, ascending, with the probability of each.

    Attributes:
        tokens: (k,) lengths.
        right, wrong: (k,) probability of a right, or wrong, answer of that length.

    What is left to 1 is the probability of an answer longer than anything seen.
    """

    tokens: FloatArray
    right: FloatArray
    wrong: FloatArray


def competing_law(tokens: FloatArray, right: NDArray[np.bool_], whole: NDArray[np.bool_]) -> Law:
    """The law of one query's answers, or of many queries' together."""
    times, at = np.unique(tokens, return_inverse=True)
    ended_right = np.bincount(at[whole & right], minlength=times.size)
    ended_wrong = np.bincount(at[whole & ~right], minlength=times.size)
    # Those cut at a length are still at risk there.
    everyone = np.bincount(at, minlength=times.size)
    at_risk = tokens.size - np.concatenate([[0], np.cumsum(everyone)[:-1]])
    survives = np.cumprod(1.0 - (ended_right + ended_wrong) / at_risk)
    before = np.concatenate([[1.0], survives[:-1]])
    some = (ended_right + ended_wrong) > 0
    return Law(
        times[some],
        (before * ended_right / at_risk)[some],
        (before * ended_wrong / at_risk)[some],
    )


class Isotonic(NamedTuple):
    """Tables of n queries.

    Attributes:
        curves: of each query.
        scale, error: (n,) the accuracy reached in the end, and its standard error.
        strength: how many answers the base counts for beside a query's own.
    """

    curves: Curves
    scale: FloatArray
    error: FloatArray
    strength: float


def sample_count(rollouts: Rollouts, queries: int, pooling: str) -> int:
    """How many equally likely lengths stand for each query's law: enough to be exact, if few do."""
    count = np.unique(np.bincount(rollouts.query, minlength=queries))
    if pooling != "none" or count[0] == 0:
        return _MOST_SAMPLES
    return min(math.lcm(*count.tolist()), _MOST_SAMPLES)


def base_laws(right: Utility, stretch: float) -> list[Law]:
    """Lognormal laws as a few equally likely lengths of right and of wrong answers each."""
    assert isinstance(right, Lognormal)
    share = (np.arange(_BASE_POINTS) + 0.5) / _BASE_POINTS
    places = np.exp(np.asarray(right.spread)[:, None] * ndtri(share))
    laws = []
    for scale, tokens in zip(right.scale, right.median[:, None] * places, strict=True):
        each = np.full(_BASE_POINTS, 1.0 / _BASE_POINTS)
        everything = np.concatenate([tokens, tokens * math.exp(stretch)])
        order = np.argsort(everything, kind="stable")
        rights = np.concatenate([scale * each, 0.0 * each])[order]
        wrongs = np.concatenate([0.0 * each, (1.0 - scale) * each])[order]
        laws.append(Law(everything[order], rights, wrongs))
    return laws


def tables(laws: list[Law], samples: int = _MOST_SAMPLES) -> Curves:
    """Step curves of right answers, and the tokens expected by `samples` lengths a law."""
    return Curves(_table(laws), _lengths(laws, samples))


def pooled_law(rollouts: Rollouts) -> Law:
    """The law of all answers together, by few enough lengths to stand for many queries."""
    return _coarse(competing_law(rollouts.tokens, rollouts.solved, rollouts.finished))


def isotonic_curves(
    rollouts: Rollouts, base: list[Law], samples: int, strength: float | None
) -> Isotonic:
    """Each query's measured law, mixed with a law that it starts from.

    The mean of a Dirichlet process given n answers: their law weighs n, the base weighs `strength`
    (Ferguson, Annals of Statistics 1, 1973).

    Args:
        rollouts: answers to queries 0, 1, ...
        base: what is thought of each query before its answers; its curve where it has none.
        samples: equally likely lengths that stand for a law.
        strength: how many answers the base is worth, 0 for nothing; None for that of the greatest
            likelihood.
    """
    order = np.argsort(rollouts.query, kind="stable")
    split = np.searchsorted(rollouts.query[order], np.arange(len(base) + 1))
    members = [order[a:b] for a, b in itertools.pairwise(split)]
    own = [
        competing_law(rollouts.tokens[m], rollouts.solved[m], rollouts.finished[m]) for m in members
    ]
    count = np.diff(split).astype(np.float64)
    if strength is None:
        strength = _strength(own, base, count)
    share = np.ones(count.size)
    if math.isfinite(strength):
        share = np.where(count > 0, strength / np.maximum(strength + count, 1e-9), 1.0)
    laws = [
        _mixture(law, prior, part)
        for law, prior, part in zip(own, base, share.tolist(), strict=True)
    ]
    last = np.array([law.right.sum() for law in laws])
    evidence = count + strength if math.isfinite(strength) else np.full(count.size, count.sum())
    middle = (last * evidence + 0.5) / (evidence + 1.0)
    error = np.sqrt(middle * (1 - middle) / (evidence + 1.0))
    return Isotonic(tables(laws, samples), last, error, strength)


def _strength(own: list[Law], base: list[Law], count: FloatArray) -> float:
    """How many answers the base is worth: greatest Dirichlet-multinomial likelihood.

    The outcomes are a right answer in each of some parts of the base's lengths, equally likely
    there, and any other.
    """
    expected, seen = np.zeros((2, count.size, _BINS + 1))
    for i, (law, prior) in enumerate(zip(own, base, strict=True)):
        rises = prior.right > 0
        places = np.arange(1, _BINS) / _BINS
        edges = np.quantile(prior.tokens[rises], places) if rises.any() else np.zeros(0)
        for target, source, weight in ((expected, prior, 1.0), (seen, law, count[i])):
            place = np.searchsorted(edges, source.tokens)
            target[i, :_BINS] = weight * np.bincount(place, source.right, minlength=_BINS)[:_BINS]
            target[i, _BINS] = max(weight - target[i].sum(), 0.0)
    expected = (expected + 1e-4) / (1.0 + 1e-4 * (_BINS + 1))

    def loss(log_strength: float) -> float:
        a = math.exp(log_strength) * expected
        each = (gammaln(a + seen) - gammaln(a)).sum(axis=1)
        whole = a.sum(axis=1)
        return -float((each - gammaln(whole + seen.sum(axis=1)) + gammaln(whole)).sum())

    low, high = np.log(_STRENGTHS)
    return math.exp(float(minimize_scalar(loss, bounds=(low, high), method="bounded").x))


def _coarse(law: Law) -> Law:
    """The law with its lengths moved up to few quantiles: never above its curve."""
    if law.tokens.size <= _MOST_SAMPLES:
        return law
    reached = np.cumsum(law.right + law.wrong)
    marks = np.searchsorted(reached, reached[-1] * np.arange(1, _MOST_SAMPLES) / _MOST_SAMPLES)
    marks = np.unique(np.append(marks, law.tokens.size - 1))
    group, size = np.searchsorted(marks, np.arange(law.tokens.size)), marks.size
    return Law(law.tokens[marks], _totals(group, law.right, size), _totals(group, law.wrong, size))


def _mixture(law: Law, pooled: Law, share: float) -> Law:
    if share <= 0.0:
        return law
    if share >= 1.0:
        return pooled
    tokens, at = np.unique(np.concatenate([law.tokens, pooled.tokens]), return_inverse=True)
    right, wrong = (
        _totals(at, np.concatenate([(1 - share) * x, share * y]), tokens.size)
        for x, y in ((law.right, pooled.right), (law.wrong, pooled.wrong))
    )
    return Law(tokens, right, wrong)


def _totals(group: NDArray[np.intp], values: FloatArray, size: int) -> FloatArray:
    return np.bincount(group, values, minlength=size).astype(np.float64)


def _table(laws: list[Law]) -> Tabulated:
    """Steps at the lengths of right answers; rows are padded at their ends, where nothing rises."""
    width = max(1, max(int((law.right > 0).sum()) for law in laws))
    grid, values = np.zeros((len(laws), width)), np.zeros((len(laws), width))
    for i, law in enumerate(laws):
        rises = law.right > 0
        tokens, reached = law.tokens[rises], np.minimum(np.cumsum(law.right[rises]), 1.0)
        missing = width - tokens.size
        last = tokens[-1] if tokens.size else 0.0
        grid[i] = np.concatenate([tokens, last + np.arange(1, missing + 1)])
        values[i] = np.concatenate([reached, np.full(missing, reached[-1] if tokens.size else 0.0)])
    return Tabulated(grid, values, "step")


def _lengths(laws: list[Law], samples: int) -> CostCurve:
    """E[min(T, b)] by equally likely lengths, as many in each law."""
    share = (np.arange(samples) + 0.5) / samples
    lengths, endless = np.zeros((len(laws), samples)), np.zeros((len(laws), samples), dtype=bool)
    for i, law in enumerate(laws):
        reached = np.cumsum(law.right + law.wrong)
        at = np.searchsorted(reached, share - 1e-9)
        endless[i] = at >= law.tokens.size
        lengths[i] = np.append(law.tokens, 0.0)[np.minimum(at, law.tokens.size)]
    return ExpectedTokens.from_lengths(lengths, endless)
