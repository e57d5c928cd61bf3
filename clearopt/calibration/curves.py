"""`FittedCurves`: one curve a query, with what is known of it and how well it fits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clearopt.calibration.diagnostics import Goodness
from clearopt.calibration.isotonic import base_laws, tables
from clearopt.calibration.laws import LAWS, STRAY
from clearopt.calibration.likelihood import Answers
from clearopt.calibration.population import Population, Posterior, parameter_names
from clearopt.calibration.predictive import Curves, predictive
from clearopt.calibration.priors import wide_law
from clearopt.calibration.rollouts import Rollouts
from clearopt.errors import DeclarationError
from clearopt.utilities import (
    CostCurve,
    CumulativeSurge,
    ExpectedTokens,
    Lognormal,
    LognormalTokens,
    ShiftedSurge,
    Tabulated,
    Utility,
)
from clearopt.utilities.cost_curves import SampledTokens
from clearopt.utilities.family import Family, concatenated
from clearopt.validation import FloatArray, require

_FORMAT = 1  # of `to_dict`
_CAPS = 20  # at which curves are compared with answers
_STORED: Mapping[str, Any] = {
    cls.__name__: cls
    for cls in (
        CumulativeSurge,
        ExpectedTokens,
        Lognormal,
        LognormalTokens,
        SampledTokens,
        ShiftedSurge,
        Tabulated,
    )
}


class Estimate(NamedTuple):
    """A number and its standard error."""

    value: float
    standard_error: float


@dataclass(frozen=True)
class Design:
    """How covariates are standardised: by these means and deviations, (d,)."""

    means: FloatArray
    deviations: FloatArray

    @classmethod
    def of(cls, design: FloatArray) -> Design:
        """From the queries fitted on, (n, d); a column that does not vary says nothing."""
        if not design.size:
            return cls(np.zeros(design.shape[1]), np.ones(design.shape[1]))
        means, deviations = design.mean(axis=0), design.std(axis=0)
        varies = deviations > 1e-12 * np.abs(design).max(axis=0)
        return cls(means, np.where(varies, deviations, np.inf))

    def standardised(self, design: FloatArray) -> FloatArray:
        """(n, d) covariates of any queries in the units of those fitted on."""
        return (design - self.means) / self.deviations


@dataclass(frozen=True, eq=False)
class FittedCurves:
    """One curve for each of n queries; made by `fit_curves`.

    Attributes:
        family, pooling, free: as given to `fit_curves`.
        utilities: n members: the accuracy expected under a cap of b tokens.
        cost_curves: n members: the tokens expected under it, E[min(T, b)].
        estimates, standard_errors: the utility's parameters by name, (n,), and their errors. A
            utility is the mean over what the parameters may be, so its own are wider than these.
        populations: for each group label what all its queries share; parameters by name.
        goodness: how well the curves describe answers left out; None for tables, which have no
            law of lengths, and for curves that `predict` gives.
        warnings: sentences that say of which queries too little is known.
    """

    family: str
    pooling: str
    free: str
    utilities: Utility
    cost_curves: CostCurve
    estimates: Mapping[str, FloatArray]
    standard_errors: Mapping[str, FloatArray]
    populations: Mapping[Any, Mapping[str, Estimate]]
    goodness: Goodness | None
    warnings: tuple[str, ...]
    models: Mapping[Any, Population | Curves]
    design: Design

    def __len__(self) -> int:
        return int(self.estimates["scale"].shape[0])

    def __repr__(self) -> str:
        return f"FittedCurves({len(self)} queries, {self.family}, {self.pooling} pooling)"

    @property
    def population(self) -> Mapping[str, Estimate]:
        """What all queries share: parameters by name, where there is but one group.

        With partial pooling these are the parameters of `calibration.population`, those of
        lengths on the scale of logarithms, so that exp(location) is the median of the queries'
        medians in tokens.
        """
        if len(self.populations) != 1:
            raise DeclarationError(
                f"population: there are {len(self.populations)} groups, {list(self.populations)}: "
                "take populations[label]"
            )
        return next(iter(self.populations.values()))

    # ---------------------------------------------------------------- other queries
    def predict(
        self,
        design: ArrayLike | None = None,
        *,
        queries: int | None = None,
        groups: ArrayLike | None = None,
    ) -> FittedCurves:
        """Curves of queries that nobody has answered: the population's, by covariates and group.

        Args:
            design: (m, d) covariates of the new queries, as they were given to `fit_curves`.
            queries: m; by default as many as `design` or `groups` has rows, or 1.
            groups: (m,) labels, where the fit had groups.

        Raises:
            DeclarationError: no population was fitted (no pooling), a label is new, or the
                covariates are not those that were fitted with.
        """
        if self.pooling == "none":
            raise DeclarationError(
                'predict: with pooling="none" nothing is learnt of other queries; fit with '
                'pooling="partial"'
            )
        d = self.design.means.size
        rows = [np.shape(x)[0] for x in (design, groups) if x is not None and np.ndim(x)]
        m = int(queries) if queries is not None else (rows[0] if rows else 1)
        matrix = checked_design(design, m, d, "predict: design")
        labels = _known_labels(groups, m, list(self.models))
        parts, values, errors = [], [], []
        for label, model in self.models.items():
            members = np.flatnonzero([x == label for x in labels])
            if not members.size:
                continue
            if isinstance(model, Population):
                law = "lognormal" if self.family == "isotonic" else self.family
                answers = Answers.arranged(LAWS[law], None, members.size, None)
                posterior = model.posterior(answers, self.design.standardised(matrix[members]))
                curves = predictive(law, posterior, model.parameters.stretch)
                own, own_errors = summarised(law, posterior)
                if self.family == "isotonic":
                    curves = tables(base_laws(curves.utility, model.parameters.stretch))
            else:
                row = np.zeros(members.size, dtype=np.intp)
                curves = Curves(model.utility.take(row), model.cost.take(row))
                shared = self.populations[label]
                own, own_errors = (
                    {name: np.full(members.size, shared[name][k]) for name in self.estimates}
                    for k in (0, 1)
                )
            parts.append((members, curves))
            values.append({name: own[name] for name in self.estimates})
            errors.append({name: own_errors[name] for name in self.estimates})
        order = np.argsort(np.concatenate([members for members, _ in parts]), kind="stable")
        return FittedCurves(
            self.family,
            self.pooling,
            self.free,
            *joined([curves for _, curves in parts], order),
            joined_columns(values, order),
            joined_columns(errors, order),
            self.populations,
            None,
            (),
            self.models,
            self.design,
        )

    # ---------------------------------------------------------------- other answers
    def score(self, rollouts: Rollouts) -> dict[str, float]:
        """How well the curves foretell other answers to the same queries.

        Returns:
            brier: mean squared difference between U(b) and whether an answer is right within b,
                over 20 caps b; lower is better.
            log_score: mean logarithm of the probability (density in log T) of what happened:
                right at T, wrong, or cut at T and not yet right; higher is better. NaN for tables,
                which have no density.
        """
        n = len(self)
        require(rollouts.query, rollouts.query < n, "Rollouts: query", f"is beyond the {n} queries")
        own, tokens = self.utilities.take(rollouts.query), np.maximum(rollouts.tokens, 1e-9)
        caps = np.unique(np.quantile(tokens, (np.arange(_CAPS) + 0.5) / _CAPS))
        total, known = 0.0, 0
        for cap in caps:
            seen = rollouts.finished | (cap < tokens)
            right = rollouts.solved & (tokens <= cap)
            missed = (own.value(np.full(tokens.shape, cap)) - right)[seen]
            total, known = total + float(missed @ missed), known + int(seen.sum())
        return {"brier": total / max(known, 1), "log_score": self._log_score(rollouts, own, tokens)}

    def _log_score(self, rollouts: Rollouts, own: Any, tokens: FloatArray) -> float:
        if self.family == "isotonic":
            return math.nan
        wide = wide_law(rollouts)
        z = (np.log(tokens) - wide.mean) / wide.deviation
        stray = np.exp(-0.5 * z * z) / (wide.deviation * math.sqrt(2 * math.pi))
        chance = np.where(rollouts.finished, 1.0 - own.scale, 1.0 - own.value(tokens))
        slope = np.maximum(own.marginal(tokens), 0.0)  # a shifted surge falls past its peak
        chance = np.where(rollouts.solved, slope * tokens, chance)
        other = np.where(rollouts.solved, 0.5 * stray, 0.5)
        return float(np.mean(np.log((1 - STRAY) * chance + STRAY * other + 1e-300)))

    def plot(self, path: str | Path) -> Path:
        """Draw how well the curves are calibrated, and save it; returns the path.

        On the left, where lengths fall in their predicted laws: a tenth in each tenth if the laws
        hold. On the right, how many answers are right where so many were predicted to be.

        Raises:
            DeclarationError: there is no `goodness`.
            MissingExtraError: Matplotlib is not installed.
        """
        from clearopt.calibration.picture import plot_goodness

        if self.goodness is None:
            raise DeclarationError(
                "plot: these curves were not compared with answers: tables have no law of lengths, "
                "and predicted curves no answers"
            )
        return plot_goodness(self.goodness, path)

    # ---------------------------------------------------------------- as plain data
    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, ready for JSON; infinities as the text "inf"."""
        return {
            "format": _FORMAT,
            "family": self.family,
            "pooling": self.pooling,
            "free": self.free,
            "utilities": _written(self.utilities),
            "cost_curves": _written(self.cost_curves),
            "estimates": {k: _listed(v) for k, v in self.estimates.items()},
            "standard_errors": {k: _listed(v) for k, v in self.standard_errors.items()},
            "populations": [
                [_plain(label), {k: _listed(np.array(v)) for k, v in shared.items()}]
                for label, shared in self.populations.items()
            ],
            "goodness": None if self.goodness is None else asdict(self.goodness),
            "warnings": list(self.warnings),
            "models": [[_plain(label), _model_written(m)] for label, m in self.models.items()],
            "design": {
                "means": _listed(self.design.means),
                "deviations": _listed(self.design.deviations),
            },
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> FittedCurves:
        """The inverse of `to_dict`.

        Raises:
            DeclarationError: it is not what `to_dict` gives, or of another version.
        """
        if plain.get("format") != _FORMAT:
            raise DeclarationError(
                f"FittedCurves.from_dict: format = {plain.get('format')!r}; this version reads "
                f"{_FORMAT}: fit again"
            )
        goodness = plain["goodness"]
        return cls(
            plain["family"],
            plain["pooling"],
            plain["free"],
            _read(plain["utilities"]),
            _read(plain["cost_curves"]),
            {k: _array(v) for k, v in plain["estimates"].items()},
            {k: _array(v) for k, v in plain["standard_errors"].items()},
            {
                label: {k: Estimate(*_array(v).tolist()) for k, v in shared.items()}
                for label, shared in plain["populations"]
            },
            None if goodness is None else _goodness_read(goodness),
            tuple(plain["warnings"]),
            {label: _model_read(model) for label, model in plain["models"]},
            Design(*(_array(plain["design"][k]) for k in ("means", "deviations"))),
        )


def summarised(
    family: str, posterior: Posterior
) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    """The parameters of the family by name: posterior means and deviations, (n,) each."""
    scale = posterior.mean(posterior.chance)
    variance = posterior.mean(posterior.chance_squared) - scale**2
    u, v = (np.exp(posterior.mean(x)) for x in (posterior.u, posterior.v))
    u_error, v_error = u * posterior.deviation(posterior.u), posterior.deviation(posterior.v)
    first, second = ("median", "spread") if family == "lognormal" else ("threshold", "rate")
    v = v if family == "lognormal" else 1.0 / v
    return (
        {"scale": scale, first: u, second: v},
        {"scale": np.sqrt(np.maximum(variance, 0.0)), first: u_error, second: v * v_error},
    )


def shared_parameters(population: Population) -> dict[str, Estimate]:
    """A population's parameters by name."""
    errors = np.sqrt(np.diag(population.covariance))
    names = parameter_names(population.covariates)
    idle = {"log_shape_deviation", "slope", "log_agreement"} if population.shared else set()
    return {
        name: Estimate(float(value), float(error))
        for name, value, error in zip(names, population.vector, errors, strict=True)
        if name not in idle and not (population.shared and name.startswith("by_chance"))
    }


def joined(parts: Sequence[Curves], order: NDArray[np.intp]) -> tuple[Any, Any]:
    """Utilities and cost curves of all parts, in the order of the queries."""
    if len({curves.utility.kind for curves in parts}) > 1:  # tables of different widths
        parts = [Curves(_widened(c.utility, parts), c.cost) for c in parts]
    utilities = concatenated([part.utility for part in parts])
    return utilities.take(order), concatenated([part.cost for part in parts]).take(order)


def _widened(table: Any, parts: Sequence[Curves]) -> Tabulated:
    """A table with as many points as the widest, the last ones of which change nothing."""
    width = max(np.shape(curves.utility.parameters[0])[-1] for curves in parts)
    missing = width - table.grid.shape[-1]
    more = table.grid[:, -1:] + np.arange(1, missing + 1)
    grid = np.concatenate([table.grid, more], axis=1)
    values = np.concatenate(
        [table.values, np.repeat(table.values[:, -1:], missing, axis=1)], axis=1
    )
    return Tabulated(grid, values, table.interpolation)


def joined_columns(
    parts: Sequence[Mapping[str, FloatArray]], order: NDArray[np.intp]
) -> dict[str, FloatArray]:
    """The same of arrays by name."""
    return {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}


def checked_design(
    design: ArrayLike | None, queries: int, covariates: int | None, argument: str
) -> FloatArray:
    """Covariates as an (n, d) float array; (n, 0) where none are given."""
    if design is None:
        if covariates:
            raise DeclarationError(
                f"{argument}: the curves were fitted with {covariates} covariates a query: give "
                f"them, ({queries}, {covariates})"
            )
        return np.zeros((queries, 0))
    try:
        matrix = np.array(design, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DeclarationError(f"{argument}: expected numbers, (n, d) ({error})") from error
    if matrix.ndim == 1:
        matrix = matrix[:, None]
    if matrix.ndim != 2 or matrix.shape[0] != queries:
        raise DeclarationError(
            f"{argument}: expected one row of covariates a query, ({queries}, d), got shape "
            f"{np.shape(design)}"
        )
    if covariates is not None and matrix.shape[1] != covariates:
        raise DeclarationError(
            f"{argument}: has {matrix.shape[1]} covariates, the fit had {covariates}"
        )
    for k, column in enumerate(matrix.T):
        require(column, np.isfinite(column), f"{argument}, column {k}", "must be finite")
    return matrix


def _known_labels(groups: ArrayLike | None, queries: int, known: list[Any]) -> list[Any]:
    if groups is None:
        if len(known) > 1:
            raise DeclarationError(f"predict: groups: say of which group each query is: {known}")
        return known * queries
    labels = np.asarray(groups).tolist()
    if not isinstance(labels, list) or len(labels) != queries:
        raise DeclarationError(f"predict: groups: give one label a query, {queries} of them")
    for k, label in enumerate(labels):
        if label not in known:
            raise DeclarationError(f"predict: groups[{k}] = {label!r}: known are {known}")
    return labels


# -------------------------------------------------------------------------------- plain data
def _listed(array: FloatArray) -> list[Any]:
    """Nested lists of numbers; an infinity is no number to JSON."""
    if array.ndim > 1:
        return [_listed(row) for row in array]
    return [x if math.isfinite(x) else str(x) for x in array.tolist()]


def _array(listed: list[Any]) -> FloatArray:
    return np.array(listed, dtype=np.float64) if listed else np.zeros(0)


def _plain(label: Any) -> Any:
    return label.item() if isinstance(label, np.generic) else label


def _written(family: Family) -> dict[str, Any]:
    parameters = {
        name: _listed(np.asarray(value, dtype=np.float64))
        for name, value in zip(family.parameter_names, family.parameters, strict=True)
    }
    return {"family": type(family).__name__, "parameters": parameters}


def _read(plain: Mapping[str, Any]) -> Any:
    cls = _STORED.get(plain["family"])
    if cls is None:
        raise DeclarationError(f"FittedCurves.from_dict: unknown family {plain['family']!r}")
    arrays = {name: _array(value) for name, value in plain["parameters"].items()}
    if cls is Tabulated:
        return Tabulated(arrays["grid"], arrays["values"], "step")
    if cls is SampledTokens:
        lengths = arrays["lengths"]
        return SampledTokens(np.where(np.isinf(lengths), 0.0, lengths), np.isinf(lengths))
    return cls(**arrays)


def _goodness_read(plain: Mapping[str, Any]) -> Goodness:
    fields: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()
    }
    return Goodness(**fields)


def _model_written(model: Population | Curves) -> dict[str, Any]:
    if isinstance(model, Population):
        return {
            "vector": _listed(model.vector),
            "covariance": _listed(model.covariance),
            "covariates": model.covariates,
            "shared": model.shared,
            "log_likelihood": model.log_likelihood,
        }
    return {"utility": _written(model.utility), "cost": _written(model.cost)}


def _model_read(plain: Mapping[str, Any]) -> Population | Curves:
    if "vector" not in plain:
        return Curves(_read(plain["utility"]), _read(plain["cost"]))
    return Population(
        _array(plain["vector"]),
        _array(plain["covariance"]),
        plain["covariates"],
        plain["shared"],
        plain["log_likelihood"],
    )
