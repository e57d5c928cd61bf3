"""Derivatives through a solved problem, as JAX functions: `clearopt.differentiable(problem)`.

The dual value, the optimal value and the allocation are differentiable in the problem's numbers
where these do not change who is funded. The exact solver finds them in a callback; the derivative
rules are written in JAX (envelope theorem, implicit function theorem), so that `jax.grad`,
`jax.jvp`, `jax.jit` and `jax.vmap` all apply.
"""

from __future__ import annotations

from clearopt.derivatives.layer import Layer, differentiable

__all__ = ["Layer", "differentiable"]
