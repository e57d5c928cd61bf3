"""Who gets how many tokens: at first, and again with what early finishers have left."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

import clearopt as co
from clearopt.errors import DeclarationError, InfeasibleError
from clearopt.runs.queries import Query, require_distinct
from clearopt.utilities import Utility
from clearopt.utilities.remaining import Remaining
from clearopt.validation import FloatArray, as_float_array, broadcast_to_length, require

Constraints = Callable[[Any, Any], Iterable[Any]]
"""From the vectors of all tokens and all expected accuracies to constraints."""

BUDGET = "budget"


@dataclass(frozen=True, eq=False)
class Workload:
    """n queries and what tokens do for them.

    Attributes:
        queries: what is asked.
        upper: most tokens of a query, one number or (n,).
        utilities: expected accuracy by tokens, of n queries; None where nothing is known, then
            tokens are shared out evenly.
        weights: what a right answer is worth, one number or (n,).
        constraints: further constraints, such as
            `lambda tokens, accuracy: [co.sum(tokens, by=tenant) <= 9e5]`. They hold for all tokens
            together, also when those left over are shared out.

    Raises:
        DeclarationError: there is no query, a label stands twice, or lengths differ.
    """

    queries: Sequence[Query]
    upper: ArrayLike
    utilities: Utility | None = None
    weights: ArrayLike = 1.0
    constraints: Constraints | None = None

    def __post_init__(self) -> None:
        require_distinct(self.queries)
        upper = as_float_array(self.upper, "upper")
        require(upper, (upper >= 1) & (upper == np.floor(upper)), "upper", "must be whole, above 0")
        weights = as_float_array(self.weights, "weights")
        require(weights, weights >= 0, "weights", "must be at least 0")
        object.__setattr__(self, "upper", broadcast_to_length(upper, self.n, "upper"))
        object.__setattr__(self, "weights", broadcast_to_length(weights, self.n, "weights"))
        if self.utilities is None:
            if self.constraints is not None:
                raise DeclarationError("constraints: there are none without utilities")
            return
        object.__setattr__(self, "utilities", self.utilities.broadcast(self.n))

    @property
    def n(self) -> int:
        """How many queries there are."""
        return len(self.queries)


@dataclass(frozen=True, eq=False)
class Plan:
    """What a round allows.

    Attributes:
        caps: (n,) further tokens for each query, 0 where none.
        expected: right answers that the curves promise of these tokens, or None without curves.
        price: shadow price of the budget (right answers per token), or None.
        gap: relative gap of the certificate, or None.
        status: the solver's, or "even".
    """

    caps: NDArray[np.int64]
    expected: float | None
    price: float | None
    gap: float | None
    status: str


def first_plan(work: Workload, budget: int, **solving: Any) -> Plan:
    """Share `budget` tokens among the queries, none of which has had any.

    Raises:
        DeclarationError: there is no allocation; says why.
    """
    if work.utilities is None:
        return _even(work, budget, np.zeros(work.n), np.ones(work.n, dtype=bool))
    plan = _solved(work, work.utilities, budget, np.zeros(work.n), _upper(work), solving)
    if isinstance(plan, str):
        raise DeclarationError(f"no allocation of {budget} tokens: {plan}")
    return plan


def further_plan(
    work: Workload,
    budget: int,
    spent: NDArray[Any],
    going_on: NDArray[np.bool_],
    finished: NDArray[np.bool_] | None = None,
    **solving: Any,
) -> Plan | str:
    """Share what is left among the answers that are still under way.

    Args:
        work: the queries.
        budget: tokens left.
        spent: (n,) tokens each has had.
        going_on: (n,) whether more tokens may help: cut at its cap, or not sent at all.
        finished: (n,) whose answers have ended: for constraints on accuracy these are as accurate
            as their curves at the peak.
        solving: solver and its options.

    Returns:
        A plan, or why there is none: the constraints leave no further allocation, or the utilities
        are measured curves, which say nothing about an answer that is under way.
    """
    most = np.where(going_on, np.maximum(_upper(work) - spent, 0), 0)
    if work.utilities is None:
        return _even(work, budget, spent, going_on)
    if not work.utilities.s_shaped:
        return "measured curves say nothing about an answer that is under way"
    rest = Remaining.of(work.utilities, spent, most)
    ended = np.zeros(work.n, dtype=bool) if finished is None else finished
    settled = np.where(ended, work.utilities.value_at(work.utilities.saturation_excess), 0.0)
    return _solved(work, rest, budget, spent, most, solving, settled)


def _solved(
    work: Workload,
    utilities: Utility,
    budget: int,
    spent: NDArray[Any],
    most: NDArray[Any],
    solving: dict[str, Any],
    settled: FloatArray | None = None,
) -> Plan | str:
    """A plan, or why there is none."""
    more = co.Allocation(work.n, upper=most, integer=True, name="tokens")
    accuracy = utilities(more)
    tokens = more + spent if np.any(spent) else more
    constraints = [(co.sum(more) <= budget).named(BUDGET)]
    worth: Any = np.asarray(work.weights) @ accuracy
    if work.constraints is not None:
        reached = accuracy if settled is None else accuracy + settled
        constraints += work.constraints(tokens, reached)
    try:
        solution = co.Problem(co.Maximize(worth), constraints).solve(**solving)
    except InfeasibleError as error:  # limits that nothing can meet any more
        return str(error)
    if solution.allocation is None:
        return solution.message or solution.status
    caps = np.floor(np.asarray(solution.allocation) + 1e-6).astype(np.int64)
    price = solution.prices.get(BUDGET)
    return Plan(
        caps=caps,
        expected=float(np.sum(utilities.value(caps.astype(np.float64)))),
        price=float(price) if isinstance(price, float) and math.isfinite(price) else None,
        gap=float(solution.gap) if math.isfinite(solution.gap) else None,
        status=solution.status,
    )


def _even(work: Workload, budget: int, spent: NDArray[Any], going_on: NDArray[np.bool_]) -> Plan:
    """The same cap for all that go on; what they cannot use goes to the others."""
    caps = np.zeros(work.n, dtype=np.int64)
    room = np.where(going_on, np.maximum(_upper(work) - spent, 0), 0).astype(np.int64)
    left = budget
    while left > 0 and (open_ := np.flatnonzero(room > caps)).size:
        each = max(left // open_.size, 1)
        given = np.minimum(room[open_] - caps[open_], each)[: left // each]
        caps[open_[: given.size]] += given
        left -= int(given.sum())
    return Plan(caps, None, None, None, "even")


def _upper(work: Workload) -> FloatArray:
    return np.asarray(work.upper, dtype=np.float64)
