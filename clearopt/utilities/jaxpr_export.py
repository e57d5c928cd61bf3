"""A scalar JAX function as an algebraic expression, for modelling languages.

The function is traced to JAX's own intermediate form (a jaxpr), whose operations are then applied
to the language's expressions. Numbers stay numbers: what depends on parameters alone is computed.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from clearopt.errors import UnsupportedProblemError

# Operations that only carry another jaxpr, by the parameter it stands under.
_WRAPPERS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
}
# Operations that leave a scalar as it is.
_NOTHING = ("convert_element_type", "broadcast_in_dim", "reshape", "squeeze", "copy", "copy_p",
    "stop_gradient", "reduce_precision")  # fmt: skip
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
}


def translated(fn: Callable[..., Any], arguments: Sequence[Any], exp: Any) -> Any:
    """`fn(*arguments)`, where arguments are numbers or expressions of a modelling language.

    Args:
        fn: a scalar JAX function.
        arguments: floats, or expressions with `+ - * / **` and `abs`.
        exp: the language's exponential. A logarithm is taken from the module that it comes from.

    Raises:
        UnsupportedProblemError: `fn` does something that cannot be written so; names it.
    """
    import jax

    with jax.enable_x64(True):
        closed = jax.make_jaxpr(fn)(*([1.0] * len(arguments)))
        writer = _Writer(exp)
        return writer.run(closed.jaxpr, closed.consts, list(arguments))[0]


class _Writer:
    """Applies the operations of a jaxpr to expressions."""

    def __init__(self, exp: Any) -> None:
        self._language_exp = exp
        self.operations: dict[str, Callable[..., Any]] = {
            "add": lambda a, b: a + b,
            "add_any": lambda a, b: a + b,
            "sub": lambda a, b: a - b,
            "mul": lambda a, b: a * b,
            "div": lambda a, b: a / b,
            "neg": lambda a: -a,
            "abs": abs,
            "square": lambda a: a * a,
            "sqrt": lambda a: a**0.5,
            "rsqrt": lambda a: a**-0.5,
            "pow": lambda a, b: a**b,
            "max": lambda a, b: self._larger(a, b, 1.0),
            "min": lambda a, b: self._larger(a, b, -1.0),
            "clamp": lambda low, a, high: self._larger(self._larger(low, a, 1.0), high, -1.0),
            "exp": self._exp,
            "exp2": lambda a: self._exp(math.log(2.0) * a),
            "expm1": lambda a: math.expm1(a) if _is_number(a) else self._exp(a) - 1.0,
            "log": self._log,
            "log1p": lambda a: math.log1p(a) if _is_number(a) else self._log(1.0 + a),
            "logistic": lambda a: 1.0 / (1.0 + self._exp(-a)),
            "tanh": lambda a: 2.0 / (1.0 + self._exp(-2.0 * a)) - 1.0,
        }

    def run(self, jaxpr: Any, constants: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
        """What the jaxpr returns for these arguments."""
        known: dict[Any, Any] = {}
        for variable, value in zip(jaxpr.constvars, constants, strict=True):
            known[variable] = self._scalar(value)
        known.update(zip(jaxpr.invars, arguments, strict=True))

        def read(atom: Any) -> Any:
            return self._scalar(atom.val) if hasattr(atom, "val") else known[atom]

        for equation in jaxpr.eqns:
            inputs = [read(atom) for atom in equation.invars]
            outputs = self._apply(equation, inputs)
            known.update(zip(equation.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _apply(self, equation: Any, inputs: list[Any]) -> list[Any]:
        name = equation.primitive.name
        if any(getattr(out.aval, "shape", ()) != () for out in equation.outvars):
            raise _unsupported(f"{name} of an array")
        if name in _WRAPPERS:
            inner = equation.params[_WRAPPERS[name]]
            body = getattr(inner, "jaxpr", inner)
            return self.run(body, getattr(inner, "consts", ()), inputs)
        if name in _NOTHING:
            return [inputs[0]]
        if name == "integer_pow":
            return [inputs[0] ** int(equation.params["y"])]
        if name in _COMPARISONS:
            return [self._compared(name, equation.invars, inputs)]
        if name == "select_n" and _is_number(inputs[0]):
            return [inputs[1 + int(inputs[0])]]
        if name not in self.operations:
            raise _unsupported(name)
        if all(_is_number(value) for value in inputs):
            with np.errstate(all="ignore"):
                inputs = [np.float64(value) for value in inputs]
                return [float(self.operations[name](*inputs))]
        return [self.operations[name](*inputs)]

    def _compared(self, name: str, atoms: Sequence[Any], inputs: list[Any]) -> bool:
        if all(_is_number(value) for value in inputs):
            return bool(_COMPARISONS[name](*inputs))
        if name == "ne" and atoms[0] is atoms[1]:
            return False  # how JAX asks for NaN
        raise _unsupported(f"{name} (a comparison with the tokens, as in jnp.where)")

    @staticmethod
    def _scalar(value: Any) -> Any:
        array = np.asarray(value)
        if array.shape != ():
            raise _unsupported(f"a constant array of shape {array.shape}")
        return array.item()

    @staticmethod
    def _larger(a: Any, b: Any, sign: float) -> Any:
        """max(a, b), or min(a, b) where the sign is negative."""
        if _is_number(a) and _is_number(b):
            return max(a, b) if sign > 0 else min(a, b)
        return 0.5 * (a + b + sign * abs(a - b))

    def _exp(self, a: Any) -> Any:
        return float(np.exp(a)) if _is_number(a) else self._language_exp(a)

    def _log(self, a: Any) -> Any:
        if _is_number(a):
            return float(np.log(a))
        # The language's logarithm stands beside its exponential; this module knows no language.
        home = sys.modules.get(str(getattr(self._language_exp, "__module__", None)))
        log = getattr(home, "log", None)
        if log is None:
            raise _unsupported("log")
        return log(a)


def _is_number(value: Any) -> bool:
    return isinstance(value, (bool, int, float, np.number, np.bool_))


def _unsupported(what: str) -> UnsupportedProblemError:
    return UnsupportedProblemError(
        f"Sigmoidal: fn uses {what}, which cannot be exported to a modelling language; write fn "
        'with + - * / **, jnp.exp, jnp.log, jnp.maximum and the like, or use solver="dual"'
    )
