"""Batches larger than memory: one budget over the rows of a Parquet file, read in chunks.

Every pass over the queries reads the file's columns anew, a chunk at a time, and asks the same
kernels as in memory: the price, the bound and the allocation are the same. What is kept between
chunks are sums, and the few queries that a price leaves undecided.
"""

from __future__ import annotations

import inspect
import math
import os
import re
import secrets
import shutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from clearopt.allocation import Allocation
from clearopt.certificate import FEASIBILITY_TOLERANCE, relative_gap
from clearopt.deadline import Deadline, listening
from clearopt.errors import DeclarationError, MissingExtraError, ScaleWarning
from clearopt.files.families import family_class
from clearopt.solve_table import RESULTS, families
from clearopt.solvers.dual.blocks import (
    BLOCK,
    SMALL_BLOCK,
    Block,
    Columns,
    Group,
    OneProcess,
    padded,
    stratified,
    traceable,
)
from clearopt.solvers.dual.large import Infeasible, LargeRow
from clearopt.solvers.progress import Ticker
from clearopt.sums import accurate_sum
from clearopt.utilities import Utility
from clearopt.validation import FloatArray

__all__ = ["ParquetSolution", "solve_parquet"]

_BOUNDS = ("lower", "upper", "weight")
_INDEXED = re.compile(
    r"^\w+: (\w+)\[(\d+)\](?: = )?(.*)$", re.DOTALL
)  # "X: rate[3] = -1: must ..."


@dataclass(frozen=True)
class ParquetSolution:
    """What is known of an allocation that lies in a file.

    Attributes:
        status: `optimal` (within the tolerance of the bound), `feasible`, or `infeasible`.
        objective, bound: recomputed from the tokens written, in NumPy; and rigorous.
        price: of the budget, objective per token.
        price_interval: prices that prove the same bound, to rounding.
        spent, queries, funded: tokens allocated, rows, and rows that are served at all.
        passes, seconds: over all rows, and how long it took.
        path: the table written, None where there is no allocation.
        message: why it stopped, where it did not finish.
    """

    status: Literal["optimal", "feasible", "infeasible"]
    objective: float
    bound: float
    price: float
    price_interval: tuple[float, float]
    spent: float
    queries: int
    funded: int
    passes: int
    seconds: float
    path: Path | None
    message: str = ""

    @property
    def gap(self) -> float:
        """(bound - objective) relative to the larger; infinite without an allocation."""
        return math.inf if self.path is None else relative_gap(self.objective, self.bound)


def solve_parquet(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    budget: float,
    family: str = "CumulativeSurge",
    columns: Mapping[str, str] | None = None,
    constants: Mapping[str, float] | None = None,
    upper: float | None = None,
    integer: bool = True,
    tolerance: float = 1e-6,
    time_limit: float | None = None,
    chunk: int = 2**19,
    force: bool = False,
    verbose: bool = False,
) -> ParquetSolution:
    """Share a token budget among the rows of a Parquet file that need not fit into memory.

    Writes the table with the columns tokens, expected_accuracy and funded added, as `clearopt
    solve` does. Memory holds a chunk of rows (and, while one is decoded, a row group of the file).

    Args:
        path: the table, one query a row; columns are named like the family's parameters, and
            lower, upper and weight where there are such.
        out: where the result goes; appears whole or not at all.
        budget: tokens for all rows together.
        family: of the utility, by name.
        columns: name of a parameter, lower, upper or weight -> the column that has it.
        constants: the same -> one number for all rows.
        upper: most tokens of a query, where the table has no column for it or an empty cell.
        integer: whether tokens are counted whole.
        tolerance: relative gap up to which the result is `optimal`.
        time_limit: seconds; afterwards, or after Ctrl-C, the best price so far is allocated at.
        chunk: rows in memory at a time.
        force: replace `out` where it exists.
        verbose: print a line a pass; without it a terminal sees a status line.

    Raises:
        DeclarationError: no such file or column, an empty cell, NaN or a number out of range
            (with its row, counted from 1), or `out` exists.
        MissingExtraError: polars is not installed.
    """
    source_path, target = Path(path), Path(out)
    if not (isinstance(budget, int | float) and 0 <= budget < math.inf):
        raise DeclarationError(f"budget = {budget!r}: must be a number of at least 0")
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise DeclarationError(f"chunk = {chunk!r}: must be a whole number of rows, at least 1")
    _check_target(source_path, target, force)
    table = _Table(source_path, family, columns or {}, constants or {}, upper, integer)
    total = float(math.floor(budget + 1e-9)) if integer else float(budget)
    with listening():
        return _solve(table, target, total, tolerance, Deadline(time_limit), chunk, verbose)


