"""What Python, NumPy, pandas and JAX offer for arrays and an expression does not have.

An expression is linear in tokens, utilities and costs, and has no value before it is solved. Every
method here says so, and what to write instead.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from clearopt.errors import DeclarationError, MissingAttributeError

_CURVE = (
    "only what is linear in tokens and utilities can be written; a curve of tokens is a utility, "
    "e.g. co.CumulativeSurge(...)(tokens), or your own, co.Sigmoidal(fn, ...)(tokens)"
)
_WHOLE = "whole tokens are declared, co.Allocation(n, ..., integer=True)"
_COMPARED = (
    "(min, max and sorted compare too: there is none of expressions; write one constraint for each)"
)
# What arrays have and expressions do not: what to write instead of `x.name`.
_ATTRIBUTES = {
    "sum": "write co.sum({x}), or co.sum({x}, by=labels)",
    "mean": "write co.mean({x}), or co.mean({x}, by=labels)",
    "dot": "write A @ {x}",
    "max": "there is no greatest entry before it is solved; limit every entry, {x} <= most",
    "min": "there is no least entry before it is solved; limit every entry, {x} >= least",
    "value": "it has no value before it is solved, and none itself after: solution = "
    "problem.solve() has .allocation, .utilities and .objective; problem.value_of(allocation, "
    "solution) gives one of several allocations",
    "T": "it is a vector, which has no transpose; write A @ {x} for a matrix A",
}
# JAX asks its arguments for an array in these modules; its operators, which leave an expression to
# the expression's own methods, stand in others.
_JAX_FUNCTIONS = ("jax._src.core", "jax._src.dtypes", "jax._src.numpy.util")


def bracketed(text: str) -> str:
    """`text` as one operand."""
    return f"({text})" if " + " in text or " - " in text else text


class Refusals:
    """The operators and functions that an expression refuses, each with what to write instead."""

    text: str

    # ---------------------------------------------------------------- a value
    def __iter__(self) -> NoReturn:
        raise DeclarationError(f"{self.text} cannot be iterated over; index it, or use co.sum(...)")

    def __bool__(self) -> NoReturn:
        raise DeclarationError(f"{self.text} has no truth value before it is solved")

    def _no_number(self) -> NoReturn:
        raise DeclarationError(
            f"{self.text} has no value before it is solved; solution = problem.solve() has "
            ".allocation, .utilities and .objective"
        )

    def __float__(self) -> NoReturn:
        self._no_number()

    def __int__(self) -> NoReturn:
        self._no_number()

    def __complex__(self) -> NoReturn:
        self._no_number()

    if not TYPE_CHECKING:  # a type checker would take every attribute to be there

        def __getattr__(self, name: str) -> NoReturn:
            if name in _ATTRIBUTES and "text" in vars(self):
                advice = _ATTRIBUTES[name].format(x=self.text)
                raise MissingAttributeError(f"{self.text}.{name}: {advice}")
            raise AttributeError(
                f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self
            )

    def __setitem__(self, key: Any, value: Any) -> NoReturn:
        raise DeclarationError(
            f"{self.text}[...] = ...: an expression is not assigned to; hold an entry at a number "
            "by a constraint, tokens[i] == number"
        )

    # ---------------------------------------------------------------- functions
    def _not_linear(self, what: str, instead: str = _CURVE) -> NoReturn:
        raise DeclarationError(f"{what}: {instead}")

    def __abs__(self) -> NoReturn:
        self._not_linear(
            f"abs({self.text})",
            "only what is linear in tokens and utilities can be written; for |a - b| <= c write "
            "two constraints, a - b <= c and b - a <= c",
        )

    def __pow__(self, power: Any) -> NoReturn:
        self._not_linear(f"{bracketed(self.text)} ** {power}")

    def __rpow__(self, base: Any) -> NoReturn:
        self._not_linear(f"... ** {bracketed(self.text)}")

    def __rtruediv__(self, other: Any) -> NoReturn:
        raise DeclarationError(
            f"... / {bracketed(self.text)}: only what is linear in tokens and utilities can be "
            "written; divide by numbers only"
        )

    def __floordiv__(self, other: Any) -> NoReturn:
        x = bracketed(self.text)
        self._not_linear(f"{x} // {_shown(other)}", f"write {x} / {_shown(other)}; {_WHOLE}")

    def __rfloordiv__(self, other: Any) -> NoReturn:
        self._not_linear(f"... // {bracketed(self.text)}", "divide by numbers only")

    def __mod__(self, other: Any) -> NoReturn:
        self._not_linear(
            f"{bracketed(self.text)} % {_shown(other)}",
            "a remainder is not linear. For blocks of tokens let the allocation count the blocks: "
            f"{_WHOLE}, and give the utility its parameters in blocks",
        )

    def __rmod__(self, other: Any) -> NoReturn:
        self._not_linear(f"... % {bracketed(self.text)}", "a remainder is not linear")

    def __divmod__(self, other: Any) -> NoReturn:
        self.__floordiv__(other)

    def __round__(self, digits: int | None = None) -> NoReturn:
        self._not_linear(f"round({self.text})", f"it cannot be rounded; {_WHOLE}")

    def __trunc__(self) -> NoReturn:
        self.__round__()

    def __floor__(self) -> NoReturn:
        self.__round__()

    def __ceil__(self) -> NoReturn:
        self.__round__()

    # ---------------------------------------------------------------- logic
    def __and__(self, other: Any) -> NoReturn:
        self._logic("&")

    def __or__(self, other: Any) -> NoReturn:
        self._logic("|")

    def __xor__(self, other: Any) -> NoReturn:
        self._logic("^")

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__

    def __invert__(self) -> NoReturn:
        self._logic("~")

    def _logic(self, sign: str) -> NoReturn:
        raise DeclarationError(
            f"{sign} with {self.text}: there is no logic of expressions; several constraints "
            "stand in a list, co.Problem(objective, [first, second]), and each comparison needs "
            "brackets where it stands beside another operator"
        )

    def __lt__(self, other: Any) -> NoReturn:
        raise DeclarationError(
            f"{self.text} < ...: strict inequalities have no optimum; write <=. {_COMPARED}"
        )

    def __gt__(self, other: Any) -> NoReturn:
        raise DeclarationError(
            f"{self.text} > ...: strict inequalities have no optimum; write >=. {_COMPARED}"
        )

    # ---------------------------------------------------------------- other packages
    def __array_function__(self, function: Any, *_: Any) -> NoReturn:
        raise DeclarationError(
            f"numpy.{function.__name__} takes numbers, not {self.text}; write co.sum, co.mean, or "
            "A @ expression"
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """One entry, the expression itself: SciPy looks for that, and leaves its operator to us.

        A pandas frame does not look, and would fail on the entry.
        """
        if _caller() == "pandas.core.frame":
            raise DeclarationError(
                f"frame @ {self.text}: pandas takes numbers only; write frame.to_numpy() @ "
                f"{bracketed(self.text)}"
            )
        holder = np.empty(1, dtype=object)
        holder[0] = self
        return holder.reshape(())

    @property
    def __jax_array__(self) -> NoReturn:
        if _caller() in _JAX_FUNCTIONS:
            self._not_linear(f"a function of jax.numpy on {self.text}")
        raise AttributeError("__jax_array__")


def _caller() -> str:
    """The module that called the method which asks this."""
    return str(sys._getframe(2).f_globals.get("__name__", ""))


def _shown(operand: Any) -> str:
    return f"{operand}" if np.ndim(operand) == 0 and not hasattr(operand, "text") else "..."
