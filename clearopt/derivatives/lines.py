"""Utilities and cost curves as JAX sees them: values and slopes of all queries, differentiable.

The families' own lines, traced: nothing is approximated. Two things are arranged for autodiff.
The excess over the origin is taken so that its derivative at the origin is 0 (a query without
tokens gains nothing from a threshold moved by a hair). And families that search numerically are
evaluated by the functions they are made of.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from clearopt.derivatives.inputs import Inputs, Names, values_in_order
from clearopt.errors import UnsupportedProblemError
from clearopt.utilities import Sigmoidal
from clearopt.utilities.cost_curves import SampledTokens
from clearopt.utilities.total import Total


class Lines:
    """U, U', C and C' of all queries, (n,) each, as functions of tokens and inputs."""

    def __init__(self, names: Names) -> None:
        self.n = names.program.n
        self._utilities = [
            (label, block.family, jnp.asarray(block.index))
            for label, block in zip(names.utilities, names.program.utilities, strict=True)
        ]
        self._curves = [
            (label, block.family, jnp.asarray(block.index))
            for label, block in zip(names.curves, names.program.curves, strict=True)
        ]

    def utility(self, tokens: Any, inputs: Inputs) -> Any:
        """U_i(b_i), (n,)."""
        return self._all(self._utilities, _utility, tokens, inputs["utilities"])

    def utility_slope(self, tokens: Any, inputs: Inputs) -> Any:
        """U_i'(b_i), accuracy per token, (n,)."""
        return self._all(self._utilities, _utility_slope, tokens, inputs["utilities"])

    def curve(self, tokens: Any, inputs: Inputs) -> Any:
        """C_i(b_i), expected tokens, (n,)."""
        return self._all(self._curves, _curve, tokens, inputs["curves"])

    def curve_slope(self, tokens: Any, inputs: Inputs) -> Any:
        """C_i'(b_i), (n,)."""
        return self._all(self._curves, _curve_slope, tokens, inputs["curves"])

    def _all(self, blocks: Any, line: Any, tokens: Any, inputs: Inputs) -> Any:
        found = jnp.zeros(self.n)
        for label, family, index in blocks:
            parameters = [jnp.asarray(p) for p in values_in_order(family, inputs[label])]
            traced = family.kind.from_parameters(*parameters)
            found = found.at[index].set(line(traced, tokens[index]))
        return found


def _excess(family: Any, tokens: Any) -> Any:
    return jnp.where(tokens > family.origin, tokens - family.origin, 0.0)


def _utility(family: Any, tokens: Any) -> Any:
    if isinstance(family, Total):
        return sum(w * _utility(part, tokens) for part, w in _terms(family))
    if isinstance(family, Sigmoidal):
        amounts = jnp.minimum(tokens * family.token_unit, family.longest)
        return jax.vmap(family.fn)(amounts, *family.arguments) / family.accuracy_unit
    _require_traceable(family)
    return family.value_at(_excess(family, tokens))


def _utility_slope(family: Any, tokens: Any) -> Any:
    if isinstance(family, Total):
        return sum(w * _utility_slope(part, tokens) for part, w in _terms(family))
    if isinstance(family, Sigmoidal):
        amounts = tokens * family.token_unit
        slope = jax.vmap(jax.grad(family.fn))(
            jnp.minimum(amounts, family.longest), *family.arguments
        )
        return jnp.where(amounts < family.longest, slope, 0.0) * (
            family.token_unit / family.accuracy_unit
        )
    _require_traceable(family)
    slope = family.marginal_at(_excess(family, tokens))
    return jnp.where(tokens < family.origin, 0.0, slope)


def _terms(family: Total) -> Any:
    return zip(family.parts, family.weights, strict=True)


def _require_traceable(family: Any) -> None:
    if not family.traceable:
        raise UnsupportedProblemError(
            f"derivatives: {type(family).__name__} is evaluated in NumPy alone (traceable=False), "
            "so JAX cannot differentiate it; write it as co.Sigmoidal(fn, ...)"
        )


def _curve(family: Any, tokens: Any) -> Any:
    if isinstance(family, SampledTokens):
        return jnp.minimum(family.lengths, tokens[..., None]).mean(axis=-1)
    return family.value(tokens)


def _curve_slope(family: Any, tokens: Any) -> Any:
    if isinstance(family, SampledTokens):
        return (family.lengths > tokens[..., None]).mean(axis=-1)
    return family.marginal(tokens)
