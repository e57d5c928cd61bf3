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


def slopes_all(families: tuple[Family, ...], tokens: Any) -> tuple[Any, Any]:
    """(U'(b), U''(b)) of every query, (n,) each; the second by central differences of the first.

    It serves Newton's steps alone, which need a few digits of it and no more.
    """
    parts = []
    for family in families:
        excess = family.utility.excess_of(tokens[family.part])
        xp = excess.__array_namespace__()
        width = 1e-5 * excess
        beside = (family.utility.marginal_at(excess + sign * width) for sign in (1.0, -1.0))
        after, before = beside
        safe = xp.where(width > 0, width, 1.0)
        curvature = xp.where(width > 0, (after - before) / (2.0 * safe), 0.0)
        parts.append((family.utility.marginal_at(excess), curvature))
    concatenate = parts[0][0].__array_namespace__().concatenate
    marginal, curvature = (concatenate(columns) for columns in zip(*parts, strict=True))
    return marginal, curvature


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
        self._slopes = partial(_compiled_slopes(), shape)
        with jax.enable_x64(True):
            self._parameters = tuple(
                tuple(jax.numpy.asarray(p) for p in f.utility.parameters) for f in families
            )
            self._integer = None if integer is None else jax.numpy.asarray(integer)
            self._least = None if least is None else jax.numpy.asarray(least)

    def respond(
        self, weight: Any, price: Any, lower: Any, upper: Any, *, fractions: bool = False
    ) -> BestResponse:
        integer = None if fractions else self._integer
        with self._jax.enable_x64(True):
            columns = self._respond(
                self._parameters, weight, price, lower, upper, integer, self._least
            )
            return BestResponse(*(np.asarray(column) for column in columns))

    def slopes(self, tokens: Any) -> tuple[FloatArray, FloatArray]:
        with self._jax.enable_x64(True):
            marginal, curvature = self._slopes(self._parameters, tokens)
            return np.asarray(marginal), np.asarray(curvature)

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


def _compiled_slopes() -> Any:
    import jax

    global _JIT_SLOPES
    if _JIT_SLOPES is None:

        def slopes(shape, parameters, tokens):  # type: ignore[no-untyped-def]
            return slopes_all(_rebuild(shape, parameters), tokens)

        _JIT_SLOPES = jax.jit(slopes, static_argnums=0)
    return _JIT_SLOPES


# Compiled once a process, on first use: importing this module must not import JAX.
_JIT_RESPOND: Any = None
_JIT_TOTALS: Any = None
_JIT_SLOPES: Any = None
