"""Whatever is declared, `dual` is honest: it keeps its time limit, its points are feasible, and its
bound lies above them and above anything anyone can write down."""

from __future__ import annotations

import time

import numpy as np
import pytest
from exhaustive import Limits, misses
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import clearopt as co

LIMIT = 2.0  # seconds
OVERTIME = 2.0  # what a started step, or a busy machine, may add
OVERTIME_OF_THOUSANDS = 8.0  # with several rows a step takes long today; to come down to OVERTIME
FAMILIES = (
    co.CumulativeSurge, co.ShiftedSurge, co.SaturatingExponential, co.Logistic, co.Hill,
    co.Lognormal,
)  # fmt: skip
MAGNITUDE = st.floats(-6, 6).map(lambda x: 10.0**x)

# The same examples every time: a build must not fail by chance.
# A failure is shown as found: to shrink it would take minutes.
few = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)


def rivals(program: co.Program) -> list[np.ndarray]:
    """Allocations anyone could write down: the least, all to one query, an equal share."""
    least = program.least
    found = [least, program.upper]
    for share in (1.0, 0.5, 1 / program.n):
        amounts = least + share * (program.upper - least)
        found.append(np.where(program.integer, np.floor(amounts), amounts))
    # As much as the rows let one query have, or all queries alike.
    limits = Limits.of(program)
    used = limits.tokens @ least
    with np.errstate(all="ignore"):
        for i in range(min(program.n, 8)):
            room = (limits.level - used) / limits.tokens[:, i]
            most = np.min(room[limits.tokens[:, i] > 0], initial=np.inf)
            one = least.copy()
            one[i] = np.clip(least[i] + most, least[i], program.upper[i])
            found.append(np.where(program.integer, np.floor(one), one))
        room = (limits.level - used) / limits.tokens.sum(axis=1)
        most = np.min(room[limits.tokens.sum(axis=1) > 0], initial=np.inf)
        alike = np.minimum(least + max(most, 0.0), program.upper)
        found.append(np.where(program.integer, np.floor(alike), alike))
    return [tokens for tokens in found if not misses(program, tokens)]


def assert_honest(problem: co.Problem, overtime: float = OVERTIME, **options) -> co.Solution:
    """Solve, and check all that can be checked without knowing the optimum."""
    program = problem.program
    started = time.perf_counter()
    solution = problem.solve(time_limit=LIMIT, **options)
    spent = time.perf_counter() - started
    said = solution.summary()
    assert spent < LIMIT + overtime, f"{spent:.1f} s\n{said}"
    sign = program.sign
    known = rivals(program) if program.n <= 100 else []
    if solution.status == "infeasible":
        assert not known, f"feasible: {known[0]}\n{said}"
        return solution
    assert solution.status in ("optimal", "feasible", "unknown"), said
    assert not np.isnan(solution.bound), said
    if solution.allocation is not None:
        if program.n <= 100:
            missed = misses(program, solution.allocation)
            assert not missed, f"{missed}\n{said}"
        value = program.objective(np.asarray(solution.allocation, dtype=float))
        assert sign * solution.objective == pytest.approx(value, rel=1e-12, abs=1e-300)
        assert sign * solution.bound >= value, said
    for rival in known:
        value = program.objective(rival)
        # A rival that misses a row by its rounding is still a rival, to as much.
        assert value <= sign * solution.bound + 1e-9 * abs(value) + 1e-300, f"{rival}\n{said}"
        if solution.status == "optimal":
            room = 1e-9 + 2 * options.get("tolerance", 1e-6)
            assert value <= sign * solution.objective + room * abs(value) + 1e-300, said
    return solution


def draw_array(data, strategy, n: int) -> np.ndarray:
    return np.array(data.draw(st.lists(strategy, min_size=n, max_size=n)), dtype=float)


def draw_problem(data, n: int, rows: int, whole: bool) -> co.Problem:
    """Parameters, bounds, coefficients and budgets over twelve orders of magnitude."""
    upper = draw_array(data, MAGNITUDE, n)
    upper = np.ceil(upper) if whole else upper
    lower = np.zeros(n)
    if data.draw(st.booleans()):
        lower = np.floor(upper * draw_array(data, st.sampled_from([0.0, 0.0, 0.1, 1.0]), n))
    tokens = co.Allocation(
        n, lower=lower, upper=upper, integer=whole, semicontinuous=data.draw(st.booleans())
    )
    scale, rate = draw_array(data, st.floats(0, 1), n), draw_array(data, MAGNITUDE, n)
    threshold = draw_array(data, MAGNITUDE, n) * draw_array(data, st.sampled_from([0.0, 1.0]), n)
    kind = data.draw(st.sampled_from(FAMILIES))
    if kind is co.Hill:
        threshold, rate = np.maximum(threshold, 1e-6), np.clip(rate, 0.1, 100.0)
    if kind is co.Lognormal:
        threshold, rate = np.maximum(threshold, 1e-6), np.clip(rate, 0.01, 5.0)
    accuracy = kind(scale, threshold, rate)(tokens)
    weight = draw_array(data, st.sampled_from([0.0, 1.0, 1.0]), n) * draw_array(data, MAGNITUDE, n)
    limits = []
    for _ in range(rows):
        coefficient = draw_array(data, MAGNITUDE | st.sampled_from([0.0, 1.0, 1.0]), n)
        least = float(
            coefficient @ np.zeros(n) if tokens.semicontinuous.any() else coefficient @ lower
        )
        share = data.draw(st.sampled_from([0.0, 1e-6, 0.1, 0.3, 0.7, 1.0, 2.0]))
        limits.append(coefficient @ tokens <= least + share * float(coefficient @ upper - least))
    if rows > 1 and data.draw(st.booleans()):
        limits += [limits[0].expression * 3.0 <= 3.0 * float(limits[0].level[0])]  # the same again
    objective = weight @ accuracy
    if data.draw(st.booleans()):
        objective = objective - data.draw(MAGNITUDE) * co.sum(tokens)
    return co.Problem(co.Maximize(objective), limits)


