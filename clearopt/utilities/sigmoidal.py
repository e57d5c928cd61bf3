"""A utility given by the user's own JAX function."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike

from clearopt.errors import DeclarationError
from clearopt.utilities.family import same_length, short
from clearopt.utilities.numeric import NumericUtility
from clearopt.validation import FloatArray, as_float_array, broadcast_to_length, require

_SMALLEST = 1024  # arrays are padded to powers of two from here on, so that few are compiled for
_HALVINGS = 200
_SETTLED = 1e-12  # relative change that is none


class Sigmoidal(NumericUtility):
    """A utility `fn(tokens, *parameters)` that the user promises is S-shaped.

        def accuracy(tokens, scale, middle):
            return scale * jax.nn.sigmoid((tokens - middle) / 100)

        co.Sigmoidal(accuracy, 0.9, [500.0, 800.0], longest=8192)(tokens)

    The function is differentiated by JAX and evaluated in float64; where it bends, peaks and
    breaks even is found numerically. The promise is checked at some hundred places on [0, longest]
    and wherever the value rises steeply; a function that breaks it is refused with the place.

    Args:
        fn: of one query's tokens (a scalar) and its parameters (scalars), to its expected
            accuracy (a scalar, at least 0), written with `jax.numpy`.
        parameters: numbers or (m,), finite.
        longest: tokens, positive and finite, number or (m,). From there on the utility is taken
            to be constant at `fn(longest)`.

    Raises:
        DeclarationError: `fn` cannot be traced by JAX, is not scalar, not finite, negative, or
            not S-shaped; a parameter is NaN, infinite, or of the wrong shape.
    """

    parameter_names = ()  # each instance has its own

    advice: ClassVar[str] = (
        "fn must be convex up to one inflection (a kink counts) and concave from there to its peak"
    )

    fn: Callable[..., Any]
    arguments: tuple[Any, ...]
    longest: Any
    # 1 in `excess` stands for this many tokens, 1 in `value_at` for this much accuracy.
    token_unit: Any
    accuracy_unit: Any

    def __init__(self, fn: Callable[..., Any], *parameters: ArrayLike, longest: ArrayLike) -> None:
        if not callable(fn):
            raise DeclarationError(
                f"Sigmoidal: fn: expected a function fn(tokens, *parameters), got "
                f"{type(fn).__name__}"
            )
        names = _argument_names(fn, len(parameters))
        given = {
            name: as_float_array(value, f"Sigmoidal: {name}")
            for name, value in zip(names, parameters, strict=True)
        }
        end = as_float_array(longest, "Sigmoidal: longest")
        require(end, end > 0, "Sigmoidal: longest", "must be positive (tokens)")
        same_length("Sigmoidal", {**given, "longest": end})
        for array in (*given.values(), end):
            array.setflags(write=False)
        _check_traceable(fn, len(parameters))
        one = np.ones(())
        self._fill(fn, (*given.values(), end, one, one))
        _ = self.shape  # refuses what is not S-shaped
        self._refuse_negative()

    def _fill(self, fn: Callable[..., Any], parameters: tuple[Any, ...]) -> None:
        self.fn = fn
        *arguments, self.longest, self.token_unit, self.accuracy_unit = parameters
        self.arguments = tuple(arguments)

    @classmethod
    def _around(cls, fn: Callable[..., Any], parameters: tuple[Any, ...]) -> Self:
        instance = object.__new__(cls)
        instance._fill(fn, parameters)
        return instance

    @property
    def kind(self) -> Any:
        return _Kind(self.fn, len(self.arguments))

    @property
    def parameters(self) -> tuple[Any, ...]:
        return (*self.arguments, self.longest, self.token_unit, self.accuracy_unit)

    def broadcast(self, length: int) -> Self:
        names = (*self.argument_names, "longest", "unit", "unit")
        return self._around(
            self.fn,
            tuple(
                broadcast_to_length(np.asarray(value), length, f"Sigmoidal({name}=...)")
                for name, value in zip(names, self.parameters, strict=True)
            ),
        )._with_shape(self._broadcast_shape(length))

    @property
    def argument_names(self) -> tuple[str, ...]:
        """What the function calls its parameters, in the order of `arguments`."""
        return tuple(_argument_names(self.fn, len(self.arguments)))

    def __repr__(self) -> str:
        names = self.argument_names
        shown = [_function_name(self.fn)]
        shown += [f"{n}={short(v)}" for n, v in zip(names, self.arguments, strict=True)]
        return f"Sigmoidal({', '.join([*shown, f'longest={short(self.longest)}'])})"

    # ---------------------------------------------------------------- the curve
    @property
    def origin(self) -> Any:
        return 0.0 * self.longest

    @property
    def reach_excess(self) -> Any:
        return self.longest / self.token_unit

    def value_at(self, excess: Any) -> Any:
        tokens = np.minimum(excess * self.token_unit, self.longest)
        return self._evaluate("value", tokens) / self.accuracy_unit

    def marginal_at(self, excess: Any) -> Any:
        tokens = np.asarray(excess * self.token_unit)
        slope = self._evaluate("slope", np.minimum(tokens, self.longest))
        return np.where(tokens < self.longest, slope, 0.0) * (self.token_unit / self.accuracy_unit)

    def _last_worth(self, price: FloatArray, near: FloatArray, far: FloatArray) -> FloatArray:
        # As in the base class, in one compiled loop.
        unit = self.token_unit
        wanted = price * self.accuracy_unit / unit
        found = self._evaluate("last_worth", wanted, near * unit, far * unit)
        return np.clip(found / unit, near, far)

    def _evaluate(self, what: str, *arrays: Any) -> FloatArray:
        """One of the compiled functions, elementwise over arrays that broadcast together."""
        import jax

        inputs = np.broadcast_arrays(*arrays, *self.arguments)
        shape, size = inputs[0].shape, inputs[0].size
        if not size:
            return np.zeros(shape)
        padded = max(_SMALLEST, 1 << (size - 1).bit_length())
        flat = []
        for array in inputs:
            column = np.empty(padded)
            column[:size] = array.ravel()
            column[size:] = column[size - 1]
            flat.append(column)
        with jax.enable_x64(True):
            result = _compiled(self.kind)[what](*flat)
            return np.asarray(result)[:size].reshape(shape)

    def _refuse_negative(self) -> None:
        """A utility is at least 0; it is least at one of its ends."""
        for tokens in (0.0 * self.longest, self.longest):
            value = np.asarray(self.value_at(tokens))
            require(
                value,
                value >= 0,
                f"Sigmoidal: fn at {'0' if not np.any(tokens) else 'longest'} tokens",
                "a utility is an expected accuracy, at least 0",
            )

    # ---------------------------------------------------------------- other units, export
    def in_units(self, tokens: Any, accuracy: float) -> Self:
        units = (self.token_unit * tokens, self.accuracy_unit * accuracy)
        return self._around(self.fn, (*self.arguments, self.longest, *units))._with_shape(
            self._in_units(tokens, accuracy)
        )

    def _settled(self, member: int) -> bool:
        """Whether `fn` stays by itself what it is at `longest`: no kink to model there."""
        alone = [float(value[member]) for value in self.parameters]
        tokens = alone[-3] * 2.0 ** np.arange(0, 24, 0.5)
        later = self._around(self.fn, (*alone[:-3], tokens[-1], 1.0, 1.0)).value_at(tokens)
        return bool(np.all(np.abs(later - later[0]) <= _SETTLED * np.abs(later[0])))

    def expression(self, excess: Any, exp: Any, member: int) -> Any:
        from clearopt.utilities.jaxpr_export import translated

        *arguments, longest, token_unit, accuracy_unit = (
            float(value[member]) for value in self.parameters
        )
        tokens = token_unit * excess
        if not self._settled(member):
            tokens = 0.5 * (tokens + longest - abs(tokens - longest))
        return translated(self.fn, (tokens, *arguments), exp) / accuracy_unit


@dataclass(frozen=True, eq=False)
class _Kind:
    """The kind of Sigmoidal: the same function, the very same, of as many parameters."""

    fn: Callable[..., Any]
    count: int

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Kind) and self.fn is other.fn and self.count == other.count

    def __hash__(self) -> int:
        return hash((id(self.fn), self.count))

    def from_parameters(self, *parameters: Any) -> Sigmoidal:
        return Sigmoidal._around(self.fn, parameters)


@lru_cache(maxsize=64)
def _compiled(kind: _Kind) -> dict[str, Callable[..., Any]]:
    """Value and slope of `fn` over arrays, and where the slope passes a price; each compiled."""
    import jax
    import jax.numpy as jnp

    values = jax.vmap(kind.fn)
    slopes = jax.vmap(_derivative(kind.fn, kind.count))

    def last_worth(price: Any, near: Any, far: Any, *arguments: Any) -> Any:
        def step(state: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
            count, low, high = state
            middle = 0.5 * (low + high)
            true = slopes(middle, *arguments) >= price
            return count + 1, jnp.where(true, middle, low), jnp.where(true, high, middle)

        def unfinished(state: tuple[Any, Any, Any]) -> Any:
            count, low, high = state
            middle = 0.5 * (low + high)
            return (count < _HALVINGS) & jnp.any((middle > low) & (middle < high))

        _, low, high = jax.lax.while_loop(unfinished, step, (0, near, far))
        return jnp.where(high == far, far, low)

    return {
        "value": jax.jit(values),
        "slope": jax.jit(slopes),
        "last_worth": jax.jit(last_worth),
    }


# -------------------------------------------------------------------------------- the function
def _derivative(fn: Callable[..., Any], count: int) -> Callable[..., Any]:
    """The derivative in the tokens: in reverse, or forwards where JAX cannot (a while loop)."""
    import jax

    number = jax.numpy.ones(())
    try:
        jax.eval_shape(jax.grad(fn), *([number] * (count + 1)))
    except Exception:  # whatever it is, the other way may do
        return jax.jacfwd(fn)
    return jax.grad(fn)


def _function_name(fn: Callable[..., Any]) -> str:
    inner = fn.func if isinstance(fn, partial) else fn
    return str(getattr(inner, "__name__", type(inner).__name__))


def _argument_names(fn: Callable[..., Any], count: int) -> list[str]:
    """What the function calls its parameters, after the tokens."""
    try:
        names = [
            parameter.name
            for parameter in inspect.signature(fn).parameters.values()
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        ][1:]
    except (TypeError, ValueError):
        names = []
    return [*names[:count], *(f"parameter {k + 1}" for k in range(len(names), count))]


def _check_traceable(fn: Callable[..., Any], count: int) -> None:
    """Raise unless JAX can trace `fn`, and it gives one float64 number."""
    import jax

    name = f"Sigmoidal: fn = {_function_name(fn)}"
    with jax.enable_x64(True):
        number = jax.numpy.ones(())
        try:
            found = jax.eval_shape(fn, *([number] * (count + 1)))
        except (
            jax.errors.TracerArrayConversionError,
            jax.errors.ConcretizationTypeError,  # bool, int and float of a traced number
            jax.errors.TracerIntegerConversionError,
        ) as error:
            raise DeclarationError(
                f"{name}: JAX cannot trace it: it computes with something else than jax.numpy. "
                "Write jnp.exp for np.exp or math.exp, jnp.maximum for max, jnp.where for if "
                f"(import jax.numpy as jnp). JAX says: {_first_line(error)}"
            ) from error
        except Exception as error:
            raise DeclarationError(
                f"{name}: calling it with tokens and {count} parameter{'s' * (count != 1)} "
                f"failed: {type(error).__name__}: {_first_line(error)}; write fn(tokens, "
                "*parameters) with jax.numpy"
            ) from error
    shape, dtype = getattr(found, "shape", None), getattr(found, "dtype", None)
    if shape is None or dtype is None:
        raise DeclarationError(
            f"{name}: it returns {type(found).__name__}; it must return one number"
        )
    if shape != ():
        raise DeclarationError(
            f"{name}: it returns an array of shape {shape}; it must return one number, from the "
            "tokens and parameters of one query (clearopt applies it to all queries at once)"
        )
    if dtype != np.float64:
        raise DeclarationError(
            f"{name}: it returns {dtype}; it must compute in float64, so convert nothing to "
            "another type"
        )
    with jax.enable_x64(True):
        try:
            jax.eval_shape(_derivative(fn, count), *([number] * (count + 1)))
        except Exception as error:
            raise DeclarationError(
                f"{name}: JAX cannot differentiate it: {type(error).__name__}: "
                f"{_first_line(error)}; write it with functions of jax.numpy that have a derivative"
            ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
