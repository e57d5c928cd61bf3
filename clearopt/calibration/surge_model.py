"""`SurgeModel`: a query's scale, threshold and rate predicted from the features of its prompt.

With T the tokens a right answer needs and a the probability that it is right with ample tokens, the
accuracy under a cap of b tokens is a P(T <= b). `CumulativeSurge` is that curve for T = tau + a
Gamma(2, beta) excess, so three numbers a query are to be predicted from its features x:

- a(x), by regression on "solved with ample tokens" with a logistic link, or with the link
  a = exp(-softplus(.)) of a chain of steps each of which may fail, whichever predicts held-out
  queries better;
- tau(x) and the scale of the excess theta(x) = 1 / beta(x), both linear in x and kept positive by a
  softplus, fitted to the lengths of the right answers.

The lengths are fitted by the least continuous ranked probability score (Gneiting and Raftery, JASA
102, 2007), the squared area between the predicted and the observed distribution function. Maximum
likelihood would be at the mercy of the single shortest answer, before which the density is zero;
the score weighs an answer by how far it misses, and what it measures is the error of the very
curve that is bought from. Score and gradient have closed forms for Gamma(2, beta).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from clearopt.calibration.rollouts import CalibrationError, Rollouts
from clearopt.errors import DeclarationError
from clearopt.utilities import CumulativeSurge
from clearopt.validation import FloatArray, require

Features = Sequence[Mapping[str, float]]

_SHARPNESS = 40.0  # of the softplus, in units of 1 / (mean length): linear but for the last 3 %
_LEAST_SPREAD = 0.01  # theta is at least this share of the mean length: no step functions


@dataclass(frozen=True)
class SurgeModel:
    """Fitted coefficients; plain numbers, so that `to_dict` is JSON. Made by `fit_surge_model`.

    Attributes:
        names: the features used (those that vary), in the order of the arrays below.
        means, deviations: their mean and standard deviation over the calibration queries.
        length: mean length of the right answers (tokens), the unit of the next two.
        threshold, spread, scale: intercept and one coefficient a standardised feature.
        link: how `scale` becomes a probability, "logistic" or "chain".
        summary: how many rollouts it was fitted on, and how well it fits them.
    """

    names: tuple[str, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]
    length: float
    threshold: tuple[float, ...]
    spread: tuple[float, ...]
    scale: tuple[float, ...]
    link: str
    summary: Mapping[str, float]

    def utilities(self, features: Features) -> CumulativeSurge:
        """The utility of each of n queries, from their features alone.

        Raises:
            DeclarationError: there is no query, or a feature is missing, NaN or infinite.
        """
        design = _design(feature_matrix(features, self.names), self.means, self.deviations)
        threshold = self.length * _softplus(design @ np.array(self.threshold))
        spread = self.length * (_LEAST_SPREAD + _softplus(design @ np.array(self.spread)))
        scale = np.exp(_LINKS[self.link](design @ np.array(self.scale))[0])
        return CumulativeSurge(scale, threshold, 1.0 / spread)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, ready for JSON."""
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return plain | {"summary": dict(self.summary)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> SurgeModel:
        """The inverse of `to_dict`."""
        restored: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()
        }
        return cls(**restored)