@settings(few, max_examples=150)
@given(data=st.data(), n=st.integers(1, 6), whole=st.booleans())
def test_one_row_over_twelve_orders_of_magnitude(data, n: int, whole: bool) -> None:
    try:
        problem = draw_problem(data, n, 1, whole)
    except co.DeclarationError:
        return
    assert_honest(problem)


@settings(few, max_examples=150)
@given(data=st.data(), n=st.integers(1, 6), rows=st.integers(2, 4), whole=st.booleans())
def test_several_rows_over_twelve_orders_of_magnitude(data, n: int, rows: int, whole: bool) -> None:
    try:
        problem = draw_problem(data, n, rows, whole)
    except co.DeclarationError:
        return
    assert_honest(problem)


@settings(few, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(2, 12),
    floor=st.floats(0, 0.99),
    budget=st.floats(0, 1),
    whole=st.booleans(),
)
def test_floors_equalities_and_budgets_of_nothing(
    seed: int, n: int, floor: float, budget: float, whole: bool
) -> None:
    rng = np.random.default_rng(seed)
    tokens = co.Allocation(n, upper=np.ceil(10 ** rng.uniform(0, 3, n)), integer=whole)
    family = FAMILIES[seed % 2](
        rng.uniform(0, 1, n), rng.uniform(0, 30, n), 10 ** rng.uniform(-2, 1, n)
    )
    accuracy = family(tokens)
    total = co.sum(tokens)
    most = float(np.floor(budget * tokens.upper.sum()))
    limits = [total <= most, total <= most, total <= 2 * most + 1]
    if seed % 3 == 0:
        limits.append(co.sum(tokens[: n // 2]) == float(np.floor(0.3 * budget * most)))
    if seed % 3 == 1:
        reached = family.value(most * tokens.upper / tokens.upper.sum()).mean()
        limits.append(co.mean(accuracy) >= floor * float(reached))
    try:
        problem = co.Problem(co.Maximize(co.sum(accuracy)), limits)
    except co.DeclarationError:
        return
    assert_honest(problem)


@settings(few, max_examples=8)
@given(
    n=st.integers(1000, 5000),
    classes=st.integers(1, 3),
    share=st.floats(0, 1),
    rows=st.integers(1, 3),
    whole=st.booleans(),
)
def test_thousands_of_identical_queries(
    n: int, classes: int, share: float, rows: int, whole: bool
) -> None:
    rng = np.random.default_rng([n, classes])
    kind = rng.integers(0, classes, n)
    threshold, rate = rng.uniform(10, 60, classes), 10 ** rng.uniform(-1.5, -0.5, classes)
    tokens = co.Allocation(n, upper=400, integer=whole)
    accuracy = co.CumulativeSurge(0.9, threshold[kind], rate[kind])(tokens)
    budget = float(np.floor(share * (threshold + 4 / rate)[kind].sum()))
    limits = [co.sum(tokens) <= budget]
    if rows > 1:
        limits.append(rng.uniform(0.5, 2, classes)[kind] @ tokens <= budget)
    if rows > 2:
        limits.append(co.sum(tokens[kind == 0]) <= 0.5 * budget)
    problem = co.Problem(co.Maximize(co.sum(accuracy)), limits)
    solution = assert_honest(problem, OVERTIME_OF_THOUSANDS)
    assert solution.allocation is not None


@settings(few, max_examples=16)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(5, 40),
    rate=st.floats(0, 6),
    rows=st.integers(1, 3),
    whole=st.booleans(),
)
def test_steep_strongly_correlated_curves(
    seed: int, n: int, rate: float, rows: int, whole: bool
) -> None:
    rng = np.random.default_rng(seed)
    threshold = np.floor(rng.uniform(20, 80, n))  # what a query needs ...
    scale = threshold / 100 + 0.1  # ... and what it is worth: a knapsack in disguise
    tokens = co.Allocation(n, upper=400, integer=whole)
    accuracy = co.CumulativeSurge(scale, threshold, 10.0**rate)(tokens)
    limits = [co.sum(tokens) <= float(np.floor(0.37 * threshold.sum()))]
    for _ in range(rows - 1):
        size = np.floor(rng.uniform(0.8, 1.2, n) * 10)
        limits.append(size @ tokens <= float(np.floor(0.37 * size @ threshold)))
    assert_honest(co.Problem(co.Maximize(co.sum(accuracy)), limits), tolerance=0)
