"""From a table to a `Problem`: one row a query, parameters in columns, limits from the caller.

What the library says of `rate[3]` is said here of a line and a column of the file.
"""

from __future__ import annotations

import inspect
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import clearopt as co
from clearopt.errors import DeclarationError, ScaleWarning
from clearopt.files.families import STORED, family_class
from clearopt.tables import FORMATS, Table, read_table
from clearopt.validation import FloatArray

RESULTS = ("tokens", "expected_accuracy", "funded")  # the columns that a solution adds
_BOUNDS = ("lower", "upper", "weight")
_OPTIONAL = (*_BOUNDS, "id")
_NOT_BY_COLUMNS = ("Tabulated", "Total")  # a row of a table has one number a column

# "CumulativeSurge: rate[3] = -1.0 (and 2 more): must be positive"
_INDEXED = re.compile(r"^\w+: (\w+)\[(\d+)\](.*)$", re.DOTALL)
_QUERY = re.compile(r"\bquery (\d+)\b")


@dataclass(frozen=True)
class Request:
    """What is to be declared; one field an option of `clearopt solve`.

    Attributes:
        family: name of a utility family.
        columns: name of a parameter, bound, weight or id -> the column that has it.
        constants: name of a parameter, bound or weight -> one number for all rows.
        upper: tokens, for all rows, or for the empty cells of a column `upper`.
        integer: whether tokens are counted whole.
        budget: tokens for all rows together.
        budgets_of: column -> limit on the sum of that column times tokens.
        caps, floors: (column of labels, limits as text) pairs; see `_Limits`.
        floor: least mean accuracy over all rows.
    """

    family: str = "CumulativeSurge"
    columns: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, float] = field(default_factory=dict)
    upper: float | None = None
    integer: bool = True
    budget: float | None = None
    budgets_of: Mapping[str, float] = field(default_factory=dict)
    caps: Sequence[tuple[str, str]] = ()
    floors: Sequence[tuple[str, str]] = ()
    floor: float | None = None


@dataclass(frozen=True)
class Curves:
    """What a table says of its queries, for who declares problems of their own.

    Attributes:
        utilities: of all rows.
        upper: most tokens, one number or (rows,).
        weight: (rows,) or 1.
        constraints: from the vectors of tokens and accuracies to the limits, the budget aside.
        notes: what its user should know.
    """

    utilities: co.Utility
    upper: Any
    weight: Any
    constraints: Callable[[Any, Any], list[Any]]
    notes: list[str]


@dataclass(frozen=True)
class Declared:
    """A problem, what its user should know, and which columns were read as numbers."""

    problem: co.Problem
    notes: list[str]
    numbers: list[str]


def declare(table: Table, request: Request) -> Declared:
    """The problem that the table and the request describe.

    Raises:
        DeclarationError: naming the option, or the file, the line and the column.
    """
    return _Declaration(table, request).declared()


def curves(table: Table, request: Request) -> Curves:
    """The utilities, bounds, weights and limits that the table and the request describe.

    Raises:
        DeclarationError: naming the option, or the file, the line and the column.
    """
    return _Declaration(table, request).curves()


def has_curves(table: Table, request: Request) -> bool:
    """Whether anything in the table or the request is a parameter of the family's."""
    if request.family not in families():
        raise DeclarationError(f"--family {request.family}: known are {', '.join(families())}")
    known = inspect.signature(family_class(request.family)).parameters
    return any(
        name in table.columns or name in request.columns or name in request.constants
        for name in known
    )


def families() -> list[str]:
    """The utility families whose parameters may stand in columns."""
    return [
        name
        for name, stored in STORED.items()
        if stored.role == "utility" and name not in _NOT_BY_COLUMNS
    ]


