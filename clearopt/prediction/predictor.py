"""`fit_predictor`: each query's utility, cost curve and threshold from its features alone.

Accuracy under a cap of b tokens is P(right) P(T <= b | right). Both parts are regressed on the
features x of queries whose rollouts are known:

- P(right | x), through a logistic link, each query with as much weight as it has answers;
- log T of right answers, weighted by precision, 1 / (s_b^2 + s_w^2 / k), and by the share of the
  query's answers that are right: the law that is wanted is that of right answers, and queries that
  are rarely right have few of them.

A new query's own mean is not known but for an error of the regression, and its answers scatter
around that mean. How far the two together lead was seen on held-out training queries, and that is
the predictive distribution: either as it was measured, a `Tabulated` utility (models have a least
length that no normal law knows), or as a normal law of log T. The normal variances of error and
scatter add up, so the expected accuracy is a `Lognormal` utility then, S-shaped. What an answer
costs, right or wrong, is a `LognormalTokens` curve.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from clearopt.calibration import CalibrationError, Rollouts
from clearopt.errors import DeclarationError
from clearopt.prediction.conformal import Conformal, around_mean, around_quantiles
from clearopt.prediction.features import Features, FeaturesLike, as_features
from clearopt.prediction.regression import CrossFitted, Learner, Model, cross_fit, learners
from clearopt.prediction.summaries import Summaries, summarise
from clearopt.utilities import Lognormal, LognormalTokens, Tabulated
from clearopt.validation import FloatArray

_FEWEST = 10  # queries with a right answer: of fewer no regression is made
_LEVELS = np.concatenate([[0.0], (np.arange(48) + 0.5) / 48.0, [1.0]])  # of measured laws
_LEAST_SPREAD = 0.02  # of log T: no step functions
_LEAST_SHARE = 1e-3  # of answers that are right: no query is written off for certain


class PredictionWarning(UserWarning):
    """The predictor is less than what was asked for; the message says in what."""


@dataclass(frozen=True, eq=False)
class Predicted:
    """What a predictor says of n queries. Arrays have shape (n,).

    Attributes:
        solve: probability that an answer is right with ample tokens.
        threshold: tokens within which half of the right answers are expected to end.
        spread: standard deviation of the log length of a right answer around its prediction.
        threshold_spread: standard deviation of the query's own log threshold around its prediction:
            `spread` without what the answers of one query scatter.
        cost_threshold, cost_spread: the same of all answers, right or wrong.
    """

    solve: FloatArray
    threshold: FloatArray
    spread: FloatArray
    threshold_spread: FloatArray
    cost_threshold: FloatArray
    cost_spread: FloatArray
    _quantiles: FloatArray | None
    _conformal: Conformal
    _x: FloatArray

    def __len__(self) -> int:
        return int(self.solve.size)

    @property
    def utilities(self) -> Lognormal | Tabulated:
        """Expected accuracy under a cap, over the predictive distribution: n members."""
        if self._quantiles is None:
            return Lognormal(self.solve, self.threshold, self.spread)
        grid = self.threshold[:, None] * np.exp(self.spread[:, None] * self._quantiles)
        # Quantiles that coincide are kept apart by rounding's distance, as a table wants them.
        grid = np.maximum.accumulate(grid, axis=1)
        grid = grid + np.spacing(grid[:, -1:]) * np.arange(grid.shape[1])
        return Tabulated(grid, self.solve[:, None] * _LEVELS)

    @property
    def known_threshold(self) -> Lognormal:
        """The utility if the predicted threshold were the true one, by normal laws.

        `clearopt.robust` takes it, beside `threshold_spread`.
        """
        own = np.sqrt(np.maximum(self.spread**2 - self.threshold_spread**2, _LEAST_SPREAD**2))
        return Lognormal(self.solve, self.threshold, own)

    @property
    def cost_curves(self) -> LognormalTokens:
        """E[min(T, b)], over the predictive distribution: n members."""
        # At least as wide as the utility: then it is S-shaped in what is really spent, too.
        spread = np.maximum(self.cost_spread, self.spread)
        return LognormalTokens(self.cost_threshold, spread)

    def interval(self, level: float | None = None) -> tuple[FloatArray, FloatArray]:
        """(low, high), tokens: where the threshold lies that a query's own rollouts will show.

        That is the geometric mean length of its right answers, of as many as the training queries
        had, for a query that has any. Whatever the law of the errors, it is covered with a
        probability of about `level`, of at least 2 `level` - 1 (see `prediction.conformal`), if
        the query is drawn as the training queries were. With few training queries the ends may be
        0 and infinite.

        Args:
            level: 0.9 by default, or that of the quantiles, where they were asked for.

        Raises:
            DeclarationError: the level is out of range, or not that of the quantiles.
        """
        low, high = self._conformal.interval(self._x, level)
        with np.errstate(over="ignore"):
            return np.exp(low), np.exp(high)

    def threshold_below(self, level: float) -> FloatArray:
        """(n,) tokens below which the threshold lies, with a probability of about `level`."""
        with np.errstate(over="ignore"):
            return np.exp(self._conformal.upper_end(self._x, level))


@dataclass(frozen=True, eq=False)
class Predictor:
    """Made by `fit_predictor`.

    Attributes:
        names: the features, in their order.
        queries: how many it was fitted on; of these, `with_right` have a right answer.
        signal: "length", "solve" and "cost": which share of the loss the features explain on
            held-out queries (an R^2 for the two lengths). At or below 0: none.
        informative: the same keys: whether that is more than chance. Where it is not, the
            prediction is the training queries' mean, the same for all.
        warnings: what to know before relying on it.
    """

    names: tuple[str, ...]
    queries: int
    with_right: int
    signal: dict[str, float]
    informative: dict[str, bool]
    warnings: tuple[str, ...]
    _solve: Model
    _length: Model
    _cost: Model
    _spread: Model
    _quantiles: FloatArray | None
    _cost_spread: float
    _within: float
    _conformal: Conformal

    def predict(self, features: FeaturesLike) -> Predicted:
        """What to expect of new queries.

        Raises:
            DeclarationError: the features are not those of the fit, or not finite.
        """
        given = as_features(features)
        if given.names != self.names:
            raise DeclarationError(
                f"features: {_difference(self.names, given.names)}; give the features of the fit, "
                "in their order"
            )
        x = given.values
        spread = self._spread(x)
        own = np.sqrt(np.maximum(spread**2 - self._within, _LEAST_SPREAD**2))
        return Predicted(
            solve=np.clip(self._solve(x), _LEAST_SHARE, 1.0),
            threshold=np.exp(self._length(x)),
            spread=spread,
            threshold_spread=own,
            cost_threshold=np.exp(self._cost(x)),
            cost_spread=np.full(len(given), self._cost_spread),
            _quantiles=self._quantiles,
            _conformal=self._conformal,
            _x=x,
        )

    def __repr__(self) -> str:
        told = ", ".join(f"{key} {value:.2f}" for key, value in self.signal.items())
        return f"Predictor({len(self.names)} features, {self.queries} queries; signal: {told})"


def fit_predictor(
    features: FeaturesLike,
    rollouts: Rollouts,
    *,
    regressor: Literal["ridge", "boosting"] | Any = "ridge",
    law: Literal["measured", "lognormal"] = "measured",
    intervals: Literal["conformal", "quantile"] = "conformal",
    level: float = 0.9,
    seed: int = 0,
) -> Predictor:
    """Learn from queries with rollouts what features say of queries without.

    Args:
        features: of n queries, `rollouts.query` being a position among them; see `FeaturesLike`.
            Queries without rollouts are left out.
        rollouts: answers of the model that is to be predicted, cut (if at all) at an ample cap:
            what lies beyond it was not seen, so accuracies hold for caps up to there.
        regressor: "ridge" for few queries or embeddings, "boosting" for hundreds of queries and
            more, or a regressor of scikit-learn's kind (shares stay a ridge's).
        law: of a right answer's length around its prediction: "measured", as held-out answers
            scattered, in a table; "lognormal", a curve with a formula and derivatives.
        intervals: "conformal": of one width, at any level; "quantile": as wide as the features say,
            at one level, for hundreds of queries and more.
        level: that level.
        seed: of the folds.

    Raises:
        DeclarationError: features and rollouts do not belong together, a feature is not finite, or
            an option is not one of those listed.
        CalibrationError: fewer than 10 queries have a right answer.
        MissingExtraError: scikit-learn is not installed.

    Warns:
        PredictionWarning: the features tell nothing about length, or about being right.
    """
    given = as_features(features)
    means, shares = learners(regressor)
    if law not in ("measured", "lognormal"):
        raise DeclarationError(f"law = {law!r}: must be 'measured' or 'lognormal'")
    if intervals not in ("conformal", "quantile"):
        raise DeclarationError(f"intervals = {intervals!r}: must be 'conformal' or 'quantile'")
    if int(rollouts.query.max()) >= len(given):
        raise DeclarationError(
            f"Rollouts: query {int(rollouts.query.max())} is beyond the {len(given)} queries that "
            "features describe"
        )
    found = summarise(rollouts, len(given))
    right = found.right > 0
    if np.count_nonzero(right) < _FEWEST:
        raise CalibrationError(
            f"{np.count_nonzero(right)} queries have a right answer; a predictor needs at least "
            f"{_FEWEST}: sample more queries, or use fit_curves with complete pooling"
        )
    seen = found.count > 0
    solve = cross_fit(
        shares, given.values[seen], (found.right / np.maximum(found.count, 1))[seen],
        found.count[seen], seed=seed,
    )  # fmt: skip
    x, y = given.values[right], found.right_log_length[right]
    weight = _precision(found.right[right], y, found.right_within)
    weight = weight * (found.right / np.maximum(found.count, 1))[right]
    length = cross_fit(means, x, y, weight, seed=seed)
    spread, quantiles = _right_law(means, x, length, rollouts, found, seed)
    cost, cost_spread = _cost(means, given, rollouts, found, seed)
    conformal = (
        around_mean(length, y)
        if intervals == "conformal"
        else around_quantiles(x, y, weight, level, seed)
    )
    parts = {"length": length, "solve": solve, "cost": cost}
    told = _told(parts, given, rollouts)
    for sentence in told:
        warnings.warn(sentence, PredictionWarning, stacklevel=2)
    return Predictor(
        names=given.names,
        queries=int(np.count_nonzero(seen)),
        with_right=int(np.count_nonzero(right)),
        signal={key: part.signal for key, part in parts.items()},
        informative={key: part.informative for key, part in parts.items()},
        warnings=told,
        _solve=solve.final,
        _length=length.final,
        _cost=cost.final,
        _spread=spread,
        _quantiles=quantiles if law == "measured" else None,
        _cost_spread=cost_spread,
        _within=found.right_within,
        _conformal=conformal,
    )


# -------------------------------------------------------------------------------- the parts
def _precision(count: FloatArray, y: FloatArray, within: float) -> FloatArray:
    """(n,) how much a mean of `count` log lengths is to count, given what its query adds."""
    between = max(float(np.var(y)) - within * float(np.mean(1.0 / count)), 0.0)
    return 1.0 / np.maximum(between + within / count, _LEAST_SPREAD**2)


def _right_law(
    learner: Learner,
    x: FloatArray,
    length: CrossFitted,
    rollouts: Rollouts,
    found: Summaries,
    seed: int,
) -> tuple[Model, FloatArray]:
    """How right answers of a held-out query scatter around its prediction.

    Their spread, by features: the squared errors are regressed in their logarithm and then scaled
    to be right on average. And at `_LEVELS` the quantiles of the errors in units of that spread,
    each query counting by its share of right answers.
    """
    right = found.right > 0
    held_out = np.full(found.count.size, np.nan)
    held_out[right] = length.held_out
    query = rollouts.query[rollouts.solved]
    errors = found.imputed[rollouts.solved] - held_out[query]
    total = np.bincount(query, weights=errors**2, minlength=found.count.size)[right]
    square = total / found.right[right]
    share = (found.right / np.maximum(found.count, 1))[right]
    logs = np.log(square + _LEAST_SPREAD**2)
    by_features = cross_fit(learner, x, logs, share, seed=seed)
    factor = float(np.average(square / np.exp(by_features.held_out), weights=share))

    def spread(at: FloatArray) -> FloatArray:
        return np.maximum(np.sqrt(factor * np.exp(by_features.final(at))), _LEAST_SPREAD)

    own = np.full(found.count.size, np.nan)
    own[right] = np.sqrt(factor * np.exp(by_features.held_out))
    scaled = errors / np.maximum(own, _LEAST_SPREAD)[query]
    order = np.argsort(scaled)
    weight = (1.0 / found.count[query])[order]
    below = (np.cumsum(weight) - 0.5 * weight) / weight.sum()
    return spread, np.interp(_LEVELS, below, scaled[order])


def _cost(
    learner: Learner, given: Features, rollouts: Rollouts, found: Summaries, seed: int
) -> tuple[CrossFitted, float]:
    """The regression of all answers' log lengths, and their spread around it."""
    seen = found.count > 0
    weight = _precision(found.count[seen], found.log_length[seen], found.within)
    cost = cross_fit(learner, given.values[seen], found.log_length[seen], weight, seed=seed)
    held_out = np.full(found.count.size, np.nan)
    held_out[seen] = cost.held_out
    # Every query counts once, however many answers it has. What cut answers scatter beyond their
    # imputed lengths is in `within`.
    between = float(np.mean((found.log_length - held_out)[seen] ** 2))
    noise = found.within * float(np.mean(1.0 / found.count[seen]))
    spread = np.sqrt(max(between - noise, 0.0) + found.within)
    return cost, max(float(spread), _LEAST_SPREAD)


def _told(parts: dict[str, CrossFitted], given: Features, rollouts: Rollouts) -> tuple[str, ...]:
    said = {
        "length": "how long right answers are: all queries get the same threshold",
        "solve": "which queries are solved: all get the same probability",
    }
    sentences = [
        f"the {len(given.names)} features tell nothing about {what} (explained on held-out "
        f"queries: {parts[key].signal:.3f})"
        for key, what in said.items()
        if not parts[key].informative
    ]
    cut = 1.0 - float(rollouts.finished.mean())
    if cut > 0.1:
        sentences.append(
            f"{cut:.0%} of the answers were cut before they ended and count as wrong: accuracies "
            "hold up to the cap they were cut at, not beyond"
        )
    return tuple(sentences)


def _difference(expected: tuple[str, ...], given: tuple[str, ...]) -> str:
    missing = [name for name in expected if name not in given]
    if missing:
        return f"{missing[0]!r} is missing" + (
            f" (and {len(missing) - 1} more)" * (len(missing) > 1)
        )
    extra = [name for name in given if name not in expected]
    if extra:
        return f"{extra[0]!r} was not among those of the fit"
    return "they stand in another order"
