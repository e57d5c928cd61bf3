"""Derivatives through a solved problem, as JAX functions: `clearopt.differentiable(problem)`.

The dual value, the optimal value and the allocation are differentiable in the problem's numbers
where these do not change who is funded. The exact solver finds value and allocation in a callback;
prices, and what is bought at them, are found inside JAX where the problem is plain. The derivative
rules are written in JAX (envelope theorem, implicit function theorem), so that `jax.grad`,
`jax.jvp`, `jax.jit` and `jax.vmap` all apply.
"""

from __future__ import annotations

from clearopt.derivatives.layer import Layer, Relaxation, differentiable

__all__ = ["Layer", "Relaxation", "differentiable"]
