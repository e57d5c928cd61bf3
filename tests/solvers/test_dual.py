"""The exact dual on one row: against independent oracles, on ties and at the edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import Instance, dynamic_program, enumerate_funded_sets, random_instance

import clearopt as co

FAMILIES = (co.CumulativeSurge, co.ShiftedSurge)


def declare(instance: Instance, *, whole: bool) -> co.Problem:
    """The instance in the public language; both families on parts of one allocation."""
    tokens = co.Allocation(instance.scale.shape[0], upper=instance.upper, integer=whole)
    totals = []
    for family, mask in zip(FAMILIES, (instance.cumulative, ~instance.cumulative), strict=True):
        if mask.any():
            utility = family(instance.scale[mask], instance.threshold[mask], instance.rate[mask])
            totals.append(co.sum(utility(tokens[mask])))
    objective = totals[0] if len(totals) == 1 else totals[0] + totals[1]
    budget = (co.sum(tokens) <= instance.budget).named("budget")
    return co.Problem(co.Maximize(objective), [budget])


def check_against(oracle: float, solution: co.Solution) -> None:
    assert solution.status == "optimal", solution.summary()
    assert solution.objective == pytest.approx(oracle, rel=1e-9, abs=1e-300)
    assert solution.bound >= oracle * (1 - 1e-13)
    assert solution.bound >= solution.objective
    assert solution.feasibility is not None
    assert solution.feasibility.ok


# ---------------------------------------------------------------- 200 random instances
@pytest.mark.parametrize("seed", range(100))
def test_continuous_tokens_equal_the_enumeration_of_funded_sets(seed: int) -> None:
    rng = np.random.default_rng([1, seed])
    n = {0: 14, 1: 12, 2: 10}.get(seed, int(rng.integers(1, 7)))
    instance = random_instance(rng, n, ties=seed % 3 == 0)
    check_against(enumerate_funded_sets(instance), declare(instance, whole=False).solve())


@pytest.mark.parametrize("seed", range(100))
def test_whole_tokens_equal_dynamic_programming(seed: int) -> None:
    rng = np.random.default_rng([2, seed])
    instance = random_instance(rng, int(rng.integers(1, 41)), ties=seed % 3 == 0, whole=True)
    solution = declare(instance, whole=True).solve()
    check_against(dynamic_program(instance), solution)
    assert solution.allocation is not None
    assert (solution.allocation == np.round(solution.allocation)).all()


# ---------------------------------------------------------------- ties
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(("n", "share"), [(2, 0.4), (21, 0.37), (60, 0.03), (300, 0.8)])
def test_identical_queries_are_closed(family: type, whole: bool, n: int, share: float) -> None:
    tokens = co.Allocation(n, upper=4096, integer=whole)
    accuracy = family(scale=0.9, threshold=50.0, rate=0.1)(tokens)
    budget = np.round(share * n * 90)
    problem = co.Problem(co.Maximize(co.sum(accuracy)), [co.sum(tokens) <= budget])
    solution = problem.solve(tolerance=1e-10, time_limit=60)
    assert solution.status == "optimal", solution.summary()
    # Deterministic, and the first of identical queries are served first.
    again = problem.solve(tolerance=1e-10, time_limit=60)
    assert np.array_equal(solution.allocation, again.allocation)
    funded = np.flatnonzero(solution.funded)
    assert np.array_equal(funded, np.arange(funded.size))


def test_two_classes_of_identical_queries() -> None:
    rng = np.random.default_rng(5)
    kind = rng.integers(0, 2, 120)
    tokens = co.Allocation(120, upper=4096)
    accuracy = co.CumulativeSurge(
        scale=np.array([0.9, 0.7])[kind], threshold=np.array([40.0, 22.0])[kind], rate=0.1
    )(tokens)
    problem = co.Problem(co.Maximize(co.sum(accuracy)), [co.sum(tokens) <= 3000])
    assert problem.solve(tolerance=1e-9, time_limit=60).status == "optimal"


# ---------------------------------------------------------------- edges
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("whole", [False, True])
class TestEdges:
    def solve(
        self, family: type, whole: bool, n: int, budget: float, **changes: float
    ) -> co.Solution:
        shape = {"scale": 0.9, "threshold": 50.0, "rate": 0.1, "upper": 4096.0} | changes
        tokens = co.Allocation(n, upper=shape.pop("upper"), integer=whole)
        objective = co.Maximize(co.sum(family(**shape)(tokens)))
        return co.Problem(objective, [(co.sum(tokens) <= budget).named("budget")]).solve()

    def test_no_budget(self, family: type, whole: bool) -> None:
        solution = self.solve(family, whole, 3, 0)
        assert (solution.status, solution.objective, solution.bound) == ("optimal", 0.0, 0.0)

    def test_one_query_takes_what_there_is(self, family: type, whole: bool) -> None:
        solution = self.solve(family, whole, 1, 55)
        assert solution.status == "optimal"
        assert solution.allocation is not None
        assert solution.allocation[0] == 55

    def test_ample_budget_reaches_every_peak_and_wastes_nothing(
        self, family: type, whole: bool
    ) -> None:
        solution = self.solve(family, whole, 5, 1e9, upper=np.inf)
        assert solution.status == "optimal"
        assert solution.utilities == pytest.approx(np.full(5, 0.9), rel=1e-12)
        assert solution.allocation is not None
        assert solution.allocation.max() < 1000
        assert solution.prices["budget"] == pytest.approx(0.0, abs=1e-15)

    def test_thresholds_above_the_budget(self, family: type, whole: bool) -> None:
        solution = self.solve(family, whole, 4, 30)
        assert (solution.status, solution.objective, solution.bound) == ("optimal", 0.0, 0.0)
        assert solution.allocation is not None
        assert not solution.allocation.any()  # tokens that buy nothing are not spent

    def test_hopeless_queries(self, family: type, whole: bool) -> None:
        assert self.solve(family, whole, 3, 100, scale=0.0).objective == 0.0

    @pytest.mark.parametrize(
        "changes",
        [
            {"rate": 1e300},
            {"rate": 1e-300},
            {"threshold": 0.0},
            {"threshold": 1e300},
            {"scale": 1e-300},
            {"rate": 1e9, "threshold": 1e-9},
        ],
    )
    def test_extreme_parameters_never_fool_the_certificate(
        self, family: type, whole: bool, changes: dict[str, float]
    ) -> None:
        solution = self.solve(family, whole, 3, 70, **changes)
        assert solution.status in ("optimal", "feasible")
        assert solution.bound >= solution.objective
        assert solution.feasibility is not None
        assert solution.feasibility.ok


LOG = st.floats(-6, 6)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data(), n=st.integers(1, 6), whole=st.booleans(), kind=st.sampled_from(FAMILIES))
def test_parameters_over_twelve_orders_of_magnitude(
    data: st.DataObject, n: int, whole: bool, kind: type
) -> None:
    def draw(strategy: st.SearchStrategy) -> np.ndarray:
        return np.array(data.draw(st.lists(strategy, min_size=n, max_size=n)))

    scale = draw(st.floats(0, 1))
    threshold, rate = 10 ** draw(LOG) * draw(st.sampled_from([0.0, 1.0])), 10 ** draw(LOG)
    upper = np.ceil(10 ** draw(LOG)) if whole else 10 ** draw(LOG)
    budget = 10 ** data.draw(LOG)
    tokens = co.Allocation(n, upper=upper, integer=whole)
    family = kind(scale, threshold, rate)
    row = (co.sum(tokens) <= budget).named("budget")
    problem = co.Problem(co.Maximize(co.sum(family(tokens))), [row])
    solution = problem.solve(time_limit=20)
    assert solution.allocation is not None, solution.summary()
    assert solution.bound >= solution.objective
    # Rivals anyone could write down: all to one query, or an equal share each.
    most = np.floor(budget) if whole else budget
    rivals = [np.eye(n)[i] * np.minimum(most, upper) for i in range(n)]
    share = np.minimum(np.floor(most / n) if whole else most / n, upper)
    for rival in [*rivals, share]:
        value = problem.program.objective(np.broadcast_to(rival, (n,)))
        assert value <= solution.bound * (1 + 1e-13)
        if solution.status == "optimal":
            assert value <= solution.objective * (1 + 2e-6) + 1e-300


def test_without_any_row_everyone_reaches_the_peak() -> None:
    tokens = co.Allocation(4, upper=[10.0, 60.0, 500.0, 4096.0])
    accuracy = co.ShiftedSurge(scale=0.8, threshold=50.0, rate=0.1)(tokens)
    solution = co.Problem(co.Maximize(co.sum(accuracy))).solve()
    assert solution.status == "optimal"
    assert solution.utilities == pytest.approx([0.0, 0.8, 0.8, 0.8])


def test_a_priced_token_needs_no_row() -> None:
    tokens = co.Allocation(3, upper=4096)
    accuracy = co.CumulativeSurge(scale=0.9, threshold=[10.0, 50.0, 900.0], rate=0.1)(tokens)
    solution = co.Problem(co.Maximize(co.sum(accuracy) - 0.004 * co.sum(tokens))).solve()
    assert solution.status == "optimal"
    assert solution.funded is not None
    assert solution.funded.tolist() == [True, True, False]


def test_lower_bounds_weights_and_costly_queries() -> None:
    rng = np.random.default_rng(3)
    n = 30
    tokens = co.Allocation(n, lower=rng.uniform(0, 20, n), upper=300)
    accuracy = co.CumulativeSurge(0.9, rng.uniform(5, 80, n), 10 ** rng.uniform(-2, 0, n))(tokens)
    usage = rng.uniform(0.2, 3.0, n) @ tokens
    problem = co.Problem(co.Maximize(co.sum(rng.uniform(0, 2, n) * accuracy)), [usage <= 1500])
    solution = problem.solve(tolerance=1e-10)
    assert solution.status == "optimal", solution.summary()


@pytest.mark.parametrize("sense", [">=", "=="])
def test_rows_that_ask_for_more_than_anyone_wants(sense: str) -> None:
    tokens = co.Allocation(6, upper=200)
    accuracy = co.ShiftedSurge(scale=0.9, threshold=20.0, rate=0.1)(tokens)
    total = co.sum(tokens)
    row = total >= 500 if sense == ">=" else total == 500
    solution = co.Problem(co.Maximize(co.sum(accuracy)), [row.named("row")]).solve()
    assert solution.status == "optimal", solution.summary()
    assert solution.allocation is not None
    assert solution.allocation.sum() == pytest.approx(500, rel=1e-9)
    assert solution.prices["row"] <= 0  # more on the right-hand side would hurt


SURGE, DECAY = co.CumulativeSurge, co.ShiftedSurge


@pytest.mark.parametrize(
    ("bounds", "utility", "row", "best"),
    [
        ({"upper": [28, 31]}, DECAY([0.3, 0.5], [11, 13], [0.2, 1]),
         lambda t: t[1] - t[0] >= 3, 0.529485701642462),
        ({"upper": [9, 39, 35]}, DECAY([0.9, 0.9, 0.5], [11, 2, 11], [1, 2, 1]),
         lambda t: t[0] + t[1] - t[2] >= 24, 0.5),
        ({"upper": [40.0]}, DECAY([0.9], [5], [0.5]),
         lambda t: co.sum(t) == 20, 0.0101482145525993),
        ({"upper": [16.0, 16.0]}, SURGE([1.0, 0.6], [8, 9], 1.0),
         lambda t: t[0] - t[1] == 10, 1 - 9 * np.exp(-8)),
        ({"lower": [3, 0, 1, 3], "upper": [5, 29, 2, 32], "integer": True},
         SURGE([0.7, 0.5, 0.9, 0.6], [10, 10, 4, 2], [0.1, 8, 0.06, 2.7]),
         lambda t: np.array([1, 3, 0, 0]) @ t == 6, 0.6),
        ({"lower": [3, 1, 1], "upper": [26, 23, 12], "integer": True}, DECAY(0.27, 11.3, 6.0),
         lambda t: co.sum(t) == 58, 0.0462243393114675),
    ],
)  # fmt: skip
def test_rows_that_push_past_the_peak_are_certified(
    bounds: dict, utility: co.Utility, row: object, best: float
) -> None:
    tokens = co.Allocation(len(bounds["upper"]), **bounds)
    solution = co.Problem(co.Maximize(co.sum(utility(tokens))), [row(tokens)]).solve(time_limit=20)
    assert solution.status == "optimal", solution.summary()
    assert solution.objective == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("seed", range(40))
def test_equality_and_mixed_signs_against_enumeration(seed: int) -> None:
    rng = np.random.default_rng([9, seed])
    n = int(rng.integers(1, 4))
    lower = rng.integers(0, 4, n)
    upper = lower + rng.integers(0, 14, n)
    coefficient = rng.integers(-2, 4, n)
    kind = FAMILIES[seed % 2]
    utility = kind(rng.uniform(0.1, 1, n), rng.uniform(0, 9, n), 10 ** rng.uniform(-1, 0.5, n))
    grid = np.stack(np.meshgrid(*map(np.arange, lower, upper + 1), indexing="ij"), -1)
    grid = grid.reshape(-1, n).astype(float)
    level = float(np.median(grid @ coefficient))
    sense = ("==", ">=", "<=")[seed % 3]
    tokens = co.Allocation(n, lower=lower, upper=upper, integer=True)
    total = coefficient @ tokens
    row = total == level if sense == "==" else total >= level if sense == ">=" else total <= level
    solution = co.Problem(co.Maximize(co.sum(utility(tokens))), [row]).solve(time_limit=20)
    used = grid @ coefficient
    meets = {"==": used == level, ">=": used >= level, "<=": used <= level}[sense]
    if not meets.any():
        assert solution.status == "infeasible", solution.summary()
        return
    best = max(utility.value(point).sum() for point in grid[meets])
    assert solution.status == "optimal", solution.summary()
    assert solution.objective == pytest.approx(best, rel=1e-9, abs=1e-300)
    assert solution.bound >= best * (1 - 1e-13)


def test_a_sum_that_no_whole_tokens_reach_is_infeasible() -> None:
    tokens = co.Allocation(2, upper=10, integer=True)
    utility = co.CumulativeSurge(0.9, 5.0, 0.5)(tokens)
    problem = co.Problem(co.Maximize(co.sum(utility)), [2 * co.sum(tokens) == 7])
    assert problem.solve().status == "infeasible"


def test_the_price_is_that_of_the_declared_problem() -> None:
    # One query, all of the budget: what its row implies as a bound must not hide the price.
    tokens = co.Allocation(1, upper=10)
    family = co.CumulativeSurge(scale=0.5, threshold=1, rate=1.0)
    row = (co.sum(tokens) <= 5).named("budget")
    solution = co.Problem(co.Maximize(co.sum(family(tokens))), [row]).solve()
    assert solution.prices["budget"] == pytest.approx(float(family.marginal(5.0)), rel=1e-6)


# ---------------------------------------------------------------- prices and marginal values
def test_marginal_value_is_the_slope_with_the_funded_set_as_it_is() -> None:
    rng = np.random.default_rng(11)
    n = 25
    threshold, rate = rng.uniform(5, 60, n), 10 ** rng.uniform(-1.5, -0.3, n)

    def solve(budget: float) -> co.Solution:
        tokens = co.Allocation(n, upper=4096)
        accuracy = co.CumulativeSurge(0.8, threshold, rate)(tokens)
        row = (co.sum(tokens) <= budget).named("budget")
        return co.Problem(co.Maximize(co.sum(accuracy)), [row]).solve(tolerance=1e-12)

    for budget in (200.0, 400.0, 700.0):
        solution, step = solve(budget), 1e-3
        above, below = solve(budget + step), solve(budget - step)
        assert np.array_equal(above.funded, below.funded)  # the step stays inside one piece
        slope = (above.objective - below.objective) / (2 * step)
        assert solution.marginal_values["budget"] == pytest.approx(slope, rel=1e-4)


def test_the_price_proves_the_bound() -> None:
    rng = np.random.default_rng(12)
    n = 40
    tokens = co.Allocation(n, upper=4096)
    family = co.CumulativeSurge(0.8, rng.uniform(5, 60, n), 10 ** rng.uniform(-1.5, 0, n))
    row = (co.sum(tokens) <= 500).named("budget")
    solution = co.Problem(co.Maximize(co.sum(family(tokens))), [row]).solve(solver="price")
    price = solution.prices["budget"]
    bought = family.demand(price, upper=4096)
    dual = float(np.sum(family.value(bought) - price * bought) + price * 500)
    assert solution.bound == pytest.approx(dual, rel=1e-10)


def test_surplus_of_the_funded_is_not_negative_at_the_price_search() -> None:
    rng = np.random.default_rng(13)
    n = 200
    tokens = co.Allocation(n, upper=4096)
    family = co.ShiftedSurge(0.8, rng.uniform(5, 60, n), 10 ** rng.uniform(-1.5, 0, n))
    row = (co.sum(tokens) <= 3000).named("budget")
    solution = co.Problem(co.Maximize(co.sum(family(tokens))), [row]).solve(solver="price")
    assert solution.allocation is not None
    assert solution.allocation.sum() <= 3000
    surplus = family.value(solution.allocation) - solution.prices["budget"] * solution.allocation
    assert surplus.min() >= -1e-9
    exact = co.Problem(co.Maximize(co.sum(family(tokens))), [row]).solve()
    assert exact.objective >= solution.objective
    assert exact.bound <= solution.bound * (1 + 1e-12)


# ---------------------------------------------------------------- engines, limits, statuses
def test_numpy_and_jax_agree() -> None:
    rng = np.random.default_rng(14)
    n = 300
    tokens = co.Allocation(n, upper=4096)
    family = co.CumulativeSurge(0.8, rng.uniform(5, 60, n), 10 ** rng.uniform(-1.5, 0, n))
    problem = co.Problem(co.Maximize(co.sum(family(tokens))), [co.sum(tokens) <= 5000])
    numpy, jax = problem.solve(engine="numpy"), problem.solve(engine="jax")
    assert (numpy.status, jax.status) == ("optimal", "optimal")
    assert jax.objective == pytest.approx(numpy.objective, rel=1e-9)
    assert jax.bound >= numpy.objective
    assert numpy.bound >= jax.objective


def test_many_queries_are_solved_by_jax_in_float64_without_a_global_setting() -> None:
    import jax

    rng = np.random.default_rng(15)
    n = 50_000
    tokens = co.Allocation(n, upper=4096)
    family = co.CumulativeSurge(0.8, rng.uniform(5, 60, n), 10 ** rng.uniform(-1.5, 0, n))
    problem = co.Problem(co.Maximize(co.sum(family(tokens))), [co.sum(tokens) <= 600_000])
    before = jax.config.jax_enable_x64
    solution = problem.solve(tolerance=1e-9)
    assert solution.statistics["engine"] == "jax"
    assert solution.status == "optimal", solution.summary()
    assert jax.config.jax_enable_x64 == before
    assert jax.numpy.zeros(1).dtype == (np.float64 if before else np.float32)


def test_limits_return_the_best_point_and_bound_so_far() -> None:
    rng = np.random.default_rng(16)
    n = 60  # steep and strongly correlated: a knapsack in disguise
    threshold = rng.uniform(20, 80, n)
    tokens = co.Allocation(n, upper=4096)
    family = co.CumulativeSurge(np.minimum(threshold / 100 + 0.1, 1), threshold, 20.0)
    problem = co.Problem(co.Maximize(co.sum(family(tokens))), [co.sum(tokens) <= 1000])
    solution = problem.solve(tolerance=0, node_limit=3)
    assert solution.allocation is not None
    assert solution.bound >= solution.objective
    assert solution.status == "optimal" or "node limit" in solution.message


@pytest.mark.parametrize("options", [{"engine": "cuda"}, {"node_limit": 0}, {"nodes": 3}])
def test_wrong_options_are_named(options: dict[str, object]) -> None:
    problem = declare(random_instance(np.random.default_rng(0), 3), whole=False)
    with pytest.raises(co.ClearoptError, match=next(iter(options))):
        problem.solve(**options)


def test_tolerance_zero_means_proven_to_rounding() -> None:
    instance = random_instance(np.random.default_rng(17), 8)
    solution = declare(instance, whole=False).solve(tolerance=0)
    assert solution.status == "optimal"
    assert solution.gap < 1e-12


def test_conflicting_rows_are_infeasible_and_named() -> None:
    tokens = co.Allocation(4, upper=10)
    accuracy = co.CumulativeSurge(0.9, 5.0, 0.5)(tokens)
    rows = [(co.sum(tokens) >= 30).named("promise"), (co.sum(tokens) <= 20).named("budget")]
    solution = co.Problem(co.Maximize(co.sum(accuracy)), rows).solve()
    assert solution.status == "infeasible"
    assert solution.allocation is None
    assert "'promise'" in solution.message
    assert "'budget'" in solution.message
    assert "cannot hold together" in solution.message
    assert "by 10" in solution.message
    assert solution.prices == {}


def test_endless_reward_is_unbounded() -> None:
    tokens = co.Allocation(2)
    accuracy = co.CumulativeSurge(0.9, 5.0, 0.5)(tokens)
    problem = co.Problem(co.Maximize(co.sum(accuracy) + 0.1 * co.sum(tokens)))
    assert problem.solve().status == "unbounded"
