"""From rollouts to each query's curve: `fit_curves`, and the `FittedCurves` it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clearopt.calibration.laws import LAWS
from clearopt.calibration.likelihood import Answers
from clearopt.calibration.population import Population, Posterior, fit_population
from clearopt.calibration.predictive import predictive
from clearopt.calibration.priors import centre_and_width, wide_law
from clearopt.calibration.rollouts import Rollouts
from clearopt.utilities import CostCurve, Utility
from clearopt.utilities.family import concatenated
from clearopt.validation import FloatArray, require


@dataclass(frozen=True, eq=False)
class FittedCurves:
    """One curve a query, made by `fit_curves`."""

    family: str
    pooling: str
    utilities: Utility
    cost_curves: CostCurve
    estimates: Mapping[str, FloatArray]
    standard_errors: Mapping[str, FloatArray]
    populations: Mapping[Any, Population]
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return int(next(iter(self.estimates.values())).shape[0])


def fit_curves(
    rollouts: Rollouts,
    queries: int | None = None,
    *,
    family: str = "lognormal",
    pooling: str = "partial",
    free: str = "all",
    groups: ArrayLike | None = None,
    design: ArrayLike | None = None,
) -> FittedCurves:
    """Each query's curve from its own answers, shrunk towards what the others' look like.

    Args:
        rollouts: answers, censored or not, to queries 0, 1, ...
        queries: how many queries there are; by default as many as have rollouts. Those without
            any get the population's curve.
        family: "lognormal", "cumulative-surge" or "shifted-surge".
        pooling: "partial".
        free: "all", or "threshold": only the location differs by query, as in the paper.
        groups: (n,) labels of queries that are fitted apart.
        design: (n, d) covariates of the population's mean.
    """
    n = int(rollouts.query.max()) + 1 if queries is None else int(queries)
    require(rollouts.query, rollouts.query < n, "Rollouts: query", f"is beyond the {n} queries")
    labels = np.zeros(n, dtype=np.intp) if groups is None else np.asarray(groups)
    matrix = np.zeros((n, 0)) if design is None else np.asarray(design, dtype=np.float64)
    populations: dict[Any, Population] = {}
    parts: list[tuple[NDArray[np.intp], Any, Posterior]] = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        inside = np.isin(rollouts.query, members)
        own = Rollouts(
            np.searchsorted(members, rollouts.query[inside]),
            rollouts.tokens[inside],
            rollouts.correct[inside],
            rollouts.finished[inside],
        )
        law = LAWS[family]
        answers = Answers.arranged(law, own, members.size, wide_law(own))
        centre, width = centre_and_width(law, own, matrix.shape[1])
        population = fit_population(answers, matrix[members], centre, width, free == "threshold")
        posterior = population.posterior(answers, matrix[members])
        populations[label.item()] = population
        parts.append(
            (members, predictive(family, posterior, population.parameters.stretch), posterior)
        )
    order = np.argsort(np.concatenate([members for members, _, _ in parts]))
    utilities = concatenated([curves.utility for _, curves, _ in parts]).take(order)
    costs = concatenated([curves.cost for _, curves, _ in parts]).take(order)
    chance = np.concatenate([p.mean(p.chance) for _, _, p in parts])[order]
    squared = np.concatenate([p.mean(p.chance_squared) for _, _, p in parts])[order]
    return FittedCurves(
        family,
        pooling,
        utilities,
        costs,
        {"scale": chance},
        {"scale": np.sqrt(np.maximum(squared - chance**2, 0.0))},
        populations,
    )
