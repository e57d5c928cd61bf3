"""The likelihood of all answers, query by query, at points (u, v) of each query.

Where an answer's likelihood is a mixture over right and wrong (`laws`), the product over a query's
answers is a polynomial in p; its coefficients are kept, so that its integral against a beta law of
p is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, gammaln

from clearopt.calibration.laws import Law, Wide
from clearopt.calibration.rollouts import Rollouts
from clearopt.validation import FloatArray

_NEVER = -1e30  # stands for the logarithm of 0


@dataclass(frozen=True)
class Answers:
    """The answers to n queries, arranged for `law`.

    Arrays of points have shape (n, K, L): K locations, each with L shapes.

    Attributes:
        y, query, wrong: (M,) log-length, query and wrongness of whole answers with a length, in
            the order of their queries.
        rights, wrongs: (n,) how many whole answers are right and wrong, mixtures apart.
        mixed: (r,) the queries that have answers which are mixtures.
        tie_y, ties: (r,) the log-length that most of those share, and how many do.
        rest_y, rest: (r, J) log-lengths of the others, and which entries are no padding.
    """

    law: Law
    wide: Wide | None
    y: FloatArray
    query: NDArray[np.intp]
    wrong: NDArray[np.bool_]
    rights: FloatArray
    wrongs: FloatArray
    mixed: NDArray[np.intp]
    tie_y: FloatArray
    ties: FloatArray
    rest_y: FloatArray
    rest: NDArray[np.bool_]

    @classmethod
    def arranged(
        cls, law: Law, rollouts: Rollouts | None, queries: int, wide: Wide | None
    ) -> Answers:
        """The rollouts (None: there are none) of queries 0, 1, ..., `queries` - 1.

        An answer of 0 tokens has no length: whole, it counts as right or wrong alone; cut, it
        says nothing.
        """
        if rollouts is None:
            none = np.zeros(0)
            tokens, query, right, whole = none, none.astype(np.intp), none > 0, none > 0
        else:
            order = np.argsort(rollouts.query, kind="stable")
            tokens, query = rollouts.tokens[order], rollouts.query[order]
            right, whole = rollouts.solved[order], rollouts.finished[order]
        some = tokens > 0
        y = np.log(np.where(some, tokens, 1.0))
        mixed = ~whole & some
        measured, pure = whole & ~mixed & some, whole & ~mixed
        return cls(
            law,
            wide,
            y[measured],
            query[measured],
            ~right[measured],
            np.bincount(query[pure & right], minlength=queries).astype(np.float64),
            np.bincount(query[pure & ~right], minlength=queries).astype(np.float64),
            *_ties_and_rest(query[mixed], y[mixed]),
        )

    @property
    def queries(self) -> int:
        """n."""
        return self.rights.size

    @property
    def lengths(self) -> NDArray[np.intp]:
        """(n,) how many lengths are known of each query."""
        return np.bincount(self.query, minlength=self.queries)

    def range(self) -> tuple[FloatArray, FloatArray]:
        """(n,) the shortest and the longest log-length of each query, cut ones included."""
        low, high = np.full(self.queries, np.inf), np.full(self.queries, -np.inf)
        row, column = np.nonzero(self.rest)
        for query, y in (
            (self.query, self.y),
            (self.mixed, self.tie_y),
            (self.mixed[row], self.rest_y[row, column]),
        ):
            np.minimum.at(low, query, y)
            np.maximum.at(high, query, y)
        unknown = np.isinf(low)
        low[unknown], high[unknown] = 0.0, 0.0
        return low, high

    def log_lengths(
        self, u: FloatArray, v: FloatArray, stretch: float, only_wrong: bool = False
    ) -> FloatArray:
        """(n, K, L) log likelihood of the lengths of whole answers (or of wrong ones alone)."""
        chosen = self.wrong if only_wrong else slice(None)
        query = self.query[chosen]
        y = (self.y - stretch * self.wrong)[chosen, None, None]
        return self._summed(self.law.whole(y, u[query], v[query], self.wide), query)

    def each_length(self, u: FloatArray, v: FloatArray, stretch: float) -> FloatArray:
        """(M, K, L) log likelihood of each of them."""
        y = (self.y - stretch * self.wrong)[:, None, None]
        return self.law.whole(y, u[self.query], v[self.query], self.wide)

    def _summed(self, each: FloatArray, query: NDArray[np.intp]) -> FloatArray:
        total = np.zeros((self.queries, *each.shape[1:]))
        if query.size:  # in the order of the queries, as reduceat wants them
            first = np.flatnonzero(np.r_[True, np.diff(query) > 0])
            total[query[first]] = np.add.reduceat(each, first, axis=0)
        return total

    # ---------------------------------------------------------------- right and wrong
    def log_chance(
        self, u: FloatArray, v: FloatArray, stretch: float, inner: FloatArray
    ) -> FloatArray:
        """(n, K, L) log likelihood of right and wrong, p = 1 / (1 + e^-inner) known."""
        log_p, log_q = -np.logaddexp(0.0, -inner), -np.logaddexp(0.0, inner)
        pure = self.rights[:, None, None] * log_p + self.wrongs[:, None, None] * log_q
        total = pure + np.zeros_like(u + v)
        if self.mixed.size:
            log_p, log_q = (np.broadcast_to(x, total.shape)[self.mixed] for x in (log_p, log_q))
            own_u, own_v = u[self.mixed], v[self.mixed]
            a, b = self.mixed_terms(self.tie_y, own_u, own_v, stretch)
            more = self.ties[:, None, None] * np.logaddexp(log_p + a, log_q + b)
            for column, counts in zip(self.rest_y.T, self.rest.T, strict=True):
                a, b = self.mixed_terms(column, own_u, own_v, stretch)
                more += counts[:, None, None] * np.logaddexp(log_p + a, log_q + b)
            total[self.mixed] += more
        return total

    def coefficients(self, u: FloatArray, v: FloatArray, stretch: float) -> FloatArray:
        """(r, K, L, C + 1) log e_j: the mixtures' product is sum_j e_j p^j (1 - p)^(c - j)."""
        own_u, own_v = u[self.mixed], v[self.mixed]
        j = np.arange(int((self.ties + self.rest.sum(axis=1)).max()) + 1.0)
        ties = self.ties[:, None, None, None]
        left = np.maximum(ties - j, 0.0)
        a, b = self.mixed_terms(self.tie_y, own_u, own_v, stretch)
        e = gammaln(ties + 1.0) - gammaln(j + 1.0) - gammaln(left + 1.0)
        e = np.where(j <= ties, e + j * a[..., None] + left * b[..., None], _NEVER)
        for column, counts in zip(self.rest_y.T, self.rest.T, strict=True):
            a, b = self.mixed_terms(column, own_u, own_v, stretch)
            up = np.concatenate([np.full_like(e[..., :1], _NEVER), e[..., :-1]], axis=-1)
            more = np.logaddexp(up + a[..., None], e + b[..., None])
            e = np.where(counts[:, None, None, None], more, e)
        return e

    def mixed_terms(
        self, y: FloatArray, u: FloatArray, v: FloatArray, stretch: float
    ) -> tuple[FloatArray, FloatArray]:
        """log A and log B, (r, K, L), of one mixture of each query that has any, of length y."""
        shape = np.broadcast_shapes(u.shape, v.shape)
        terms = self.law.mixed(y[:, None, None], u, v, stretch, self.wide)
        return np.broadcast_to(terms[0], shape), np.broadcast_to(terms[1], shape)


