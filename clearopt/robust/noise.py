"""`noise_study`: what allocation is still worth when its thresholds are wrong.

Every query's true curve is known; an allocator sees its threshold times e^N(0, s^2), decides, and
is scored by the true curves. The paper's predictor is studied so (arXiv 2606.03092); beside
believing the prediction (`plain`) the study has three ways to allow for its error:

- `expected`: the utility expected over the error;
- `shrunk`: the same around the posterior mean of the threshold, since of noisy predictions
  the extreme ones are extreme by their noise: log thresholds are drawn towards their mean by
  v / (v + s^2), v being the variance of the true ones, and s^2 shrinks alike;
- `cautious`: the curve at the threshold that is exceeded with probability `risk`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clearopt.allocation import Allocation
from clearopt.errors import DeclarationError
from clearopt.grouping import sum_
from clearopt.problem import Maximize, Problem
from clearopt.robust.expected import (
    chance_constrained,
    expected_utility,
    threshold_of,
    with_threshold,
)
from clearopt.utilities import CumulativeSurge, Lognormal, Utility
from clearopt.validation import FloatArray, as_float_array, require

POLICIES = ("plain", "expected", "shrunk", "cautious")
BASELINES = ("uniform", "time-share")
_AMPLE = 0.99  # of the uncapped accuracy, reached by the ample common cap
_TOLERANCE = 1e-4  # relative gap of the solves: far below what noise does

Score = Callable[[FloatArray], FloatArray]
"""(n,) tokens to (n,) accuracies."""


@dataclass(frozen=True)
class NoiseRow:
    """One policy under one noise and budget, averaged over the draws.

    Attributes:
        noise: standard deviation of the log threshold's error.
        share: of ample, that the budget is.
        policy: "uniform", "time-share", or one of `POLICIES`.
        accuracy: mean over queries and draws, of [0, 1].
        error: its standard error over the draws; 0 with one draw, and of the baselines.
    """

    noise: float
    share: float
    policy: str
    accuracy: float
    error: float


@dataclass(frozen=True)
class NoiseStudy:
    """The rows, by share of ample, then noise, then policy.

    Attributes:
        queries, draws: how many queries, and draws of the noise.
        ample: tokens a query that count as ample.
    """

    rows: tuple[NoiseRow, ...]
    queries: int
    draws: int
    ample: float

    def accuracy(self, policy: str, noise: float, share: float) -> float:
        """Of one row.

        Raises:
            DeclarationError: there is none.
        """
        for row in self.rows:
            if (row.policy, row.noise, row.share) == (policy, noise, share):
                return row.accuracy
        raise DeclarationError(f"the study has no row {policy!r} at noise {noise} and {share}")

    def table(self) -> str:
        """One line a noise and budget, accuracies in %, baselines first."""
        policies = list(dict.fromkeys(row.policy for row in self.rows))
        lines = [("ample", "noise", *policies)]
        for share in dict.fromkeys(row.share for row in self.rows):
            for noise in dict.fromkeys(row.noise for row in self.rows):
                cells = [f"{100 * self.accuracy(p, noise, share):.1f}" for p in policies]
                lines.append((f"{100 * share:g} %", f"{noise:g}", *cells))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
            for line in lines
        )

    def plot(self, path: str | Path) -> Path:
        """Draw accuracy against noise, one panel a budget, and save it.

        Raises:
            MissingExtraError: Matplotlib is not installed.
        """
        from clearopt.robust.picture import plot_noise

        return plot_noise(self, path)


def noise_study(
    truth: Utility,
    *,
    noise: Sequence[float] = (0.0, 0.1, 0.2, 0.4, 0.8),
    shares: Sequence[float] = (0.1, 0.2, 0.4),
    policies: Sequence[str] = POLICIES,
    draws: int = 5,
    risk: float = 0.2,
    score: Score | None = None,
    seed: int = 0,
) -> NoiseStudy:
    """Allocate on noisy thresholds, score on the true ones.

    Args:
        truth: the true curves of n queries, a `CumulativeSurge` or a `Lognormal`.
        noise: standard deviations s of log(predicted / true threshold); the allocator knows s.
        shares: budgets, as shares of ample: the least common cap that reaches 99 % of the uncapped
            accuracy.
        policies: of `POLICIES`; `uniform` and `time-share` (the best common cap, for a random share
            of the queries) stand beside them always.
        draws: of the noise, the same for every policy and budget.
        risk: of the cautious policy.
        score: what an allocation is worth, query by query; by default `truth.value`. With recorded
            answers, what they score under these caps.
        seed: of the noise.

    Raises:
        DeclarationError: the truth is another family or a single member, or an argument is out of
            range.
    """
    if not isinstance(truth, CumulativeSurge | Lognormal):
        raise DeclarationError(
            f"noise_study: truth is a {type(truth).__name__}; give a CumulativeSurge or Lognormal"
        )
    n = max(int(np.size(value)) for value in truth.parameters)
    if n < 2:
        raise DeclarationError("noise_study: truth has one member; give the curves of n queries")
    levels, budgets = as_float_array(noise, "noise"), as_float_array(shares, "shares")
    require(levels, levels >= 0, "noise", "must be at least 0")
    require(budgets, budgets > 0, "shares", "must be positive")
    unknown = [policy for policy in policies if policy not in POLICIES]
    if unknown or draws < 1:
        raise DeclarationError(
            f"noise_study: draws = {draws!r} must be at least 1, and policies among {POLICIES}, "
            f"not {unknown}"
        )
    whole = truth.broadcast(n)
    scored: Score = score or (lambda tokens: np.asarray(whole.value(tokens)))
    ample = _ample_cap(whole, n)
    rng = np.random.default_rng(seed)
    errors = rng.normal(size=(draws, n))
    allocate = _Allocator(whole, n, ample, risk)
    found: dict[tuple[float, float, str], list[float]] = {}
    for level in levels.tolist():
        # Without noise all draws are one.
        for draw in errors[: draws if level > 0 else 1]:
            for policy in policies:
                seen = allocate.curves(policy, level, draw)
                for share, tokens in zip(budgets, allocate(seen, budgets * ample * n), strict=True):
                    key = (float(share), level, policy)
                    found.setdefault(key, []).append(float(scored(tokens).mean()))
    rows = []
    for share in budgets.tolist():
        uniform = float(scored(np.full(n, share * ample)).mean())
        timed = _time_share(scored, n, share * ample, ample)
        for level in levels.tolist():
            rows.append(NoiseRow(level, share, "uniform", uniform, 0.0))
            rows.append(NoiseRow(level, share, "time-share", timed, 0.0))
            for policy in policies:
                values = np.array(found[share, level, policy])
                error = float(values.std(ddof=1) / np.sqrt(values.size)) if values.size > 1 else 0.0
                rows.append(NoiseRow(level, share, policy, float(values.mean()), error))
    return NoiseStudy(tuple(rows), n, draws, ample)


@dataclass(frozen=True)
class _Allocator:
    """The exact allocation on curves as a policy sees them."""

    truth: Utility
    n: int
    ample: float
    risk: float

    def curves(self, policy: str, noise: float, draw: FloatArray) -> Utility:
        """What the policy believes, of thresholds that were read with this draw of errors."""
        true = np.log(np.broadcast_to(threshold_of(self.truth), (self.n,)))
        read, left = true + noise * draw, noise
        if policy == "shrunk" and noise > 0:
            variance = float(np.var(true))
            trust = variance / (variance + noise**2)
            read = read.mean() + trust * (read - read.mean())
            left = noise * np.sqrt(trust)
        seen = with_threshold(self.truth, np.exp(read))
        if policy in ("expected", "shrunk"):
            return expected_utility(seen, left) if noise > 0 else seen
        return chance_constrained(seen, noise, self.risk) if policy == "cautious" else seen

    def __call__(self, curves: Utility, budgets: NDArray[np.float64]) -> list[FloatArray]:
        """(n,) tokens for each budget."""
        # Nobody is given more than is ample for twice the longest: errors go both ways.
        tokens = Allocation(self.n, upper=2.0 * self.ample, name="tokens")
        budget = (sum_(tokens) <= float(budgets[0])).named("budget")
        problem = Problem(Maximize(sum_(curves(tokens))), [budget])
        solutions = problem.sweep("budget", budgets.tolist(), tolerance=_TOLERANCE)
        found: list[FloatArray] = []
        for solution in solutions:
            if solution.allocation is None:
                raise DeclarationError(f"noise_study: no allocation ({solution.message})")
            found.append(np.asarray(solution.allocation, dtype=np.float64))
        return found


def _ample_cap(truth: Utility, n: int) -> float:
    """The least common cap with `_AMPLE` of the uncapped accuracy."""
    wanted = _AMPLE * float(np.mean(truth.value(np.full(n, np.inf))))
    low, high = 0.0, 1.0
    while float(np.mean(truth.value(np.full(n, high)))) < wanted:
        low, high = high, 2.0 * high
    for _ in range(60):
        middle = 0.5 * (low + high)
        if float(np.mean(truth.value(np.full(n, middle)))) < wanted:
            low = middle
        else:
            high = middle
    return high


def _time_share(score: Score, n: int, tokens: float, ample: float) -> float:
    """Expected accuracy of the best common cap for the random share of queries that it pays for."""
    caps = np.unique(np.append(np.geomspace(0.01 * ample, ample, 120), tokens))
    return max(float(score(np.full(n, c)).mean()) * min(1.0, tokens / c) for c in caps.tolist())
