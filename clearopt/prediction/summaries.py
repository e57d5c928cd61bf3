"""What a query's answers say about it: log length, share of right ones, spread; raw and shrunk.

Log lengths of one query scatter around its own mean with a variance s_w^2 common to all queries;
the means scatter around the model's own with variance s_b^2. A mean of k answers then deserves the
weight s_b^2 / (s_b^2 + s_w^2 / k), the rest goes to the common mean (James and Stein's estimator,
as empirical Bayes: Efron and Morris, JASA 68, 1973). Shares of right answers are shrunk in the same
way, with a beta distribution fitted by moments.

An answer that was cut is longer than what was seen of it: its log length enters as the expectation
beyond the cut, and the two variances are those of greatest likelihood.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from clearopt.calibration import Rollouts
from clearopt.errors import DeclarationError
from clearopt.validation import FloatArray

_ROUNDS = 200  # of imputation, where answers were cut
_SETTLED = 1e-5  # change of a log length that is none
_NODES = 12  # of the quadrature over a query's own mean
_LEAST_TOKENS = 0.5  # an answer of no token still has a logarithm
_SPREAD_WEIGHT = 4.0  # answers' worth of the common spread in each query's own
_LEAST_SPREAD = 1e-3  # of log lengths: less is not told apart from none


@dataclass(frozen=True, eq=False)
class Summaries:
    """What n queries' answers say. Arrays have shape (n,); a query without answers has NaN or 0.

    Attributes:
        count: answers.
        right: right answers that ended by themselves.
        log_length: mean log length (log tokens) of all answers, cut ones imputed.
        within: variance of log lengths within a query, common to all.
        between: variance of the queries' true means.
        mean: the common mean log length.
        right_log_length: mean log length of the right answers alone.
        right_within: as `within`, of the right answers.
        shrunk_log_length, shrunk_share, shrunk_log_spread: shrunk mean log length, share of right
            answers, and log of the standard deviation of the log lengths.
        imputed: (m,) log length of every rollout, as its expectation where it was cut.
    """

    count: FloatArray
    right: FloatArray
    log_length: FloatArray
    within: float
    between: float
    mean: float
    right_log_length: FloatArray
    right_within: float
    shrunk_log_length: FloatArray
    shrunk_share: FloatArray
    shrunk_log_spread: FloatArray
    imputed: FloatArray


def summarise(rollouts: Rollouts, queries: int | None = None) -> Summaries:
    """The summaries of each of `queries` queries (by default up to the last with an answer).

    Raises:
        DeclarationError: an answer is to a query beyond `queries`.
    """
    most = int(rollouts.query.max()) + 1
    n = most if queries is None else int(queries)
    if n < most:
        raise DeclarationError(
            f"queries = {queries!r}: a rollout answers query {most - 1}; counted from 0, there are "
            f"at least {most} queries"
        )
    query, right = rollouts.query, rollouts.solved
    logs = np.log(np.maximum(rollouts.tokens, _LEAST_TOKENS))
    fitted = _Means.of(logs, query, n)
    imputed = logs
    if not rollouts.finished.all():
        imputed, fitted = _imputed(logs, query, n, ~rollouts.finished, fitted)
    of_right = _Means.of(logs[right], query[right], n) if right.any() else None
    solved = np.bincount(query, weights=right, minlength=n).astype(np.float64)
    return Summaries(
        count=fitted.count,
        right=solved,
        log_length=fitted.raw,
        within=fitted.within,
        between=fitted.between,
        mean=fitted.mean,
        right_log_length=of_right.raw if of_right else np.full(n, np.nan),
        right_within=of_right.within if of_right else fitted.within,
        shrunk_log_length=fitted.shrunk,
        shrunk_share=_shrunk_share(solved, fitted.count),
        shrunk_log_spread=fitted.log_spread,
        imputed=imputed,
    )


@dataclass(frozen=True, eq=False)
class _Means:
    """Log lengths by query: raw means, the two variances, and the means shrunk."""

    count: FloatArray
    raw: FloatArray
    squares: FloatArray  # (n,) summed squared deviations from the query's own mean
    within: float
    between: float
    mean: float

    @classmethod
    def of(cls, logs: FloatArray, query: NDArray[np.intp], n: int) -> _Means:
        """By moments, of log lengths as they are."""
        count = np.bincount(query, minlength=n).astype(np.float64)
        with np.errstate(invalid="ignore"):
            raw = np.bincount(query, weights=logs, minlength=n) / count
        squares: FloatArray = np.zeros(n)
        np.add.at(squares, query, (logs - raw[query]) ** 2)
        freedom = float(np.maximum(count - 1, 0).sum())
        within = float(squares[count > 1].sum()) / freedom if freedom else 0.0
        mean, between = _between(raw[count > 0], count[count > 0], within)
        return cls(count, raw, squares, within, between, mean)

    @property
    def shrunk(self) -> FloatArray:
        """(n,) posterior means."""
        own = self.between * self.count
        total = own + self.within
        weight = np.divide(own, total, out=np.zeros_like(own), where=total > 0)
        return self.mean + weight * (np.where(self.count > 0, self.raw, self.mean) - self.mean)

    @property
    def log_spread(self) -> FloatArray:
        """(n,) log standard deviations, with `_SPREAD_WEIGHT` answers' worth of the common one."""
        freedom = np.maximum(self.count - 1, 0.0)
        pooled = np.where(freedom > 0, self.squares, 0.0) + _SPREAD_WEIGHT * self.within
        return 0.5 * np.log(np.maximum(pooled / (freedom + _SPREAD_WEIGHT), _LEAST_SPREAD**2))