def _solve(
    table: _Table,
    target: Path,
    total: float,
    tolerance: float,
    deadline: Deadline,
    chunk: int,
    verbose: bool,
) -> ParquetSolution:
    source = ParquetSource(table, chunk)
    with Ticker("solve_parquet", verbose=verbose) as ticker:
        ticker.say(f"checking {table.rows} rows")
        source.check()
        run = LargeRow(source, total, deadline=deadline, tell=ticker.say)
        with _Output(table, target, chunk) as output:
            try:
                found = run.solve(output.add, exact=True)
            except Infeasible:
                nan = math.nan
                return ParquetSolution(
                    "infeasible", nan, -math.inf, nan, (nan, nan), nan, table.rows, 0, run.passes,
                    deadline.spent, None,
                    "the lower bounds alone cost more than the budget",
                )  # fmt: skip
            ticker.say(f"writing {target}")
            checked = output.finished(total)
    proven = relative_gap(checked.objective, found.bound) <= max(tolerance, 1e-12)
    return ParquetSolution(
        "optimal" if proven else "feasible", checked.objective, found.bound, found.price,
        found.price_interval, checked.spent, table.rows, checked.funded, found.passes,
        deadline.spent, target, found.message,
    )  # fmt: skip


def _check_target(path: Path, out: Path, force: bool) -> None:
    if not path.is_file():
        raise DeclarationError(f"{path}: there is no such file")
    if os.path.realpath(path) == os.path.realpath(out):
        raise DeclarationError(f"{out}: this is the table itself; write somewhere else")
    if out.is_dir() or not out.parent.is_dir():
        raise DeclarationError(f"{out}: name a file in a folder that exists")
    if os.path.lexists(out) and not force:
        raise DeclarationError(f"{out}: exists already; force=True replaces it")


