"""Best responses of all queries at once, in NumPy or compiled by JAX from the same lines.

Float64 within; no global JAX setting is touched, and importing this module does not import JAX.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearopt.utilities import BestResponse, Utility
from clearopt.validation import FloatArray


@dataclass(frozen=True)
class Family:
    """One utility family on a contiguous slice of the reordered queries."""

    utility: Utility
    part: slice


def respond_all(
    families: tuple[Family, ...],
    weight: Any,
    price: Any,
    lower: Any,
    upper: Any,
    integer: Any,
    least: Any,
) -> BestResponse:
    """Every query's best response, (n,): family by family, in any array namespace."""
    parts = [
        f.utility.best_response(
            weight[f.part],
            price[f.part],
            lower[f.part],
            upper[f.part],
            None if integer is None else integer[f.part],
            None if least is None else least[f.part],
        )
        for f in families
    ]
    if len(parts) == 1:
        return parts[0]
    concatenate = parts[0].tokens.__array_namespace__().concatenate
    return BestResponse(*(concatenate(columns) for columns in zip(*parts, strict=True)))


class Compiled:
    """The same best responses, compiled by JAX; float64 within, no global setting touched."""

    def __init__(
        self,
        families: tuple[Family, ...],
        integer: NDArray[np.bool_] | None,
        least: FloatArray | None,
    ) -> None:
        import jax

        self._jax = jax
        shape = tuple((f.utility.kind, f.part.start, f.part.stop) for f in families)
        self._respond = partial(_compiled_respond(), shape)
        self._totals = partial(_compiled_totals(), shape)
        with jax.enable_x64(True):
            self._parameters = tuple(
                tuple(jax.numpy.asarray(p) for p in f.utility.parameters) for f in families
            )
            self._integer = None if integer is None else jax.numpy.asarray(integer)
            self._least = None if least is None else jax.numpy.asarray(least)

    def respond(self, weight: Any, price: Any, lower: Any, upper: Any) -> BestResponse:
        with self._jax.enable_x64(True):
            columns = self._respond(
                self._parameters, weight, price, lower, upper, self._integer, self._least
            )
            return BestResponse(*(np.asarray(column) for column in columns))

    def totals(
        self, price: float, weight: Any, cost: Any, coefficient: Any, lower: Any, upper: Any
    ) -> tuple[float, float]:
        with self._jax.enable_x64(True):
            gain, demand = self._totals(
                self._parameters,
                float(price),
                weight,
                cost,
                coefficient,
                lower,
                upper,
                self._integer,
                self._least,
            )
            return float(gain), float(demand)


def _rebuild(shape: Any, parameters: Any) -> tuple[Family, ...]:
    return tuple(
        Family(kind.from_parameters(*values), slice(start, stop))
        for (kind, start, stop), values in zip(shape, parameters, strict=True)
    )


def _compiled_respond() -> Any:
    import jax

    global _JIT_RESPOND
    if _JIT_RESPOND is None:

        def respond(shape, parameters, weight, price, lower, upper, integer, least):  # type: ignore[no-untyped-def]
            families = _rebuild(shape, parameters)
            return tuple(respond_all(families, weight, price, lower, upper, integer, least))

        _JIT_RESPOND = jax.jit(respond, static_argnums=0)
    return _JIT_RESPOND


def _compiled_totals() -> Any:
    import jax

    global _JIT_TOTALS
    if _JIT_TOTALS is None:

        def totals(  # type: ignore[no-untyped-def]
            shape, parameters, price, weight, cost, coefficient, lower, upper, integer, least
        ):
            families = _rebuild(shape, parameters)
            charged = cost + price * coefficient
            response = respond_all(families, weight, charged, lower, upper, integer, least)
            return response.gain.sum(), (coefficient * response.tokens).sum()

        _JIT_TOTALS = jax.jit(totals, static_argnums=0)
    return _JIT_TOTALS


# Compiled once a process, on first use: importing this module must not import JAX.
_JIT_RESPOND: Any = None
_JIT_TOTALS: Any = None
