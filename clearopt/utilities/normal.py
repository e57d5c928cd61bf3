"""The standard normal law, written over the array namespace of the argument.

SciPy's routines for NumPy arrays, JAX's where a computation is traced; neither is imported before
it is needed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from clearopt.utilities.lambertw import namespace_of

ROOT_TWO_PI = math.sqrt(2.0 * math.pi)


def density(z: Any) -> Any:
    """phi(z) = e^(-z^2/2) / sqrt(2 pi)."""
    xp = namespace_of(z)
    # Past 39 it is 0, and the square may overflow.
    bounded = xp.clip(z, -40.0, 40.0)
    return xp.exp(-0.5 * bounded * bounded) / ROOT_TWO_PI


def distribution(z: Any) -> Any:
    """Phi(z), the share below z, with its relative precision in the lower tail."""
    if namespace_of(z) is np:
        from scipy.special import ndtr
    else:
        from jax.scipy.special import ndtr
    return ndtr(z)


def log_inverse_mills(z: Any) -> Any:
    """log(phi(z) / Phi(z)), in NumPy alone; finite for every finite z up to 1e150."""
    from scipy.special import erfcx

    return (
        0.5 * math.log(2.0 / math.pi)
        - np.log(erfcx(-np.minimum(z, 35.0) / math.sqrt(2.0)))
        - (0.5 * np.maximum(z - 35.0, 0.0) * (np.maximum(z, 35.0) + 35.0))
    )
