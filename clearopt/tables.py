"""Tables on disk, one row a query: CSV, TSV, JSON lines and Parquet, through polars.

Nothing in a table is evaluated: cells are numbers or labels. Text formats are read as text and
columns become numbers when they are asked for, so that what is not asked for is written back as it
was, and every complaint can name the line that a person sees.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearopt.atomic import written_whole
from clearopt.errors import DeclarationError, MissingExtraError
from clearopt.validation import FloatArray

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
}
_SEPARATORS = {"csv": ",", "tsv": "\t"}
_TRUE = ["true", "1", "1.0", "yes"]
_FALSE = ["false", "0", "0.0", "no"]


def _polars() -> Any:
    try:
        import polars
    except ImportError as error:
        raise MissingExtraError(
            "tables are read and written with polars, which is not installed: "
            "pip install 'clearopt[tables]'"
        ) from error
    return polars


def format_of(path: Path, *, compressed: bool = False) -> str:
    """Which of the formats a file name stands for; with `compressed`, `.csv.gz` is a CSV file.

    Raises:
        DeclarationError: none.
    """
    plain = path.with_suffix("") if compressed and path.suffix.lower() == ".gz" else path
    try:
        return FORMATS[plain.suffix.lower()]
    except KeyError:
        raise DeclarationError(
            f"{path}: what kind of table is this? Known are {', '.join(FORMATS)}"
        ) from None


@dataclass(frozen=True)
class Table:
    """A table as it was read; see `read_table`.

    Attributes:
        path: where it came from.
        format: one of the values of `FORMATS`.
        frame: the polars frame; all columns are text where the format is.
    """

    path: Path
    format: str
    frame: Any

    @property
    def rows(self) -> int:
        """How many there are."""
        return int(self.frame.height)

    @property
    def columns(self) -> list[str]:
        """Their names, as they stand in the file."""
        return list(self.frame.columns)

    # ------------------------------------------------------------------ complaints
    def place(self, row: int) -> str:
        """Where a person finds a row: the line of a text file (the header is line 1)."""
        if self.format == "parquet":
            return f"row {row + 1}"
        return f"line {self._lines[row]}" if row < len(self._lines) else f"row {row + 1}"

    @cached_property
    def _lines(self) -> list[int]:
        """The line on which each row begins; only looked up to complain."""
        try:
            if self.format == "jsonl":
                text = _contents(self.path).decode("utf-8-sig")
                return [k for k, line in enumerate(text.split("\n"), 1) if line.strip()]
            records = _records(_contents(self.path), _SEPARATORS[self.format])
            return [line for line, _ in records][1:]
        except (DeclarationError, ValueError, csv.Error):
            return []

    def error(self, row: int, column: str | None, what: str) -> DeclarationError:
        """An error that names file, row and column."""
        where = "" if column is None else f", column {column!r}"
        return DeclarationError(f"{self.path}: {self.place(row)}{where}: {what}")

    def require_column(self, column: str, purpose: str) -> None:
        """Raise unless there is a column of that name; `purpose` is what it is needed for."""
        if column not in self.columns:
            raise self.no_column(column, purpose)

    def no_column(self, column: str, purpose: str) -> DeclarationError:
        """An error that says so, and what there is instead."""
        return DeclarationError(
            f"{self.path}: there is no column {column!r} for {purpose}; "
            + (self._near(column) or f"the columns are {', '.join(map(repr, self.columns))}")
        )

    def _near(self, column: str) -> str | None:
        for name in self.columns:
            if name.strip() == column.strip():
                return f"there is {name!r}, with a space too many: rename it"
        for name in self.columns:
            if name.strip().lower() == column.strip().lower():
                return f"there is {name!r}, spelled differently"
        if len(self.columns) == 1 and (";" in self.columns[0] or "\t" in self.columns[0]):
            return (
                f"its only column is {self.columns[0]!r}, so the file is not separated by "
                f"{_SEPARATORS.get(self.format, ',')!r}: save it with commas, or tabs as .tsv"
            )
        return None

    # ------------------------------------------------------------------ reading columns
    def numbers(
        self, column: str, *, missing: float | None = None, allow_infinite: bool = False
    ) -> FloatArray:
        """A column as finite numbers, (rows,).

        Args:
            column: its name.
            missing: what stands for an empty cell; by default an empty cell is an error.
            allow_infinite: whether `inf` is a number.

        Raises:
            DeclarationError: naming the first cell that is missing, NaN, infinite or not a number.
        """
        pl = _polars()
        series = self.frame[column]
        text = None
        if series.dtype in (pl.String, pl.Categorical, pl.Enum):
            # polars itself reads no number with blanks around it
            text = series.cast(pl.String).str.strip_chars().replace("", None)
            series = text.cast(pl.Float64, strict=False)
        elif series.dtype == pl.Null or series.dtype.is_numeric():
            series = series.cast(pl.Float64)
        else:
            held = "booleans" if series.dtype == pl.Boolean else f"{series.dtype}"
            raise self.error(0, column, f"the column holds {held}, not numbers")
        values = np.array(series.to_numpy(), dtype=np.float64)
        empty = (series.is_null() if text is None else text.is_null()).to_numpy()
        if text is not None:
            wrong = ~empty & series.is_null().to_numpy()
            if wrong.any():
                row = int(np.argmax(wrong))
                raise self.error(row, column, _not_a_number(str(text[row])))
        if missing is not None:
            values[empty] = missing
        elif empty.any():
            raise self.error(int(np.argmax(empty)), column, f"missing{_more(empty)}")
        nothing = np.isnan(values)
        if nothing.any():
            raise self.error(int(np.argmax(nothing)), column, f"NaN is no number{_more(nothing)}")
        infinite = np.isinf(values)
        if infinite.any() and not allow_infinite:
            raise self.error(int(np.argmax(infinite)), column, "must be finite")
        return values

    def flags(self, column: str) -> NDArray[np.bool_]:
        """A column of booleans, (rows,): true and false, yes and no, or 1 and 0.

        Raises:
            DeclarationError: naming the first cell that is missing or none of these.
        """
        pl = _polars()
        series = self.frame[column]
        if series.dtype.is_nested() or series.dtype in (pl.Binary, pl.Object):
            raise self.error(0, column, f"the column holds {series.dtype}, not true and false")
        empty = series.is_null().to_numpy()
        if empty.any():
            raise self.error(int(np.argmax(empty)), column, f"missing{_more(empty)}")
        if series.dtype == pl.Boolean:
            return np.array(series.to_numpy(), dtype=bool)
        texts = series.cast(pl.String).str.strip_chars().str.to_lowercase()
        true, false = (texts.is_in(words).to_numpy() for words in (_TRUE, _FALSE))
        wrong = ~(true | false)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise self.error(
                row, column, f"{str(series[row])[:80]!r} is neither true nor false: write 1 or 0"
            )
        return np.array(true, dtype=bool)

    def labels(self, column: str) -> list[str]:
        """A column as texts, one a row; numbers, dates and booleans as they are written.

        Raises:
            DeclarationError: a label is missing, or the column holds something else.
        """
        pl = _polars()
        series = self.frame[column]
        if series.dtype.is_nested() or series.dtype in (pl.Binary, pl.Object):
            raise self.error(0, column, f"the column holds {series.dtype}, not labels")
        empty = series.is_null().to_numpy()
        if not empty.any():
            series = series.cast(pl.String)
            empty = (series == "").to_numpy()
        if empty.any():
            raise self.error(int(np.argmax(empty)), column, f"the label is missing{_more(empty)}")
        texts: list[str] = series.to_list()
        return texts

    def require_distinct(self, column: str) -> None:
        """Raise where two rows have the same label, naming both."""
        first: dict[str, int] = {}
        for row, label in enumerate(self.labels(column)):
            if first.setdefault(label, row) != row:
                raise self.error(
                    row, column, f"{label!r} stands already on {self.place(first[label])}"
                )

    # ------------------------------------------------------------------ writing
    def write(self, path: Path, results: dict[str, NDArray[Any]], numbers: list[str]) -> None:
        """This table with `results` as further columns, in the format that `path` names.

        From a text format into another, the columns `numbers` are written as numbers; all others
        stay text.
        """
        pl = _polars()
        frame, target = self.frame, format_of(path)
        if self.format in _SEPARATORS and target not in _SEPARATORS:
            frame = frame.with_columns(
                pl.Series(name, self.numbers(name, missing=np.nan, allow_infinite=True))
                .fill_nan(None)
                for name in numbers
            )  # fmt: skip
        frame = frame.with_columns(pl.Series(name, array) for name, array in results.items())
        _write_frame(frame, path)


# -------------------------------------------------------------------------------- writing files
def write_table(columns: Mapping[str, Any], path: Path) -> None:
    """Write columns of one length in the format that the path's ending names, all or nothing.

    Raises:
        MissingExtraError: polars is not installed.
        DeclarationError: nothing can be written there.
    """
    _write_frame(_polars().DataFrame(dict(columns)), path)


def _write_frame(frame: Any, path: Path) -> None:
    pl, target = _polars(), format_of(path)
    buffer = io.BytesIO()
    try:
        if target in _SEPARATORS:
            frame.write_csv(buffer, separator=_SEPARATORS[target])
        elif target == "jsonl":
            frame.write_ndjson(buffer)
        else:
            frame.write_parquet(buffer)
    except pl.exceptions.PolarsError as error:
        raise DeclarationError(f"{path}: {_first_line(error)}") from error
    with written_whole(path) as file:
        file.write(buffer.getbuffer())


# -------------------------------------------------------------------------------- reading files
def read_table(path: Path) -> Table:
    """The table in a file, by the ending of its name.

    Rows without any content (blank lines) are left out.

    Raises:
        MissingExtraError: polars is not installed.
        DeclarationError: no such file, not a table of that format, no rows, or two columns of one
            name.
    """
    kind, pl = format_of(path, compressed=True), _polars()
    data = _contents(path)
    if not data.strip():
        raise DeclarationError(f"{path}: the file is empty")
    if kind != "parquet":
        _check_utf8(path, data)
    try:
        if kind == "parquet":
            frame = pl.read_parquet(io.BytesIO(data))
        elif kind == "jsonl":
            frame = pl.read_ndjson(io.BytesIO(data.removeprefix(b"\xef\xbb\xbf")),
                                   infer_schema_length=None)  # fmt: skip
        else:
            _check_header(path, data, _SEPARATORS[kind])
            frame = _read_separated(pl, data, _SEPARATORS[kind])
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise DeclarationError(f"{path}: {_fault(kind, data) or _first_line(error)}") from error
    if kind in _SEPARATORS and frame.height and frame[:, -1].null_count():
        short = _ragged(data, _SEPARATORS[kind])  # polars fills short lines up in silence
        if short:
            raise DeclarationError(f"{path}: {short}")
    if not frame.height or not frame.width:
        raise DeclarationError(f"{path}: the table has no rows")
    return Table(path, kind, frame)


def _contents(path: Path) -> bytes:
    """The bytes of a file, unpacked if it is gzipped."""
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix.lower() == ".gz" else data
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DeclarationError(f"{path}: not a whole gzip file ({error})") from error
    except OSError as error:
        raise DeclarationError(f"{path}: cannot be read ({error.strerror})") from error


def _read_separated(pl: Any, data: bytes, separator: str) -> Any:
    frame = pl.read_csv(io.BytesIO(data), separator=separator, infer_schema=False)
    frame = frame.with_columns(pl.all().replace("", None))
    return frame.filter(pl.any_horizontal(pl.all().is_not_null()))


def _check_utf8(path: Path, data: bytes) -> None:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DeclarationError(
            f"{path}: line {line}: not UTF-8 text (byte {data[error.start]:#04x}); save it as UTF-8"
        ) from None


def _check_header(path: Path, data: bytes, separator: str) -> None:
    try:
        _, header = next(_records(data, separator))
    except (ValueError, csv.Error, StopIteration):
        return  # what is wrong, polars will say
    for position, name in enumerate(header):
        if name in header[:position]:
            raise DeclarationError(
                f"{path}: line 1: two columns are named {name!r}: names must differ"
            )


def _records(data: bytes, separator: str) -> Iterator[tuple[int, list[str]]]:
    """(line on which it begins, fields) of every record with any content."""
    text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline="")
    with _long_fields():
        reader = csv.reader(text, delimiter=separator)
        line = 1
        for fields in reader:
            if any(fields):
                yield line, fields
            line = reader.line_num + 1


@contextmanager
def _long_fields() -> Iterator[None]:
    """A prompt may be longer than what Python's reader takes by default."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _fault(kind: str, data: bytes) -> str | None:
    """What is wrong with a file that polars refuses, and on which line, if that can be told."""
    if kind == "parquet":
        return None
    if kind in _SEPARATORS:
        return _ragged(data, _SEPARATORS[kind])
    for line, written in enumerate(data.decode("utf-8-sig").split("\n"), 1):
        if not written.strip():
            continue
        try:
            found = json.loads(written)
        except (ValueError, RecursionError) as error:
            return f"line {line}: not JSON ({error}); one JSON object a line is expected"
        if not isinstance(found, dict):
            return f"line {line}: one JSON object a line is expected, got {type(found).__name__}"
    return None


def _ragged(data: bytes, separator: str) -> str | None:
    """The first line whose number of fields is not the header's."""
    try:
        records = _records(data, separator)
        width = len(next(records)[1])
        for line, fields in records:
            if len(fields) != width:
                s = "" if len(fields) == 1 else "s"
                return f"line {line} has {len(fields)} field{s}, the header has {width}"
    except (ValueError, csv.Error, StopIteration):
        return None
    return None


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def _more(flags: NDArray[np.bool_]) -> str:
    others = int(flags.sum()) - 1
    return f" (and in {others} more rows)" if others else ""


def _not_a_number(text: str) -> str:
    """What to write instead of a text that should have been a number."""
    plain = text.replace(",", "").replace(" ", "").replace("_", "").replace("'", "")
    try:
        float(plain)
    except ValueError:
        return f"{text[:80]!r} is text, not a number"
    return f"{text!r} is not a plain number: no separators, and a point for decimals"
