"""What curves of unseen queries are predicted from: a table of features, or other models' rollouts.

Another model's rollouts say how long and how hard a query is: of each query the mean logarithm of
its answers' lengths and the logit of the share that is right, both within that model, are features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clearopt.calibration import Rollouts, Run, Traces
from clearopt.errors import DeclarationError
from clearopt.replay.accounting import per_query
from clearopt.replay.settings import OTHERS, Settings
from clearopt.tables import read_table
from clearopt.validation import FloatArray


@dataclass(frozen=True, eq=False)
class Features:
    """Numbers by query.

    Attributes:
        names: (d,) what the columns are.
        values: (n, d), finite; a query the source does not know has a column's mean.
        source: where they come from, for a report.
    """

    names: tuple[str, ...]
    values: FloatArray
    source: str


def features_for(run: Run, traces: Traces, settings: Settings) -> Features:
    """The features that the settings ask for, of the run's queries.

    Raises:
        DeclarationError: there are none for this run; says why.
    """
    found = []
    if settings.features is not None:
        found.append(_from_table(run, Path(settings.features)))
    if settings.predict_from is not None:
        found.append(_from_models(run, traces, settings.predict_from))
    return Features(
        tuple(name for each in found for name in each.names),
        np.hstack([each.values for each in found]),
        " and ".join(each.source for each in found),
    )


def _from_table(run: Run, path: Path) -> Features:
    """The numeric columns of a table with a column `query_id` (and `benchmark`, where it helps)."""
    table = read_table(path)
    table.require_column("query_id", "which query a row describes")
    labels = table.labels("query_id")
    rows = list(range(table.rows))
    if "benchmark" in table.columns:
        benchmarks = table.labels("benchmark")
        rows = [row for row in rows if benchmarks[row] == run.benchmark]
    place: dict[str, int] = {}
    for row in rows:
        if place.setdefault(labels[row], row) != row:
            raise table.error(
                row, "query_id",
                f"{labels[row]!r} stands already on {table.place(place[labels[row]])}; a column "
                "'benchmark' tells queries of one name apart",
            )  # fmt: skip
    known = [i for i, query in enumerate(run.queries) if query in place]
    if not known:
        raise DeclarationError(
            f"{path}: describes none of the queries of {run.name} (such as {run.queries[0]!r})"
        )
    names, columns = [], []
    taken = np.array([place[run.queries[i]] for i in known])
    for column in table.columns:
        if column in ("query_id", "benchmark", "model"):
            continue
        try:
            numbers = table.numbers(column)[taken]
        except DeclarationError:
            continue  # labels, or a column with gaps
        if np.ptp(numbers) > 0:
            names.append(column)
            columns.append(_filled(numbers, known, run.n))
    if not columns:
        raise DeclarationError(
            f"{path}: no column beside query_id holds a finite number for each of the queries of "
            f"{run.name} and tells them apart"
        )
    return Features(tuple(names), np.stack(columns, axis=1), str(path))


def _from_models(run: Run, traces: Traces, wanted: str) -> Features:
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
    columns = [_of_model(run, other) for other in others]
    # Several models are averaged: each is a noisy view of the same difficulty.
    with np.errstate(invalid="ignore"):
        seen = ~np.isnan(np.stack(columns))
        total = np.where(seen, np.stack(columns), 0.0).sum(axis=0)
        count = seen.sum(axis=0)
    known = np.flatnonzero(count[:, 0])
    if known.size < 2:
        raise DeclarationError(f"{run.name}: {wanted} answered fewer than two of these queries")
    values = total[known] / count[known]
    return Features(
        ("log_length", "solved"),
        np.stack([_filled(values[:, k], known, run.n) for k in range(2)], axis=1),
        f"the rollouts of {len(others)} other models" if wanted == OTHERS else f"{wanted}",
    )


def _of_model(run: Run, other: Run) -> FloatArray:
    """(n, 2) mean log length and logit of the share right, centred within the model; else NaN."""
    place = {query: i for i, query in enumerate(other.queries)}
    where = np.array([place.get(query, -1) for query in run.queries])
    measured = _difficulty(other.rollouts, other.n)
    values = np.full((run.n, 2), np.nan)
    values[where >= 0] = (measured - measured.mean(axis=0))[where[where >= 0]]
    return values


def _difficulty(rollouts: Rollouts, n: int) -> FloatArray:
    counts = np.bincount(rollouts.query, minlength=n)
    solved = np.bincount(rollouts.query, weights=rollouts.solved, minlength=n)
    length = per_query(rollouts, np.log(np.maximum(rollouts.tokens, 1.0)), n)
    return np.stack([length, np.log((solved + 0.5) / (counts - solved + 0.5))], axis=1)


def _filled(values: FloatArray, known: Sequence[int] | NDArray[np.intp], n: int) -> FloatArray:
    """(n,) the values where they are known, their mean elsewhere."""
    column = np.full(n, values.mean())
    column[np.asarray(known, dtype=np.intp)] = values
    return column