class _Table:
    """The file and what of it is read."""

    def __init__(
        self,
        path: Path,
        family: str,
        columns: Mapping[str, str],
        constants: Mapping[str, float],
        upper: float | None,
        integer: bool,
    ) -> None:
        try:
            import polars
        except ImportError as error:
            raise MissingExtraError(
                "solve_parquet needs polars, which is not installed: pip install 'clearopt[tables]'"
            ) from error
        self.polars, self.path, self.integer = polars, path, integer
        if family not in families():
            raise DeclarationError(f"family = {family!r}: known are {', '.join(families())}")
        self.family: type[Utility] = family_class(family)
        if not traceable([self.family.from_parameters(*(0.0,) * len(self.family.parameter_names))]):
            raise DeclarationError(f"family = {family!r}: cannot be solved in chunks")
        try:
            self.schema = polars.read_parquet_schema(path)
            self.rows = int(polars.scan_parquet(path).select(polars.len()).collect().item())
        except Exception as error:
            raise DeclarationError(f"{path}: not a Parquet file ({error})") from error
        if not self.rows:
            raise DeclarationError(f"{path}: the table has no rows")
        for name in RESULTS:
            if name in self.schema:
                raise DeclarationError(
                    f"{path}: it has a column {name!r} already, which is what the allocation "
                    "would be called; rename it"
                )
        parameters = inspect.signature(self.family).parameters
        self.constants = {name: float(value) for name, value in constants.items()}
        self.upper = math.inf if upper is None else float(upper)
        known = (*parameters, *_BOUNDS)
        for given in (columns, constants):
            for name in given:
                if name not in known:
                    raise DeclarationError(
                        f"{name!r}: {family} is declared with {', '.join(known)}"
                    )
        self.source: dict[str, str] = {}
        for name in known:
            column = columns.get(name, name)
            if name in self.constants:
                if name in columns:
                    raise DeclarationError(f"{name}: give a column or a constant, not both")
            elif column in self.schema:
                if not self.schema[column].is_numeric():
                    raise DeclarationError(
                        f"{path}: the column {column!r} is {self.schema[column]}, not numbers"
                    )
                self.source[name] = column
            elif name in columns or (
                name in parameters and parameters[name].default is inspect.Parameter.empty
            ):
                raise DeclarationError(
                    f"{path}: there is no column {column!r} for {family}; it has "
                    f"{', '.join(map(repr, self.schema))}. Name it with columns={{{name!r}: ...}}, "
                    f"or give one number for all rows with constants={{{name!r}: ...}}"
                )
        self.parameters = [name for name in parameters if name in self.source or
                           name in self.constants]  # fmt: skip

    def read(self, start: int, size: int) -> tuple[Utility, Columns]:
        """The family and the columns of some rows, checked.

        Raises:
            DeclarationError: naming the row and the column of the first offending cell.
        """
        polars = self.polars
        wanted = sorted(set(self.source.values()))
        lazy = polars.scan_parquet(self.path).select(wanted).slice(start, size)
        frame = lazy.collect() if wanted else polars.DataFrame()
        values: dict[str, Any] = dict(self.constants)
        for name, column in self.source.items():
            series = frame[column]
            if series.null_count():
                if name != "upper":
                    row = start + int(series.is_null().arg_max())
                    raise DeclarationError(f"{self.path}: row {row + 1}, column {column!r}: empty")
                series = series.fill_null(self.upper)
            values[name] = series.cast(polars.Float64).to_numpy()
        count = min(size, self.rows - start)
        try:
            family = self.family(**{name: values[name] for name in self.parameters})
            upper = values.get("upper", self.upper)
            box = Allocation(
                count, lower=values.get("lower", 0.0), upper=upper, integer=self.integer
            )
            weight = np.asarray(values.get("weight", 1.0))
            bad = np.atleast_1d(~(weight >= 0) | np.isinf(weight))
            if bad.any():
                k = int(np.argmax(bad))
                shown = np.atleast_1d(weight)[k]
                raise DeclarationError(f"table: weight[{k}] = {shown}: a weight is at least 0")
        except DeclarationError as error:
            raise self._told(error, start) from error
        # Numbers of their own: a view of one would keep the whole chunk in memory.
        lower = box.lower if np.ndim(values.get("lower", 0.0)) else np.array(box.lower[0])
        high = box.upper if np.ndim(upper) else np.array(box.upper[0])
        if self.integer:
            lower, high = np.ceil(lower), np.floor(high)
        return family, Columns(
            tuple(np.asarray(parameter) for parameter in family.parameters),
            weight,
            np.zeros(()),
            np.ones(()),
            np.asarray(lower),
            np.asarray(high),
            np.array(True) if self.integer else None,
        )

    def _told(self, error: DeclarationError, start: int) -> DeclarationError:
        """An error of the library in terms of the file."""
        found = _INDEXED.match(str(error))
        if found is None or found[1] not in self.source:
            return error
        row, column = start + int(found[2]) + 1, self.source[found[1]]
        return DeclarationError(f"{self.path}: row {row}, column {column!r}: {found[3]}")


class ParquetSource(OneProcess):
    """The rows of a table in chunks of `chunk`, each in blocks of `places`."""

    def __init__(self, table: _Table, chunk: int, places: int | None = None) -> None:
        small = min(chunk, table.rows) < BLOCK
        super().__init__(places or (SMALL_BLOCK if small else BLOCK))
        self.table, self.chunk = table, chunk
        self._sample: list[tuple[Group, float]] = []

    @property
    def size(self) -> int:
        return self.table.rows

    def check(self) -> None:
        """Read everything once: complain about what is wrong, and draw the sample."""
        wanted = stratified(self.size, min(self.size, 2**13))
        parts, noted = [], False
        for start in range(0, self.size, self.chunk):
            with warnings.catch_warnings():
                if noted:  # told once is enough
                    warnings.simplefilter("ignore", ScaleWarning)
                family, columns = self.table.read(start, self.chunk)
            noted = True
            inside = wanted[(wanted >= start) & (wanted < start + self.chunk)] - start
            if inside.size:
                parts.append(columns.take(inside).full(inside.size))
            self._kind = family.kind
        joined = [np.concatenate(column) for column in zip(*map(_flat, parts), strict=True)]
        count = len(parts[0].parameters)
        sample = Columns(
            tuple(joined[:count]), *joined[count:], *([] if self.table.integer else [None])
        )
        self._sample = [(Group(self._kind, sample), self.size / wanted.size)]

    def blocks(self) -> Iterator[Block]:
        for start in range(0, self.size, self.chunk):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ScaleWarning)
                family, columns = self.table.read(start, self.chunk)
            size = min(self.chunk, self.size - start)
            for first in range(0, size, self.places):
                last = min(first + self.places, size)
                host = columns.take(slice(first, last))
                filled, valid = host, self._all_valid
                if last - first < self.places:
                    filled, valid = padded(host, last - first, self.places)
                index = slice(start + first, start + last)
                yield Block(family.kind, filled, valid, host, last - first, index)

    def sample(self, size: int) -> list[tuple[Group, float]]:
        return self._sample


