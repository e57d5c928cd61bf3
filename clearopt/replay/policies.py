"""Who shares the budget out, and how: baselines, the price search, the exact dual, the oracle.

All allocate whole tokens through declared problems, but for the two that look at no query:
`uniform` and `time-share` need nothing but the pool's own scalars. A time-share is scored as the
mean over the draw of who is served, so that no luck of one draw is in it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

import clearopt as co
from clearopt.replay.accounting import Accounting, Caps, largest_within, right_under
from clearopt.replay.curves import Curves, Steps
from clearopt.replay.splits import QUERY, Case
from clearopt.validation import FloatArray

if TYPE_CHECKING:
    from clearopt.calibration import Rollouts

BUDGET = "budget"

DESCRIPTIONS: Mapping[str, str] = {
    "uniform": "one cap for all",
    "time-share": "a random share of the queries at the best common cap",
    "proportional": "caps in proportion to the threshold",
    "tale-ep": "caps in proportion to the model's own estimate of what it needs",
    "price": "the price search alone, on the fitted curves (CLEAR)",
    "dual": "exact, on curves shrunk towards the population's",
    "dual-informed": "as dual, but shrunk towards what the features predict of the query",
    "dual-unpooled": "exact, on each query's raw empirical curve",
    "dual-cumulative-surge": "exact, on cumulative surges of shared rate and scale",
    "dual-shifted-surge": "exact, on the paper's surges of shared rate and scale",
    "dual-triangular": "exact, on triangles with the surges' peaks",
    "dual-quadratic": "exact, on parabolas with the surges' peaks",
    "oracle": "exact, on the scored answers' own curves: the upper line",
}
"""Policy -> what it is, from the plainest up."""

DEFAULT_POLICIES = (
    "uniform", "time-share", "proportional", "tale-ep", "price", "dual", "dual-informed",
    "dual-unpooled", "oracle",
)  # fmt: skip

ABLATIONS = ("dual-cumulative-surge", "dual-shifted-surge", "dual-triangular", "dual-quadratic")
"""The exact dual on other families of curves; under planned caps only."""

SKIPPED: Mapping[str, str] = {
    "tale-ep": "asks the model how many tokens it needs, which recorded rollouts cannot answer: "
    "give its estimates in a table (--estimates FILE, from tale_estimates)",
}
"""Policies that need more than rollouts, and why they are not run without it."""

FAMILY_OF: Mapping[str, str] = {
    "proportional": "shrunk",
    "price": "shrunk",
    "dual": "shrunk",
    "dual-informed": "informed",
    "dual-cumulative-surge": "cumulative-surge",
    "dual-shifted-surge": "shifted-surge",
    "dual-triangular": "triangular",
    "dual-quadratic": "quadratic",
}
"""Policy -> the kind of curves it buys from."""

_SOLVERS = {"proportional": "proportional", "price": "price"}
# Step curves are knapsacks in disguise: the root's allocation is cheap, and within some per mille
# of the bound, which the rows say; what is left would take minutes a solve.
_NODES_FOR_STEPS = 1
_STEP_TOLERANCE = 1e-4
# Of fitted curves, the last of the gap is closed in a few nodes under planned caps; against cost
# curves a node takes ten times as long, and what it would close is spent afterwards. By nodes
# rather than seconds, so that a replay repeats.
_NODES = {"planned": 200, "realised": 1}
_PARTS = 2**40  # steps of a factor that estimates are scaled by: finer than a token


@dataclass(frozen=True, eq=False)
class Plan:
    """What a policy decided for n queries.

    Attributes:
        caps: (n,) whole tokens, 0 for an abandoned query.
        share: the share of the queries, drawn at random, that get theirs; the others get nothing.
        expected: mean accuracy its curves promise; None where it looks at none.
        price: shadow price of the budget (right answers per token), or None.
        gap: relative gap of the solver's certificate, or None where there is none.
        status: the solver's.
        seconds: time the solver took.
    """

    caps: Caps
    share: float = 1.0
    expected: float | None = None
    price: float | None = None
    gap: float | None = None
    status: str = "feasible"
    seconds: float = 0.0

    @property
    def funded(self) -> float:
        """The share of the queries that are sent at all."""
        return self.share * float(np.mean(self.caps >= 1))


class CurvesOf(Protocol):
    """The curves of a case, each made when first asked for."""

    def __call__(self, kind: str) -> Curves:
        """Those of a kind: "shrunk", "shifted-surge", ..."""
        ...

    def steps(self, accounting: Accounting, *, scored: bool) -> Steps:
        """The empirical ones, of the scored rollouts or of those that may be looked at."""
        ...


def plan(
    policy: str,
    case: Case,
    accounting: Accounting,
    budget: int,
    curves: CurvesOf,
    *,
    estimates: FloatArray | None = None,
    seed: int = 0,
    time_limit: float = 20.0,
) -> Plan:
    """Share `budget` tokens, counted by `accounting`, among the case's queries.

    Args:
        policy: its name.
        case: what may be looked at, and what is scored.
        accounting: what the budget is counted in.
        budget: tokens.
        curves: the case's.
        estimates: (n,) tokens that the model itself thinks it needs, for "tale-ep".
        seed: of what is drawn.
        time_limit: of a solver, seconds.

    Raises:
        DeclarationError: a solver found no allocation.
    """
    started = time.perf_counter()
    if policy == "uniform":
        made = _uniform(case, accounting, budget, seed)
    elif policy == "time-share":
        made = _time_share(case, accounting, budget)
    elif policy == "tale-ep":
        assert estimates is not None
        made = _by_estimates(case, accounting, budget, estimates)
    elif policy in ("dual-unpooled", "oracle"):
        seen = case.scored if policy == "oracle" else case.fitting
        steps = curves.steps(accounting, scored=policy == "oracle")
        made = _by_steps(steps, case.n, seen, accounting, budget, time_limit)
    else:
        bought = curves(FAMILY_OF[policy])
        made = (
            _by_curves(policy, case, bought, accounting, budget, time_limit)
            if case.folds is None
            else _by_folds(policy, case, case.folds, bought, accounting, budget, time_limit)
        )
    return replace(made, seconds=time.perf_counter() - started)


def runs_in(
    policy: str, split: str, accounting: str, *, informed: bool, estimated: bool = False
) -> bool:
    """Whether a policy says anything in such a split and accounting, with features or without,
    with the model's own estimates or without.

    Of queries that nobody has run there are no raw curves, and features are all there is to go by;
    the ablations have no cost curve of their own.
    """
    if policy in SKIPPED:
        return estimated
    if policy == "dual-unpooled":
        return split != QUERY
    if policy == "dual-informed":
        return split != QUERY and informed
    return policy not in ABLATIONS or accounting == "planned"


# -------------------------------------------------------------------------------- common caps
def _uniform(case: Case, accounting: Accounting, budget: int, seed: int) -> Plan:
    n, seen = case.n, case.fitting
    cap = largest_within(lambda c: accounting.common(seen, n, c), budget, _most(case, budget))
    caps = np.full(n, cap, dtype=np.int64)
    if accounting.name == "planned":
        # What rounding down leaves over: one token each for some, so that all is planned.
        over = np.random.default_rng([seed, case.repeat, 7]).permutation(n)[: budget - cap * n]
        caps[over] += 1
    expected = float(right_under(seen, caps.astype(np.float64), n).mean())
    return Plan(caps, expected=expected)


def _time_share(case: Case, accounting: Accounting, budget: int) -> Plan:
    """The common cap, and the share of the queries served, that answer most on the fitted half."""
    n, seen = case.n, case.fitting
    counts = np.bincount(seen.query, minlength=n)
    weight = 1.0 / (counts[seen.query] * np.count_nonzero(counts))  # every query counts alike
    caps = np.unique(np.ceil(seen.tokens[seen.solved]))
    order = np.argsort(seen.tokens, kind="stable")
    lengths = seen.tokens[order]
    below = np.searchsorted(lengths, caps, side="right")
    right = np.concatenate([[0.0], np.cumsum((weight * seen.solved)[order])])[below]
    if accounting.name == "planned":
        charged = caps
    else:
        used = np.concatenate([[0.0], np.cumsum((weight * seen.tokens)[order])])[below]
        longer = 1.0 - np.concatenate([[0.0], np.cumsum(weight[order])])[below]
        charged = used + np.maximum(longer, 0.0) * caps
    share = np.minimum(1.0, budget / np.maximum(n * charged, 1e-300))
    best = int(np.argmax(share * right))
    return Plan(
        np.full(n, int(caps[best]), dtype=np.int64),
        share=float(share[best]),
        expected=float(share[best] * right[best]),
    )


def _by_estimates(case: Case, accounting: Accounting, budget: int, estimates: FloatArray) -> Plan:
    """Caps in proportion to what the model thinks it needs, as large as the budget allows."""
    n, seen, most = case.n, case.fitting, _most(case, budget)

    def caps(part: int) -> FloatArray:
        return np.minimum(np.floor(estimates * (part * step)), most)

    # From nothing at all to a cap of `most` for the least demanding.
    step = most / float(estimates.min()) / _PARTS
    best = largest_within(lambda part: accounting.total(seen, caps(part)), budget, _PARTS)
    chosen = caps(best).astype(np.int64)
    if accounting.name == "planned":
        open_ = np.flatnonzero(chosen < most)[: max(budget - int(chosen.sum()), 0)]
        chosen[open_] += 1  # what rounding down leaves over
    expected = float(right_under(seen, chosen.astype(np.float64), n).mean())
    return Plan(chosen, expected=expected)


# -------------------------------------------------------------------------------- curves
def declare(curves: Curves, n: int, accounting: Accounting, budget: int, most: int) -> co.Problem:
    """Most right answers for n queries within a budget, with up to `most` tokens each."""
    # Against a cost curve whole tokens are rounded down afterwards: far less than one answer.
    whole = accounting.name == "planned"
    tokens = co.Allocation(n, upper=most, integer=whole, name="tokens")
    row = accounting.row(curves, tokens) <= budget
    return co.Problem(co.Maximize(co.sum(curves.utilities(tokens))), [row.named(BUDGET)])


def _by_curves(
    policy: str, case: Case, curves: Curves, accounting: Accounting, budget: int, time_limit: float
) -> Plan:
    problem = declare(curves, case.n, accounting, budget, _most(case, budget))
    solver = _SOLVERS.get(policy, "dual")
    options: dict[str, Any] = {"node_limit": _NODES[accounting.name]} if solver == "dual" else {}
    solution = problem.solve(solver=solver, time_limit=time_limit, **options)
    caps = _whole(solution, policy, budget)
    if solver == "dual":
        charged = partial(accounting.expected, curves)
        caps = spend_left(caps, charged, budget, planned=accounting.name == "planned")
    expected = float(np.mean(curves.expected(caps.astype(np.float64))))
    return _certified(solution, caps, expected)


def _by_folds(
    policy: str,
    case: Case,
    folds: NDArray[np.intp],
    curves: Curves,
    accounting: Accounting,
    budget: int,
    time_limit: float,
) -> Plan:
    """Each fold shares out its own part of the budget, as large as the fold.

    Curves of different folds come from different fits, and each fit's mean lies away from what its
    own fold is like, for that is what it has not seen. Sharing between folds would buy by this.
    """
    labels, sizes = np.unique(folds, return_counts=True)
    ends = np.floor(budget * np.cumsum(sizes) / case.n + 1e-9).astype(np.int64)
    caps, expected = np.zeros(case.n, dtype=np.int64), 0.0
    parts: list[Plan] = []
    for label, size, own in zip(labels, sizes, np.diff(ends, prepend=0).tolist(), strict=True):
        inside = np.flatnonzero(folds == label)
        part = case.part(inside)
        mine = curves.take(inside)
        parts.append(_by_curves(policy, part, mine, accounting, own, time_limit))
        caps[inside] = parts[-1].caps
        expected += float(size / case.n) * (parts[-1].expected or 0.0)
    prices = [part.price for part in parts if part.price is not None]
    gaps = [part.gap for part in parts if part.gap is not None]
    return Plan(
        caps,
        expected=expected,
        price=float(np.mean(prices)) if prices else None,
        gap=max(gaps) if len(gaps) == len(parts) else None,
        status=next((part.status for part in parts if part.status != "optimal"), "optimal"),
    )


def _by_steps(
    steps: Steps,
    n: int,
    seen: Rollouts,
    accounting: Accounting,
    budget: int,
    time_limit: float,
) -> Plan:
    """The exact allocation on the empirical curves of `seen`: what is bought is their cost."""
    paid = co.Allocation(n, upper=float(steps.costs.max()), name="tokens")
    problem = co.Problem(
        co.Maximize(co.sum(steps.utility()(paid))), [(co.sum(paid) <= budget).named(BUDGET)]
    )
    solution = problem.solve(
        time_limit=time_limit, node_limit=_NODES_FOR_STEPS, tolerance=_STEP_TOLERANCE
    )
    if solution.allocation is None:
        raise _nothing_found(solution, "steps", budget)
    caps = steps.caps_for(np.asarray(solution.allocation, dtype=np.float64)).astype(np.int64)
    charged = partial(accounting.total, seen)
    caps = spend_left(caps, charged, budget, planned=accounting.name == "planned")
    expected = float(right_under(seen, caps.astype(np.float64), n).mean())
    return _certified(solution, caps, expected)


def spend_left(
    caps: Caps, charged: Callable[[FloatArray], float], budget: float, *, planned: bool
) -> Caps:
    """Raise every funded query's cap by as much as the budget has left over.

    The exact optimum has spent all that its curves find any use for; what is left is worth nothing
    by them, but curves are estimates, and a funded query is one that answers.

    Args:
        caps: (n,) whole tokens.
        charged: what caps are charged in all.
        budget: tokens.
        planned: whether the charge is the sum of the caps, to be met to the token.
    """
    funded = caps >= 1
    if not funded.any():
        return caps
    raise_by = largest_within(
        lambda extra: charged((caps + extra * funded).astype(np.float64)), budget, int(budget)
    )
    caps = caps + raise_by * funded
    if planned:
        caps[np.flatnonzero(funded)[: int(budget - caps.sum())]] += 1
    return caps


# -------------------------------------------------------------------------------- small parts
def _most(case: Case, budget: int) -> int:
    """The largest cap worth offering: half as much again as the longest answer looked at."""
    return max(1, min(math.ceil(1.5 * float(case.fitting.tokens.max())), int(budget)))


def _whole(solution: co.Solution, policy: str, budget: int) -> Caps:
    if solution.allocation is None:
        raise _nothing_found(solution, policy, budget)
    return np.floor(solution.allocation + 1e-6).astype(np.int64)


def _nothing_found(solution: co.Solution, policy: str, budget: int) -> co.DeclarationError:
    return co.DeclarationError(
        f"the policy {policy!r} found no allocation of {budget} tokens "
        f"({solution.status}: {solution.message or 'no reason given'})"
    )


def _certified(solution: co.Solution, caps: Caps, expected: float) -> Plan:
    price = solution.prices.get(BUDGET)
    return Plan(
        caps,
        expected=expected,
        price=float(price) if isinstance(price, int | float) else None,
        gap=float(solution.gap) if math.isfinite(solution.gap) else None,
        status=solution.status,
    )