def _ties_and_rest(
    query: NDArray[np.intp], y: FloatArray
) -> tuple[NDArray[np.intp], FloatArray, FloatArray, FloatArray, NDArray[np.bool_]]:
    """Each query's most frequent value with its count, and its other values, padded."""
    members, row = np.unique(query, return_inverse=True)
    tie_y, ties = np.zeros(members.size), np.zeros(members.size)
    if not query.size:
        return members, tie_y, ties, np.zeros((0, 0)), np.zeros((0, 0), dtype=bool)
    pairs, counts = np.unique(np.column_stack([row, y]), axis=0, return_counts=True)
    order = np.argsort(counts, kind="stable")  # the last one written is the most frequent
    owner = pairs[order, 0].astype(np.intp)
    tie_y[owner], ties[owner] = pairs[order, 1], counts[order]
    other = np.flatnonzero(tie_y[row] != y)
    other = other[np.argsort(row[other], kind="stable")]
    owner = row[other]
    column = np.arange(owner.size) - np.searchsorted(owner, owner)
    width = int(column.max(initial=-1)) + 1
    rest_y, rest = np.zeros((members.size, width)), np.zeros((members.size, width), dtype=bool)
    rest_y[owner, column], rest[owner, column] = y[other], True
    return members, tie_y, ties, rest_y, rest


