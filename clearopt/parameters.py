"""`Parameter`: a number that changes between solves, without declaring the problem anew."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np

from clearopt.errors import DeclarationError
from clearopt.validation import as_float_array


class Quantity:
    """A number, array or mapping known only when it is asked for: parameters and their algebra."""

    # NumPy leaves operators with a quantity on one side to the methods below.
    __array_ufunc__ = None

    def __init__(
        self, evaluate: Callable[[], Any], parameters: frozenset[Parameter], text: str
    ) -> None:
        self._evaluate = evaluate
        self.parameters = parameters
        self.text = text

    @property
    def value(self) -> Any:
        """What it stands for now: a number, an array, or a mapping by label."""
        return self._evaluate()

    def __repr__(self) -> str:
        return f"<{self.text} = {self.value!r}>"

    def __bool__(self) -> NoReturn:
        raise DeclarationError(f"{self.text} has no truth value; ask for {self.text}.value")

    def _combined(self, other: Any, operation: Callable[[Any, Any], Any], sign: str) -> Any:
        if not isinstance(other, Quantity) and hasattr(other, "apply_utility"):
            return NotImplemented  # an expression: its own operator takes the quantity
        return _combine(self, other, operation, sign)

    def __add__(self, other: Any) -> Any:
        return self._combined(other, operator.add, "+")

    def __radd__(self, other: Any) -> Any:
        return _combine(other, self, operator.add, "+")

    def __sub__(self, other: Any) -> Any:
        return self._combined(other, operator.sub, "-")

    def __rsub__(self, other: Any) -> Any:
        return _combine(other, self, operator.sub, "-")

    def __mul__(self, other: Any) -> Any:
        return self._combined(other, operator.mul, "*")

    def __rmul__(self, other: Any) -> Any:
        return _combine(other, self, operator.mul, "*")

    def __truediv__(self, other: Any) -> Any:
        return self._combined(other, operator.truediv, "/")

    def __rtruediv__(self, other: Any) -> Any:
        return _combine(other, self, operator.truediv, "/")

    def __neg__(self) -> Quantity:
        return Quantity(lambda: -_number(self), self.parameters, f"-{self.text}")

    def __pos__(self) -> Quantity:
        return self


class Parameter(Quantity):
    """A number, an array or a mapping by label that may change between solves.

    It stands wherever a number may stand: on the right of a constraint, as a weight, as a price.
    Set `parameter.value = ...` and solve the same problem again; only what depends on it is
    compiled anew. The value is checked where it is used, as a number written there would be.

    Args:
        value: what it stands for at first.
        name: shown in messages.

    Raises:
        DeclarationError: the value is not numbers, or has NaN in it.
    """

    def __init__(self, value: Any, name: str = "parameter") -> None:
        if not isinstance(name, str) or not name:
            raise DeclarationError(f"Parameter: name = {name!r}: must be a text")
        super().__init__(lambda: self._value, frozenset((self,)), name)
        self.version = 0
        self.value = value

    __hash__ = object.__hash__

    @property
    def value(self) -> Any:
        """What it stands for: a number, a read-only array, or a mapping; set it to change it."""
        return self._value

    @value.setter
    def value(self, value: Any) -> None:
        if isinstance(value, Mapping):
            self._value: Any = dict(value)
        else:
            array = as_float_array(value, f"Parameter {self.text!r}", allow_infinite=True)
            array.setflags(write=False)  # changed in place, nobody would notice
            self._value = array if array.ndim else float(array)
        self.version += 1


def value_of(thing: Any) -> Any:
    """The value of a quantity now; anything else is its own value."""
    return thing.value if isinstance(thing, Quantity) else thing


def parameters_of(*things: Any) -> frozenset[Parameter]:
    """Every parameter that the things (quantities, expressions, constraints) depend on."""
    return frozenset().union(*(getattr(thing, "parameters", ()) for thing in things))


def _combine(left: Any, right: Any, operation: Callable[[Any, Any], Any], sign: str) -> Quantity:
    def evaluate() -> Any:
        value = operation(_number(left), _number(right))
        return value if np.ndim(value) else float(value)

    text = f"{_text(left)} {sign} {_text(right)}"
    quantity = Quantity(evaluate, parameters_of(left, right), f"({text})")
    evaluate()  # a mapping, or lengths that differ: say so here, not at the next solve
    return quantity


def _number(thing: Any) -> Any:
    value = value_of(thing)
    if isinstance(value, Mapping):
        raise DeclarationError(
            f"{_text(thing)} is a mapping by label: there is no arithmetic with it; compute the "
            "mapping first and set it as the parameter's value"
        )
    return as_float_array(value, _text(thing), allow_infinite=True)


def _text(thing: Any) -> str:
    if isinstance(thing, Quantity):
        return thing.text
    array = np.asarray(thing)
    return f"{array.flat[0]:.10g}" if array.size == 1 and array.dtype.kind in "biuf" else "[...]"
