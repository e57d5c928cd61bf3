"""How well fitted curves describe the answers, and where the answers cannot support them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import kolmogorov

from clearopt.calibration.likelihood import Answers
from clearopt.calibration.population import Posterior
from clearopt.calibration.rollouts import Rollouts
from clearopt.validation import FloatArray

_BINS = 10
_NAMED = 5  # queries that a warning names before it counts the others
_DOUBT = 1e-3  # p-value below which the law of lengths is called into question
_FEW_QUERIES = 10  # fewer say little of a population
_MUCH_CUT = 0.5  # share of cut answers from which lengths are largely unknown


@dataclass(frozen=True)
class Goodness:
    """How well the curves describe answers that they were not fitted on, one left out at a time.

    Leaving one out is exact for each query given the population, which hardly moves. Where nothing
    is borrowed from other queries (`held_out` is False) the numbers are those of the very answers
    that were fitted, and flatter the curves.

    Attributes:
        held_out: whether each answer was left out.
        answers, cut: how many there were, and how many of them were cut.
        ks, ks_p_value: Kolmogorov-Smirnov distance of the lengths' probability integral transforms
            from uniform ones, and how probable a larger one is if the law holds.
        length_bins: (10,) share of the transforms in each tenth; 0.1 each if the law holds.
        brier, brier_base: squared error of the chance of a right answer, and of the same chance for
            all.
        chance_predicted, chance_observed, chance_count: (10,) tenths of the answers by predicted
            chance: mean prediction, share that was right, number.
    """

    held_out: bool
    answers: int
    cut: int
    ks: float
    ks_p_value: float
    length_bins: tuple[float, ...]
    brier: float
    brier_base: float
    chance_predicted: tuple[float, ...]
    chance_observed: tuple[float, ...]
    chance_count: tuple[int, ...]


@dataclass(frozen=True)
class Residuals:
    """Of whole answers: transforms of their lengths in [0, 1], predicted chances, outcomes."""

    transform: FloatArray
    predicted: FloatArray
    right: NDArray[np.bool_]


def residuals(
    answers: Answers, posterior: Posterior, rollouts: Rollouts, stretch: float, strength: float
) -> Residuals:
    """Each answer against what the others of its query and the population say.

    Args:
        answers, rollouts: the same answers.
        posterior: of each query, given all its answers.
        strength: how many answers the beta law of a chance counts for; infinite where the chance
            is not uncertain.
    """
    query = answers.query
    u, v = posterior.u[:, :, None], posterior.v[:, :, None]
    log_seen = answers.each_length(u, v, stretch)[:, :, 0]
    chance = posterior.chance[query]
    count = np.bincount(rollouts.query, minlength=answers.queries)[query].astype(np.float64)
    right = ~answers.wrong
    without = chance
    if np.isfinite(strength):
        total = (strength + count)[:, None]
        less = (chance * total - right[:, None]) / np.maximum(total - 1.0, 1e-9)
        without = np.clip(less, 1e-9, 1 - 1e-9)
    log_seen = log_seen + np.log(np.where(right[:, None], without, 1 - without) + 1e-300)
    # The posterior without an answer is the posterior over the answer's likelihood.
    log_weight = np.log(posterior.weight[query] + 1e-300) - log_seen
    weight = np.exp(log_weight - log_weight.max(axis=1, keepdims=True))
    weight /= weight.sum(axis=1, keepdims=True)
    y = (answers.y - stretch * answers.wrong)[:, None]
    below = -np.expm1(answers.law.log_survival(y, posterior.u[query], posterior.v[query]))
    return Residuals((weight * below).sum(axis=1), (weight * without).sum(axis=1), right)


def goodness(found: Sequence[Residuals], rollouts: Rollouts, held_out: bool) -> Goodness:
    """The residuals of all groups in a few numbers."""
    transform = np.sort(np.concatenate([r.transform for r in found]))
    predicted = np.concatenate([r.predicted for r in found])
    right = np.concatenate([r.right for r in found])
    size = transform.size
    distance, p_value, bins = 0.0, 1.0, np.zeros(_BINS)
    if size:
        steps = np.arange(size + 1) / size
        distance = float(max((steps[1:] - transform).max(), (transform - steps[:-1]).max()))
        p_value = float(kolmogorov(distance * np.sqrt(size)))
        bins = np.histogram(transform, bins=_BINS, range=(0.0, 1.0))[0] / size
    parts = np.array_split(np.argsort(predicted, kind="stable"), _BINS) if size else []
    parts = [part for part in parts if part.size]
    base = float(right.mean()) if size else 0.0
    return Goodness(
        held_out,
        len(rollouts),
        int((~rollouts.finished).sum()),
        distance,
        p_value,
        tuple(bins.tolist()),
        float(np.mean((predicted - right) ** 2)) if size else 0.0,
        base * (1 - base),
        tuple(float(predicted[part].mean()) for part in parts),
        tuple(float(right[part].mean()) for part in parts),
        tuple(int(part.size) for part in parts),
    )


def doubts(rollouts: Rollouts, queries: int, pooling: str, groups: NDArray[Any]) -> list[str]:
    """Where the answers cannot support a curve of a query's own, in sentences that name queries."""
    count, whole, right, long = (
        np.bincount(rollouts.query[mask], minlength=queries)
        for mask in (
            slice(None), rollouts.finished, rollouts.solved, rollouts.tokens > 0
        )
    )  # fmt: skip
    source = "the population" if pooling == "partial" else "all queries together"
    found = []

    def say(where: NDArray[np.bool_], what: str) -> None:
        if where.any():
            found.append(f"{named(np.flatnonzero(where))} {what}")

    say(count == 0, f"without any rollout: the curve is that of {source}")
    if pooling != "complete":
        say(
            (count > 0) & (whole == 0),
            "with cut answers alone: the lengths are only known to be larger than the caps",
        )
        say((whole == 1), f"with one whole answer: how far lengths spread comes from {source}")
        say(
            (whole > 0) & (right == 0),
            "without a right answer: that it is ever right comes from "
            + ("the population" if pooling == "partial" else "nowhere, and nothing is bought"),
        )
    say((count > 0) & (long == 0), "with answers of 0 tokens alone, which have no length")
    for label in np.unique(groups):
        inside = np.flatnonzero(groups == label)
        seen = int((count[inside] > 0).sum())
        if pooling == "partial" and 0 < seen < _FEW_QUERIES:
            of = "" if np.unique(groups).size == 1 else f" of group {label!s}"
            found.append(
                f"{seen} queries{of} have rollouts: too few to know the population well, which "
                "shrinkage takes as given"
            )
    share = float(np.mean(~rollouts.finished))
    if share > _MUCH_CUT:
        found.append(
            f"{share:.0%} of the answers were cut: what happens beyond their caps is extrapolated"
        )
    return found


def doubtful_law(fit: Goodness, family: str) -> list[str]:
    """A sentence where the lengths do not look like the family's."""
    if fit.ks_p_value >= _DOUBT:
        return []
    return [
        f"lengths do not follow the {family} law well: Kolmogorov-Smirnov distance {fit.ks:.3f}, "
        f"p = {fit.ks_p_value:.1g}; look at the plot of the fit"
    ]


def named(queries: NDArray[np.intp]) -> str:
    """The first queries by number, and how many more."""
    shown = ", ".join(str(int(q)) for q in queries[:_NAMED])
    more = f" (and {queries.size - _NAMED} more)" if queries.size > _NAMED else ""
    return f"{'query' if queries.size == 1 else 'queries'} {shown}{more}"
