"""The instances of the public test set, declared from their seeds; `make_testset.py` proves them.

Parameters have few digits, so that the files stay small and readable. "b10" in a name says that the
budget is 10 % of ample: of what the smallest common cap needs that reaches 99 % of the accuracy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import clearopt as co

Declared = tuple[co.Problem, str, str]  # problem, what it is, why it is hard


@dataclass(frozen=True)
class Spec:
    """One instance to be made; `seed` and nothing else decides what is drawn."""

    name: str
    seed: int
    declare: Callable[[np.random.Generator], Declared]
    tags: tuple[str, ...]

    def make(self) -> Declared:
        return self.declare(np.random.default_rng(self.seed))


SPECS: list[Spec] = []


def add(name: str, *tags: str) -> Callable[[Any], Any]:
    def register(declare: Callable[[np.random.Generator], Declared]) -> Any:
        SPECS.append(Spec(name, 1000 + len(SPECS), declare, tags))
        return declare

    return register


# ------------------------------------------------------------------------- drawing
def even(rng: np.random.Generator, low: float, high: float, n: Any, digits: int = 2) -> np.ndarray:
    return np.round(rng.uniform(low, high, n), digits)


def rates(rng: np.random.Generator, n: int, low: float = -2.0, high: float = 0.0) -> np.ndarray:
    """Two significant digits, evenly in the logarithm."""
    drawn = 10 ** rng.uniform(low, high, n)
    return np.array([float(f"{value:.1e}") for value in drawn])


def surge(rng: np.random.Generator, n: int) -> co.CumulativeSurge:
    return co.CumulativeSurge(even(rng, 0.2, 1, n), even(rng, 5, 100, n, 0), rates(rng, n))


def shifted(rng: np.random.Generator, n: int) -> co.ShiftedSurge:
    return co.ShiftedSurge(even(rng, 0.2, 1, n), even(rng, 5, 100, n, 0), rates(rng, n))


def ample(utility: Any, n: int, upper: float) -> float:
    """Tokens for all, under the smallest common cap that reaches 99 % of the accuracy."""

    def reached(cap: float) -> float:
        # What lies past a peak is bought by nobody.
        grid = np.linspace(0.0, cap, 257)
        values = np.stack([np.broadcast_to(utility.value(np.full(n, b)), n) for b in grid])
        return float(values.max(axis=0).sum())

    wanted, low, high = 0.99 * reached(upper), 0.0, upper
    for _ in range(20):
        cap = 0.5 * (low + high)
        low, high = (low, cap) if reached(cap) >= wanted else (cap, high)
    return n * high


def share(utility: Any, n: int, upper: float, percent: int) -> int:
    """A share of ample, which is looked for among a thousand queries where there are more."""
    few = utility.take(np.arange(1000)) if n > 1000 else utility
    return round(ample(few, min(n, 1000), upper) * max(n / 1000, 1) * percent / 100)


def one_budget(
    utility: Any, n: int, percent: int, *, upper: float = 1024, integer: bool = False
) -> co.Problem:
    tokens = co.Allocation(n, upper=upper, integer=integer, name="tokens")
    budget = share(utility, n, upper, percent)
    return co.Problem(
        co.Maximize(co.sum(utility(tokens))), [(co.sum(tokens) <= budget).named("budget")]
    )


# ------------------------------------------------------------------------- one budget
def _one_budget_series() -> None:
    kinds = {
        "surge": (surge, "cumulative surges"),
        "shifted": (shifted, "shifted surges, which decay past their peak"),
    }
    few = "With few queries the duality gap is wide: the price search alone loses a good part."
    many = "The gap of the price search is next to nothing; what counts is time per query."
    some = "A few queries around the price decide; the bound has to be closed by a search."
    plan = [
        ("surge", 5, 10), ("surge", 10, 10), ("surge", 10, 40), ("surge", 10, 80),
        ("surge", 20, 10), ("surge", 50, 40), ("surge", 100, 10), ("surge", 100, 80),
        ("surge", 1000, 10), ("surge", 1000, 40), ("surge", 10_000, 40),
        ("shifted", 5, 40), ("shifted", 10, 10), ("shifted", 20, 40), ("shifted", 50, 10),
        ("shifted", 100, 60), ("shifted", 1000, 10),
    ]  # fmt: skip
    for kind, n, percent in plan:
        draw, words = kinds[kind]

        def declare(
            rng: np.random.Generator, draw: Any = draw, n: int = n, percent: int = percent,
            words: str = words,
        ) -> Declared:  # fmt: skip
            problem = one_budget(draw(rng, n), n, percent)
            text = f"{n} {words}, fractional tokens, one budget at {percent} % of ample."
            return problem, text, few if n <= 10 else (some if n <= 100 else many)

        add(f"{kind}-{n}-b{percent}", "one-budget", kind)(declare)


_one_budget_series()


@add("surge-100000-b20", "one-budget", "surge", "integer")
def _(rng: np.random.Generator) -> Declared:
    n = 100_000
    family = co.CumulativeSurge(
        even(rng, 0.2, 1, n), even(rng, 5, 100, n, 0), rng.choice([0.02, 0.05, 0.1, 0.3], n)
    )
    return (
        one_budget(family, n, 20, integer=True),
        "100 000 cumulative surges, whole tokens, one budget at 20 % of ample.",
        "Size.",
    )


@add("paper-50", "one-budget", "shifted")
def _(rng: np.random.Generator) -> Declared:
    n = 50
    rate = rng.choice([0.005, 0.008, 0.012, 0.02], n)
    family = co.ShiftedSurge(even(rng, 0.3, 0.95, n), even(rng, 50, 400, n, 0), rate)
    return (
        one_budget(family, n, 20, upper=2048),
        "The setting of arXiv 2606.03092: 50 shifted surges with thresholds of 50 to 400 tokens, "
        "one budget at 20 % of ample.",
        "Most queries are to be abandoned, and which ones is the question.",
    )


# ------------------------------------------------------------------------- other curves
def _curve(name: str, make: Callable[[np.random.Generator, int], Any], words: str, why: str,
           n: int = 20, integer: bool = False, upper: float = 400) -> None:  # fmt: skip
    def declare(rng: np.random.Generator) -> Declared:
        problem = one_budget(make(rng, n), n, 30, upper=upper, integer=integer)
        tokens = "whole tokens" if integer else "fractional tokens"
        return problem, f"{n} {words}, {tokens}, one budget at 30 % of ample.", why

    add(name, "one-budget", "other-curves", *(["integer"] if integer else []))(declare)


_curve("logistic-20",
       lambda rng, n: co.Logistic(even(rng, 0.2, 1, n), even(rng, 20, 200, n, 0),
                                  rates(rng, n, -1.7, -0.7)),
       "logistic curves", "A little accuracy costs nothing: U(0) is above 0, and there is no "
       "threshold.")  # fmt: skip
_curve("hill-20",
       lambda rng, n: co.Hill(even(rng, 0.2, 1, n), even(rng, 10, 150, n, 0),
                              even(rng, 1, 6, n, 1)),
       "Hill curves of powers 1 to 6", "Long tails: ample is far away, and caps bind.")  # fmt: skip
_curve("saturating-20",
       lambda rng, n: co.SaturatingExponential(even(rng, 0.2, 1, n), even(rng, 0, 80, n, 0),
                                               rates(rng, n, -2, -0.5)),
       "saturating exponentials after a threshold", "A kink at the threshold, concave after it, "
       "and thresholds that can be 0.")  # fmt: skip
_curve("best-of-n-20",
       lambda rng, n: co.BestOfN(even(rng, 0.02, 0.6, n), rng.choice([8.0, 16.0, 24.0], n)),
       "verifiers that sample until an answer is right, 1 - (1 - p)^(b/c)",
       "Concave throughout: a solver that only knows steep starts has nothing to do.",
       integer=True)  # fmt: skip
_curve("triangular-20",
       lambda rng, n: co.Triangular(even(rng, 0.2, 1, n), even(rng, 5, 100, n, 0),
                                    even(rng, 20, 120, n, 0)),
       "triangles after a threshold", "Linear pieces: prices tie at the slopes.")  # fmt: skip
_curve("quadratic-20",
       lambda rng, n: co.Quadratic(even(rng, 0.2, 1, n), even(rng, 5, 100, n, 0),
                                   even(rng, 20, 120, n, 0)),
       "parabolas after a threshold", "A kink at the threshold and a decay past the "
       "peak.")  # fmt: skip


def measured(rng: np.random.Generator, n: int, interpolation: Any) -> co.Tabulated:
    grid = np.cumsum(rng.integers(8, 60, (n, 6)), axis=1).astype(float)
    rise = np.sort(rng.uniform(0, 1, (n, 6)), axis=1)
    noise = rng.uniform(-0.08, 0.08, (n, 6))
    return co.Tabulated(grid, np.round(np.clip(rise + noise, 0, 1), 2), interpolation)


_curve("steps-20", lambda rng, n: measured(rng, n, "step"),
       "measured step curves of six points", "Jumps: a knapsack with several sizes an "
       "item, and values that fall again.")  # fmt: skip
_curve("measured-20", lambda rng, n: measured(rng, n, "linear"),
       "measured piecewise-linear curves of six points", "Neither convex nor concave: the noise "
       "of measuring makes curves fall and rise again.")  # fmt: skip
_curve("measured-whole-200", lambda rng, n: measured(rng, n, "linear"),
       "measured piecewise-linear curves of six points", "As measured-20, larger and on whole "
       "tokens.", n=200, integer=True)  # fmt: skip


def mixed(rng: np.random.Generator, each: int) -> tuple[Any, Any]:
    """An allocation of five families, `each` queries of each, and their utilities' sum."""
    n = 5 * each
    tokens = co.Allocation(n, upper=400, name="tokens")
    families = [
        surge(rng, each),
        shifted(rng, each),
        co.Logistic(even(rng, 0.2, 1, each), even(rng, 20, 200, each, 0),
                    rates(rng, each, -1.7, -0.7)),
        co.Hill(even(rng, 0.2, 1, each), even(rng, 10, 150, each, 0), even(rng, 1, 6, each, 1)),
        co.SaturatingExponential(even(rng, 0.2, 1, each), even(rng, 0, 80, each, 0),
                                 rates(rng, each, -2, -0.5)),
    ]  # fmt: skip
    utilities = [family(tokens[k * each : (k + 1) * each]) for k, family in enumerate(families)]
    total = co.sum(utilities[0])
    for one in utilities[1:]:
        total = total + co.sum(one)
    return tokens, total


