"""The language: allocations, and expressions that are linear in tokens and in utilities.

Every expression is a vector (or a scalar) of the form

    sum over allocations  M tokens  +  sum over utility atoms  N U(tokens)  +  constant

with sparse M and N, so that sums, groups, weights and indexing are all one sparse product and no
Python loop ever runs over queries.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from clearopt.constraints import Constraint, right_hand_side
from clearopt.errors import DeclarationError
from clearopt.utilities import Utility
from clearopt.validation import FloatArray, as_float_array, broadcast_to_length, require

_counter = itertools.count()


class UtilityAtom:
    """One family applied to the queries `index` of one allocation: m utilities."""

    def __init__(self, family: Utility, allocation: Allocation, index: NDArray[np.intp]) -> None:
        self.family = family.broadcast(index.shape[0])
        self.source = family
        self.allocation = allocation
        self.index = index


class Expression:
    """A vector, or a scalar, linear in tokens and in utilities; made by the operators."""

    # NumPy, SciPy and pandas leave operators with an expression on one side to the methods below.
    __array_ufunc__ = None
    __array_priority__ = 1000.0
    __pandas_priority__ = 5000

    def __init__(
        self,
        linear: dict[Allocation, sparse.csr_array],
        utilities: dict[UtilityAtom, sparse.csr_array],
        constant: FloatArray,
        *,
        scalar: bool,
        text: str,
        labels: tuple[Hashable, ...] | None = None,
        entrywise: bool = False,
    ) -> None:
        self.linear = linear
        self.utilities = utilities
        self.constant = constant
        self.scalar = scalar
        self.text = text
        self.labels = labels
        self.entrywise = entrywise  # not yet summed: a limit on one entry is a bound, not a row

    # ---------------------------------------------------------------- shape and text
    @property
    def length(self) -> int:
        """How many entries the vector has (1 for a scalar)."""
        return int(self.constant.shape[0])

    @property
    def shape(self) -> tuple[int, ...]:
        return () if self.scalar else (self.length,)

    def __repr__(self) -> str:
        return f"<{'scalar' if self.scalar else f'vector of {self.length}'}: {self.text}>"

    def __iter__(self) -> NoReturn:
        raise TypeError(f"{self.text} cannot be iterated over; index it, or use co.sum(...)")

    def __bool__(self) -> NoReturn:
        raise TypeError(f"{self.text} has no truth value before it is solved")

    __hash__ = object.__hash__

    # ---------------------------------------------------------------- algebra
    def mapped_by(
        self,
        matrix: sparse.csr_array,
        *,
        scalar: bool,
        text: str,
        labels: tuple[Hashable, ...] | None = None,
        entrywise: bool = False,
    ) -> Expression:
        """The expression `matrix @ self`."""
        return Expression(
            {a: sparse.csr_array(matrix @ m) for a, m in self.linear.items()},
            {a: sparse.csr_array(matrix @ m) for a, m in self.utilities.items()},
            np.asarray(matrix @ self.constant, dtype=np.float64),
            scalar=scalar,
            text=text,
            labels=labels,
            entrywise=entrywise,
        )

    def _stretched(self, length: int) -> Expression:
        """A scalar repeated to a vector of `length`."""
        ones = sparse.csr_array(np.ones((length, 1)))
        return self.mapped_by(ones, scalar=False, text=self.text, entrywise=self.entrywise)

    def _plus(self, other: Expression, text: str) -> Expression:
        """The sum of two expressions; `text` is what the user wrote."""
        left, right = self, other
        if left.length != right.length:
            if left.scalar:
                left = left._stretched(right.length)
            elif right.scalar:
                right = right._stretched(left.length)
            else:
                raise DeclarationError(
                    f"{text}: the lengths {self.length} and {other.length} differ"
                )
        if left.labels is not None and right.labels is not None and left.labels != right.labels:
            raise DeclarationError(
                f"{text}: the groups of the two sides differ, or stand in another order; "
                "group both by the same labels"
            )
        return Expression(
            _merge(left.linear, right.linear),
            _merge(left.utilities, right.utilities),
            left.constant + right.constant,
            scalar=left.scalar and right.scalar,
            text=text,
            labels=left.labels if left.labels is not None else right.labels,
            entrywise=left.entrywise and right.entrywise,
        )

    def __add__(self, other: Any) -> Expression:
        if isinstance(other, Expression):
            return self._plus(other, f"{self.text} + {other.text}")
        value = as_float_array(other, f"the number added to {self.text}")
        if self.scalar and value.ndim == 1:
            return self._stretched(value.shape[0]) + value
        value = broadcast_to_length(value, self.length, f"the array added to {self.text}")
        return Expression(
            self.linear,
            self.utilities,
            self.constant + value,
            scalar=self.scalar,
            text=f"{self.text} + {_number_text(value)}",
            labels=self.labels,
            entrywise=self.entrywise,
        )

    __radd__ = __add__

    def __array_function__(self, function: Any, *_: Any) -> NoReturn:
        raise TypeError(
            f"numpy.{function.__name__} takes numbers, not {self.text}; write co.sum, co.mean, or "
            "A @ expression"
        )

    def __pos__(self) -> Expression:
        return self

    def __neg__(self) -> Expression:
        return (-1.0) * self

    def __sub__(self, other: Any) -> Expression:
        if isinstance(other, Expression):
            return self._plus(-other, f"{self.text} - {_bracketed(other.text)}")
        return self + -as_float_array(other, f"the number taken from {self.text}")

    def __rsub__(self, other: Any) -> Expression:
        return (-self) + other

    def __mul__(self, other: Any) -> Expression:
        if isinstance(other, Expression):
            raise DeclarationError(
                f"{self.text} * {other.text}: a product of two expressions is not separable; "
                "multiply by numbers, and put each product of decisions into a utility of its own"
            )
        if sparse.issparse(other) or np.ndim(other) > 1:
            raise DeclarationError(
                f"{self.text} * matrix: for the product with a matrix write "
                f"A @ {_bracketed(self.text)}"
            )
        value = as_float_array(other, f"the factor of {self.text}")
        if self.scalar and value.ndim == 1:
            return self._stretched(value.shape[0]) * value
        value = broadcast_to_length(value, self.length, f"the factor of {self.text}")
        diagonal = sparse.csr_array(
            (value, np.arange(self.length), np.arange(self.length + 1)), shape=(self.length,) * 2
        )
        return self.mapped_by(
            diagonal,
            scalar=self.scalar,
            text=f"{_number_text(value)} * {_bracketed(self.text)}",
            labels=self.labels,
            entrywise=self.entrywise,
        )

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Expression:
        if isinstance(other, Expression):
            raise DeclarationError(
                f"{self.text} / {other.text}: a ratio of two expressions is not separable; "
                "multiply the constraint out, e.g. write `a >= 0.3 * b` for `a / b >= 0.3`"
            )
        divisor = as_float_array(other, f"the divisor of {self.text}")
        require(divisor, divisor != 0, f"the divisor of {self.text}", "must not be 0")
        return self * (1.0 / divisor)

    def __rtruediv__(self, other: Any) -> NoReturn:
        raise DeclarationError(
            f"... / {_bracketed(self.text)}: only what is linear in tokens and utilities can be "
            "written; divide by numbers only"
        )

    def __pow__(self, power: Any) -> NoReturn:
        raise DeclarationError(
            f"{_bracketed(self.text)} ** {power}: only what is linear in tokens and utilities can "
            "be written; a curve of tokens is a utility, e.g. co.CumulativeSurge(...)(tokens)"
        )

    def __rmatmul__(self, matrix: Any) -> Expression:
        """`A @ expression` for a dense or scipy.sparse matrix (k, m), or a vector (m,)."""
        if sparse.issparse(matrix):
            rows, scalar = sparse.csr_array(matrix, dtype=np.float64), False
        else:
            try:
                dense = np.asarray(matrix, dtype=np.float64)
            except (TypeError, ValueError) as error:
                raise DeclarationError(
                    f"A @ {self.text}: A must be a vector or a matrix of numbers ({error})"
                ) from error
            if dense.ndim not in (1, 2):
                raise DeclarationError(
                    f"A @ {self.text}: A must be a vector or a matrix, got shape {dense.shape}"
                )
            rows, scalar = sparse.csr_array(np.atleast_2d(dense)), dense.ndim == 1
        if self.scalar or rows.shape[1] != self.length:
            raise DeclarationError(
                f"A @ {self.text}: A has {rows.shape[1]} columns, but there are {self.length} "
                "entries to multiply"
            )
        if not np.isfinite(rows.data).all():
            at = int(np.argmin(np.isfinite(rows.data)))
            row = int(np.searchsorted(rows.indptr, at, side="right")) - 1
            place = f"{rows.indices[at]}" if scalar else f"{row}, {rows.indices[at]}"
            raise DeclarationError(
                f"A @ {self.text}: A[{place}] = {rows.data[at].item()!r}: must be finite"
            )
        return self.mapped_by(rows, scalar=scalar, text=f"A @ {_bracketed(self.text)}")

    def __matmul__(self, matrix: Any) -> Expression:
        if isinstance(matrix, Expression):
            return self * matrix  # raises, with what to write instead
        return self.__rmatmul__(matrix.T if sparse.issparse(matrix) else np.transpose(matrix))

    def __getitem__(self, key: Any) -> Expression:
        if self.scalar:
            raise DeclarationError(f"{self.text} is a scalar and cannot be indexed")
        index, one = resolve_index(key, self.length, self.text)
        selection = sparse.csr_array(
            (np.ones(index.shape[0]), index, np.arange(index.shape[0] + 1)),
            shape=(index.shape[0], self.length),
        )
        labels = None if self.labels is None else tuple(self.labels[i] for i in index)
        return self.mapped_by(
            selection,
            scalar=one,
            text=f"{_bracketed(self.text)}[{index[0] if one else '...'}]",
            labels=None if one else labels,
            entrywise=self.entrywise,
        )

    def apply_utility(self, family: Utility) -> Expression:
        """What `family(self)` means: the vector of utilities of these queries."""
        name = type(family).__name__
        matrix = next(iter(self.linear.values())) if len(self.linear) == 1 else None
        if (
            matrix is None
            or self.utilities
            or self.constant.any()
            or (np.diff(matrix.indptr) != 1).any()
            or (matrix.data != 1).any()
        ):
            raise DeclarationError(
                f"{name}(...)({self.text}): a utility applies to an Allocation or a part of it "
                "such as tokens[mask], not to a computed expression; put factors into the "
                "utility's parameters"
            )
        index = matrix.indices.astype(np.intp)
        if np.unique(index).shape[0] != index.shape[0]:
            raise DeclarationError(f"{name}(...)({self.text}): the same query is named twice")
        m = index.shape[0]
        atom = UtilityAtom(family, next(iter(self.linear)), index)
        identity = sparse.csr_array((np.ones(m), np.arange(m), np.arange(m + 1)), shape=(m, m))
        return Expression(
            {},
            {atom: identity},
            np.zeros(m),
            scalar=self.scalar,
            text=f"{name}({self.text})",
            entrywise=True,
        )

    # ---------------------------------------------------------------- comparison
    def _compare(self, sense: Any, other: Any) -> Constraint:
        if isinstance(other, Expression):
            text = f"{self.text} {sense} {other.text}"
            difference = self._plus(-other, text)
            return Constraint(difference, sense, 0.0 - difference.constant, text)
        level, length = right_hand_side(other, self, sense)
        expression = self if length == self.length else self._stretched(length)
        text = (
            f"{self.text} {sense} {'{...}' if isinstance(other, Mapping) else _number_text(level)}"
        )
        return Constraint(expression, sense, level - expression.constant, text)

    def __le__(self, other: Any) -> Constraint:
        return self._compare("<=", other)

    def __ge__(self, other: Any) -> Constraint:
        return self._compare(">=", other)

    def __eq__(self, other: Any) -> Constraint:  # type: ignore[override]
        return self._compare("==", other)

    def __lt__(self, other: Any) -> NoReturn:
        raise DeclarationError(f"{self.text} < ...: strict inequalities have no optimum; write <=")

    def __gt__(self, other: Any) -> NoReturn:
        raise DeclarationError(f"{self.text} > ...: strict inequalities have no optimum; write >=")

    def __ne__(self, other: Any) -> bool:
        if isinstance(other, Expression):
            return self is not other
        raise DeclarationError(f"{self.text} != ...: not a constraint that leaves a closed set")


class Allocation(Expression):
    """The decision: how many tokens each of n queries may use.

    Args:
        n: how many queries, at least 1.
        lower, upper: bounds in tokens, number or (n,). `upper` may be infinite (the default).
        integer: True, or an (n,) bool mask, where tokens are counted whole.
        name: shown in messages and summaries.

    Raises:
        DeclarationError: n < 1, a bound that is NaN or negative, lower above upper, or no whole
            number between the bounds of an integer query.
    """

    def __init__(
        self,
        n: int,
        *,
        lower: ArrayLike = 0.0,
        upper: ArrayLike = np.inf,
        integer: bool | ArrayLike = False,
        name: str | None = None,
    ) -> None:
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
            raise DeclarationError(
                f"Allocation: n = {n!r}: must be a whole number of queries, at least 1 "
                "(an empty problem has nothing to allocate)"
            )
        n = int(n)
        if name is not None and (not isinstance(name, str) or not name):
            raise DeclarationError(f"Allocation: name = {name!r}: must be a text, or None")
        self.name = name or f"tokens{next(_counter) or ''}"
        low = as_float_array(lower, "Allocation: lower")
        high = as_float_array(upper, "Allocation: upper", allow_infinite=True)
        require(low, low >= 0, "Allocation: lower", "must be at least 0 tokens")
        require(high, high >= 0, "Allocation: upper", "must be at least 0 tokens")
        self.lower = np.array(broadcast_to_length(low, n, "Allocation: lower"))
        self.upper = np.array(broadcast_to_length(high, n, "Allocation: upper"))
        whole = np.asarray(integer)
        if whole.ndim > 1 or whole.dtype.kind not in "biu" or not np.isin(whole, (0, 1)).all():
            raise DeclarationError(
                f"Allocation: integer must be True, False or a mask of length {n}, got {integer!r}"
            )
        flags = broadcast_to_length(whole.astype(np.float64), n, "Allocation: integer")
        self.integer = flags.astype(bool)
        require(
            self.upper,
            self.lower <= self.upper,
            "Allocation: upper",
            "lies below the lower bound of the same query",
        )
        require(
            self.upper,
            ~self.integer | (np.ceil(self.lower) <= np.floor(self.upper)),
            "Allocation: upper",
            "leaves no whole number of tokens above the lower bound of the same query",
        )
        identity = sparse.csr_array((np.ones(n), np.arange(n), np.arange(n + 1)), shape=(n, n))
        super().__init__(
            {self: identity}, {}, np.zeros(n), scalar=False, text=self.name, entrywise=True
        )


def resolve_index(key: Any, length: int, text: str) -> tuple[NDArray[np.intp], bool]:
    """Positions named by a mask, slice, indices or one index; and whether it is one index."""
    if isinstance(key, int | np.integer) and not isinstance(key, bool):
        if not -length <= key < length:
            raise DeclarationError(f"{text}[{key}]: there are only {length} entries")
        return np.array([key % length], dtype=np.intp), True
    if isinstance(key, slice):
        index = np.arange(length, dtype=np.intp)[key]
    else:
        array = np.asarray(key)
        if array.size == 0:
            raise DeclarationError(f"{text}[...]: selects nothing")
        if isinstance(key, tuple) or array.ndim != 1 or array.dtype.kind not in "biu":
            raise DeclarationError(
                f"{text}[...]: index by a mask, a slice, whole numbers or one whole number, "
                f"not by {type(key).__name__} of shape {array.shape}"
            )
        if array.dtype.kind == "b":
            if array.shape[0] != length:
                raise DeclarationError(
                    f"{text}[mask]: the mask has length {array.shape[0]}, not {length}"
                )
            index = np.flatnonzero(array)
        else:
            require(
                array,
                (array >= -length) & (array < length),
                f"{text}[indices]: indices",
                f"is out of range: there are only {length} entries",
            )
            if array.shape[0] == length > 2 and array.min() >= 0 and array.max() <= 1:
                raise DeclarationError(
                    f"{text}[...]: {length} numbers, all 0 or 1, look like a mask but would be "
                    "read as positions; write mask.astype(bool)"
                )
            index = array.astype(np.intp) % length
    if index.shape[0] == 0:
        raise DeclarationError(f"{text}[...]: selects nothing")
    return index.astype(np.intp), False


def _merge(
    left: dict[Any, sparse.csr_array], right: dict[Any, sparse.csr_array]
) -> dict[Any, sparse.csr_array]:
    merged = dict(left)
    for key, matrix in right.items():
        merged[key] = sparse.csr_array(merged[key] + matrix) if key in merged else matrix
    return merged


def _bracketed(text: str) -> str:
    return f"({text})" if " + " in text or " - " in text else text


def _number_text(value: FloatArray) -> str:
    return f"{value.flat[0]:.10g}" if value.size == 1 or (value == value.flat[0]).all() else "[...]"