@dataclass(frozen=True)
class BetaChance:
    """The integral of the likelihood of right and wrong against p ~ Beta(a, b), at all points.

    Attributes:
        answers: of n queries.
        a, b: (n, K, 1).
        e: the mixtures' coefficients, None where there are none.
    """

    answers: Answers
    a: FloatArray
    b: FloatArray
    e: FloatArray | None

    def log_integral(self, power: int = 0) -> FloatArray:
        """log of the integral with p^power before it, (n, K, 1), or (n, K, L) with mixtures."""
        plain = _log_ratio(self.a, self.b, self._rights + power, self._wrongs)
        if self.e is None:
            return plain
        mixed = self.answers.mixed
        total = np.array(np.broadcast_to(plain, (plain.shape[0], *self.e.shape[1:3])))
        total[mixed] = _log_total(self._terms(power))[..., 0]
        return total

    def slopes(self) -> tuple[FloatArray, FloatArray]:
        """Derivatives in a and in b of `log_integral()`."""
        in_a, in_b = _ratio_slopes(self.a, self.b, self._rights, self._wrongs)
        if self.e is None:
            return in_a, in_b
        mixed, shape = self.answers.mixed, (in_a.shape[0], *self.e.shape[1:3])
        in_a, in_b = (np.array(np.broadcast_to(x, shape)) for x in (in_a, in_b))
        terms = self._terms(0)
        weight = np.exp(terms - _log_total(terms))
        each = _ratio_slopes(*self._mixed_arguments(0))
        in_a[mixed], in_b[mixed] = ((weight * x).sum(axis=-1) for x in each)
        return in_a, in_b

    @property
    def _rights(self) -> FloatArray:
        return self.answers.rights[:, None, None]

    @property
    def _wrongs(self) -> FloatArray:
        return self.answers.wrongs[:, None, None]

    def _mixed_arguments(self, power: int) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        answers = self.answers
        given = (self.a, self.b, self._rights, self._wrongs)
        a, b, k, w = (x[answers.mixed][..., None] for x in given)
        assert self.e is not None
        j = np.arange(self.e.shape[-1])
        counts = (answers.ties + answers.rest.sum(axis=1))[:, None, None, None]
        return a, b, k + j + power, w + np.maximum(counts - j, 0.0)

    def _terms(self, power: int) -> FloatArray:
        assert self.e is not None
        return self.e + _log_ratio(*self._mixed_arguments(power))


def _log_total(terms: FloatArray) -> FloatArray:
    """log of the sum of exp(terms) over the last axis, which is kept."""
    top = terms.max(axis=-1, keepdims=True)
    return top + np.log(np.exp(terms - top).sum(axis=-1, keepdims=True))


def _log_ratio(a: FloatArray, b: FloatArray, k: FloatArray, w: FloatArray) -> FloatArray:
    """log B(a + k, b + w) / B(a, b)."""
    total = gammaln(a + b + k + w) - gammaln(a + b)
    return gammaln(a + k) - gammaln(a) + gammaln(b + w) - gammaln(b) - total


def _ratio_slopes(
    a: FloatArray, b: FloatArray, k: FloatArray, w: FloatArray
) -> tuple[FloatArray, FloatArray]:
    total = digamma(a + b + k + w) - digamma(a + b)
    return digamma(a + k) - digamma(a) - total, digamma(b + w) - digamma(b) - total
