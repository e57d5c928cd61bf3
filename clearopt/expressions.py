"""The language: expressions that are linear in tokens, in utilities and in cost curves.

Every expression is a vector (or a scalar) of the form

    sum over allocations  M tokens  +  sum over utility atoms  N U(tokens)
                                    +  sum over curve atoms    O C(tokens)  +  constant

with sparse M, N and O, so that sums, groups, weights and indexing are all one sparse product and
no Python loop ever runs over queries.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from clearopt.constraints import Constraint, right_hand_side
from clearopt.errors import DeclarationError
from clearopt.indexing import resolve_index
from clearopt.parameters import Parameter, Quantity, parameters_of, value_of
from clearopt.program import count, gapless, positions
from clearopt.refusals import Refusals, bracketed
from clearopt.utilities import CostCurve, Utility
from clearopt.validation import FloatArray, as_float_array, broadcast_to_length, require

if TYPE_CHECKING:
    from clearopt.allocation import Allocation

_FamilyT = TypeVar("_FamilyT", Utility, CostCurve)


class Atom(Generic[_FamilyT]):
    """One family applied to the queries `index` of one allocation: m utilities, or m costs.

    `where` are the same queries, as a slice where they have no gaps.
    """

    def __init__(
        self, family: _FamilyT, allocation: Allocation, where: slice | NDArray[np.intp]
    ) -> None:
        self.family: _FamilyT = family.broadcast(count(where))
        self.allocation = allocation
        self.where = where

    @property
    def index(self) -> NDArray[np.intp]:
        return positions(self.where)

    @property
    def size(self) -> int:
        return count(self.where)


class Expression(Refusals):
    """A vector, or a scalar, linear in tokens and in utilities; made by the operators."""

    # SciPy and pandas leave operators with an expression on one side to the methods below.
    __array_priority__ = 1000.0
    __pandas_priority__ = 5000

    def __init__(
        self,
        linear: dict[Allocation, sparse.csr_array],
        utilities: dict[Atom[Utility], sparse.csr_array],
        constant: FloatArray,
        *,
        scalar: bool,
        text: str,
        curves: dict[Atom[CostCurve], sparse.csr_array] | None = None,
        labels: tuple[Hashable, ...] | None = None,
        entrywise: bool = False,
    ) -> None:
        self.linear = linear
        self.utilities = utilities
        self.curves: dict[Atom[CostCurve], sparse.csr_array] = curves or {}
        self.constant = constant
        self.scalar = scalar
        self.text = text
        self.labels = labels
        self.entrywise = entrywise  # not yet summed: a limit on one entry is a bound, not a row
        # What it depends on, and how to build it anew once a parameter has changed.
        self.parameters: frozenset[Parameter] = frozenset()
        self._recipe: Callable[[], Expression] | None = None

    # ---------------------------------------------------------------- shape and text
    @property
    def length(self) -> int:
        """How many entries the vector has (1 for a scalar)."""
        return int(self.constant.shape[0])

    def __len__(self) -> int:
        if self.scalar:
            raise DeclarationError(f"len({self.text}): it is one number, not a vector")
        return self.length

    @property
    def shape(self) -> tuple[int, ...]:
        """`(length,)`, or `()` for a scalar, as of an array."""
        return () if self.scalar else (self.length,)

    def __repr__(self) -> str:
        return f"<{'scalar' if self.scalar else f'vector of {self.length}'}: {self.text}>"

    __hash__ = object.__hash__

    # ---------------------------------------------------------------- parameters
    def current(self) -> Expression:
        """The expression with the values that its parameters have now."""
        if self._recipe is None:
            return self
        now = self._recipe()
        if now.shape != self.shape:
            names = ", ".join(sorted(repr(parameter.text) for parameter in self.parameters))
            raise DeclarationError(
                f"{self.text}: declared as {_kind(self)}, but with the values that its parameters "
                f"({names}) have now it is {_kind(now)}; a parameter keeps the shape it was "
                "declared with, or the problem is declared anew"
            )
        return now

    def _remembering(self, recipe: Callable[[], Expression], *sources: Any) -> Expression:
        """This expression, rebuilt by `recipe` where one of `sources` depends on a parameter."""
        self.parameters = parameters_of(*sources)
        self._recipe = recipe if self.parameters else None
        return self

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
        mapped = Expression(
            {a: _product(matrix, m) for a, m in self.linear.items()},
            {a: _product(matrix, m) for a, m in self.utilities.items()},
            np.asarray(matrix @ self.constant, dtype=np.float64)
            if self.constant.any()
            else np.broadcast_to(0.0, (matrix.shape[0],)),
            curves={a: _product(matrix, m) for a, m in self.curves.items()},
            scalar=scalar,
            text=text,
            labels=labels,
            entrywise=entrywise,
        )
        return mapped._remembering(
            lambda: self.current().mapped_by(
                matrix, scalar=scalar, text=text, labels=labels, entrywise=entrywise
            ),
            self,
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
        total = Expression(
            _merge(left.linear, right.linear),
            _merge(left.utilities, right.utilities),
            left.constant + right.constant,
            curves=_merge(left.curves, right.curves),
            scalar=left.scalar and right.scalar,
            text=text,
            labels=left.labels if left.labels is not None else right.labels,
            entrywise=left.entrywise and right.entrywise,
        )
        return total._remembering(lambda: self.current()._plus(other.current(), text), self, other)

    def __add__(self, other: Any) -> Expression:
        if isinstance(other, Expression):
            return self._plus(other, f"{self.text} + {other.text}")
        value = as_float_array(value_of(other), f"the number added to {self.text}")
        if self.scalar and value.ndim == 1:
            return self._stretched(value.shape[0]) + other
        value = broadcast_to_length(value, self.length, f"the array added to {self.text}")
        total = Expression(
            self.linear,
            self.utilities,
            self.constant + value,
            curves=self.curves,
            scalar=self.scalar,
            text=f"{self.text} + {_number_text(other, value)}",
            labels=self.labels,
            entrywise=self.entrywise,
        )
        return total._remembering(lambda: self.current() + other, self, other)

    __radd__ = __add__

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **_: Any) -> Any:
        """NumPy's operators with an array on the left; any other function of NumPy is refused."""
        operation = _OPERATORS.get(ufunc.__name__)
        if method == "__call__" and operation is not None and len(inputs) == 2:
            left, right = inputs
            forward, reflected = operation
            if isinstance(left, Expression):
                return getattr(left, forward)(right)
            return getattr(right, reflected)(left)
        raise DeclarationError(
            f"numpy.{ufunc.__name__}({self.text}): only what is linear in tokens and utilities can "
            "be written; a curve of tokens is a utility, e.g. co.CumulativeSurge(...)(tokens), or "
            "your own, co.Sigmoidal(fn, ...)(tokens)"
        )

    def __pos__(self) -> Expression:
        return self

    def __neg__(self) -> Expression:
        return (-1.0) * self

    def __sub__(self, other: Any) -> Expression:
        if isinstance(other, Expression):
            return self._plus(-other, f"{self.text} - {bracketed(other.text)}")
        if isinstance(other, Quantity):
            return self + -other
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
                f"A @ {bracketed(self.text)}"
            )
        value = as_float_array(value_of(other), f"the factor of {self.text}")
        if self.scalar and value.ndim == 1:
            return self._stretched(value.shape[0]) * other
        value = broadcast_to_length(value, self.length, f"the factor of {self.text}")
        diagonal = sparse.csr_array(
            (value, np.arange(self.length), np.arange(self.length + 1)), shape=(self.length,) * 2
        )
        product = self.mapped_by(
            diagonal,
            scalar=self.scalar,
            text=f"{_number_text(other, value)} * {bracketed(self.text)}",
            labels=self.labels,
            entrywise=self.entrywise,
        )
        return product._remembering(lambda: self.current() * other, self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Expression:
        if isinstance(other, Expression):
            raise DeclarationError(
                f"{self.text} / {other.text}: a ratio of two expressions is not separable; "
                "multiply the constraint out, e.g. write `a >= 0.3 * b` for `a / b >= 0.3`"
            )
        divisor = as_float_array(value_of(other), f"the divisor of {self.text}")
        require(divisor, divisor != 0, f"the divisor of {self.text}", "must not be 0")
        quotient = self * (1.0 / divisor)
        return quotient._remembering(lambda: self.current() / other, self, other)

    def __rmatmul__(self, matrix: Any) -> Expression:
        """`A @ expression` for a dense or scipy.sparse matrix (k, m), or a vector (m,)."""
        if isinstance(matrix, Quantity):
            product = self.__rmatmul__(matrix.value)
            return product._remembering(lambda: matrix.value @ self.current(), self, matrix)
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
        return self.mapped_by(rows, scalar=scalar, text=f"A @ {bracketed(self.text)}")

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
            text=f"{bracketed(self.text)}[{index[0] if one else '...'}]",
            labels=None if one else labels,
            entrywise=self.entrywise,
        )

    def apply_utility(self, family: Utility) -> Expression:
        """What `family(self)` means: the vector of utilities of these queries."""
        if not self.length:  # of nobody
            return Expression({}, {}, np.zeros(0), **self._applied(family))
        atom = Atom(family, *self._queries(family, "utility"))
        return Expression({}, {atom: identity(self.length)},
            np.broadcast_to(0.0, (self.length,)), **self._applied(family))  # fmt: skip

    def apply_curve(self, family: CostCurve) -> Expression:
        """What `curve(self)` means: the vector of expected costs of these queries."""
        if not self.length:
            return Expression({}, {}, np.zeros(0), **self._applied(family))
        atom = Atom(family, *self._queries(family, "cost curve"))
        return Expression({}, {}, np.broadcast_to(0.0, (self.length,)),
            curves={atom: identity(self.length)}, **self._applied(family))  # fmt: skip

    def _queries(
        self, family: Utility | CostCurve, what: str
    ) -> tuple[Allocation, slice | NDArray[np.intp]]:
        """The allocation this is a part of, and which queries: what a family can apply to."""
        name = type(family).__name__
        matrix = next(iter(self.linear.values())) if len(self.linear) == 1 else None
        if getattr(matrix, "is_identity", False) and not (
            self.utilities or self.curves or self.constant.any()
        ):
            return next(iter(self.linear)), slice(0, self.length)
        if (
            matrix is None
            or self.utilities
            or self.curves
            or self.constant.any()
            or (np.diff(matrix.indptr) != 1).any()
            or (matrix.data != 1).any()
        ):
            raise DeclarationError(
                f"{name}(...)({self.text}): a {what} applies to an Allocation or a part of it "
                "such as tokens[mask], not to a computed expression; put factors into the "
                f"{what}'s parameters"
            )
        index = matrix.indices.astype(np.intp)
        if (np.diff(index) <= 0).any() and np.unique(index).shape[0] != index.shape[0]:
            raise DeclarationError(f"{name}(...)({self.text}): the same query is named twice")
        return next(iter(self.linear)), gapless(index)

    def _applied(self, family: Utility | CostCurve) -> dict[str, Any]:
        text = f"{type(family).__name__}({self.text})"
        return {"scalar": self.scalar, "text": text, "entrywise": True}

    # ---------------------------------------------------------------- comparison
    def _compare(self, sense: Any, other: Any) -> Constraint:
        if isinstance(other, Expression):
            text = f"{self.text} {sense} {other.text}"
            difference = self._plus(-other, text)
            constraint = Constraint(difference, sense, 0.0 - difference.constant, text)
        else:
            value = value_of(other)
            level = right_hand_side(value, self, sense)
            shown = "{...}" if isinstance(value, Mapping) else _number_text(other, level)
            text = f"{self.text} {sense} {shown}"
            constraint = Constraint(self, sense, level - self.constant, text, right=other)
        return constraint.remembering(
            lambda: self.current()._compare(sense, _current(other)), self, other
        )

    def __le__(self, other: Any) -> Constraint:
        return self._compare("<=", other)

    def __ge__(self, other: Any) -> Constraint:
        return self._compare(">=", other)

    def __eq__(self, other: Any) -> Constraint:  # type: ignore[override]
        return self._compare("==", other)

    def __ne__(self, other: Any) -> bool:
        if isinstance(other, Expression):
            return self is not other
        raise DeclarationError(f"{self.text} != ...: not a constraint that leaves a closed set")


