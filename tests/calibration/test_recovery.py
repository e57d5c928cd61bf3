"""Known parameters are found again within the standard errors that are stated, censored or not."""

import numpy as np
import pytest

from clearopt.calibration import Rollouts, fit_curves

QUERIES = 120


def simulated(family, samples, censored, seed=0):
    """Rollouts of known curves, and the parameters by name; the seed is that of the answers."""
    rng = np.random.default_rng(12)
    query = np.repeat(np.arange(QUERIES), samples)
    scale = rng.beta(4.0, 2.0, QUERIES)
    first = np.exp(rng.normal(6.0, 0.7, QUERIES))
    answers = np.random.default_rng(seed)
    if family == "lognormal":
        truth = {"scale": scale, "median": first, "spread": np.full(QUERIES, 0.35)}
        tokens = first[query] * np.exp(0.35 * answers.standard_normal(query.size))
    else:
        rate = np.full(QUERIES, 0.02)
        truth = {"scale": scale, "threshold": first, "rate": rate}
        tokens = first[query] + answers.gamma(2.0, 1.0 / rate[query])
    correct = answers.random(query.size) < scale[query]
    cap = np.quantile(tokens, 0.8) if censored else np.inf
    finished = tokens <= cap
    rollouts = Rollouts(query, np.minimum(tokens, cap), correct & finished, finished)
    return rollouts, truth


@pytest.mark.parametrize("samples", [4, 16, 64])
@pytest.mark.parametrize("censored", [False, True], ids=["whole", "censored"])
@pytest.mark.parametrize("family", ["lognormal", "cumulative-surge"])
def test_parameters_lie_within_their_errors(family, censored, samples):
    rollouts, truth = simulated(family, samples, censored)
    fitted = fit_curves(rollouts, QUERIES, family=family)
    for name in ("scale", next(name for name in truth if name in ("median", "threshold"))):
        z = (fitted.estimates[name] - truth[name]) / fitted.standard_errors[name]
        inside = np.mean(np.abs(z) <= 1.96)
        assert inside >= 0.85, (name, inside)
        assert np.sqrt(np.mean(np.clip(z, -5, 5) ** 2)) > 0.5, name  # nor are the errors too wide


@pytest.mark.parametrize("samples", [4, 16])
def test_pooling_foretells_new_answers_better_than_none(samples):
    rollouts, _ = simulated("lognormal", samples, False)
    fresh, _ = simulated("lognormal", 16, False, seed=1)
    partial = fit_curves(rollouts, QUERIES).score(fresh)
    none = fit_curves(rollouts, QUERIES, pooling="none").score(fresh)
    assert partial["brier"] <= none["brier"] + 1e-3