def _mixed(name: str, each: int) -> None:
    def declare(rng: np.random.Generator) -> Declared:
        tokens, total = mixed(rng, each)
        budget = (co.sum(tokens) <= 25 * tokens.length).named("budget")
        return (
            co.Problem(co.Maximize(total), [budget]),
            f"{5 * each} queries of five families (both surges, logistic, Hill, saturating), one "
            "budget.",
            "Nothing that holds for one family alone helps.",
        )

    add(name, "one-budget", "other-curves", "mixed")(declare)


_mixed("mixed-30", 6)
_mixed("mixed-1000", 200)


# ------------------------------------------------------------------------- groups
def _tenants(name: str, n: int, tenants: int, integer: bool = False, percent: int = 30) -> None:
    def declare(rng: np.random.Generator) -> Declared:
        family = surge(rng, n)
        if n >= 100_000:
            family = co.CumulativeSurge(
                even(rng, 0.2, 1, n), even(rng, 5, 100, n, 0), rng.choice([0.02, 0.05, 0.1], n)
            )
        budget = share(family, n, 1024, percent)
        tenant = np.arange(n) * tenants // n  # in order, so that a row is a stretch of queries
        tokens = co.Allocation(n, upper=1024, integer=integer, name="tokens")
        caps = np.round(budget / tenants * rng.uniform(0.4, 1.8, tenants))
        by_tenant = {k: float(cap) for k, cap in enumerate(caps)}
        problem = co.Problem(
            co.Maximize(co.sum(family(tokens))),
            [
                (co.sum(tokens) <= budget).named("budget"),
                (co.sum(tokens, by=tenant) <= by_tenant).named("tenant cap"),
            ],
        )
        words = "whole" if integer else "fractional"
        return (
            problem,
            f"{n} cumulative surges of {tenants} tenants, {words} tokens: a budget at {percent} % "
            "of ample, and a cap for each tenant.",
            "Nested rows: some tenants are held by their cap, the others by the budget.",
        )

    add(name, "groups", "surge", *(["integer"] if integer else []))(declare)