# NumPy's name of an operator: what it is on an expression, and with the expression on the right.
_OPERATORS = {
    "add": ("__add__", "__radd__"),
    "subtract": ("__sub__", "__rsub__"),
    "multiply": ("__mul__", "__rmul__"),
    "divide": ("__truediv__", "__rtruediv__"),
    "matmul": ("__matmul__", "__rmatmul__"),
    "power": ("__pow__", "__rpow__"),
    "less_equal": ("__le__", "__ge__"),
    "greater_equal": ("__ge__", "__le__"),
    "equal": ("__eq__", "__eq__"),
    "less": ("__lt__", "__gt__"),
    "greater": ("__gt__", "__lt__"),
    "not_equal": ("__ne__", "__ne__"),
}


def _merge(
    left: dict[Any, sparse.csr_array], right: dict[Any, sparse.csr_array]
) -> dict[Any, sparse.csr_array]:
    merged = dict(left)
    for key, matrix in right.items():
        merged[key] = sparse.csr_array(merged[key] + matrix) if key in merged else matrix
    return merged


def _number_text(given: Any, value: FloatArray) -> str:
    if isinstance(given, Quantity):
        return given.text
    if value.size == 0:  # nobody is meant
        return "[]" if np.ndim(given) else f"{float(given):.10g}"
    return f"{value.flat[0]:.10g}" if value.size == 1 or (value == value.flat[0]).all() else "[...]"


