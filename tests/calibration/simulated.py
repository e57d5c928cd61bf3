"""Rollouts drawn from known curves: the model that `fit_curves` assumes, and its truth."""

from dataclasses import dataclass

import numpy as np

from clearopt.calibration import Rollouts

LAWS = {  # mean and deviation over the queries: log location, log shape
    "lognormal": ((7.0, 0.8), (np.log(0.35), 0.3)),
    "cumulative-surge": ((6.5, 0.6), (5.2, 0.3)),
    "shifted-surge": ((6.5, 0.6), (6.2, 0.3)),
}
STRETCH = 0.3


@dataclass(frozen=True)
class Truth:
    """What the rollouts were drawn from: the parameters of each query, as the fit names them."""

    family: str
    estimates: dict


def simulated(family, queries, samples, seed, *, cut_share=0.0, shared=False):
    """Rollouts, cut at the common cap that a share of the answers exceeds, and their truth."""
    rng = np.random.default_rng(seed)
    (u, omega), (v, omega_v) = LAWS[family]
    location = rng.normal(u, omega, queries)
    shape = np.full(queries, v) if shared else rng.normal(v, omega_v, queries)
    mean = 1.0 / (1.0 + np.exp(-(0.8 - 0.8 * (location - u) / omega)))
    chance = np.full(queries, 0.7) if shared else rng.beta(2.0 * mean, 2.0 * (1.0 - mean))
    query = np.repeat(np.arange(queries), samples)
    size = query.size
    if family == "lognormal":
        tokens = np.exp(location[query] + np.exp(shape[query]) * rng.normal(size=size))
    else:
        if family == "cumulative-surge":
            excess = rng.gamma(2.0, size=size)
        else:
            x = np.linspace(0.0, 1.0, 20_001)
            excess = np.interp(rng.random(size), x * np.exp(1.0 - x), x)
        tokens = np.exp(location[query]) + np.exp(shape[query]) * excess
    right = rng.random(size) < chance[query]
    tokens = tokens * np.exp(STRETCH * ~right)
    cap = np.quantile(tokens, 1.0 - cut_share) if cut_share else np.inf
    rollouts = Rollouts(query, np.minimum(tokens, cap), right & (tokens <= cap), tokens <= cap)
    if family == "lognormal":
        values = {"median": np.exp(location), "spread": np.exp(shape)}
    else:
        values = {"threshold": np.exp(location), "rate": np.exp(-shape)}
    return rollouts, Truth(family, {"scale": chance, **values})


def z_scores(fitted, truth, name):
    """(n,) errors in units of what is stated, on the scale of logarithms but for chances."""
    value, error = fitted.estimates[name], fitted.standard_errors[name]
    true = truth.estimates[name]
    if name == "scale":
        return (value - true) / error
    return (np.log(value) - np.log(true)) / (error / value)