class _Declaration:
    def __init__(self, table: Table, request: Request) -> None:
        self.table, self.request = table, request
        self.notes: list[str] = []
        self.numbers: list[str] = []
        self.source: dict[str, str] = {}  # parameter -> the column it is read from
        if request.family not in families():
            raise DeclarationError(f"--family {request.family}: known are {', '.join(families())}")
        self.family = family_class(request.family)
        self.parameters = inspect.signature(self.family).parameters
        self._check_names()

    def declared(self) -> Declared:
        request, table = self.request, self.table
        values = self._values()
        with self._in_rows():
            tokens = co.Allocation(
                table.rows,
                lower=values.get("lower", 0.0),
                upper=values.get("upper", np.inf),
                integer=request.integer,
                name="tokens",
            )
            accuracy = self.family(**{k: values[k] for k in self.parameters if k in values})(tokens)
            weight = values.get("weight")
            gain = co.sum(accuracy) if weight is None else weight @ accuracy
            problem = co.Problem(co.Maximize(gain), list(self._constraints(tokens, accuracy)))
        return Declared(problem, self.notes, self.numbers)

    def curves(self) -> Curves:
        values = self._values()
        with self._in_rows():
            family = self.family(**{k: values[k] for k in self.parameters if k in values})

        def constraints(tokens: Any, accuracy: Any) -> list[Any]:
            with self._in_rows():
                limits = self._constraints(tokens, accuracy)
                return [limit for limit in limits if limit.name != "budget"]

        return Curves(
            family, values.get("upper"), values.get("weight", 1.0), constraints, self.notes
        )

    # ------------------------------------------------------------------ columns and constants
    def _check_names(self) -> None:
        request, table = self.request, self.table
        for column in RESULTS:
            if column in table.columns:
                raise DeclarationError(
                    f"{table.path}: it has a column {column!r} already, which is what the "
                    "allocation would be called; rename it"
                )
        settable = (*self.parameters, *_BOUNDS)
        for option, given, known in (
            ("--column", request.columns, (*self.parameters, *_OPTIONAL)),
            ("--set", request.constants, settable),
        ):
            for name in given:
                if name not in known:
                    raise DeclarationError(
                        f"{option} {name}=...: {request.family} is declared with {', '.join(known)}"
                    )
        both = [name for name in request.columns if name in request.constants]
        if both:
            raise DeclarationError(f"{both[0]}: give --column or --set, not both")
        if request.upper is not None and "upper" in request.constants:
            raise DeclarationError("upper: give --upper or --set upper=..., not both")

    def _values(self) -> dict[str, Any]:
        """Parameters, bounds and weights by name: arrays (rows,), or numbers."""
        values: dict[str, Any] = {}
        for name, parameter in self.parameters.items():
            found = self._value(name)
            if found is not None:
                values[name] = found
            elif parameter.default is inspect.Parameter.empty:
                raise DeclarationError(
                    f"{self.table.no_column(name, self.request.family)}. Name one with "
                    f"--column {name}=..., or give one number for all rows with --set {name}=..."
                )
        for name in _BOUNDS:
            found = self._value(name)
            if found is not None:
                values[name] = found
        if "upper" not in values and self.request.upper is not None:
            values["upper"] = self.request.upper
        weight = values.get("weight")
        if weight is not None:
            array = np.broadcast_to(weight, (self.table.rows,))
            self._require_not_negative(array, "weight", "a weight is at least 0")
            values["weight"] = array
        ids = self._column("id")
        if ids is not None:
            self.table.require_distinct(ids)
        return values

    def _value(self, name: str) -> float | FloatArray | None:
        constant = self.request.constants.get(name)
        if constant is not None:
            if name in self.table.columns:
                self.notes.append(
                    f"{name} = {constant:g} for every row; the column {name!r} is not used"
                )
            return constant
        column = self._column(name)
        if column is None:
            return None
        self.source[name] = column
        if name != "upper":
            return self._numbers(column)
        return self._numbers(column, missing=self.request.upper, allow_infinite=True)

    def _column(self, name: str) -> str | None:
        """The column that has `name`, if there is one."""
        table = self.table
        if name in self.request.columns:
            column = self.request.columns[name]
            table.require_column(column, f"--column {name}={column}")
            return column
        if name in table.columns:
            return name
        for other in table.columns:
            if other.strip() == name:
                raise DeclarationError(
                    f"{table.path}: the column {other!r} has a space too many: rename it to "
                    f"{name!r}, or write --column '{name}={other}'"
                )
            if other.strip().lower() == name and other not in self.request.columns.values():
                self.notes.append(
                    f"the column {other!r} is not used; if it is meant, --column {name}={other}"
                )
        return None

    def _numbers(self, column: str, **options: Any) -> FloatArray:
        values = self.table.numbers(column, **options)
        self.numbers.append(column)
        return values

    def _require_not_negative(self, values: FloatArray, name: str, rule: str) -> None:
        negative = values < 0
        if negative.any():
            row = int(np.argmax(negative))
            if name in self.request.constants:
                raise DeclarationError(f"--set {name}={values[row]:g}: {rule}")
            column = self.source.get(name, name)
            raise self.table.error(row, column, f"{values[row]:g}: {rule}")

    # ------------------------------------------------------------------ constraints
    def _constraints(self, tokens: co.Allocation, accuracy: co.Expression) -> Iterator[Any]:
        request, table = self.request, self.table
        if request.budget is None and not request.budgets_of and not request.caps:
            raise DeclarationError(
                "nothing limits the tokens: give --budget TOKENS, --budget-of COLUMN=LIMIT or "
                "--cap-by COLUMN=..."
            )
        if request.budget is not None:
            yield (co.sum(tokens) <= request.budget).named("budget")
        for column, limit in request.budgets_of.items():
            table.require_column(column, "--budget-of")
            charge = self._numbers(column)
            self._require_not_negative(charge, column, "a charge per token is at least 0")
            charged: Any = charge @ tokens  # NumPy's types do not know that the right side decides
            yield (charged <= limit).named(f"{column} budget")
        for column, text in request.caps:
            limits = _Limits("--cap-by", column, text, table)
            caps = limits.numbers(lambda t: _tokens(t, request.budget), "cap")
            yield (co.sum(tokens, by=limits.labels) <= caps).named(f"{column} cap")
        if request.floor is not None:
            yield (co.mean(accuracy) >= _accuracy(f"{request.floor:.17g}")).named("floor")
        for column, text in request.floors:
            limits = _Limits("--floor-by", column, text, table)
            floors = limits.numbers(_accuracy, "floor")
            yield (co.mean(accuracy, by=limits.labels) >= floors).named(f"{column} floor")

    # ------------------------------------------------------------------ indices into lines
    @contextmanager
    def _in_rows(self) -> Iterator[None]:
        """Errors and warnings of the library, told in lines and columns of the file."""
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", ScaleWarning)
                yield
        except DeclarationError as error:
            told = self._told(str(error))
            if told is None:
                raise
            raise DeclarationError(told) from error
        for warning in caught:
            if issubclass(warning.category, ScaleWarning):
                message = str(warning.message)
                self.notes.append(self._told(message) or message)
            else:
                warnings.warn_explicit(
                    warning.message, warning.category, warning.filename, warning.lineno
                )

    def _told(self, message: str) -> str | None:
        indexed = _INDEXED.match(message)
        if indexed and int(indexed[2]) < self.table.rows:
            name, row, rest = indexed[1], int(indexed[2]), indexed[3]
            column = self.source.get(name)
            where = f"{self.table.path}: {self.table.place(row)}"
            return (
                f"{where}, column {column!r}: {name}{rest}" if column else f"{where}: {name}{rest}"
            )
        query = _QUERY.search(message)
        if query and int(query[1]) < self.table.rows:
            row = int(query[1])
            return f"{message} (query {row} is {self.table.place(row)} of {self.table.path})"
        return None


