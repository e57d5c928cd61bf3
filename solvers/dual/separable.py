"""The program as the dual sees it: n one-dimensional problems coupled by prices alone.

Queries are reordered so that each utility family is one contiguous slice, and every bound is made
finite. The same lines then answer "what does everyone buy at these prices?" in NumPy, or compiled
by JAX in float64 where there are enough queries to pay for the compilation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearopt.program import Program
from clearopt.solvers.relaxation import implied_bounds, is_unbounded_direction
from clearopt.utilities import BestResponse, CumulativeSurge, Utility
from clearopt.validation import FloatArray

# Below this many queries NumPy's overhead costs less than compiling the same lines with JAX.
JAX_FROM = 4096
# Rounding of one term's exp, log and products, with room to spare, in units of one rounding error.
ROUNDING = 32 * float(np.finfo(np.float64).eps)


class Unbounded(Exception):
    """The objective has no finite maximum; the message says along which query."""


@dataclass(frozen=True)
class Family:
    """One utility family on a contiguous slice of the reordered queries."""

    utility: Utility
    part: slice


@dataclass(frozen=True, eq=False)
class Separable:
    """Arrays of shape (n,) in the reordered queries; `order[k]` is the query at position k."""

    order: NDArray[np.intp]
    families: tuple[Family, ...]
    weight: FloatArray
    cost: FloatArray
    lower: FloatArray
    upper: FloatArray
    integer: NDArray[np.bool_] | None
    engine: str  # "numpy" or "jax"

    @property
    def n(self) -> int:
        return int(self.weight.shape[0])

    @cached_property
    def origin(self) -> FloatArray:
        return self._collect(lambda u: u.origin)

    @cached_property
    def inflection(self) -> FloatArray:
        """Tokens from which each utility is concave."""
        return self.origin + self._collect(lambda u: u.inflection_excess)

    def _collect(self, question: Any) -> FloatArray:
        return np.concatenate([np.asarray(question(f.utility)) for f in self.families])

    def utility(self, tokens: FloatArray) -> FloatArray:
        """U_i(b_i), (n,)."""
        with np.errstate(all="ignore"):
            return np.concatenate(
                [f.utility.value_at(f.utility.excess_of(tokens[f.part])) for f in self.families]
            )

    @cached_property
    def saturation(self) -> FloatArray:
        """Tokens past which nothing more is gained, whole where tokens are."""
        tokens = self.origin + self._collect(lambda u: u.saturation_excess)
        tokens = np.nextafter(tokens, np.inf)
        return tokens if self.integer is None else np.where(self.integer, np.ceil(tokens), tokens)

    def gain(self, tokens: FloatArray, price: FloatArray) -> FloatArray:
        """W_i U_i(b_i) - P_i b_i, (n,)."""
        return self.weight * self.utility(tokens) - price * tokens

    def respond(
        self,
        price: FloatArray,
        lower: FloatArray,
        upper: FloatArray,
        weight: FloatArray | None = None,
    ) -> BestResponse:
        """Every query's best response to its price, as NumPy arrays (n,)."""
        weight = self.weight if weight is None else weight
        if self.engine == "jax":
            return self._jax.respond(weight, price, lower, upper)
        with np.errstate(all="ignore"):
            return _respond(self.families, weight, price, lower, upper, self.integer)

    def totals(
        self, price: float, coefficient: FloatArray, lower: FloatArray, upper: FloatArray
    ) -> tuple[float, float]:
        """(sum of gains, sum of coefficient * tokens) where one row is priced at `price`."""
        if self.engine == "jax":
            return self._jax.totals(price, self.weight, self.cost, coefficient, lower, upper)
        response = self.respond(self.cost + price * coefficient, lower, upper)
        return float(response.gain.sum()), float(coefficient @ response.tokens)

    @cached_property
    def _jax(self) -> _Compiled:
        return _Compiled(self.families, self.integer)


def rigorous_sum(
    gain: FloatArray, utility: FloatArray, weight: FloatArray, price: FloatArray, tokens: FloatArray
) -> float:
    """An upper bound on the sum of gains: summed exactly, plus what the terms may be off by."""
    sizes = np.abs(weight * utility) + np.abs(price * tokens)
    return math.fsum(gain) + ROUNDING * math.fsum(sizes)


