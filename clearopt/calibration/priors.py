"""Where a fit starts, and how little it is held there: priors of the population's parameters.

Each is normal, wide beside what a hundred queries say, and there for data that say nothing: one
query, all answers right, all of one length.
"""

from __future__ import annotations

import math

import numpy as np

from clearopt.calibration.laws import Law, Wide
from clearopt.calibration.population import parameter_names
from clearopt.calibration.rollouts import Rollouts
from clearopt.validation import FloatArray

_WIDEST = 1.0  # at least this many e-folds is the deviation of the law of strays


def log_lengths(rollouts: Rollouts) -> FloatArray:
    """log T of the answers that have a length; (1,) zeros if none has."""
    some = rollouts.tokens[rollouts.tokens > 0]
    return np.log(some) if some.size else np.zeros(1)


def wide_law(rollouts: Rollouts) -> Wide:
    """The law of a length about which nothing is known."""
    y = log_lengths(rollouts)
    low, middle, high = np.quantile(y, [0.05, 0.5, 0.95])
    return Wide(float(middle), max(float(high - low), _WIDEST))


def centre_and_width(
    law: Law, rollouts: Rollouts, covariates: int
) -> tuple[FloatArray, FloatArray]:
    """Means and deviations of the parameters' priors, in the order of `parameter_names`."""
    y = log_lengths(rollouts)
    middle, spread = float(np.median(y)), float(np.std(y))
    if law.name == "lognormal":
        location, shape = middle, math.log(0.35)
    else:  # about half of a typical answer is spent before the threshold
        location, shape = middle - math.log(2.0), middle - math.log(4.0)
    chance = float(np.mean(rollouts.solved)) * 0.9 + 0.05
    known = {
        "location": (location, 3.0 + spread),
        "log_deviation": (math.log(0.5), 1.0),
        "shape": (shape, 1.0),
        "log_shape_deviation": (math.log(0.3), 0.7),
        "stretch": (0.0, 0.5),
        "chance": (math.log(chance / (1 - chance)), 2.5),
        "slope": (0.0, 1.0),
        "log_agreement": (math.log(2.0), 1.0),
    }
    by_covariate = {"by_location": (0.0, 0.5), "by_chance": (0.0, 0.7)}
    pairs = [
        known.get(name) or by_covariate[name.rsplit("_", 1)[0]]
        for name in parameter_names(covariates)
    ]
    centre, width = np.array(pairs).T
    return centre, width