# -------------------------------------------------------------------------------- limits by group
class _Limits:
    """One number a group: inline, or from a file.

    `tenant=9e4` is the same for every tenant, `tenant=acme:9e4,globex:7e4` one for each, and
    `tenant=caps.csv` a table with a column `tenant` and one called `cap` (`floor` for floors);
    caps.json an object of label and number.
    """

    def __init__(self, option: str, column: str, text: str, table: Table) -> None:
        self.option, self.column, self.text = option, column, text
        self.shown = f"{option} {column}={text}"
        table.require_column(column, option)
        self.labels = table.labels(column)
        self._table = table

    def numbers(self, read: Any, called: str) -> float | dict[str, float]:
        """The limit of every group; `read` turns a text into a number or raises ValueError."""
        path = Path(self.text)
        if path.suffix.lower() in FORMATS:
            written = self._from_file(path, called)
        elif ":" in self.text:
            written = self._inline()
        else:
            return self._read(read, self.text)
        groups = dict.fromkeys(self.labels)
        for label in written:
            if label not in groups:
                raise DeclarationError(
                    f"{self.shown}: the column {self.column!r} of {self._table.path} has no "
                    f"{label!r}; it has {_some(groups)}"
                )
        missing = [label for label in groups if label not in written]
        if missing:
            row = self.labels.index(missing[0])
            raise DeclarationError(
                f"{self.shown}: nothing for {_some(missing)} ({self._table.path}: "
                f"{self._table.place(row)}); every group needs a number"
                + (" (inf for no cap)" if called == "cap" else " (0 for no floor)")
            )
        return {label: self._read(read, number, label) for label, number in written.items()}

    def _read(self, read: Any, text: str, label: str | None = None) -> float:
        try:
            number: float = read(text)
        except DeclarationError as error:
            where = self.shown if label is None else f"{self.shown}: {label!r}"
            raise DeclarationError(f"{where}: {error}") from None
        return number

    def _inline(self) -> dict[str, str]:
        written: dict[str, str] = {}
        for part in self.text.split(","):
            label, colon, number = part.rpartition(":")
            if not colon or not label.strip():
                raise DeclarationError(
                    f"{self.shown}: {part!r} is not label:number, as in "
                    f"{self.column}=acme:90000,globex:70000"
                )
            self._once(written, label.strip(), number.strip())
        return written

    def _from_file(self, path: Path, called: str) -> dict[str, str]:
        written: dict[str, str] = {}
        if path.suffix.lower() == ".json":
            try:
                found = json.loads(path.read_text(encoding="utf-8-sig"))
            except OSError as error:
                raise DeclarationError(f"{path}: cannot be read ({error.strerror})") from error
            except (ValueError, RecursionError) as error:
                raise DeclarationError(f"{path}: not JSON ({error})") from error
            if not isinstance(found, dict):
                raise DeclarationError(f'{path}: expected an object such as {{"acme": 90000}}')
            return {label: str(number) for label, number in found.items()}
        table = read_table(path)
        table.require_column(self.column, self.option)
        table.require_column(called, self.option)
        numbers = table.labels(called)
        for label, number in zip(table.labels(self.column), numbers, strict=True):
            self._once(written, label, number)
        return written

    def _once(self, written: dict[str, str], label: str, number: str) -> None:
        if label in written:
            raise DeclarationError(f"{self.shown}: {label!r} stands there twice")
        written[label] = number