def fit_surge_model(features: Features, rollouts: Rollouts, *, penalty: float = 1.0) -> SurgeModel:
    """Fit how scale, threshold and rate depend on the features.

    Args:
        features: one mapping a calibration query, all with the same names. Features that do not
            vary are dropped, collinear ones share their weight.
        rollouts: answers of the model to those queries, cut (if at all) at an ample cap only.
        penalty: weight of the ridge penalty on standardised coefficients, in rollouts.

    Raises:
        DeclarationError: features and rollouts do not belong together, or a value is not finite.
        CalibrationError: no rollout is right.
    """
    if not 0 < penalty < math.inf:
        raise DeclarationError(f"penalty = {penalty!r}: must be a positive number")
    names = tuple(sorted(features[0])) if len(features) else ()
    values = feature_matrix(features, names)
    require(
        rollouts.query,
        rollouts.query < len(features),
        "Rollouts: query",
        f"is beyond the {len(features)} queries that features describe",
    )
    solved = rollouts.solved
    if not solved.any():
        raise CalibrationError(
            f"none of the {len(rollouts)} calibration rollouts is right and whole, so there is no "
            "utility to fit: use a model that solves some of the queries, easier queries, or a "
            "larger cap"
        )
    seen = values[np.unique(rollouts.query)]
    varies = np.ptp(seen, axis=0) > 1e-12 * np.abs(seen).max(axis=0, initial=0.0)
    names = tuple(name for name, kept in zip(names, varies, strict=True) if kept)
    means, deviations = seen[:, varies].mean(axis=0), seen[:, varies].std(axis=0)
    design = _design(values[:, varies], means, deviations)[rollouts.query]

    link, scale = _fit_scale(design, solved, rollouts.query, penalty)
    lengths = rollouts.tokens[solved]
    unit = max(float(lengths.mean()), 1.0)
    threshold, spread, score = _fit_lengths(design[solved], lengths / unit, penalty)
    predicted = np.exp(_LINKS[link](design @ scale)[0])
    return SurgeModel(
        names=names,
        means=tuple(map(float, means)),
        deviations=tuple(map(float, deviations)),
        length=unit,
        threshold=tuple(map(float, threshold)),
        spread=tuple(map(float, spread)),
        scale=tuple(map(float, scale)),
        link=link,
        summary={
            "queries": int(np.unique(rollouts.query).size),
            "rollouts": len(rollouts),
            "finished": float(rollouts.finished.mean()),
            "accuracy": float(solved.mean()),
            "mean_length": float(lengths.mean()),
            # In sample: squared error of the predicted probability, and of the base rate's.
            "brier": float(np.mean((predicted - solved) ** 2)),
            "brier_base": float(solved.mean() * (1 - solved.mean())),
            # In sample: mean area (tokens) between predicted and observed distribution functions.
            "length_score": score * unit,
        },
    )


def feature_matrix(features: Features, names: Sequence[str]) -> FloatArray:
    """The named features as an (n, len(names)) array, checked."""
    if not len(features):
        raise DeclarationError("features: there is no query")
    matrix = np.empty((len(features), len(names)))
    for i, row in enumerate(features):
        for j, name in enumerate(names):
            if name not in row:
                raise DeclarationError(f"features[{i}] has no {name!r}; it has {sorted(row)}")
            matrix[i, j] = row[name]
    for j, name in enumerate(names):
        require(matrix[:, j], np.isfinite(matrix[:, j]), f"feature {name!r}", "must be finite")
    return matrix


def _design(values: FloatArray, means: Any, deviations: Any) -> FloatArray:
    """Ones, then the standardised features."""
    standard = (values - np.array(means)) / np.array(deviations)
    return np.hstack([np.ones((values.shape[0], 1)), standard])


def _logistic(inner: FloatArray) -> tuple[FloatArray, FloatArray]:
    """log a for a = expit(inner), and its slope."""
    return -np.logaddexp(0.0, -inner), expit(-inner)


def _chain(inner: FloatArray) -> tuple[FloatArray, FloatArray]:
    """log a for a = exp(-softplus(-inner)), a sharp softplus, and its slope.

    Steps that fail independently make log a linear in their numbers; the softplus keeps a below 1.
    """
    return -np.logaddexp(0.0, -12.0 * inner) / 12.0, expit(-12.0 * inner)


_LINKS: Mapping[str, Callable[[FloatArray], tuple[FloatArray, FloatArray]]] = {
    "logistic": _logistic,
    "chain": _chain,
}


def _fit_scale(
    design: FloatArray, solved: NDArray[np.bool_], query: NDArray[np.intp], penalty: float
) -> tuple[str, FloatArray]:
    """The link that predicts held-out queries best (five folds), and its coefficients."""
    fold = query % 5
    folds = [k for k in range(5) if 0 < np.count_nonzero(fold == k) < fold.size]

    def held_out_loss(link: str) -> float:
        total = 0.0
        for k in folds:
            out = fold == k
            w = _fit_link(link, design[~out], solved[~out], penalty)
            log_a, _ = _LINKS[link](design[out] @ w)
            log_a = np.minimum(log_a, -1e-6)
            total -= np.where(solved[out], log_a, np.log(-np.expm1(log_a))).sum()
        return total

    link = min(_LINKS, key=held_out_loss) if folds else "logistic"
    return link, _fit_link(link, design, solved, penalty)


