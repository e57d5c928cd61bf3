"""What is known of queries beside their rollouts: features that curves are predicted from, by a
table or by other models' rollouts, and the model's own estimates."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clearopt.calibration import Rollouts, Run, Traces
from clearopt.errors import DeclarationError
from clearopt.prediction import Features, read_features, rollout_features
from clearopt.replay.estimates import COLUMN
from clearopt.replay.settings import OTHERS, Settings
from clearopt.validation import FloatArray, require


def features_for(run: Run, traces: Traces, settings: Settings) -> Features:
    """The features that the settings ask for, of the run's queries.

    Raises:
        DeclarationError: there are none for this run; says why.
    """
    found = []
    if settings.features is not None:
        found.append(read_features(Path(settings.features), run.queries))
    if settings.predict_from is not None:
        found.append(_from_models(run, traces, settings.predict_from))
    return found[0].joined(*found[1:])


def estimates_for(run: Run, settings: Settings) -> FloatArray | None:
    """(n,) tokens that the model thinks its queries need; None where there is no table of them.

    Raises:
        DeclarationError: a query is not in it, or an estimate is not positive.
    """
    if settings.estimates is None:
        return None
    found = read_features(
        Path(settings.estimates), run.queries, columns=(COLUMN,), logarithms=False
    ).values[:, 0]
    require(found, found > 0, f"{settings.estimates}: {COLUMN}", "must be positive")
    return np.asarray(found)


def _from_models(run: Run, traces: Traces, wanted: str) -> Features:
    """How long and how hard the queries are to another model, or to several on average."""
    others = [
        other
        for other in traces.runs()
        if other.benchmark == run.benchmark
        and other.model != run.model
        and wanted in (OTHERS, other.model)
    ]
    if not others:
        if wanted == run.model:
            raise DeclarationError(f"{run.name}: a model is not predicted from itself")
        raise DeclarationError(f"{run.name}: there are no rollouts of {wanted} on these queries")
    total, models = np.zeros((run.n, 3)), np.zeros(run.n)
    for other in others:
        values, known = _of_model(run, other)
        if not known.any():
            continue
        # Each model around its own mean: what is averaged is how queries differ.
        total = total + np.where(known[:, None], values - values[known].mean(axis=0), 0.0)
        models += known
    if np.count_nonzero(models) < 2:
        raise DeclarationError(f"{run.name}: {wanted} answered fewer than two of these queries")
    names = tuple(f"{wanted} {what}" for what in ("log length", "log odds", "log spread"))
    return Features(names, total / np.maximum(models, 1.0)[:, None])


def _of_model(run: Run, other: Run) -> tuple[FloatArray, np.ndarray]:
    """(n, 3) features of the run's queries by the other's rollouts, and which it has answered."""
    place = {query: i for i, query in enumerate(run.queries)}
    number = np.array([place.get(query, -1) for query in other.queries], dtype=np.intp)
    theirs = other.rollouts
    query = number[theirs.query]
    kept = query >= 0
    if not kept.any():
        return np.zeros((run.n, 3)), np.zeros(run.n, dtype=bool)
    seen = Rollouts(query[kept], theirs.tokens[kept], theirs.correct[kept], theirs.finished[kept])
    known = np.bincount(seen.query, minlength=run.n) > 0
    return rollout_features(seen, run.n).values, known
