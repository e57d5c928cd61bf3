"""The likelihood of all rollouts, query by query, in JAX.

Rollouts are arranged once (`arrange`) into arrays of a few fixed sizes, so that JAX compiles once
for many data sets. Where a rollout's likelihood is a mixture over right and wrong (`laws`), the product
over a query's rollouts is a polynomial in p; its coefficients are kept, and its integral against a
beta law of p is exact.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln, logsumexp
from numpy.typing import NDArray

from clearopt.calibration.laws import Law
from clearopt.calibration.rollouts import Rollouts
from clearopt.validation import FloatArray

_NEVER = -1e30  # stands for the logarithm of 0; an infinity would make gradients NaN


class Batch(NamedTuple):
    """Rollouts in padded arrays, by n queries (the last ones may be padding).

    Attributes:
        y, query, right, counts: (M,) whole answers with a length: log tokens, the query, whether
            right, and 1, or 0 for padding.
        rights, wrongs: (n,) whole answers of either kind that are no mixture.
        tie_y, ties: (n,) the log-length that most of a query's mixed answers share, how many do.
        rest_y, rest: (n, J) log-lengths of the other mixed answers, and which are no padding.
        design: (n, d) covariates.
        real: (n,) 1, or 0 for padding.
        wide: (2,) mean and deviation of the law of strays.
    """

    y: Any
    query: Any
    right: Any
    counts: Any
    rights: Any
    wrongs: Any
    tie_y: Any
    ties: Any
    rest_y: Any
    rest: Any
    design: Any
    real: Any
    wide: Any


def room(size: int) -> int:
    """The array size used for `size` entries: 0, or the next of 8, 12, 16, 24, 32, 48, ..."""
    if size <= 0:
        return 0
    power = 8
    while size > power + power // 2:
        power *= 2
    return power if size <= power else power + power // 2


def arrange(law: Law, rollouts: Rollouts | None, design: FloatArray, wide: FloatArray) -> Batch:
    """The rollouts (None: there are none) of the queries that `design`, (n, d), has rows for.

    An answer of 0 tokens that ended has no length: it counts as right or wrong alone.
    """
    n, space = design.shape[0], room(design.shape[0] + 1)
    if rollouts is None:
        nothing = np.zeros(0)
        query, y, right, whole = nothing.astype(np.intp), nothing, nothing > 0, nothing > 0
    else:
        query, right, whole = rollouts.query, rollouts.solved, rollouts.finished
        y = np.log(np.maximum(rollouts.tokens, 1e-9))
    empty = y < -20.0  # no token at all
    mixed = (whole & ~right if law.wrong_is_mixed else ~whole) & ~empty
    measured = whole & ~mixed & ~empty
    pure = whole & ~mixed

    def counted(mask: NDArray[np.bool_]) -> FloatArray:
        return np.bincount(query[mask], minlength=space).astype(np.float64)

    tie_y, ties, rest_y, rest = _mixed(query[mixed], y[mixed], space)
    size = room(int(measured.sum()))
    padding = size - int(measured.sum())

    def padded(values: NDArray[Any], fill: Any) -> NDArray[Any]:
        return np.concatenate([values[measured], np.full(padding, fill, dtype=values.dtype)])

    return Batch(
        y=padded(y, 0.0),
        query=padded(query, n),
        right=padded(right, True),
        counts=np.concatenate([np.ones(size - padding), np.zeros(padding)]),
        rights=counted(pure & right),
        wrongs=counted(pure & ~right),
        tie_y=tie_y,
        ties=ties,
        rest_y=rest_y,
        rest=rest,
        design=np.vstack([design, np.zeros((space - n, design.shape[1]))]),
        real=(np.arange(space) < n).astype(np.float64),
        wide=np.asarray(wide, dtype=np.float64),
    )


def _mixed(
    query: NDArray[np.intp], y: FloatArray, space: int
) -> tuple[FloatArray, FloatArray, FloatArray, NDArray[np.bool_]]:
    """Each query's most frequent value with its count, and the other values, padded."""
    tie_y, ties = np.zeros(space), np.zeros(space)
    if not query.size:
        return tie_y, ties, np.zeros((space, 0)), np.zeros((space, 0), dtype=bool)
    pairs, counts = np.unique(np.column_stack([query, y]), axis=0, return_counts=True)
    owner = pairs[:, 0].astype(np.intp)
    for k in np.argsort(counts, kind="stable"):  # the last one written is the largest
        tie_y[owner[k]], ties[owner[k]] = pairs[k, 1], counts[k]
    other = tie_y[query] != y
    owner, values = query[other], y[other]
    order = np.argsort(owner, kind="stable")
    owner, values = owner[order], values[order]
    column = np.arange(owner.size) - np.searchsorted(owner, owner)
    width = room(int(column.max()) + 1) if owner.size else 0
    rest_y, rest = np.zeros((space, width)), np.zeros((space, width), dtype=bool)
    rest_y[owner, column], rest[owner, column] = values, True
    return tie_y, ties, rest_y, rest


