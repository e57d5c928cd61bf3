"""Four ways to share a budget of tokens among queries of given utilities, as whole tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import clearopt as co
from clearopt.errors import DeclarationError

SOLVERS: Mapping[str, str] = {
    "uniform": "uniform",
    "time-share": "time-share",
    "price": "price",
    "dual": "dual",
}
"""Policy -> the back-end that computes it, from the plainest to the best."""

DESCRIPTIONS: Mapping[str, str] = {
    "uniform": "one cap for all",
    "time-share": "a random share of the queries at the best common cap",
    "price": "the paper's price search alone",
    "dual": "exact, with a certificate",
}

BUDGET = "budget"


@dataclass(frozen=True, eq=False)
class Plan:
    """What a policy decided for n queries.

    Attributes:
        policy, budget: who decided, and over how many tokens.
        tokens: (n,) whole tokens, 0 for an abandoned query; their sum is within the budget.
        expected: mean accuracy the utilities promise.
        price: shadow price of the budget (right answers per token), or None.
        gap: relative gap of the solver's certificate, or None where there is none.
        status: the solver's.
        seconds: time the solver took.
    """

    policy: str
    budget: int
    tokens: NDArray[np.int64]
    expected: float
    price: float | None
    gap: float | None
    status: str
    seconds: float

    @property
    def funded(self) -> float:
        """Share of the queries that are sent at all."""
        return float(np.mean(self.tokens >= 1))


def declare(utilities: co.Utility, n: int, budget: int, cap: int) -> co.Problem:
    """The program of the confirmation: most right answers within `budget` tokens in all.

    Args:
        utilities: of the n queries.
        n: how many queries.
        budget: tokens for all of them together.
        cap: most tokens one query may get.
    """
    tokens = co.Allocation(n, upper=cap, integer=True, name="tokens")
    accuracy = utilities(tokens)
    return co.Problem(
        co.Maximize(co.sum(accuracy)),
        [(co.sum(tokens) <= budget).named(BUDGET)],
    )


def allocate(
    policy: str,
    utilities: co.Utility,
    n: int,
    budget: int,
    cap: int,
    *,
    seed: int = 0,
    time_limit: float | None = None,
) -> Plan:
    """Share `budget` tokens among n queries the way `policy` does.

    The uniform cap is rounded down; what rounding leaves over goes to queries drawn at random, one
    token each, so that this baseline, too, plans the whole budget.

    Raises:
        DeclarationError: unknown policy, or the solver found no allocation.
        SolverNotInstalledError: its solver is not installed.
    """
    if policy not in SOLVERS:
        raise DeclarationError(f"unknown policy {policy!r}; known are {', '.join(SOLVERS)}")
    problem = declare(utilities, n, budget, cap)
    solution = problem.solve(solver=SOLVERS[policy], seed=seed, time_limit=time_limit)
    if solution.allocation is None:
        raise DeclarationError(
            f"the policy {policy!r} found no allocation of {budget} tokens to {n} queries "
            f"({solution.status}: {solution.message or 'no reason given'})"
        )
    tokens = np.floor(solution.allocation + 1e-6).astype(np.int64)
    if policy == "uniform":
        tokens = _spend_remainder(tokens, budget, cap, np.random.default_rng([seed, 7]))
    price = solution.prices.get(BUDGET)
    return Plan(
        policy=policy,
        budget=budget,
        tokens=tokens,
        expected=float(np.mean(utilities.value(tokens.astype(np.float64)))),
        price=float(price) if isinstance(price, int | float) else None,
        gap=float(solution.gap) if math.isfinite(solution.gap) else None,
        status=solution.status,
        seconds=float(solution.seconds),
    )


def _spend_remainder(
    tokens: NDArray[np.int64], budget: int, cap: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    room = np.flatnonzero(tokens < cap)
    count = min(budget - int(tokens.sum()), room.size)
    tokens = tokens.copy()
    tokens[rng.permutation(room)[:count]] += 1
    return tokens