def _kind(expression: Expression) -> str:
    return "one number" if expression.scalar else f"a vector of {expression.length}"


def _current(thing: Any) -> Any:
    return thing.current() if isinstance(thing, Expression) else thing


def identity(length: int) -> sparse.csr_array:
    """The matrix of "every entry itself"; known again by `_product`, which saves it the work.

    One for all expressions of a length while any of them lives: nobody changes it.
    """
    matrix = _IDENTITIES.get(length)
    if matrix is None:
        ends = np.arange(length + 1, dtype=np.int32 if length < 2**31 - 1 else np.int64)
        ones = np.broadcast_to(1.0, (length,))  # one number in memory
        matrix = sparse.csr_array((ones, ends[:-1], ends), shape=(length, length))
        matrix.is_identity = True
        _IDENTITIES[length] = matrix
    return matrix


def row_of_ones(length: int) -> sparse.csr_array:
    """The matrix of "all entries added up", on the arrays of the identity."""
    entries = identity(length)
    ends = np.array([0, length], dtype=entries.indptr.dtype)
    return sparse.csr_array((entries.data, entries.indices, ends), shape=(1, length))


_IDENTITIES: WeakValueDictionary[int, sparse.csr_array] = WeakValueDictionary()


def _product(matrix: sparse.csr_array, entries: sparse.csr_array) -> sparse.csr_array:
    if getattr(entries, "is_identity", False):
        return matrix
    return sparse.csr_array(matrix @ entries)
