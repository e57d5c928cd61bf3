"""`fit_curves`: from rollouts to each query's curve.

    family              law of a right answer's length           a query's own parameters
    lognormal           log T ~ N(log median, spread^2)          scale, median, spread
    cumulative-surge    threshold + Gamma(2, rate)               scale, threshold, rate
    shifted-surge       the surge up to its peak, P(T <= b)      scale, threshold, rate
                        = e x e^-x with x = rate (b - threshold)
    isotonic            the measured one                         a step curve

Cut answers are censored: they took more than their cap, and nobody knows whether they would have
been right. `laws` has the likelihood, `population` partial pooling, `separate` none, `isotonic`
tables.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clearopt.calibration.curves import (
    Design,
    Estimate,
    FittedCurves,
    checked_design,
    joined,
    joined_columns,
    shared_parameters,
    summarised,
)
from clearopt.calibration.diagnostics import Residuals, doubtful_law, doubts, goodness, residuals
from clearopt.calibration.isotonic import (
    base_laws,
    isotonic_curves,
    pooled_law,
    sample_count,
    tables,
)
from clearopt.calibration.laws import LAWS
from clearopt.calibration.likelihood import Answers
from clearopt.calibration.population import (
    Population,
    Posterior,
    fit_population_with_covariates,
    parameter_names,
)
from clearopt.calibration.predictive import Curves, predictive
from clearopt.calibration.priors import centre_and_width, wide_law
from clearopt.calibration.rollouts import CalibrationError, Rollouts
from clearopt.calibration.separate import Estimates, at_bound, separate_estimates, within_stretch
from clearopt.errors import DeclarationError
from clearopt.validation import FloatArray, require

FamilyName = Literal["lognormal", "cumulative-surge", "shifted-surge", "isotonic"]
Pooling = Literal["none", "partial", "complete"]
Free = Literal["all", "threshold"]


def fit_curves(
    rollouts: Rollouts,
    queries: int | None = None,
    *,
    family: FamilyName = "lognormal",
    pooling: Pooling = "partial",
    free: Free = "all",
    groups: ArrayLike | None = None,
    design: ArrayLike | None = None,
) -> FittedCurves:
    """Each query's accuracy and expected tokens under a cap, from answers to it and to others.

    Args:
        rollouts: answers to queries 0, 1, ...; cut ones (not finished) are censored.
        queries: n, how many queries there are; by default as many as the rollouts name. Those
            without any get the curve of all queries.
        family: the curves' form (module docstring).
        pooling: "partial" shrinks each query towards the population of all, by empirical Bayes,
            as far as its own answers are few; "none" is maximum likelihood query by query, which
            overfits a handful of answers; "complete" fits one curve for all.
        free: "all" parameters differ by query, or the "threshold" (the median of a lognormal)
            alone, while rate (spread) and scale are shared, as in the paper.
        groups: (n,) labels; queries of different groups are fitted apart.
        design: (n, d) covariates that the population's mean length and chance of a right answer
            depend on linearly; partial pooling only.

    Returns:
        Curves of all n queries. The utility is the posterior predictive: the mean over what is not
        known, as the closest member of the family.

    Raises:
        DeclarationError: an argument is none of the above, or lengths do not agree.
        CalibrationError: a group has no rollout.
    """
    task = _checked(rollouts, queries, family, pooling, free, groups, design)
    parts = [_fit(task, label) for label in task.labels]
    order = np.argsort(np.concatenate([part.members for part in parts]), kind="stable")
    utilities, costs = joined([part.curves for part in parts], order)
    known = [part.residuals for part in parts if part.residuals is not None]
    fit = goodness(known, rollouts, pooling == "partial") if known else None
    said = doubts(rollouts, task.queries, pooling, task.groups)
    said += [sentence for part in parts for sentence in part.warnings]
    if fit is not None:
        said += doubtful_law(fit, family)
    return FittedCurves(
        family,
        pooling,
        free,
        utilities,
        costs,
        joined_columns([part.estimates for part in parts], order),
        joined_columns([part.errors for part in parts], order),
        {part.label: part.shared for part in parts},
        fit,
        tuple(said),
        {part.label: part.model for part in parts},
        task.scaling,
    )


@dataclass(frozen=True)
class _Task:
    """The arguments, checked."""

    rollouts: Rollouts
    queries: int
    family: FamilyName
    pooling: Pooling
    free: Free
    groups: NDArray[Any]
    design: FloatArray
    scaling: Design

    @property
    def labels(self) -> list[Any]:
        return np.unique(self.groups).tolist()


@dataclass(frozen=True)
class _Part:
    """One group's fit; arrays by the position in `members`, the group's queries."""

    label: Any
    members: NDArray[np.intp]
    curves: Curves
    estimates: dict[str, FloatArray]
    errors: dict[str, FloatArray]
    shared: dict[str, Estimate]
    model: Population | Curves
    residuals: Residuals | None
    warnings: list[str]


def _checked(
    rollouts: Rollouts,
    queries: int | None,
    family: FamilyName,
    pooling: Pooling,
    free: Free,
    groups: ArrayLike | None,
    design: ArrayLike | None,
) -> _Task:
    if not isinstance(rollouts, Rollouts):
        raise DeclarationError(
            f"fit_curves: rollouts: expected Rollouts, got {type(rollouts).__name__}; read a file "
            "with read_rollouts, and take the rollouts of one of its runs"
        )
    for name, given, kind in (
        ("family", family, FamilyName),
        ("pooling", pooling, Pooling),
        ("free", free, Free),
    ):
        if given not in get_args(kind):
            raise DeclarationError(
                f"fit_curves: {name} = {given!r}: must be one of {', '.join(get_args(kind))}"
            )
    seen = int(rollouts.query.max()) + 1
    n = seen if queries is None else queries
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise DeclarationError(f"fit_curves: queries = {queries!r}: must be a whole number above 0")
    require(rollouts.query, rollouts.query < n, "Rollouts: query", f"is beyond the {n} queries")
    if family == "isotonic" and free != "all":
        raise DeclarationError(f"fit_curves: free = {free!r}: a table has no parameters to share")
    if design is not None and pooling != "partial":
        raise DeclarationError(
            f'fit_curves: design: covariates belong to a population, which pooling="partial" fits; '
            f"pooling = {pooling!r}"
        )
    matrix = checked_design(design, int(n), None, "fit_curves: design")
    scaling = Design.of(matrix[np.unique(rollouts.query)])
    labels = np.zeros(int(n), dtype=np.intp) if groups is None else np.asarray(groups)
    if labels.shape != (n,):
        raise DeclarationError(
            f"fit_curves: groups has shape {labels.shape}: give one label a query, {n} of them"
        )
    if labels.dtype.kind == "O":
        labels = labels.astype(str)
    return _Task(
        rollouts, int(n), family, pooling, free, labels, scaling.standardised(matrix), scaling
    )


def _fit(task: _Task, label: Any) -> _Part:
    members = np.flatnonzero(task.groups == label)
    inside = np.isin(task.rollouts.query, members)
    if not inside.any():
        raise CalibrationError(
            f"fit_curves: groups: no query of group {label!r} has a rollout, so there is nothing "
            "to fit: leave it out, or give it to another group"
        )
    rollouts = Rollouts(
        np.searchsorted(members, task.rollouts.query[inside]),
        task.rollouts.tokens[inside],
        task.rollouts.correct[inside],
        task.rollouts.finished[inside],
    )
    if task.family == "isotonic":
        return _isotonic(task, label, members, rollouts)
    if task.pooling == "partial":
        return _partial(task, label, members, rollouts)
    return _separate(task, label, members, rollouts)


def _partial(task: _Task, label: Any, members: NDArray[np.intp], rollouts: Rollouts) -> _Part:
    law, design = LAWS[task.family], task.design[members]
    answers = Answers.arranged(law, rollouts, members.size, wide_law(rollouts))
    centre, width = centre_and_width(law, rollouts, design.shape[1])
    shared = task.free == "threshold"
    start = _start(task.family, rollouts, answers, centre, shared)
    if law.jumps:
        centre = start  # for the stretch, of which the likelihood has no slope
    population = fit_population_with_covariates(answers, design, centre, width, shared, start)
    posterior = population.posterior(answers, design)
    stretch = population.parameters.stretch
    agreement = math.inf if population.shared else math.exp(population.parameters.log_agreement)
    estimates, errors = summarised(task.family, posterior)
    return _Part(
        label,
        members,
        predictive(task.family, posterior, stretch),
        estimates,
        errors,
        shared_parameters(population),
        population,
        residuals(answers, posterior, rollouts, stretch, agreement),
        [],
    )


def _start(
    family: str, rollouts: Rollouts, answers: Answers, centre: FloatArray, shared: bool
) -> FloatArray:
    """Where to look for the population first: what the queries by themselves say."""
    covariates = (centre.size - len(parameter_names(0))) // 2
    at = parameter_names(covariates).index
    start = centre.copy()
    start[at("stretch")] = within_stretch(answers)
    if family == "lognormal" and not shared:
        return start
    found = separate_estimates(family, rollouts, answers.queries, shared)
    known = np.bincount(rollouts.query[rollouts.solved], minlength=answers.queries) > 0
    if known.any():
        start[at("location")] = np.median(found.u[known])
        start[at("shape")] = np.median(found.v[known])
    if shared:
        chance = min(max(float(found.chance[0]), 0.01), 0.99)
        start[at("chance")] = math.log(chance / (1 - chance))
    return start


def _separate(task: _Task, label: Any, members: NDArray[np.intp], rollouts: Rollouts) -> _Part:
    """Maximum likelihood, for each query or for all of them as if they were one."""
    n, law = members.size, LAWS[task.family]
    together = Rollouts(
        np.zeros(len(rollouts)), rollouts.tokens, rollouts.correct, rollouts.finished
    )
    common = separate_estimates(task.family, together, 1, shared=False)
    everyone = np.zeros(n, dtype=np.intp)
    if task.pooling == "complete":
        found, warned = common.take(everyone), []
    else:
        found = separate_estimates(task.family, rollouts, n, task.free == "threshold")
        answered = np.bincount(rollouts.query[rollouts.tokens > 0], minlength=n) > 0
        warned = at_bound(found, answered, members)
        found = found.completed(answered, common.take(everyone))
    posterior = _point(found)
    estimates, errors = summarised(task.family, posterior)
    first, second = (name for name in estimates if name != "scale")
    errors = {
        "scale": found.chance_error,
        first: estimates[first] * found.u_error,
        second: estimates[second] * found.v_error,
    }
    shared = {"stretch": Estimate(found.stretch, math.nan)}
    if task.pooling == "complete":
        shared |= {
            name: Estimate(float(estimates[name][0]), float(errors[name][0])) for name in estimates
        }
    answers = Answers.arranged(law, rollouts, n, None)
    return _Part(
        label,
        members,
        predictive(task.family, posterior, found.stretch),
        estimates,
        errors,
        shared,
        predictive(task.family, _point(common), common.stretch),
        residuals(answers, posterior, rollouts, found.stretch, math.inf),
        warned,
    )


def _point(found: Estimates) -> Posterior:
    """Estimates as if nothing else were possible."""
    chance = found.chance[:, None]
    return Posterior(found.u[:, None], found.v[:, None], np.ones_like(chance), chance, chance**2)


def _isotonic(task: _Task, label: Any, members: NDArray[np.intp], rollouts: Rollouts) -> _Part:
    n, samples = members.size, sample_count(task.rollouts, task.queries, task.pooling)
    model: Population | Curves
    if task.pooling == "partial":
        # Measured laws are shrunk to lognormal ones, which are themselves shrunk to a population.
        lognormal = _partial(replace(task, family="lognormal"), label, members, rollouts)
        assert isinstance(lognormal.model, Population)
        model, shared = lognormal.model, lognormal.shared
        base = base_laws(lognormal.curves.utility, model.parameters.stretch)
        found = isotonic_curves(rollouts, base, samples, None)
    else:
        law = pooled_law(rollouts)
        strength = 0.0 if task.pooling == "none" else math.inf
        found = isotonic_curves(rollouts, [law] * n, samples, strength)
        scale, model = float(law.right.sum()), tables([law], samples)
        shared = {
            "scale": Estimate(scale, math.sqrt(scale * (1 - scale) / len(rollouts))),
        }
    return _Part(
        label,
        members,
        found.curves,
        {"scale": found.scale},
        {"scale": found.error},
        {**shared, "strength": Estimate(found.strength, math.nan)},
        model,
        None,
        [],
    )
