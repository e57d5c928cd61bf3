"""`Features`: what is known of a query before a model has answered it, as named numbers.

They come from its prompt's text, from a table, from an encoder (`clearopt.prediction.encoders`), or
from another model's rollouts on the same query; `joined` puts several side by side.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clearopt.calibration import Rollouts
from clearopt.errors import DeclarationError
from clearopt.prediction.summaries import summarise
from clearopt.tables import read_table
from clearopt.validation import FloatArray, require


@dataclass(frozen=True, eq=False)
class Features:
    """d numbers about each of n queries.

    Attributes:
        names: (d,) what the columns are called, all different.
        values: (n, d) finite numbers.

    Raises:
        DeclarationError: no query, a shape that does not fit the names, a name twice, or a value
            that is NaN or infinite; names the feature, the query and the value.
    """

    names: tuple[str, ...]
    values: FloatArray

    def __post_init__(self) -> None:
        try:
            values = np.array(self.values, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise DeclarationError(
                f"features: expected numbers, (queries, features) ({error}); encode labels as "
                "numbers, one column a label"
            ) from error
        names = tuple(self.names)
        if values.ndim != 2 or values.shape[1] != len(names) or not values.shape[0]:
            raise DeclarationError(
                f"features: values have shape {values.shape} for {len(names)} names: give one row "
                "a query, of at least one query, and one column a name"
            )
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DeclarationError(f"features: there are two called {twice!r}: rename one")
        for name, column in zip(names, values.T, strict=True):
            require(column, np.isfinite(column), f"feature {name!r}", "must be finite; "
                    "fill in what is missing, with a column that says where")  # fmt: skip
        values.setflags(write=False)
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "values", values)

    def __len__(self) -> int:
        return int(self.values.shape[0])

    def take(self, queries: ArrayLike) -> Features:
        """The features of these queries: positions or a mask."""
        return Features(self.names, self.values[np.asarray(queries)])

    def joined(self, *others: Features) -> Features:
        """These and others of the same queries, side by side.

        Raises:
            DeclarationError: they are not of as many queries, or a name comes twice.
        """
        parts = (self, *others)
        lengths = [len(part) for part in parts]
        if len(set(lengths)) > 1:
            raise DeclarationError(f"features: joined parts are of {lengths} queries, not as many")
        names = tuple(name for part in parts for name in part.names)
        return Features(names, np.hstack([part.values for part in parts]))

    def __repr__(self) -> str:
        shown = ", ".join(self.names[:6]) + (", ..." if len(self.names) > 6 else "")
        return f"Features({len(self)} queries, {len(self.names)} features: {shown})"


FeaturesLike: TypeAlias = Features | Sequence[Mapping[str, float]] | ArrayLike | Any
"""`Features`, one mapping a query, an (n, d) array, or a pandas or polars frame of numbers."""


def as_features(given: FeaturesLike) -> Features:
    """`Features` of whatever a user has at hand; see `FeaturesLike`.

    Raises:
        DeclarationError: it is none of these, or its numbers are not what `Features` takes.
    """
    if isinstance(given, Features):
        return given
    if hasattr(given, "columns") and hasattr(given, "__getitem__"):
        frame: Any = given
        columns = [np.asarray(frame[name]) for name in frame.columns]
        return Features(tuple(map(str, frame.columns)), np.column_stack(columns))
    if isinstance(given, Sequence) and given and isinstance(given[0], Mapping):
        names = tuple(given[0])
        rows = []
        for i, row in enumerate(given):
            missing = [name for name in names if name not in row]
            if missing:
                raise DeclarationError(f"features[{i}] has no {missing[0]!r}; it has {sorted(row)}")
            rows.append([row[name] for name in names])
        return Features(names, np.array(rows))
    if isinstance(given, str) or (
        isinstance(given, Sequence) and given and isinstance(given[0], str)
    ):
        raise DeclarationError(
            "features: got text; write prompt_features(texts), or an encoder, encoder(texts)"
        )
    values = np.asarray(given)
    if values.ndim != 2:
        raise DeclarationError(
            f"features: expected (queries, features), got shape {values.shape}; give Features, "
            "an array, a frame, or one mapping a query"
        )
    return Features(tuple(f"x{k}" for k in range(values.shape[1])), values)


# ------------------------------------------------------------------------------- the prompt
_WORD = re.compile(r"[^\W\d_]+")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def _count(pattern: str) -> Callable[[str], float]:
    found = re.compile(pattern, re.MULTILINE)
    return lambda text: float(sum(1 for _ in found.finditer(text)))


def _largest_number(text: str) -> float:
    """The most digits of a number in the text: how large its numbers are, on a log scale."""
    return float(max((len(n.split(".")[0]) for n in _NUMBER.findall(text)), default=0))


_LONG = 9  # letters of a word that is likely to be rare

# Counts, which enter as log(1 + count): a prompt of twice the length is a step, not a leap.
_COUNTS: Mapping[str, Callable[[str], float]] = {
    "characters": lambda text: float(len(text)),
    "words": lambda text: float(len(_WORD.findall(text))),
    "lines": _count(r"^.*\S.*$"),
    "sentences": _count(r"[.!?](?:\s|$)"),
    "questions": _count(r"\?"),
    "digits": _count(r"\d"),
    "numbers": _count(_NUMBER.pattern),
    "operators": _count(r"[-+*/^=<>\u2264\u2265\u2260\u00b1\u00d7\u00f7\u221a\u2211\u222b]"),
    "latex": _count(r"\\[A-Za-z]+|\$"),
    "variables": _count(r"(?<![A-Za-z'\u2019])[B-HJ-Zb-z\u03b1-\u03c9](?![A-Za-z'\u2019])"),
    "code": _count(r"`|[{}\[\];]|\b(?:def|return|class|import|function|int|void)\b"),
    "capitals": _count(r"\b[A-Z]"),
    "long_words": lambda text: float(sum(len(w) >= _LONG for w in _WORD.findall(text))),
    "distinct_words": lambda text: float(len({w.lower() for w in _WORD.findall(text)})),
}
_LEVELS: Mapping[str, Callable[[str], float]] = {
    "digits_of_largest_number": _largest_number,
    "letters_per_word": lambda text: float(np.mean([len(w) for w in _WORD.findall(text)] or [0])),
}


def prompt_features(texts: Sequence[str]) -> Features:
    """What can be counted in each prompt: its length, its words, numbers, mathematics and code.

    Counts stand as log(1 + count). Nothing is learnt from the texts, so the features of a prompt
    are the same whatever stands beside it.

    Raises:
        DeclarationError: there is no text, or an entry is not text; names the first.
    """
    checked = checked_texts(texts)
    columns = {name: [np.log1p(count(t)) for t in checked] for name, count in _COUNTS.items()}
    columns |= {name: [level(t) for t in checked] for name, level in _LEVELS.items()}
    return Features(tuple(columns), np.column_stack(list(columns.values())))


def checked_texts(texts: Sequence[str]) -> list[str]:
    """A list of at least one text.

    Raises:
        DeclarationError: it is not; names the first entry that is no text.
    """
    if isinstance(texts, str):
        raise DeclarationError("texts: got one text; give a list, [text], even of one")
    listed = list(texts)
    if not listed:
        raise DeclarationError("texts: there is none; at least one is needed")
    for i, text in enumerate(listed):
        if not isinstance(text, str):
            raise DeclarationError(f"texts[{i}] = {text!r}: must be text")
    return listed


# ------------------------------------------------------------------------------- a table
def read_features(
    path: str | Path,
    queries: Sequence[str],
    *,
    key: str = "query_id",
    columns: Sequence[str] | None = None,
    logarithms: bool = True,
) -> Features:
    """Columns of a table on disk, one row a query, in the order of `queries`.

    Args:
        path: CSV, TSV, JSON lines or Parquet; text formats may be gzipped.
        queries: (n,) labels, as in `Run.queries`.
        key: the column that holds them; other rows are left alone.
        columns: which to take; by default all whose entries are numbers.
        logarithms: take log(1 + x) of columns that are nowhere negative, as counts want.

    Raises:
        MissingExtraError: polars is not installed.
        DeclarationError: a query has no row or two, there is no such column, or none of numbers.
    """
    table = read_table(Path(path))
    table.require_column(key, "the query that a row describes")
    rows: dict[str, int] = {}
    wanted = set(queries)
    for row, label in enumerate(table.labels(key)):
        if label in wanted and rows.setdefault(label, row) != row:
            raise table.error(
                row, key, f"query {label!r} stands already on {table.place(rows[label])}"
            )
    for label in queries:
        if label not in rows:
            raise DeclarationError(f"{path}: no row has {key!r} = {label!r}: every query needs one")
    order = np.array([rows[label] for label in queries], dtype=np.intp)
    found: dict[str, NDArray[Any]] = {}
    for name in columns if columns is not None else [c for c in table.columns if c != key]:
        table.require_column(name, "a feature")
        try:
            values = table.numbers(name)[order]
        except DeclarationError:
            if columns is not None:
                raise
            continue  # labels: not asked for by name
        found[name] = np.log1p(values) if logarithms and (values >= 0).all() else values
    if not found:
        raise DeclarationError(f"{path}: no column but {key!r} holds numbers")
    return Features(tuple(found), np.column_stack(list(found.values())))


# ------------------------------------------------------------------------------- another model
def rollout_features(
    rollouts: Rollouts, queries: int | None = None, *, name: str = "other"
) -> Features:
    """Another model's answers to the same queries: `name`'s log length, log odds and spread.

    All three are shrunk to that model's own mean, the more the fewer answers a query has; a query
    without any gets the mean.

    Args:
        rollouts: the other model's.
        queries: how many there are; by default up to the last that has an answer.
        name: of the model, in the names of the features.

    Raises:
        DeclarationError: an answer is to a query beyond `queries`.
    """
    found = summarise(rollouts, queries)
    columns = {
        f"{name} log length": found.shrunk_log_length,
        f"{name} log odds": np.log(found.shrunk_share / (1.0 - found.shrunk_share)),
        f"{name} log spread": found.shrunk_log_spread,
    }
    return Features(tuple(columns), np.column_stack(list(columns.values())))