def number(text: str) -> float:
    """A finite number that a person wrote.

    Raises:
        DeclarationError: it is none.
    """
    try:
        value = float(text)
    except ValueError:
        raise DeclarationError(f"{text!r} is not a number") from None
    if not np.isfinite(value):
        raise DeclarationError(f"{text!r}: must be finite")
    return value


def _tokens(text: str, budget: float | None) -> float:
    """A cap in tokens; `40%` is a share of the budget, `inf` none."""
    if text.strip().lower() in ("inf", "infinity"):
        return np.inf
    if text.endswith("%"):
        share = number(text[:-1])
        if budget is None:
            raise DeclarationError(f"{text} of which budget? Give --budget TOKENS")
        if not 0 <= share <= 100:
            raise DeclarationError(f"{text}: a share lies between 0 % and 100 %")
        return share / 100 * budget
    tokens = number(text)
    if tokens < 0:
        raise DeclarationError(f"{text}: a cap is at least 0 tokens")
    if 0 < tokens < 1:
        raise DeclarationError(
            f"{text} of one token? A cap is a number of tokens; a share of the budget is "
            f"written {100 * tokens:g}%"
        )
    return tokens


def _accuracy(text: str) -> float:
    """A mean accuracy, as 0.3 or 30%."""
    value = number(text[:-1]) / 100 if text.endswith("%") else number(text)
    if not 0 <= value <= 1:
        raise DeclarationError(f"{text}: a mean accuracy lies between 0 and 1")
    return value


def _some(labels: Any) -> str:
    shown = list(labels)
    more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
    return ", ".join(map(repr, shown[:5])) + more
