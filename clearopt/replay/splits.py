"""What may be looked at, and what is scored: two kinds of split, never mixed.

- **sample**: half of each query's samples for fitting, the other half for scoring, then the other
  way round. It asks what allocation gains for queries that have been seen before.
- **query**: each query's curve is predicted by fits on other queries alone, from features of the
  query or from another model's rollouts on it, and all its samples score. It asks what allocation
  gains for queries nobody has run. Queries are dealt into folds, and those of one fold, whose
  curves come from one fit, share their own part of the budget.

In a query split the scalars of the baselines (what is ample, the best common cap) are taken from
the scored rollouts themselves, which favours the baselines.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from clearopt.calibration import Rollouts, Run
from clearopt.errors import DeclarationError

SAMPLE, QUERY = "sample", "query"
FOLDS = 5  # of the queries, in a query split


@dataclass(frozen=True, eq=False)
class Case:
    """One draw of a split.

    Attributes:
        split: "sample" or "query".
        repeat: which draw it is, from 0.
        queries: (n,) positions in the run of the queries that are scored.
        fitting: rollouts that may be looked at, of queries 0 .. n - 1.
        scored: rollouts that are scored, of queries 0 .. n - 1, each of which has at least one.
        folds: (n,) which fold a query is in, for a query split: its curve comes from the others,
            and policies that buy by curves share a fold's own part of the budget in it.
        stream: of a stream, the case that it is drawn from and the place there of each query.
    """

    split: str
    repeat: int
    queries: NDArray[np.intp]
    fitting: Rollouts
    scored: Rollouts
    folds: NDArray[np.intp] | None = None
    stream: tuple[Case, NDArray[np.intp]] | None = None

    @property
    def n(self) -> int:
        """How many queries are scored."""
        return int(self.queries.size)

    def streamed(self, entries: NDArray[np.intp]) -> Case:
        """The queries at these places, in this order, with their rollouts; one may come again."""
        return replace(
            self.part(entries),
            folds=None if self.folds is None else self.folds[entries],
            stream=(self, entries),
        )

    def part(self, entries: NDArray[np.intp]) -> Case:
        """The queries at these places alone, without folds."""
        return Case(
            self.split,
            self.repeat,
            self.queries[entries],
            _repeated(self.fitting, entries, self.n),
            _repeated(self.scored, entries, self.n),
        )


def sample_split(run: Run, repeats: int, seed: int) -> Iterator[Case]:
    """Two cases a repeat: either half of each query's samples is fitted once and scored once.

    Of an odd number of samples the larger part is scored first. A query with a single sample is
    scored without having been fitted; in the other direction it is left out.

    Raises:
        DeclarationError: no query has two samples.
    """
    require_two_samples(run)
    for repeat in range(repeats):
        first = _halves(run.rollouts.query, run.n, np.random.default_rng([seed, repeat, 11]))
        for direction, fitted in enumerate((first, ~first)):
            yield _sample_case(run, fitted, 2 * repeat + direction)


def require_two_samples(run: Run) -> None:
    """Raise unless a sample split is possible."""
    if run.samples.max() < 2:
        raise DeclarationError(
            f"{run.name}: every query has one sample, so none can be fitted and scored on "
            "different ones: only a query split is possible (--features or --predict-from)"
        )


def query_split(run: Run, repeats: int, seed: int) -> Iterator[Case]:
    """One case a repeat: all queries in `FOLDS` folds, all their samples scored.

    Raises:
        DeclarationError: there is but one query.
    """
    require_two_queries(run)
    everything = run.of_queries(np.arange(run.n)).rollouts
    for repeat in range(repeats):
        rng = np.random.default_rng([seed, repeat, 13])
        folds = rng.permutation(np.arange(run.n) % min(FOLDS, run.n))
        yield Case(QUERY, repeat, np.arange(run.n), everything, everything, folds)


def require_two_queries(run: Run) -> None:
    """Raise unless a query split is possible."""
    if run.n < 2:
        raise DeclarationError(
            f"{run.name}: there is one query, so nothing can be learned from others about it"
        )


def _halves(query: NDArray[np.intp], n: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """(m,) a random half of each query's rows, rounded down."""
    # Sorted by query and, within it, at random; a row's place among its query's follows.
    order = np.lexsort((rng.random(query.size), query))
    counts = np.bincount(query, minlength=n)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    place = np.empty(query.size, dtype=np.intp)
    place[order] = np.arange(query.size) - starts[query[order]]
    return np.asarray(place < counts[query] // 2, dtype=np.bool_)


def _sample_case(run: Run, fitted: NDArray[np.bool_], repeat: int) -> Case:
    scored = np.flatnonzero(np.bincount(run.rollouts.query[~fitted], minlength=run.n))
    number = np.full(run.n, -1, dtype=np.intp)
    number[scored] = np.arange(scored.size)
    kept = number[run.rollouts.query] >= 0

    def part(rows: NDArray[np.bool_]) -> Rollouts:
        mine, rows = run.rollouts, rows & kept
        return Rollouts(
            number[mine.query[rows]], mine.tokens[rows], mine.correct[rows], mine.finished[rows]
        )

    return Case(SAMPLE, repeat, scored, part(fitted), part(~fitted))


def _repeated(rollouts: Rollouts, entries: NDArray[np.intp], n: int) -> Rollouts:
    """The rollouts of the queries at `entries`, which are numbered anew."""
    order = np.argsort(rollouts.query, kind="stable")
    counts = np.bincount(rollouts.query, minlength=n)
    starts = np.cumsum(counts) - counts
    sizes = counts[entries]
    ends = np.cumsum(sizes)
    # The k-th rollout of an entry is the k-th one of its query.
    within = np.arange(ends[-1]) - np.repeat(ends - sizes, sizes)
    rows = order[np.repeat(starts[entries], sizes) + within]
    query = np.repeat(np.arange(entries.size), sizes)
    return Rollouts(query, rollouts.tokens[rows], rollouts.correct[rows], rollouts.finished[rows])
