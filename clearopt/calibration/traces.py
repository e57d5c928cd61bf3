"""`read_rollouts`: rollouts from a file, checked, by benchmark, model and query.

One row is one sampled answer: `benchmark, model, query_id, sample_id, tokens, correct, finished`.
What is left out has a plain meaning: without `finished` every answer ended by itself, without
`sample_id` a query's samples are counted, and without `benchmark` or `model` there is but one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clearopt.calibration.rollouts import Rollouts
from clearopt.errors import DeclarationError
from clearopt.tables import Table, read_table, write_table
from clearopt.validation import FloatArray

COLUMNS = ("benchmark", "model", "query_id", "sample_id", "tokens", "correct", "finished")
"""Our names of the columns, in the order in which files have them."""

_REQUIRED = {
    "query_id": "which query a row answers",
    "tokens": "what an answer cost",
    "correct": "whether an answer is right",
}


@dataclass(frozen=True, eq=False)
class Run:
    """One model's answers to one benchmark's queries.

    Attributes:
        benchmark, model: their labels.
        queries: (n,) the queries' labels; `rollouts.query` is a position in them.
        rollouts: the answers; a query may have none (after `subset`).
    """

    benchmark: str
    model: str
    queries: tuple[str, ...]
    rollouts: Rollouts

    @property
    def n(self) -> int:
        """How many queries there are."""
        return len(self.queries)

    @property
    def samples(self) -> NDArray[np.intp]:
        """(n,) how many answers each query has."""
        return np.bincount(self.rollouts.query, minlength=self.n).astype(np.intp)

    @property
    def name(self) -> str:
        """Benchmark and model, as a person writes them."""
        return f"{self.benchmark}, {self.model}"

    def subset(self, rows: ArrayLike) -> Run:
        """The same queries with these answers alone.

        Args:
            rows: (m,) a mask over the rollouts, or their positions.

        Raises:
            DeclarationError: no answer is left.
        """
        mine = self.rollouts
        chosen = np.asarray(rows)
        kept = Rollouts(
            mine.query[chosen], mine.tokens[chosen], mine.correct[chosen], mine.finished[chosen]
        )
        return Run(self.benchmark, self.model, self.queries, kept)

    def of_queries(self, positions: ArrayLike) -> Run:
        """These queries alone, in this order, renumbered from 0, with all their answers.

        Args:
            positions: (k,) positions in `queries`, none twice.

        Raises:
            DeclarationError: they have no answer.
        """
        chosen = np.asarray(positions, dtype=np.intp)
        renumbered = np.full(self.n, -1, dtype=np.intp)
        renumbered[chosen] = np.arange(chosen.size)
        mine, query = self.rollouts, renumbered[self.rollouts.query]
        kept = np.flatnonzero(query >= 0)
        # By query, each one's answers in their order.
        kept = kept[np.argsort(query[kept], kind="stable")]
        return Run(
            self.benchmark,
            self.model,
            tuple(self.queries[position] for position in chosen),
            Rollouts(query[kept], mine.tokens[kept], mine.correct[kept], mine.finished[kept]),
        )

    def __repr__(self) -> str:
        size = f"{self.n} queries, {len(self.rollouts)} rollouts"
        return f"Run({self.benchmark!r}, {self.model!r}, {size})"


@dataclass(frozen=True, eq=False)
class Traces:
    """Rollouts as a file has them. m rows; every array has shape (m,).

    Attributes:
        source: where they came from, for messages.
        benchmark, model, query_id, sample_id: labels.
        tokens: what each answer cost, its reasoning included.
        correct: whether it is right; finished: whether it ended by itself (else it was cut).
        notes: sentences about what the file leaves out, or what looks odd in it.
    """

    source: str
    benchmark: tuple[str, ...]
    model: tuple[str, ...]
    query_id: tuple[str, ...]
    sample_id: tuple[str, ...]
    tokens: FloatArray
    correct: NDArray[np.bool_]
    finished: NDArray[np.bool_]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.query_id)

    def __repr__(self) -> str:
        benchmarks, models = len(set(self.benchmark)), len(set(self.model))
        return (
            f"Traces({self.source}: {len(self)} answers, {benchmarks} benchmark"
            f"{'s' * (benchmarks != 1)}, {models} model{'s' * (models != 1)})"
        )

    def runs(self) -> Iterator[Run]:
        """Every pair of benchmark and model, in the order in which the file has them."""
        pairs = list(zip(self.benchmark, self.model, strict=True))
        numbers = {pair: number for number, pair in enumerate(dict.fromkeys(pairs))}
        of_row = np.fromiter((numbers[pair] for pair in pairs), dtype=np.intp, count=len(pairs))
        order = np.argsort(of_row, kind="stable")
        ends = np.cumsum(np.bincount(of_row, minlength=len(numbers)))
        for pair, rows in zip(numbers, np.split(order, ends[:-1]), strict=True):
            yield self._run(*pair, rows)

    def select(self, benchmark: str | None = None, model: str | None = None) -> Run:
        """The run of a benchmark and a model; either may be left out where there is but one.

        Raises:
            DeclarationError: there is no such run, or several; says which there are.
        """
        found = self.matching(benchmark, model)
        if len(found) > 1:
            raise DeclarationError(
                f"{self.source}: {len(found)} runs match: name benchmark and model of one of "
                + "; ".join(run.name for run in found)
            )
        return found[0]

    def matching(self, benchmark: str | None = None, model: str | None = None) -> list[Run]:
        """The runs of a benchmark, of a model, or of both; all of them if neither is given.

        Raises:
            DeclarationError: there is none; says which there are.
        """
        for name, wanted in (("benchmark", benchmark), ("model", model)):
            there = tuple(dict.fromkeys(getattr(self, name)))
            if wanted is not None and wanted not in there:
                raise DeclarationError(
                    f"{self.source}: there is no {name} {wanted!r}; there is "
                    + ", ".join(map(repr, there))
                )
        found = [
            run
            for run in self.runs()
            if benchmark in (None, run.benchmark) and model in (None, run.model)
        ]
        if not found:
            raise DeclarationError(
                f"{self.source}: there is no run of {model!r} on {benchmark!r}; there is "
                + "; ".join(run.name for run in self.runs())
            )
        return found

    def _run(self, benchmark: str, model: str, rows: NDArray[np.intp]) -> Run:
        labels = [self.query_id[row] for row in rows]
        numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
        query = np.fromiter((numbers[label] for label in labels), np.intp, count=len(labels))
        order = np.argsort(query, kind="stable")  # a query's samples lie together
        rows = rows[order]
        return Run(
            benchmark,
            model,
            tuple(numbers),
            Rollouts(query[order], self.tokens[rows], self.correct[rows], self.finished[rows]),
        )


def read_rollouts(path: str | Path, *, columns: Mapping[str, str] | None = None) -> Traces:
    """Rollouts from a CSV, TSV, JSON lines or Parquet file; text formats may be gzipped.

    Args:
        path: the file; its ending says what it is. Columns other than `COLUMNS` are not read.
        columns: our name -> the file's, where they differ: `{"tokens": "completion_tokens"}`.

    Raises:
        MissingExtraError: polars is not installed.
        DeclarationError: the file cannot be read, a needed column is not there, a value is missing
            or is not what its column holds, or two rows are the same sample of the same query;
            names file, row, column and value.
    """
    names = _names(columns)
    table = read_table(Path(path))
    for name, purpose in _REQUIRED.items():
        if names[name] not in table.columns:
            raise _no_column(table, name, names[name], purpose)
    for name in columns or {}:  # asked for by name, so it is to be there
        table.require_column(names[name], name)
    notes: list[str] = []
    tokens = table.numbers(names["tokens"])
    if (tokens < 0).any():
        row = int(np.argmax(tokens < 0))
        raise table.error(row, names["tokens"], f"{tokens[row]:g} tokens: must be at least 0")
    correct = table.flags(names["correct"])
    if names["finished"] in table.columns:
        finished = table.flags(names["finished"])
        odd = int(np.count_nonzero(correct & ~finished))
        if odd:
            notes.append(
                f"{odd} of {table.rows} answers are right though cut before they ended; they "
                "count as wrong, for under no cap did they end"
            )
    else:
        finished = np.ones(table.rows, dtype=bool)
        notes.append(f"no column {names['finished']!r}: every answer is taken to have ended itself")
    query = _labels(table, names["query_id"], "")
    benchmark = _labels(table, names["benchmark"], _stem(table.path))
    model = _labels(table, names["model"], "model")
    keys = list(zip(benchmark, model, query, strict=True))
    if names["sample_id"] in table.columns:
        sample = _labels(table, names["sample_id"], "")
        _require_distinct(table, names["sample_id"], keys, sample)
    else:
        sample = _counted(keys)
    return Traces(str(path), benchmark, model, query, sample, tokens, correct, finished,
                  tuple(notes))  # fmt: skip


def write_rollouts(columns: Mapping[str, Sequence[Any]], path: str | Path) -> Path:
    """Write columns of rollouts in the format that the path's ending names, all or nothing.

    Args:
        columns: by our names, all of one length.
        path: .csv, .tsv, .jsonl or .parquet.

    Raises:
        MissingExtraError: polars is not installed.
        DeclarationError: nothing can be written there.
    """
    where = Path(path)
    write_table({name: columns[name] for name in COLUMNS}, where)
    return where


def _names(columns: Mapping[str, str] | None) -> dict[str, str]:
    for name, theirs in (columns or {}).items():
        if name not in COLUMNS:
            raise DeclarationError(
                f"columns: {name!r} is not one of ours; they are {', '.join(COLUMNS)}"
            )
        if not isinstance(theirs, str):
            raise DeclarationError(f"columns[{name!r}] = {theirs!r}: must name a column")
    return {name: name for name in COLUMNS} | dict(columns or {})


def _no_column(table: Table, name: str, theirs: str, purpose: str) -> DeclarationError:
    plain = str(table.no_column(theirs, purpose))
    return DeclarationError(f"{plain}; another name is mapped by columns={{{name!r}: 'theirs'}}")


def _labels(table: Table, column: str, default: str) -> tuple[str, ...]:
    """A column's labels; where there is no such column, `default` for every row."""
    return tuple(table.labels(column)) if column in table.columns else (default,) * table.rows


def _stem(path: Path) -> str:
    """A file's name without its endings: what a benchmark is called that has no name."""
    return path.name.split(".")[0] or path.name


def _counted(keys: Sequence[Any]) -> tuple[str, ...]:
    """0, 1, ... for the rows of each query."""
    seen: dict[Any, int] = {}
    counts = []
    for key in keys:
        counts.append(str(seen.setdefault(key, 0)))
        seen[key] += 1
    return tuple(counts)


def _require_distinct(
    table: Table, column: str, keys: Sequence[tuple[str, str, str]], sample: Sequence[str]
) -> None:
    first: dict[tuple[tuple[str, str, str], str], int] = {}
    for row, key in enumerate(zip(keys, sample, strict=True)):
        before = first.setdefault(key, row)
        if before != row:
            (benchmark, model, query), label = key
            raise table.error(
                row,
                column,
                f"sample {label!r} of query {query!r} ({benchmark}, {model}) stands already on "
                f"{table.place(before)}: give each sample a number of its own, or leave the "
                "column out",
            )
