"""From JAX to a NumPy function and back, digit for digit.

The runtime may call back in a thread where JAX's 64-bit types are off (`jax.enable_x64` is local to
a thread), and then float64 arrays would arrive, and be expected back, as float32. So the bits
travel instead, as pairs of uint32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clearopt.errors import UnsupportedProblemError
from clearopt.validation import FloatArray


def solved_outside(
    solve: Callable[[list[FloatArray]], Sequence[FloatArray]],
    arrays: Sequence[Any],
    shapes: Sequence[tuple[int, ...]],
) -> list[Any]:
    """What `solve` makes of the arrays, as float64 arrays of the given shapes.

    Under `jax.vmap` the entries of the batch are solved one after the other; what is the same for
    all of them is not copied.

    Raises:
        UnsupportedProblemError: when it is differentiated itself. Bits have no derivative: JAX
            would take it for 0 in silence.
    """
    outside = jax.custom_jvp(partial(_called, solve, shapes))
    outside.defjvp(_refuse)
    return outside(list(arrays))


def _refuse(*_: Any) -> Any:
    raise UnsupportedProblemError(
        "derivatives: second derivatives through a solve are not supported; differentiate once"
    )


def _called(
    solve: Callable[[list[FloatArray]], Sequence[FloatArray]],
    shapes: Sequence[tuple[int, ...]],
    arrays: list[Any],
) -> list[Any]:
    ranks = [jnp.ndim(array) for array in arrays]

    def call(*bits: Any) -> tuple[Any, ...]:
        given = [_floats(np.asarray(array)) for array in bits]
        fronts = [a.shape[: a.ndim - rank] for a, rank in zip(given, ranks, strict=True)]
        batch = np.broadcast_shapes(*fronts)
        whole = [
            np.broadcast_to(array, batch + array.shape[array.ndim - rank :])
            for array, rank in zip(given, ranks, strict=True)
        ]
        results = [np.empty(batch + shape) for shape in shapes]
        for entry in np.ndindex(*batch):
            found = solve([array[entry] for array in whole])
            for result, value in zip(results, found, strict=True):
                result[entry] = value
        return tuple(_bits(result) for result in results)

    outside = jax.pure_callback(
        call,
        tuple(jax.ShapeDtypeStruct((*shape, 2), np.uint32) for shape in shapes),  # type: ignore[no-untyped-call]
        *(jax.lax.bitcast_convert_type(array, jnp.uint32) for array in arrays),
        vmap_method="expand_dims",
    )
    return [jax.lax.bitcast_convert_type(bits, jnp.float64) for bits in outside]


def _floats(bits: Any) -> FloatArray:
    return np.ascontiguousarray(bits).view(np.float64)[..., 0]


def _bits(values: FloatArray) -> Any:
    return np.ascontiguousarray(values[..., None]).view(np.uint32)
