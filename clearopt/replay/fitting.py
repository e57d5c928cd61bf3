"""The curves of one case: fitted on its fitting rollouts, or predicted fold by fold."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import clearopt as co
from clearopt.calibration import Rollouts, fit_curves
from clearopt.calibration.fitting import FamilyName, Free
from clearopt.errors import DeclarationError
from clearopt.prediction import Features, PredictionWarning, fit_predictor
from clearopt.replay.accounting import Accounting
from clearopt.replay.curves import Curves, Steps
from clearopt.replay.splits import Case


@dataclass(frozen=True)
class _Fit:
    """How a kind of curves is fitted."""

    family: FamilyName
    free: Free = "all"
    informed: bool = False


# Of surges, as in the paper, the threshold alone differs by query; rate and scale are shared.
_SURGE = _Fit("shifted-surge", free="threshold")
_FITS: dict[str, _Fit] = {
    "shrunk": _Fit("lognormal"),
    "informed": _Fit("lognormal", informed=True),
    "cumulative-surge": _Fit("cumulative-surge", free="threshold"),
    "shifted-surge": _SURGE,
    "triangular": _SURGE,
    "quadratic": _SURGE,
}
"""The kind of curves -> how they are fitted."""

_HUMPS: dict[str, Callable[..., co.Utility]] = {
    "triangular": co.Triangular,
    "quadratic": co.Quadratic,
}


class CaseCurves:
    """A case's curves by kind, each fitted when first asked for.

    Args:
        case: what may be looked at.
        features: of the run's queries, for a query split.
        predictor: what predicts from them.
        seed: of a predictor that draws.

    Attributes:
        warnings: what the fits said, each once.
    """

    def __init__(
        self, case: Case, features: Features | None, predictor: str, seed: int = 0
    ) -> None:
        self._whole = self._case = case
        self._entries: NDArray[np.intp] | None = None
        if case.stream is not None:  # fitted once, however often a query comes
            self._case, self._entries = case.stream
        self._features, self._predictor, self._seed = features, predictor, seed
        self._fitted: dict[_Fit, Curves] = {}
        self._made: dict[str, Curves] = {}
        self._stepped: dict[tuple[str, bool], Steps] = {}
        self.warnings: list[str] = []

    @property
    def informed(self) -> bool:
        """Whether there are features."""
        return self._features is not None

    def __call__(self, kind: str) -> Curves:
        """The curves of that kind, of the case's queries."""
        if kind not in self._made:
            curves = self._of_case(_FITS[kind])
            if kind in _HUMPS:
                curves = Curves(_hump(kind, curves.utilities), curves.cost_curves)
            self._made[kind] = curves if self._entries is None else curves.take(self._entries)
        return self._made[kind]

    def steps(self, accounting: Accounting, *, scored: bool) -> Steps:
        """The case's empirical curves."""
        key = (accounting.name, scored)
        if key not in self._stepped:
            seen = self._whole.scored if scored else self._whole.fitting
            self._stepped[key] = Steps.of(seen, self._whole.n, accounting)
        return self._stepped[key]

    def _of_case(self, fit: _Fit) -> Curves:
        if fit not in self._fitted:
            whole = self._case.folds is None
            self._fitted[fit] = self._own(fit) if whole else self._predicted(fit)
        return self._fitted[fit]

    def _own(self, fit: _Fit) -> Curves:
        """Curves of each query's own rollouts, shrunk towards the population's."""
        design = self._features.values[self._case.queries] if self._features else None
        fitted = fit_curves(
            self._case.fitting,
            self._case.n,
            family=fit.family,
            free=fit.free,
            design=design if fit.informed else None,
        )
        self._heard(fitted.warnings)
        return Curves.of(fitted.utilities, fitted.cost_curves, self._case.n)

    def _predicted(self, fit: _Fit) -> Curves:
        """Each fold's curves, from a fit on the other folds alone."""
        case, features = self._case, self._features
        if features is None or case.folds is None:
            raise DeclarationError("a query split needs features to predict from")
        features = features.take(case.queries)
        parts = []
        for fold in np.unique(case.folds):
            away = case.folds == fold
            seen = _of_queries(case.fitting, np.flatnonzero(~away), case.n)
            predicted = self._from_others(fit, features.take(~away), seen, features.take(away))
            parts.append((np.flatnonzero(away), predicted))
        return Curves.joined(parts)

    def _from_others(self, fit: _Fit, known: Features, seen: Rollouts, new: Features) -> Curves:
        if self._predictor != "design" and fit.family == "lognormal":
            return self._regressed(known, seen, new)
        fitted = fit_curves(seen, len(known), family=fit.family, free=fit.free, design=known.values)
        self._heard(fitted.warnings)
        predicted = fitted.predict(new.values)
        return Curves.of(predicted.utilities, predicted.cost_curves, len(new))

    def _regressed(self, known: Features, seen: Rollouts, new: Features) -> Curves:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PredictionWarning)  # the predictor lists them as well
            predictor = fit_predictor(known, seen, regressor=self._predictor, seed=self._seed)
        self._heard(predictor.warnings)
        predicted = predictor.predict(new)
        return Curves.of(predicted.utilities, predicted.cost_curves, len(new))

    def _heard(self, sentences: tuple[str, ...]) -> None:
        self.warnings += [said for said in sentences if said not in self.warnings]


def _hump(kind: str, surge: co.Utility) -> co.Utility:
    """The ablation of the same threshold and scale, with its peak where the surge has its own."""
    assert isinstance(surge, co.ShiftedSurge)
    return _HUMPS[kind](surge.scale, surge.threshold, 2.0 / np.asarray(surge.rate))


def _of_queries(rollouts: Rollouts, queries: np.ndarray, n: int) -> Rollouts:
    """The rollouts of these queries, numbered anew in this order."""
    number = np.full(n, -1, dtype=np.intp)
    number[queries] = np.arange(queries.size)
    query = number[rollouts.query]
    kept = query >= 0
    return Rollouts(
        query[kept], rollouts.tokens[kept], rollouts.correct[kept], rollouts.finished[kept]
    )