def _fit_link(
    link: str, design: FloatArray, solved: NDArray[np.bool_], penalty: float
) -> FloatArray:
    """Penalised maximum likelihood; half a rollout of either outcome keeps the intercept finite."""
    # The pseudo-rollouts are of the average query, where the standardised features are 0.
    average = np.eye(1, design.shape[1])
    x = np.vstack([design, average, average])
    y = np.concatenate([solved, [True, False]])
    weight = np.concatenate([np.ones(solved.shape[0]), [0.5, 0.5]])

    def loss(w: FloatArray) -> tuple[float, FloatArray]:
        log_a, by_inner = _LINKS[link](x @ w)
        log_a = np.minimum(log_a, -1e-9)
        value = -weight @ np.where(y, log_a, np.log(-np.expm1(log_a)))
        # d/d(inner) of log a, or of log(1 - a) = -a/(1 - a) times that.
        slope = -x.T @ (weight * np.where(y, 1.0, -1.0 / np.expm1(-log_a)) * by_inner)
        slope[1:] += penalty * w[1:]
        value += 0.5 * penalty * (w[1:] @ w[1:])
        return value / y.shape[0], slope / y.shape[0]

    return _descend(loss, np.zeros(design.shape[1]))


def _fit_lengths(
    design: FloatArray, lengths: FloatArray, penalty: float
) -> tuple[FloatArray, FloatArray, float]:
    """Coefficients of threshold and spread (unit: the mean length), and the mean score."""
    width = design.shape[1]
    # By moments: mean = tau + 2 theta from a ridge regression, variance = 2 theta^2 in common.
    ridge = np.diag([0.0] + [penalty] * (width - 1))
    start = np.linalg.solve(design.T @ design + ridge, design.T @ lengths)
    theta = max(float(np.std(lengths - design @ start)) / math.sqrt(2.0), 2 * _LEAST_SPREAD)
    start[0] -= 2.0 * theta
    spread = np.zeros(width)
    spread[0] = _softplus_inverse(theta - _LEAST_SPREAD)
    w = np.concatenate([start, spread])

    weight = np.full(lengths.shape[0], 1.0 / theta)
    for _ in range(2):  # the second time each answer counts in units of its own spread

        def loss(w: FloatArray, weight: FloatArray = weight) -> tuple[float, FloatArray]:
            inner_tau, inner_theta = design @ w[:width], design @ w[width:]
            theta = _LEAST_SPREAD + _softplus(inner_theta)
            score, by_tau, by_theta = surge_score(lengths, _softplus(inner_tau), theta)
            slope = np.concatenate(
                [
                    design.T @ (weight * by_tau * expit(_SHARPNESS * inner_tau)),
                    design.T @ (weight * by_theta * expit(_SHARPNESS * inner_theta)),
                ]
            )
            ridge = np.concatenate([w[1:width], w[width + 1 :]])
            slope[1:width] += penalty * w[1:width]
            slope[width + 1 :] += penalty * w[width + 1 :]
            value = weight @ score + 0.5 * penalty * (ridge @ ridge)
            return value / lengths.shape[0], slope / lengths.shape[0]

        w = _descend(loss, w)
        weight = 1.0 / (_LEAST_SPREAD + _softplus(design @ w[width:]))
    final, _, _ = surge_score(lengths, _softplus(design @ w[:width]), 1.0 / weight)
    return w[:width], w[width:], float(final.mean())


def surge_score(
    lengths: FloatArray, threshold: FloatArray, theta: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Ranked probability score of threshold + Gamma(2, 1 / theta), and its two slopes.

    In units of theta, with u = (length - threshold) / theta and F_k the distribution function of
    Gamma(k): u (2 F_2 - 1) - 2 (2 F_3 - 1) - 3/4.
    """
    u = (lengths - threshold) / theta
    v = np.maximum(u, 0.0)
    decay = np.exp(-v)
    two = 1.0 - (1.0 + v) * decay
    three = two - 0.5 * v * v * decay
    by_u = 2.0 * two - 1.0
    rest = -2.0 * (2.0 * three - 1.0) - 0.75
    return theta * (u * by_u + rest), -by_u, rest


def _descend(
    loss: Callable[[FloatArray], tuple[float, FloatArray]], start: FloatArray
) -> FloatArray:
    result = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000})
    return np.asarray(result.x, dtype=np.float64)


def _softplus(x: FloatArray) -> FloatArray:
    return np.logaddexp(0.0, _SHARPNESS * x) / _SHARPNESS


def _softplus_inverse(y: float) -> float:
    return math.log(math.expm1(min(_SHARPNESS * y, 500.0))) / _SHARPNESS