_tenants("tenants-20", 20, 4)
_tenants("tenants-60-whole", 60, 6, integer=True)
_tenants("tenants-1000", 1000, 50)
_tenants("tenants-10000", 10_000, 100, integer=True)
_tenants("tenants-100000", 100_000, 1000, integer=True, percent=20)


def _overlap(name: str, n: int, teams: int) -> None:
    def declare(rng: np.random.Generator) -> Declared:
        family = surge(rng, n)
        tokens = co.Allocation(n, upper=1024, name="tokens")
        accuracy = family(tokens)
        budget = share(family, n, 1024, 30)
        rows = [(co.sum(tokens) <= budget).named("budget")]
        for team in range(teams):
            members = np.sort(rng.choice(n, n // 3, replace=False))
            cap = round(budget / 3 * rng.uniform(0.7, 1.2))
            rows.append((co.sum(tokens[members]) <= cap).named(f"team {team}"))
        return (
            co.Problem(co.Maximize(co.sum(accuracy)), rows),
            f"{n} cumulative surges, a budget at 30 % of ample and {teams} rows that overlap, "
            "each over a third of the queries.",
            "Rows that overlap leave several marginal queries, up to one a row.",
        )

    add(name, "overlap", "surge")(declare)


_overlap("teams-15", 15, 3)
_overlap("teams-40", 40, 8)
_overlap("teams-1000", 1000, 10)


# ------------------------------------------------------------------------- floors
def _floors(name: str, n: int, groups: int, level: float) -> None:
    def declare(rng: np.random.Generator) -> Declared:
        family = surge(rng, n)
        group = rng.integers(0, groups, n)
        tokens = co.Allocation(n, upper=1024, name="tokens")
        accuracy = family(tokens)
        budget = share(family, n, 1024, 35)
        return (
            co.Problem(
                co.Maximize(co.sum(accuracy)),
                [
                    (co.sum(tokens) <= budget).named("budget"),
                    (co.mean(accuracy, by=group) >= level).named("fair floor"),
                ],
            ),
            f"{n} cumulative surges of {groups} groups: a budget at 35 % of ample, and a mean "
            f"accuracy of at least {level} in each group.",
            "A floor is a constraint on what is to be maximised: weights change with its price.",
        )

    add(name, "floors", "surge")(declare)


_floors("floors-16", 16, 3, 0.3)
_floors("floors-200", 200, 8, 0.3)


def _fewest(name: str, n: int, promise: float, integer: bool) -> None:
    def declare(rng: np.random.Generator) -> Declared:
        tokens = co.Allocation(n, upper=1024, integer=integer, name="tokens")
        accuracy = surge(rng, n)(tokens)
        return (
            co.Problem(
                co.Minimize(co.sum(tokens)), [(co.mean(accuracy) >= promise).named("promise")]
            ),
            f"The fewest {'whole ' if integer else ''}tokens for a mean accuracy of at least "
            f"{promise} over {n} cumulative surges.",
            "Minimised: value and bound change sides.",
        )

    add(name, "minimize", "floors", "surge", *(["integer"] if integer else []))(declare)


_fewest("fewest-10", 10, 0.3, False)
_fewest("fewest-100-whole", 100, 0.4, True)


# ------------------------------------------------------------------------- two resources
def _memory(name: str, n: int) -> None:
    def declare(rng: np.random.Generator) -> Declared:
        family = surge(rng, n)
        tokens = co.Allocation(n, upper=1024, name="tokens")
        accuracy = family(tokens)
        budget = share(family, n, 1024, 30)
        held = rng.choice([0.25, 0.5, 1.0, 2.0, 4.0], n)  # MiB of KV cache a token
        return (
            co.Problem(
                co.Maximize(co.sum(accuracy)),
                [
                    (co.sum(tokens) <= budget).named("budget"),
                    (held @ tokens <= round(1.25 * budget)).named("kv memory"),
                ],
            ),
            f"{n} cumulative surges under two resources: tokens, and MiB of KV cache at 0.25 to 4 "
            "a token.",
            "Two dense rows, both of which bind: two prices and two marginal queries.",
        )

    add(name, "two-resources", "surge")(declare)


_memory("memory-12", 12)
_memory("memory-100", 100)
_memory("memory-5000", 5000)


@add("resources-40", "two-resources", "shifted", "hard")
def _(rng: np.random.Generator) -> Declared:
    n, rows = 40, 5
    tokens = co.Allocation(n, upper=200, name="tokens")
    accuracy = co.ShiftedSurge(even(rng, 0.5, 1, n), even(rng, 30, 60, n, 0), 0.2)(tokens)
    use = rng.integers(1, 10, (rows, n)).astype(float)
    limits = [
        (use[k] @ tokens <= round(0.3 * float(use[k].sum()) * 50)).named(f"resource {k}")
        for k in range(rows)
    ]
    return (
        co.Problem(co.Maximize(co.sum(accuracy)), limits),
        "40 steep shifted surges under five dense resource rows.",
        "All but a multi-dimensional knapsack problem: the bound closes slowly.",
    )


# ------------------------------------------------------------------------- other rows
@add("exactly-10", "rows", "surge")
def _(rng: np.random.Generator) -> Declared:
    n = 10
    tokens = co.Allocation(n, upper=300, name="tokens")
    accuracy = co.CumulativeSurge(even(rng, 0.2, 1, n), even(rng, 5, 100, n, 0), 0.1)(tokens)
    return (
        co.Problem(
            co.Maximize(co.sum(accuracy) - 0.002 * co.sum(tokens)),
            [
                (co.sum(tokens) == 600).named("exactly"),
                (co.sum(tokens[:5]) == 200).named("first half"),
            ],
        ),
        "10 cumulative surges whose tokens must add up exactly, all and those of the first half; "
        "a token costs 0.002.",
        "Equalities: prices of either sign, and no slack to round into.",
    )


@add("at-least-12", "rows", "surge", "integer")
def _(rng: np.random.Generator) -> Declared:
    n = 12
    tokens = co.Allocation(n, upper=120, integer=True, name="tokens")
    accuracy = co.CumulativeSurge(even(rng, 0.2, 1, n), even(rng, 5, 60, n, 0), 0.12)(tokens)
    use = rng.integers(1, 5, n).astype(float)
    return (
        co.Problem(
            co.Maximize(co.sum(accuracy) - 0.006 * co.sum(tokens)),
            [
                (use @ tokens >= 900).named("at least"),
                (co.sum(tokens) <= 420).named("budget"),
            ],
        ),
        "12 cumulative surges, whole tokens that cost 0.006 each, a budget, and a row that asks "
        "for at least 900 units of use.",
        "A row of the other sense, which makes it buy what does not pay.",
    )


@add("differences-15", "rows", "surge")
def _(rng: np.random.Generator) -> Declared:
    n = 15
    tokens = co.Allocation(n, upper=200, name="tokens")
    accuracy = co.CumulativeSurge(even(rng, 0.2, 1, n), even(rng, 5, 60, n, 0), 0.1)(tokens)
    rows = [(co.sum(tokens) <= 500).named("budget")]
    rows += [(tokens[k] - tokens[k + 1] <= 25).named(f"step {k}") for k in range(0, n - 1, 2)]
    return (
        co.Problem(co.Maximize(co.sum(accuracy)), rows),
        "15 cumulative surges, a budget, and rows that keep a query within 25 tokens of the next.",
        "Negative coefficients: a query that is funded lets another have more.",
    )


# ------------------------------------------------------------------------- whole tokens, holes
@add("whole-10", "integer", "surge")
def _(rng: np.random.Generator) -> Declared:
    family = co.CumulativeSurge(even(rng, 0.2, 1, 10), even(rng, 3, 30, 10, 0), 0.15)
    return (
        one_budget(family, 10, 30, upper=80, integer=True),
        "10 cumulative surges, whole tokens, one budget at 30 % of ample.",
        "Small enough for dynamic programming to settle.",
    )


@add("whole-weights-60", "integer", "surge", "hard")
def _(rng: np.random.Generator) -> Declared:
    n = 60
    tokens = co.Allocation(n, upper=80, integer=True, name="tokens")
    accuracy = co.CumulativeSurge(even(rng, 0.2, 1, n), even(rng, 3, 30, n, 0), 0.15)(tokens)
    price = rng.integers(3, 12, n).astype(float)
    return (
        co.Problem(co.Maximize(co.sum(accuracy)), [(price @ tokens <= 2500).named("money")]),
        "60 cumulative surges, whole tokens at prices of 3 to 11 a token, one budget of money.",
        "Whole tokens of different prices do not add up to the budget: the last unit matters.",
    )


def _holes(name: str, n: int, integer: bool) -> None:
    def declare(rng: np.random.Generator) -> Declared:
        least = even(rng, 20, 60, n, 0)
        tokens = co.Allocation(
            n, lower=least, upper=200, integer=integer, semicontinuous=True, name="tokens"
        )
        accuracy = co.CumulativeSurge(even(rng, 0.2, 1, n), even(rng, 3, 40, n, 0), 0.1)(tokens)
        return (
            co.Problem(co.Maximize(co.sum(accuracy)), [(co.sum(tokens) <= 18 * n).named("budget")]),
            f"{n} cumulative surges with nothing or at least 20 to 60 tokens each, "
            f"{'whole' if integer else 'fractional'}, one budget.",
            "Semicontinuous tokens: a hole in what can be bought.",
        )

    add(name, "semicontinuous", "surge", *(["integer"] if integer else []))(declare)


_holes("holes-15", 15, False)
_holes("holes-100", 100, True)


# ------------------------------------------------------------------------- menus
def _menu(name: str, queries: int, models: int) -> None:
    def declare(rng: np.random.Generator) -> Declared:
        options, rows, total, price = [], None, None, None
        for k in range(models):
            tokens = co.Allocation(queries, upper=300, name=f"model {k}")
            family = co.CumulativeSurge(
                even(rng, 0.2 + 0.15 * k, 0.5 + 0.15 * k, queries),
                even(rng, 5, 60, queries, 0),
                0.1,
            )
            gain, paid = co.sum(family(tokens)), float(1 + k) * co.sum(tokens)
            total = gain if total is None else total + gain
            price = paid if price is None else price + paid
            options.append(tokens)
        rows = [
            (price <= 55 * queries).named("budget"),
            co.at_most_one(*options).named("one model"),
        ]
        return (
            co.Problem(co.Maximize(total), rows),
            f"{queries} queries, each sent to one of {models} models or to none; a token of model "
            "k costs 1 + k.",
            "Menus: of the options of a query at most one may have tokens.",
        )

    add(name, "menus", "surge")(declare)


_menu("menu-5x3", 5, 3)
_menu("menu-80x4", 80, 4)


# ------------------------------------------------------------------------- cost curves
def _realised(name: str, n: int, both: bool = False) -> None:
    def declare(rng: np.random.Generator) -> Declared:
        scale, threshold = even(rng, 0.3, 0.95, n), even(rng, 3 if both else 5, 20, n, 0)
        rate = rng.choice([0.1, 0.15, 0.2], n)
        tokens = co.Allocation(n, upper=90, integer=both, name="tokens")
        accuracy = co.CumulativeSurge(scale, threshold, rate)(tokens)
        cost = co.ExpectedTokens(threshold, rate, scale)(tokens)
        rows = [(co.sum(cost) <= round(9 * n)).named("realised tokens")]
        if both:
            rows.append((co.sum(tokens) <= round(11.6 * n)).named("caps"))
        return (
            co.Problem(co.Maximize(co.sum(accuracy)), rows),
            f"{n} cumulative surges, a budget on expected tokens E[min(T, b)]"
            + (" and one on the caps themselves, whole tokens." if both else "."),
            "A row charges a concave curve of the tokens: the feasible set is not convex.",
        )

    add(name, "cost-curves", "surge", *(["integer"] if both else []))(declare)


_realised("realised-12", 12)
_realised("realised-200", 200)
_realised("realised-and-caps-10", 10, both=True)


# ------------------------------------------------------------------------- ties
def _ties(name: str, n: int, kinds: int, budget: float) -> None:
    def declare(rng: np.random.Generator) -> Declared:
        of = np.arange(n) * kinds // n
        scale = np.array([0.8, 0.6, 0.9])[of]
        threshold = np.array([20.0, 12.0, 35.0])[of]
        tokens = co.Allocation(n, upper=200, name="tokens")
        accuracy = co.CumulativeSurge(scale, threshold, 0.1)(tokens)
        alike = "all alike" if kinds == 1 else f"of {kinds} kinds, alike within each"
        return (
            co.Problem(co.Maximize(co.sum(accuracy)), [(co.sum(tokens) <= budget).named("budget")]),
            f"{n} cumulative surges, {alike}, one budget.",
            "Every permutation of an allocation is as good: a search that does not see it drowns.",
        )

    add(name, "ties", "surge")(declare)


_ties("ties-10", 10, 1, 170)
_ties("ties-40", 40, 1, 700)
_ties("ties-three-kinds-90", 90, 3, 1500)


# ------------------------------------------------------------------------- knapsacks
def _knapsack(name: str, n: int, integer: bool) -> None:
    def declare(rng: np.random.Generator) -> Declared:
        size = rng.integers(100, 400, n).astype(float)
        worth = np.round((size + 60) / 500, 3)
        tokens = co.Allocation(n, upper=450, integer=integer, name="tokens")
        accuracy = co.CumulativeSurge(worth, size, 8)(tokens)
        budget = round(0.37 * float(size.sum()))
        return (
            co.Problem(co.Maximize(co.sum(accuracy)), [(co.sum(tokens) <= budget).named("budget")]),
            f"{n} curves that are all but steps (rate 8), worth (threshold + 60) / 500, "
            f"{'whole' if integer else 'fractional'} tokens.",
            "A strongly correlated knapsack problem in disguise: break-even prices are much alike.",
        )

    add(name, "knapsack", "surge", "hard", *(["integer"] if integer else []))(declare)


_knapsack("knapsack-20", 20, False)
_knapsack("knapsack-60", 60, True)
_knapsack("knapsack-200", 200, False)


def _subset(name: str, n: int, high: int, budget_share: float) -> None:
    def declare(rng: np.random.Generator) -> Declared:
        size = 2.0 * rng.integers(high // 4, high // 2, n)  # even, and an odd budget
        tokens = co.Allocation(n, upper=float(high), integer=True, name="tokens")
        grid = np.stack([np.zeros(n), size], axis=1)
        worth = np.stack([np.zeros(n), size / high], axis=1)
        budget = 2 * round(budget_share * float(size.sum()) / 2) + 1
        accuracy = co.Tabulated(grid, np.round(worth, 3), "step")(tokens)
        return (
            co.Problem(co.Maximize(co.sum(accuracy)), [(co.sum(tokens) <= budget).named("budget")]),
            f"Subset sum: {n} steps of even sizes, each worth its size, and an odd budget.",
            "Every break-even price is the same; the last token can never be used, so no bound "
            "from prices closes the gap.",
        )

    add(name, "knapsack", "other-curves", "integer", "hard")(declare)


_subset("subset-sum-12", 12, 200, 0.5)
_subset("subset-sum-40", 40, 1000, 0.45)


# ------------------------------------------------------------------------- all together, edges
@add("everything-8", "rows", "floors", "menus", "cost-curves", "semicontinuous", "integer", "surge")
def _(rng: np.random.Generator) -> Declared:
    n = 8
    tokens = co.Allocation(n, lower=4, upper=25, integer=True, semicontinuous=True, name="tokens")
    scale, threshold = even(rng, 0.4, 0.95, n), even(rng, 1, 8, n, 0)
    accuracy = co.CumulativeSurge(scale, threshold, 0.4)(tokens)
    cost = co.ExpectedTokens(threshold, 0.4, scale)(tokens)
    return (
        co.Problem(
            co.Maximize(co.sum(accuracy) - 0.004 * co.sum(tokens)),
            [
                (co.sum(tokens) <= 55).named("budget"),
                (co.sum(cost) <= 45).named("realised tokens"),
                (tokens[0] - tokens[1] <= 6).named("difference"),
                (tokens[2] + tokens[3] >= 9).named("at least"),
                (co.mean(accuracy[4:]) >= 0.15).named("floor"),
                co.at_most_one(tokens[:2], tokens[6:]).named("menu"),
            ],
        ),
        "8 cumulative surges with every kind of constraint at once.",
        "Few solvers take all of it.",
    )


@add("promised-too-much-8", "infeasible", "floors", "surge")
def _(rng: np.random.Generator) -> Declared:
    tokens = co.Allocation(8, upper=200, name="tokens")
    accuracy = co.CumulativeSurge(even(rng, 0.5, 0.9, 8), even(rng, 20, 60, 8, 0), 0.1)(tokens)
    return (
        co.Problem(
            co.Maximize(co.sum(accuracy)),
            [
                (co.sum(tokens) <= 250).named("budget"),
                (co.mean(accuracy) >= 0.6).named("promise"),
            ],
        ),
        "8 cumulative surges and a promised accuracy that the budget cannot pay for.",
        "Infeasible, which takes a proof: each constraint alone can be met.",
    )


@add("odd-total-6", "infeasible", "integer", "surge", "rows")
def _(rng: np.random.Generator) -> Declared:
    tokens = co.Allocation(6, upper=30, integer=True, name="tokens")
    accuracy = co.CumulativeSurge(even(rng, 0.5, 0.9, 6), even(rng, 2, 9, 6, 0), 0.3)(tokens)
    use = 2.0 * rng.integers(1, 4, 6)
    return (
        co.Problem(co.Maximize(co.sum(accuracy)), [(use @ tokens == 75).named("odd total")]),
        "6 cumulative surges, whole tokens with even coefficients that must add up to 75.",
        "Infeasible by parity: the relaxation over fractional tokens is feasible.",
    )


@add("endless-3", "unbounded", "surge")
def _(rng: np.random.Generator) -> Declared:
    tokens = co.Allocation(3, name="tokens")
    accuracy = co.CumulativeSurge(even(rng, 0.5, 0.9, 3), even(rng, 2, 9, 3, 0), 0.3)(tokens)
    return (
        co.Problem(
            co.Maximize(co.sum(accuracy) + 0.01 * co.sum(tokens[:1])),
            [(co.sum(tokens[1:]) <= 20).named("budget")],
        ),
        "3 cumulative surges, one of them without a limit and paid for every token.",
        "Unbounded: the one query outside the budget grows for ever.",
    )
