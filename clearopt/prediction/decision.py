"""Thresholds trained on what the allocation is worth, instead of on their own errors.

A predictor's errors do not all cost alike: of a query that is funded or abandoned either way
nothing depends on them, and where features explain a threshold only in part, which errors to make
is a choice. `fit_to_value` starts from a linear regression of log thresholds and ascends on the
true utility of the allocations that its predictions lead to, through the derivatives of the solved
problem (`clearopt.differentiable`, at the price's allocation, `Layer.relaxed`). Held-out queries
decide which step to keep, the regression itself among them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from clearopt.allocation import Allocation
from clearopt.errors import DeclarationError
from clearopt.grouping import sum_
from clearopt.prediction.features import FeaturesLike, as_features
from clearopt.problem import Maximize, Problem
from clearopt.utilities import CumulativeSurge, Lognormal
from clearopt.validation import FloatArray

_HELD_OUT = 0.3  # share of the queries that choose the step
_MOST = 40.0  # times the mean budget of a query: what one of them may get


@dataclass(frozen=True, eq=False)
class LinearThresholds:
    """log threshold = intercept + standardised features @ slopes. Made by `fit_to_value`.

    Attributes:
        names: the features.
        means, deviations: (d,) of the training queries' features.
        coefficients: (d + 1,) intercept and slopes.
        regression: (d + 1,) those of plain regression, where the ascent started.
        value, regression_value: mean true utility of held-out queries under either.
        steps: how many steps of the ascent were kept; 0 where regression was not improved on.
    """

    names: tuple[str, ...]
    means: FloatArray
    deviations: FloatArray
    coefficients: FloatArray
    regression: FloatArray
    value: float
    regression_value: float
    steps: int

    def threshold(self, features: FeaturesLike, *, regression: bool = False) -> FloatArray:
        """(n,) predicted thresholds, tokens; of plain regression where that is asked for.

        Raises:
            DeclarationError: the features are not those of the fit.
        """
        given = as_features(features)
        if given.names != self.names:
            raise DeclarationError(
                f"features: {given.names} are not those of the fit, {self.names}, in their order"
            )
        design = _design(given.values, self.means, self.deviations)
        return np.exp(design @ (self.regression if regression else self.coefficients))


def fit_to_value(
    features: FeaturesLike,
    truth: Lognormal | CumulativeSurge,
    tokens: float,
    *,
    batch: int = 24,
    steps: int = 30,
    length: float = 0.05,
    seed: int = 0,
) -> LinearThresholds:
    """Train thresholds so that allocations on their word are worth most.

    The training queries are dealt into batches, each of which shares a budget of its own; all else
    than the threshold is believed to be what it is.

    Args:
        features: of n queries; see `FeaturesLike`.
        truth: their true (or fitted) curves, n members.
        tokens: budget a query, positive; thresholds are trained for this scarcity.
        batch: queries that share a budget.
        steps: of the ascent.
        length: of the first step, in log tokens of standardised coefficients; it falls like 1 / k.
        seed: of the dealing.

    Raises:
        DeclarationError: features and truth differ in length, an option is out of range, or there
            are fewer than four batches.
    """
    import jax
    import jax.numpy as jnp

    from clearopt.derivatives import differentiable

    given = as_features(features)
    n = len(given)
    if not isinstance(truth, Lognormal | CumulativeSurge):
        raise DeclarationError(
            f"truth: got {type(truth).__name__}; give a Lognormal or a CumulativeSurge"
        )
    whole = truth.broadcast(n)
    if not tokens > 0 or batch < 2 or steps < 0 or not length > 0:
        raise DeclarationError(
            f"fit_to_value: tokens = {tokens!r} and length = {length!r} must be positive, "
            f"batch = {batch!r} at least 2, steps = {steps!r} at least 0"
        )
    deals = n // batch
    if deals < 4:
        raise DeclarationError(
            f"{n} queries make {deals} batches of {batch}; at least 4 are needed"
        )
    values = given.values
    means, spread = values.mean(axis=0), values.std(axis=0)
    deviations = np.where(spread > 0, spread, 1.0)
    design = _design(values, means, deviations)
    name = "median" if isinstance(whole, Lognormal) else "threshold"
    log_threshold = np.log(np.maximum(getattr(whole, name), 1e-9))
    order = np.random.default_rng(seed).permutation(n)[: deals * batch].reshape(deals, batch)
    kept_out = max(int(_HELD_OUT * deals), 1)
    test, train = order[:kept_out], order[kept_out:]
    seen = train.ravel()
    regression = np.linalg.lstsq(design[seen], log_threshold[seen], rcond=None)[0]

    allocation = Allocation(batch, upper=_MOST * tokens, name="tokens")
    first = whole.take(order[0])
    budget = (sum_(allocation) <= tokens * batch).named("budget")
    layer = differentiable(Problem(Maximize(sum_(first(allocation))), [budget]))
    family = type(first).__name__
    true = {key: np.asarray(getattr(whole, key)) for key in first.parameter_names}

    def worth(theta: Any, x: Any, parameters: Any) -> Any:
        """Mean true utility of one batch, allocated on the word of theta."""
        believed = dict(parameters) | {name: jnp.exp(x @ theta)}
        bought = layer.relaxed({"utilities": {family: believed}})
        inputs = {"utilities": {family: parameters}}
        many, few = (layer.utilities(b, inputs) for b in (bought.many, bought.few))
        return (bought.share * many + (1.0 - bought.share) * few).mean()

    def mean_worth(theta: Any, x: Any, parameters: Any) -> Any:
        return jax.vmap(worth, (None, 0, 0))(theta, x, parameters).mean()

    def of(rows: Any) -> tuple[FloatArray, dict[str, FloatArray]]:
        return design[rows], {key: value[rows] for key, value in true.items()}

    with jax.enable_x64(True):
        ascend = jax.jit(jax.value_and_grad(mean_worth))
        judge = jax.jit(mean_worth)
        theta = best = regression
        start = most = float(judge(regression, *of(test)))
        kept = 0
        for k in range(steps):
            _, slope = ascend(theta, *of(train))
            slope = np.asarray(slope)
            norm = float(np.linalg.norm(slope))
            if not 0 < norm < np.inf:
                break
            theta = theta + length / (1.0 + k / 10.0) * slope / norm
            value = float(judge(theta, *of(test)))
            if value > most:
                best, most, kept = theta, value, k + 1
    return LinearThresholds(given.names, means, deviations, best, regression, most, start, kept)


def _design(values: FloatArray, means: FloatArray, deviations: FloatArray) -> FloatArray:
    return np.hstack([np.ones((values.shape[0], 1)), (values - means) / deviations])
