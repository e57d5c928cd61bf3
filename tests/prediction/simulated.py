"""Rollouts of queries whose true thresholds and probabilities are known, with their features."""

from dataclasses import dataclass

import numpy as np

from clearopt.calibration import Rollouts
from clearopt.prediction import Features

WITHIN = 0.3  # scatter of one query's log lengths
HIDDEN = 0.5  # of log thresholds, that no feature shows


@dataclass(frozen=True)
class Simulated:
    features: Features
    centre: np.ndarray  # (n,) log threshold
    share: np.ndarray  # (n,) probability of a right answer
    rollouts: Rollouts

    @property
    def mean_right_log_length(self):
        """(n,) NaN where no answer is right."""
        r, n = self.rollouts, len(self.features)
        right = np.bincount(r.query, r.solved, n)
        with np.errstate(invalid="ignore"):
            return np.bincount(r.query, np.where(r.solved, np.log(r.tokens), 0.0), n) / right


def simulated(seed, queries=300, samples=1, cap=np.inf, uneven=False):
    rng = np.random.default_rng([seed, 77])
    x = rng.normal(size=(queries, 3))
    hidden = HIDDEN * np.where(x[:, 1] > 0, 1.8, 0.4) if uneven else HIDDEN
    centre = 6.0 + 0.8 * x[:, 0] + hidden * rng.normal(size=queries)
    share = 1 / (1 + np.exp(-(0.8 + 1.2 * x[:, 1])))
    query = np.repeat(np.arange(queries), samples)
    tokens = np.exp(centre[query] + WITHIN * rng.normal(size=query.size))
    correct = rng.random(query.size) < share[query]
    finished = tokens <= cap
    rollouts = Rollouts(query, np.minimum(tokens, cap), correct, finished)
    return Simulated(Features(("a", "b", "c"), x), centre, share, rollouts)
