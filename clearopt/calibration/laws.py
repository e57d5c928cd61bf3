"""What an answer says of its query: the laws of length, and the likelihood of one rollout.

Two numbers stand for a query's lengths, both logarithms of tokens or of a spread, so that any real
number is allowed: a *location* u and a *shape* v. With p the probability of a right answer with
ample tokens, every rollout has a likelihood that is linear in p,

    p A + (1 - p) B,

    right, whole:   A = f(T; u, v)        B = 0
    wrong, whole:   A = 0                 B = f(T / stretch; u, v)
    cut at T:       A = S(T; u, v)        B = S(T / stretch; u, v)

with f the density of the length and S the probability of a longer answer: a cut answer has a length
of more than T and may be either. Wrong answers take `stretch` times the tokens (they wander about),
and say as much of their query's length as right ones. Where one answer in a hundred follows no law
at all (empty, looping, broken off), it must not decide a query's curve: f and S are mixed with a
wide law common to all queries.

The formulas of the surges are the paper's (arXiv 2606.03092) and their integral.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.scipy.special import log_ndtr

STRAY = 0.01  # the share of answers that follow no law
_FLOOR = 1e-30  # stands for a density or a probability of 0 before its logarithm is taken


class Terms(NamedTuple):
    """The logarithms of A and B of one kind of rollout; None where it is 0."""

    right: Any
    wrong: Any


class Law:
    """A law of length; arrays broadcast. `log_length` may be anything where it is not used."""

    name: str
    # Whether a cut answer and a wrong one are mixtures over right and wrong (neither A nor B is 0).
    cut_says_something = True
    wrong_is_mixed = False

    def log_density(self, y: Any, u: Any, v: Any) -> Any:
        """log f of the log-length y = log T (a density in y)."""
        raise NotImplementedError

    def log_survival(self, y: Any, u: Any, v: Any) -> Any:
        """log P(log-length > y)."""
        raise NotImplementedError

    def right(self, y: Any, u: Any, v: Any, stretch: Any, wide: Any) -> Any:
        """log A of a whole right answer."""
        return _with_stray(self.log_density(y, u, v), _normal_log_density(y, *wide))

    def wrong(self, y: Any, u: Any, v: Any, stretch: Any, wide: Any) -> Any:
        """log B of a whole wrong answer."""
        return self.right(y - stretch, u, v, stretch, wide)

    def mixed(self, y: Any, u: Any, v: Any, stretch: Any, wide: Any) -> tuple[Any, Any]:
        """log A and log B of an answer that is neither: one that was cut."""
        stray = log_ndtr((wide[0] - y) / wide[1])
        return (
            _with_stray(self.log_survival(y, u, v), stray),
            _with_stray(self.log_survival(y - stretch, u, v), stray),
        )


class LognormalLaw(Law):
    """log T ~ N(u, e^2v): u is the logarithm of the median, v that of the spread."""

    name = "lognormal"

    def log_density(self, y: Any, u: Any, v: Any) -> Any:
        return _normal_log_density(y, u, jnp.exp(v))

    def log_survival(self, y: Any, u: Any, v: Any) -> Any:
        return log_ndtr((u - y) * jnp.exp(-v))


class CumulativeSurgeLaw(Law):
    """T = e^u + Gamma(2, e^-v): threshold e^u, rate e^-v."""

    name = "cumulative-surge"

    def log_density(self, y: Any, u: Any, v: Any) -> Any:
        x = jnp.maximum(jnp.exp(y - v) - jnp.exp(u - v), _FLOOR)  # (T - tau) rate
        return (y - v) + jnp.log(x) - x

    def log_survival(self, y: Any, u: Any, v: Any) -> Any:
        x = jnp.maximum(jnp.exp(y - v) - jnp.exp(u - v), 0.0)
        return jnp.log1p(x) - x


class ShiftedSurgeLaw(Law):
    """An answer of T tokens is right with probability p e x e^-x, x = max(T - e^u, 0) e^-v.

    The length is taken as given, so a cut answer, whose length is not known, says nothing.
    """

    name = "shifted-surge"
    cut_says_something = False
    wrong_is_mixed = True

    def right(self, y: Any, u: Any, v: Any, stretch: Any, wide: Any) -> Any:
        x = jnp.maximum(jnp.exp(y - v) - jnp.exp(u - v), _FLOOR)
        return jnp.logaddexp(
            math.log1p(-STRAY) + 1.0 + jnp.log(x) - x, jnp.full_like(x, math.log(0.5 * STRAY))
        )

    def mixed(self, y: Any, u: Any, v: Any, stretch: Any, wide: Any) -> tuple[Any, Any]:
        """Of a whole wrong answer: 1 less what a right one has, and 1."""
        reached = jnp.exp(self.right(y, u, v, stretch, wide))
        return jnp.log(jnp.maximum(1.0 - reached, _FLOOR)), jnp.zeros_like(reached)


LAWS: dict[str, Law] = {
    law.name: law for law in (LognormalLaw(), CumulativeSurgeLaw(), ShiftedSurgeLaw())
}


def _normal_log_density(y: Any, mean: Any, deviation: Any) -> Any:
    z = (y - mean) / deviation
    return -0.5 * z * z - jnp.log(deviation) - 0.5 * math.log(2.0 * math.pi)


def _with_stray(logarithm: Any, stray: Any) -> Any:
    return jnp.logaddexp(math.log1p(-STRAY) + logarithm, math.log(STRAY) + stray)