def _between(raw: FloatArray, count: FloatArray, within: float) -> tuple[float, float]:
    """The common mean, and the variance of the true means around it.

    Their raw variance less what sampling explains, which the weights depend on in turn.
    """
    between = max(float(np.var(raw)) - within * float(np.mean(1.0 / count)), 0.0)
    mean = float(np.mean(raw))
    for _ in range(20):
        variance = between + within / count
        weight = 1.0 / variance if (variance > 0).all() else np.ones_like(raw)
        weight = weight / weight.sum()
        mean = float(weight @ raw)
        spread = float(weight @ (raw - mean) ** 2) / max(1.0 - float(weight @ weight), 1e-12)
        updated = max(spread - within * float(weight @ (1.0 / count)), 0.0)
        if raw.size < 2 or abs(updated - between) <= 1e-10 * (between + within):
            break
        between = updated
    return mean, between


def _imputed(
    logs: FloatArray, query: NDArray[np.intp], n: int, cut: NDArray[np.bool_], fitted: _Means
) -> tuple[FloatArray, _Means]:
    """Log lengths with the cut ones as their expectations, and the means and variances of all.

    Maximum likelihood by expectation steps: given a query's own mean its answers are independent,
    and that mean is integrated out by adaptive Gauss-Hermite quadrature.
    """
    mean, between, within = fitted.mean, fitted.between, fitted.within
    x, gauss = np.polynomial.hermite.hermgauss(_NODES)
    centre, width = fitted.shrunk, np.full(n, np.sqrt(within))
    imputed = logs
    for _ in range(_ROUNDS):
        between, within = max(between, _LEAST_SPREAD**2), max(within, _LEAST_SPREAD**2)
        spread = np.sqrt(within)
        own = centre[:, None] + np.sqrt(2.0) * width[:, None] * x  # (n, nodes) possible means
        z = (logs[:, None] - own[query]) / spread
        log_likelihood = np.where(cut[:, None], log_ndtr(-z), -0.5 * z * z - np.log(spread))
        posterior = -0.5 * (own - mean) ** 2 / between + x * x + np.log(gauss)
        for node in range(_NODES):
            posterior[:, node] += np.bincount(query, log_likelihood[:, node], minlength=n)
        posterior = np.exp(posterior - posterior.max(axis=1, keepdims=True))
        posterior /= posterior.sum(axis=1, keepdims=True)
        centre = (posterior * own).sum(axis=1)
        variance = (posterior * (own - centre[:, None]) ** 2).sum(axis=1)
        width = np.sqrt(np.maximum(variance, _LEAST_SPREAD**2))
        # Beyond the cut: E z and E z^2 of a normal law, by the inverse Mills ratio.
        far = z[cut]
        mills = np.exp(-0.5 * far * far - 0.5 * np.log(2.0 * np.pi) - log_ndtr(-far))
        given = posterior[query]
        following = logs.copy()
        following[cut] = (given[cut] * (own[query][cut] + spread * mills)).sum(axis=1)
        squares = z * z
        squares[cut] = np.maximum(1.0 + far * mills, 0.0)
        within = within * float((given * squares).sum()) / logs.size
        mean = float(centre.mean())
        between = float(np.mean(variance + (centre - mean) ** 2))
        moved = float(np.abs(following - imputed).max())
        imputed = following
        if moved <= _SETTLED:
            break
    found = _Means.of(imputed, query, n)
    return imputed, replace(found, mean=mean, within=within, between=between)


def _shrunk_share(right: FloatArray, count: FloatArray) -> FloatArray:
    """Shares of right answers under a beta distribution with the moments of the raw ones."""
    seen = count > 0
    k, share = count[seen], right[seen] / count[seen]
    mean = (right.sum() + 0.5) / (count.sum() + 1.0)
    noise = mean * (1 - mean) * float(np.mean(1.0 / k))
    between = float(np.mean((share - mean) ** 2)) - noise
    # Of the true shares, whose sampling variance is E[a (1 - a)] / k, less than that of the mean.
    between = between / max(1.0 - float(np.mean(1.0 / k)), 0.25)
    between = np.clip(between, 1e-4 * mean * (1 - mean), 0.95 * mean * (1 - mean))
    prior = mean * (1 - mean) / between - 1.0  # answers' worth of the common share
    return (right + prior * mean) / (count + prior)
