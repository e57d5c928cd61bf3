"""Regression of one number on features, checked on queries that it was not fitted on.

A learner offers a path of models from plain to rich. Every model of the path is fitted on all folds
but one and judged on the one left out; the best of the path is kept, if it beats the mean of the
training queries by more than chance would: else the features tell nothing, and the mean is kept.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from clearopt.errors import DeclarationError, MissingExtraError
from clearopt.validation import FloatArray

Model: TypeAlias = Callable[[FloatArray], FloatArray]
"""(n, d) features to (n,) predictions."""

_BEYOND_CHANCE = 1.645  # standard errors: one side of 5 %
_TINY = 1e-12
_ROUNDING = 1e-10  # relative
_MANY = 5_000  # queries from which threads pay


class Learner(Protocol):
    """Models of one kind, from plain to rich; judged on so many folds."""

    folds: int

    def path(self, x: FloatArray, y: FloatArray, weight: FloatArray) -> list[Model]:
        """Each fitted to (n, d) features, (n,) targets and (n,) weights."""

    def loss(self, y: FloatArray, predicted: FloatArray) -> FloatArray:
        """(n,) what a prediction is judged by; less is better."""


@dataclass(frozen=True, eq=False)
class CrossFitted:
    """A regression and what it is worth.

    Attributes:
        final: fitted on all queries.
        folds: (K,) models, each fitted without one fold.
        fold: (n,) which of them did not see a query.
        held_out: (n,) what that one predicts for it.
        signal: share of the loss of the mean that the features explain on held-out queries (an
            R^2 where the loss is squared error); may be below 0.
        informative: whether that is more than chance; if not, all models are the mean.
    """

    final: Model
    folds: tuple[Model, ...]
    fold: NDArray[np.intp]
    held_out: FloatArray
    signal: float
    informative: bool


def cross_fit(
    learner: Learner,
    x: FloatArray,
    y: FloatArray,
    weight: FloatArray,
    *,
    seed: int = 0,
) -> CrossFitted:
    """Fit (n,) targets `y` on (n, d) features with (n,) positive weights; n is at least 2."""
    # Many small fits: threads of BLAS and OpenMP would wait for each other longer than they work.
    with _threads(1 if y.size < _MANY else None):
        return _cross_fitted(
            learner, x, y, weight / weight.mean(), folds_of(y.size, learner.folds, seed)
        )


def _cross_fitted(
    learner: Learner, x: FloatArray, y: FloatArray, weight: FloatArray, fold: NDArray[np.intp]
) -> CrossFitted:
    null_folds = []
    null_loss = np.empty(y.size)
    paths: list[list[Model]] = []
    for k in range(fold.max() + 1):
        seen, left = fold != k, fold == k
        null_folds.append(_constant(float(np.average(y[seen], weights=weight[seen]))))
        null_loss[left] = learner.loss(y[left], null_folds[k](x[left]))
        # Without a column that varies there is nothing to learn from, and if all queries are alike
        # (all right) there is nothing to explain: what models then differ by is rounding.
        varies = x.shape[1] > 0 and np.ptp(x[seen], axis=0).max() > 0 and np.ptp(y[seen]) > 0
        paths.append(learner.path(x[seen], y[seen], weight[seen]) if varies else [null_folds[k]])
    steps = min(len(path) for path in paths)
    held_out = np.empty((steps, y.size))
    losses = np.empty((steps, y.size))
    for k, path in enumerate(paths):
        left = fold == k
        for step in range(steps):
            held_out[step, left] = path[step](x[left])
            losses[step, left] = learner.loss(y[left], held_out[step, left])
    best = int(np.argmin(losses @ weight))
    gain = weight * (null_loss - losses[best])
    error = float(np.std(gain)) / np.sqrt(gain.size)
    base = float(weight @ null_loss)
    signal = 1.0 - float(weight @ losses[best]) / base if base > _TINY else 0.0
    if not gain.mean() > _BEYOND_CHANCE * error:
        mean = _constant(float(np.average(y, weights=weight)))
        alone = np.concatenate([model(np.empty((1, 0))) for model in null_folds])[fold]
        return CrossFitted(mean, tuple(null_folds), fold, alone, signal, False)
    final = learner.path(x, y, weight)[best]
    chosen = tuple(path[best] for path in paths)
    return CrossFitted(final, chosen, fold, held_out[best], signal, True)


def folds_of(n: int, folds: int, seed: int) -> NDArray[np.intp]:
    """(n,) one of at most `folds` for each of n queries, at random, as equal in size as can be."""
    count = min(folds, n)
    return np.random.default_rng([seed, 11]).permutation(np.arange(n) % count).astype(np.intp)


def _constant(value: float) -> Model:
    return lambda x: np.full(x.shape[0], value)


# -------------------------------------------------------------------------------- learners
class _Squared:
    folds = 10

    def loss(self, y: FloatArray, predicted: FloatArray) -> FloatArray:
        return (y - predicted) ** 2


class _Logarithmic:
    """For shares: the log loss of one answer."""

    folds = 10

    def loss(self, y: FloatArray, predicted: FloatArray) -> FloatArray:
        p = np.clip(predicted, 1e-6, 1 - 1e-6)
        return -(y * np.log(p) + (1 - y) * np.log1p(-p))


_PENALTIES = np.logspace(4, -2, 7)  # of standardised features, in queries; from plain to rich


class Ridge(_Squared):
    """Linear, with a penalty on the coefficients of standardised features."""

    def path(self, x: FloatArray, y: FloatArray, weight: FloatArray) -> list[Model]:
        scaled, transform = _standardised(x, weight)
        mean = float(np.average(y, weights=weight))
        root = np.sqrt(weight)
        # One singular value decomposition serves every penalty; weighted means are 0 by scaling.
        u, s, v = np.linalg.svd(root[:, None] * scaled, full_matrices=False)
        seen = u.T @ (root * (y - mean))
        return [
            _after(transform, _linear(mean, v.T @ (s / (s**2 + penalty) * seen)))
            for penalty in _PENALTIES
        ]


class LogisticRidge(_Logarithmic):
    """The same through a logistic link, for shares of right answers."""

    def path(self, x: FloatArray, y: FloatArray, weight: FloatArray) -> list[Model]:
        linear = _sklearn("linear_model")
        scaled, transform = _standardised(x, weight)
        rows, labels, weights = _both_outcomes(scaled, y, weight)
        models: list[Model] = []
        for penalty in _PENALTIES:
            fitted = linear.LogisticRegression(C=1.0 / penalty, solver="newton-cholesky").fit(
                rows, labels, sample_weight=weights
            )
            models.append(_after(transform, _second_column(fitted.predict_proba)))
        return models


_TREES = (5, 10, 20, 40, 80)


class Boosting(_Squared):
    """Gradient-boosted trees; the path is over their number."""

    folds = 5  # trees take their time

    def path(self, x: FloatArray, y: FloatArray, weight: FloatArray) -> list[Model]:
        trees = _sklearn("ensemble").HistGradientBoostingRegressor(**_trees_for(y.size))
        trees.fit(x, y, sample_weight=weight)
        return [_stage(trees.staged_predict, count) for count in _TREES]


class LogisticBoosting(_Logarithmic):
    """The same for shares of right answers."""

    folds = 5

    def path(self, x: FloatArray, y: FloatArray, weight: FloatArray) -> list[Model]:
        trees = _sklearn("ensemble").HistGradientBoostingClassifier(**_trees_for(y.size))
        rows, labels, weights = _both_outcomes(x, y, weight)
        trees.fit(rows, labels, sample_weight=weights)
        return [_stage(trees.staged_predict_proba, count, column=1) for count in _TREES]


class Estimator(_Squared):
    """A regressor of the user's own, scikit-learn's way; the path is that one model."""

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    def path(self, x: FloatArray, y: FloatArray, weight: FloatArray) -> list[Model]:
        fitted = _sklearn("base").clone(self.estimator)
        return [fitted.fit(x, y, sample_weight=weight).predict]


def learners(regressor: Any) -> tuple[Learner, Learner]:
    """The learners of means and of shares that a name or an estimator stands for.

    Raises:
        DeclarationError: it is neither.
        MissingExtraError: scikit-learn is not installed.
    """
    _sklearn("base")
    if regressor == "ridge":
        return Ridge(), LogisticRidge()
    if regressor == "boosting":
        return Boosting(), LogisticBoosting()
    if callable(getattr(regressor, "fit", None)) and callable(getattr(regressor, "predict", None)):
        return Estimator(regressor), LogisticRidge()
    raise DeclarationError(
        f"regressor = {regressor!r}: must be 'ridge', 'boosting', or a regressor with fit(x, y, "
        "sample_weight) and predict(x)"
    )


def quantile_path(
    x: FloatArray, y: FloatArray, weight: FloatArray, levels: Sequence[float]
) -> list[Model]:
    """One model of boosted trees a level, each of that quantile of the target."""
    ensemble = _sklearn("ensemble")
    options = _trees_for(y.size) | {"max_iter": 40}
    return [
        ensemble.HistGradientBoostingRegressor(loss="quantile", quantile=level, **options)
        .fit(x, y, sample_weight=weight)
        .predict
        for level in levels
    ]


def _trees_for(n: int) -> dict[str, Any]:
    """Few queries bear stumps only; leaves are kept large enough to mean something."""
    return {
        "learning_rate": 0.1,
        "max_iter": _TREES[-1],
        "max_leaf_nodes": 4 if n < 500 else 12,
        "min_samples_leaf": max(5, n // 50),
        "early_stopping": False,
        "random_state": 0,
    }


def _standardised(x: FloatArray, weight: FloatArray) -> tuple[FloatArray, Model]:
    """Features of weighted mean 0 and variance 1, and how others are brought to the same scale."""
    mean = np.average(x, axis=0, weights=weight)
    deviation = np.sqrt(np.average((x - mean) ** 2, axis=0, weights=weight))
    # A feature that varied by rounding alone, or not at all, is left out.
    varied = deviation > _ROUNDING * np.abs(x).max(axis=0)
    scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=varied)
    return (x - mean) * scale, lambda new: (new - mean) * scale


def _both_outcomes(
    x: FloatArray, share: FloatArray, weight: FloatArray
) -> tuple[FloatArray, NDArray[np.intp], FloatArray]:
    """A share as two weighted rows: right, and wrong."""
    rows = np.vstack([x, x])
    labels = np.repeat([1, 0], share.size)
    # A class without weight would not be one; it is given next to none.
    weights = np.maximum(np.concatenate([weight * share, weight * (1 - share)]), 1e-9)
    return rows, labels, weights


def _after(transform: Model, predict: Model) -> Model:
    return lambda x: predict(transform(x))


def _linear(mean: float, coefficients: FloatArray) -> Model:
    return lambda x: mean + x @ coefficients


def _second_column(predict: Callable[[FloatArray], FloatArray]) -> Model:
    return lambda x: predict(x)[:, 1]


def _stage(staged: Any, count: int, column: int | None = None) -> Model:
    def predict(x: FloatArray) -> FloatArray:
        for number, found in enumerate(staged(x), 1):
            if number == count:
                return np.asarray(found if column is None else found[:, column])
        raise AssertionError(f"there are fewer than {count} trees")

    return predict


def _threads(limit: int | None) -> Any:
    _sklearn("base")
    from threadpoolctl import threadpool_limits  # scikit-learn depends on it

    return threadpool_limits(limits=limit)


def _sklearn(module: str) -> Any:
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError as error:
        raise MissingExtraError(
            "predictors are fitted with scikit-learn, which is not installed: "
            "pip install 'clearopt[predict]'"
        ) from error