def length_terms(law: Law, batch: Batch, u: Any, v: Any, stretch: Any) -> Any:
    """log likelihood of the lengths of whole answers at nodes u, v: (n, Q)."""
    n = batch.real.shape[0]
    y = (batch.y - stretch * jnp.where(batch.right, 0.0, 1.0))[:, None]
    each = law.right(y, u[batch.query], v[batch.query], stretch, batch.wide)
    return jax.ops.segment_sum(batch.counts[:, None] * each, batch.query, num_segments=n)


def known_chance(
    law: Law, batch: Batch, u: Any, v: Any, stretch: Any, log_p: Any, log_q: Any
) -> Any:
    """log likelihood of right and wrong, and of mixed answers, for given log p, log(1 - p)."""
    total = batch.rights[:, None] * log_p + batch.wrongs[:, None] * log_q
    log_a, log_b = law.mixed(batch.tie_y[:, None], u, v, stretch, batch.wide)
    total = total + batch.ties[:, None] * jnp.logaddexp(log_p + log_a, log_q + log_b)
    if batch.rest.shape[1]:
        more_a, more_b = law.mixed(
            batch.rest_y[:, :, None], u[:, None], v[:, None], stretch, batch.wide
        )
        chance = [part[:, None] * jnp.ones_like(u)[:, None] for part in (log_p, log_q)]
        each = jnp.logaddexp(chance[0] + more_a, chance[1] + more_b)
        total = total + jnp.where(batch.rest[:, :, None], each, 0.0).sum(axis=1)
    return total


def coefficients(law: Law, batch: Batch, u: Any, v: Any, stretch: Any, most: int) -> Any:
    """log e_j, (n, Q, most + J + 1): mixed answers' likelihood is sum_j e_j p^j (1 - p)^(c - j).

    `most` is the largest number of ties (static).
    """
    width = most + batch.rest.shape[1] + 1
    j = jnp.arange(width)
    ties = batch.ties[:, None, None]
    log_a, log_b = law.mixed(batch.tie_y[:, None], u, v, stretch, batch.wide)
    left = jnp.maximum(ties - j, 0.0)
    e = gammaln(ties + 1.0) - gammaln(j + 1.0) - gammaln(left + 1.0)
    e = e + j * log_a[..., None] + left * log_b[..., None]
    e = jnp.where(j <= ties, e, _NEVER)
    if not batch.rest.shape[1]:
        return e
    more_a, more_b = law.mixed(batch.rest_y.T[:, :, None], u[None], v[None], stretch, batch.wide)

    def one_more(e: Any, answer: Any) -> tuple[Any, None]:
        counts, a, b = answer
        up = jnp.concatenate([jnp.full_like(e[..., :1], _NEVER), e[..., :-1]], axis=-1)
        joined = jnp.logaddexp(up + a[..., None], e + b[..., None])
        return jnp.where(counts[:, None, None], joined, e), None

    return jax.lax.scan(one_more, e, (batch.rest.T, more_a, more_b))[0]


def beta_chance(batch: Batch, e: Any | None, a: Any, b: Any, power: int = 0) -> Any:
    """log integral of p^power (likelihood of right, wrong and mixed) against Beta(a, b), (n, Q)."""
    k, w = batch.rights[:, None], batch.wrongs[:, None]
    if e is None:
        return _log_ratio(a, b, k + power, w)
    j = jnp.arange(e.shape[-1])
    mixed = (batch.ties + batch.rest.sum(axis=1))[:, None, None]
    left = jnp.maximum(mixed - j, 0.0)
    each = e + _log_ratio(a[..., None], b[..., None], k[..., None] + j + power, w[..., None] + left)
    return logsumexp(each, axis=-1)


def _log_ratio(a: Any, b: Any, k: Any, w: Any) -> Any:
    """log B(a + k, b + w) / B(a, b)."""
    rights, wrongs = gammaln(a + k) - gammaln(a), gammaln(b + w) - gammaln(b)
    return rights + wrongs - (gammaln(a + b + k + w) - gammaln(a + b))