def _respond(
    families: tuple[Family, ...], weight: Any, price: Any, lower: Any, upper: Any, integer: Any
) -> BestResponse:
    parts = [
        f.utility.best_response(
            weight[f.part],
            price[f.part],
            lower[f.part],
            upper[f.part],
            None if integer is None else integer[f.part],
        )
        for f in families
    ]
    if len(parts) == 1:
        return parts[0]
    concatenate = parts[0].tokens.__array_namespace__().concatenate
    return BestResponse(*(concatenate(columns) for columns in zip(*parts, strict=True)))


class _Compiled:
    """The same best responses, compiled by JAX; float64 within, no global setting touched."""

    def __init__(self, families: tuple[Family, ...], integer: NDArray[np.bool_] | None) -> None:
        import jax

        self._jax = jax
        shape = tuple((type(f.utility), f.part.start, f.part.stop) for f in families)
        self._respond = partial(_compiled_respond(), shape)
        self._totals = partial(_compiled_totals(), shape)
        with jax.enable_x64(True):
            self._parameters = tuple(
                tuple(jax.numpy.asarray(p) for p in f.utility.parameters) for f in families
            )
            self._integer = None if integer is None else jax.numpy.asarray(integer)

    def respond(self, weight: Any, price: Any, lower: Any, upper: Any) -> BestResponse:
        with self._jax.enable_x64(True):
            columns = self._respond(self._parameters, weight, price, lower, upper, self._integer)
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

        def respond(shape, parameters, weight, price, lower, upper, integer):  # type: ignore[no-untyped-def]
            families = _rebuild(shape, parameters)
            return tuple(_respond(families, weight, price, lower, upper, integer))

        _JIT_RESPOND = jax.jit(respond, static_argnums=0)
    return _JIT_RESPOND


def _compiled_totals() -> Any:
    import jax

    global _JIT_TOTALS
    if _JIT_TOTALS is None:

        def totals(shape, parameters, price, weight, cost, coefficient, lower, upper, integer):  # type: ignore[no-untyped-def]
            families = _rebuild(shape, parameters)
            charged = cost + price * coefficient
            response = _respond(families, weight, charged, lower, upper, integer)
            return response.gain.sum(), (coefficient * response.tokens).sum()

        _JIT_TOTALS = jax.jit(totals, static_argnums=0)
    return _JIT_TOTALS


# Compiled once a process, on first use: importing this module must not import JAX.
_JIT_RESPOND: Any = None
_JIT_TOTALS: Any = None


def separate(program: Program, engine: str = "auto") -> Separable:
    """Reorder by family and make every bound finite, without changing the optimum.

    Raises:
        Unbounded: some query would take endless tokens for an endless gain.
    """
    n = program.n
    kinds: dict[type[Utility], list[tuple[Utility, NDArray[np.intp]]]] = {}
    covered = np.zeros(n, dtype=bool)
    for block in program.utilities:
        kinds.setdefault(type(block.family), []).append((block.family, block.index))
        covered[block.index] = True
    weight = np.where(covered, program.weight, 0.0)
    if not covered.all():
        rest = np.flatnonzero(~covered)
        nothing = CumulativeSurge(scale=0.0, threshold=0.0, rate=1.0).broadcast(rest.shape[0])
        kinds.setdefault(CumulativeSurge, []).append((nothing, rest))
    families, order, start = [], [], 0
    for kind, members in kinds.items():
        parameters = [
            np.concatenate([np.asarray(m.parameters[k]) for m, _ in members])
            for k in range(len(kind.parameter_names))
        ]
        index = np.concatenate([i for _, i in members])
        families.append(
            Family(kind.from_parameters(*parameters), slice(start, start + index.shape[0]))
        )
        order.append(index)
        start += index.shape[0]
    positions = np.concatenate(order)
    lower, upper = finite_bounds(program)
    chosen = ("jax" if n >= JAX_FROM else "numpy") if engine == "auto" else engine
    return Separable(
        order=positions,
        families=tuple(families),
        weight=weight[positions],
        cost=program.cost[positions],
        lower=lower[positions],
        upper=upper[positions],
        integer=program.integer[positions] if program.integer.any() else None,
        engine=chosen,
    )


def finite_bounds(program: Program) -> tuple[FloatArray, FloatArray]:
    """Bounds no optimal allocation needs to leave, all finite, whole where tokens are."""
    if is_unbounded_direction(program):
        raise Unbounded("tokens can be added without end, and each one adds to the objective")
    lower, upper = implied_bounds(program)
    endless = np.isinf(upper)
    if endless.any():
        raise Unbounded(
            f"query {int(np.argmax(endless))} has no upper bound, and a row or the objective"
            " rewards its tokens; give the Allocation an upper bound"
        )
    return lower + 0.0, upper