def _flat(columns: Columns) -> list[NDArray[Any]]:
    return [*columns.parameters, *(c for c in columns[1:] if c is not None)]


@dataclass(frozen=True)
class _Checked:
    objective: float
    spent: float
    funded: int


class _Output:
    """Chunks of the result, each a file of its own until all of them become one.

    Every token is checked here against its bounds and valued anew, in NumPy.
    """

    def __init__(self, table: _Table, target: Path, chunk: int) -> None:
        self.table, self.target, self.chunk = table, target, chunk
        beside = f".{target.name[:100]}.{secrets.token_hex(4)}"
        self.folder = target.parent / f"{beside}.parts"
        self.whole = target.parent / f"{beside}.tmp"
        self.parts: list[Path] = []
        self.waiting: list[tuple[FloatArray, FloatArray]] = []
        self.rows = self.written = self.funded = 0
        self.sums: list[tuple[float, float]] = []

    def __enter__(self) -> _Output:
        try:
            self.folder.mkdir()
        except OSError as error:
            raise DeclarationError(
                f"{self.target}: cannot write there ({error.strerror})"
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.whole.unlink(missing_ok=True)

    def add(self, block: Block, tokens: FloatArray) -> None:
        """The tokens of the next block of rows."""
        columns = block.host.full(block.count)
        scale = FEASIBILITY_TOLERANCE * np.maximum(1.0, tokens)
        outside = ~((tokens >= columns.lower - scale) & (tokens <= columns.upper + scale))
        if self.table.integer:
            outside |= tokens != np.round(tokens)
        if outside.any():
            row = self.rows + int(np.argmax(outside)) + 1
            raise ArithmeticError(f"row {row}: the allocation leaves its bounds; please report it")
        utility: Utility = block.kind.from_parameters(*columns.parameters)
        values = np.asarray(utility.value(tokens))
        self.sums.append((accurate_sum(columns.weight * values), accurate_sum(tokens)))
        self.waiting.append((tokens, values))
        self.rows += block.count
        if self.rows % self.chunk == 0 or self.rows == self.table.rows:
            self._write()

    def _write(self) -> None:
        polars = self.table.polars
        tokens, values = (np.concatenate(column) for column in zip(*self.waiting, strict=True))
        funded = (tokens > 0) & (values > 0)
        results = (tokens.astype(np.int64) if self.table.integer else tokens, values, funded)
        lazy = polars.scan_parquet(self.table.path).slice(self.written, tokens.size)
        frame = lazy.collect().with_columns(
            polars.Series(name, column) for name, column in zip(RESULTS, results, strict=True)
        )
        self.parts.append(self.folder / f"{len(self.parts):08d}.parquet")
        frame.write_parquet(self.parts[-1])
        self.waiting, self.written = [], self.rows
        self.funded += int(funded.sum())

    def finished(self, budget: float) -> _Checked:
        """Check the total and put the parts together."""
        objective = math.fsum(value for value, _ in self.sums)
        spent = math.fsum(tokens for _, tokens in self.sums)
        if spent > budget * (1 + FEASIBILITY_TOLERANCE):
            raise ArithmeticError(f"{spent} tokens exceed the budget; please report it")
        try:
            self.table.polars.scan_parquet(self.parts).sink_parquet(self.whole)
            os.replace(self.whole, self.target)
        except OSError as error:
            raise DeclarationError(f"{self.target}: could not be written ({error})") from error
        return _Checked(objective, spent, self.funded)
