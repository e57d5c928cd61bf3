"""The concave relaxation: a bound that holds, prices that mean something, a feasible rounding."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from brute_force import FEATURES, brute_force, random_problem
from oracles import enumerate_funded_sets, random_instance
from test_dual import declare

import clearopt as co
from clearopt.solvers.relaxation import concave_envelope, implied_bounds, lagrangian_bound


def mixed_problem(
    n: int, seed: int, *, budget: float = 0.25, minimum: float = 0.0, level: float = 0.12
) -> co.Problem:
    """A budget, a second resource, a service level in tokens and two floors: rows of every kind."""
    rng = np.random.default_rng(seed)
    threshold, rate = rng.uniform(5, 80, n), 10 ** rng.uniform(-1.3, -0.3, n)
    tokens = co.Allocation(n, upper=600)
    accuracy = co.CumulativeSurge(rng.uniform(0.3, 1, n), threshold, rate)(tokens)
    need = float((threshold + 3 / rate).sum())
    half = n // 2
    return co.Problem(
        co.Maximize(co.sum(accuracy)),
        [
            (co.sum(tokens) <= budget * need).named("budget"),
            (rng.uniform(0.5, 2, n) @ tokens <= 0.4 * need).named("memory"),
            (co.sum(tokens[:half]) >= (0.1 + minimum) * need).named("service"),
            (co.sum(tokens[:3]) - co.sum(tokens[3:6]) == 12.0 + minimum * need).named("balance"),
            (co.mean(accuracy[half:]) >= level).named("floor"),
        ],
    )


def test_it_is_installed_and_says_what_it_certifies() -> None:
    info = co.solvers()["cvxpy"]
    assert info.installed
    assert info.certifies == "bound"


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("seed", range(6))
def test_bound_and_rounding_enclose_the_optimum(feature: str, seed: int) -> None:
    problem = random_problem(seed, feature, whole=True)
    best = brute_force(problem.program)
    solution = problem.solve("cvxpy", time_limit=20)
    if best == -np.inf:
        assert solution.allocation is None
        return
    assert solution.bound >= best - 1e-12
    if solution.allocation is None:
        assert "no rounding" in solution.message
        return
    assert solution.feasibility is not None
    assert solution.feasibility.ok
    assert solution.objective <= best + 1e-9 * abs(best)
    np.testing.assert_array_equal(solution.allocation, np.round(solution.allocation))


@pytest.mark.parametrize("seed", range(8))
def test_the_bound_holds_over_continuous_tokens(seed: int) -> None:
    rng = np.random.default_rng([12, seed])
    instance = random_instance(rng, int(rng.integers(1, 9)), ties=seed % 3 == 0)
    best = enumerate_funded_sets(instance)
    solution = declare(instance, whole=False).solve("cvxpy")
    assert solution.bound >= best * (1 - 1e-10)
    assert solution.allocation is not None
    assert solution.objective <= best * (1 + 1e-9) + 1e-12


@pytest.mark.parametrize("seed", range(3))
def test_on_one_row_the_bound_is_the_lowest_of_the_dual_function(seed: int) -> None:
    instance = random_instance(np.random.default_rng([13, seed]), 12)
    program = declare(instance, whole=False).program
    solution = declare(instance, whole=False).solve("cvxpy")
    lower, upper = implied_bounds(program)
    prices = np.concatenate([[0.0], np.geomspace(1e-9, 10.0, 4000)])
    scanned = min(
        lagrangian_bound(program, lower, upper, np.array([p]), np.zeros(0)) for p in prices
    )
    assert solution.bound <= scanned * (1 + 1e-9)
    # Convex between two prices of the scan: it cannot be far below their lower end either.
    assert solution.bound >= scanned * (1 - 1e-3)


@pytest.mark.parametrize("n", [60, 200])
def test_on_many_queries_the_rounding_is_nearly_optimal(n: int) -> None:
    rng = np.random.default_rng(n)
    threshold, rate = rng.uniform(5, 80, n), 10 ** rng.uniform(-1.3, -0.3, n)
    tokens = co.Allocation(n, upper=600)
    accuracy = co.CumulativeSurge(rng.uniform(0.3, 1, n), threshold, rate)(tokens)
    budget = 0.2 * float((threshold + 3 / rate).sum())
    problem = co.Problem(co.Maximize(co.sum(accuracy)), [co.sum(tokens) <= budget])
    solution, dual = problem.solve("cvxpy"), problem.solve()
    assert solution.gap < 5e-3
    assert dual.objective <= solution.bound <= dual.objective * (1 + 2e-3)
    assert solution.objective <= dual.bound * (1 + 1e-12)


def test_prices_have_the_sign_of_what_helps() -> None:
    solution = mixed_problem(24, 1).solve("cvxpy")
    assert solution.allocation is not None, solution.summary()
    price = solution.prices
    assert price["budget"] >= 0
    assert price["memory"] >= 0
    assert price["service"] <= 0
    assert price["floor"] <= 0
    assert abs(price["budget"]) + abs(price["memory"]) > 0


@pytest.mark.parametrize("seed", [2, 3])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_prices_bound_the_relaxation_of_a_changed_problem(seed: int, sign: float) -> None:
    """A concave value function lies below its tangent, for constraints of every kind."""
    names = ("budget", "memory", "service", "balance", "floor")
    base = mixed_problem(24, seed, level=0.2)
    before = base.solve("cvxpy", tolerance=1e-8)
    prices = np.array([float(before.prices[name]) for name in names])
    assert np.count_nonzero(np.abs(prices) > 1e-5) == 3
    for changed in (
        mixed_problem(24, seed, level=0.2, budget=0.25 + sign * 0.004),
        mixed_problem(24, seed, level=0.2, minimum=sign * 0.002),
        mixed_problem(24, seed, level=0.2 + sign * 0.005),
    ):
        levels = [np.r_[p.program.right_hand_side, p.program.floor_levels] for p in (base, changed)]
        after = changed.solve("cvxpy", tolerance=1e-8)
        assert after.status != "infeasible"
        assert after.bound <= before.bound + prices @ (levels[1] - levels[0]) + 1e-6


def test_any_multipliers_of_the_right_sign_give_a_bound() -> None:
    problem = mixed_problem(24, 3)
    program = problem.program
    solution = problem.solve("cvxpy")
    assert solution.allocation is not None
    lower, upper = implied_bounds(program)
    rng = np.random.default_rng(0)
    sign = np.array([1.0, 1.0, -1.0, 0.0])
    for _ in range(50):
        rows = sign * rng.exponential(1e-2, 4)
        rows[3] = rng.normal(0, 1e-2)
        bound = lagrangian_bound(program, lower, upper, rows, rng.exponential(1.0, 1))
        assert bound >= solution.objective


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("family", [co.CumulativeSurge, co.ShiftedSurge])
def test_envelopes_are_concave_and_above_their_utility(family: type[co.Utility], seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 6
    threshold, rate = rng.uniform(0, 60, n), 10 ** rng.uniform(-1.5, 0.5, n)
    lower = rng.choice([0.0, 0.3, 1.0, 1.5], n) * threshold + rng.choice([0.0, 0.5, 2.5], n) / rate
    upper = lower + 10 ** rng.uniform(-1, 2.5, n)
    tokens = co.Allocation(n, lower=lower, upper=upper)
    accuracy = family(0.9, threshold, rate)(tokens)
    program = co.Problem(co.Maximize(co.sum(accuracy))).program
    envelope = concave_envelope(program, lower, upper)
    share = np.linspace(0, 1, 201)[:, None]
    points = lower + share * (upper - lower)
    worth = np.stack([program.utility(p) for p in points])
    above = np.stack([envelope.value(p) for p in points])
    assert np.all(above >= worth - 1e-12)
    assert np.all(np.diff(above, 2, axis=0) <= 1e-9)
    for excess in (envelope.contact, envelope.end, 0.5 * (envelope.contact + envelope.end)):
        height, slope = envelope.cuts(excess)
        assert np.all(height + slope * (points - lower) >= worth - 1e-9)


@pytest.mark.parametrize("solver", ["HIGHS", "CLARABEL", "clarabel"])
def test_either_linear_solver_gives_the_same_bound(solver: str) -> None:
    problem = mixed_problem(24, 4)
    solution = problem.solve("cvxpy", cvxpy_solver=solver)
    assert solution.statistics["cvxpy_solver"] == solver.upper()
    assert solution.bound == pytest.approx(problem.solve("cvxpy").bound, rel=1e-6)


def test_an_unknown_linear_solver_is_named_with_those_installed() -> None:
    with pytest.raises(co.DeclarationError, match=r"cvxpy_solver = 'nope'.*CLARABEL"):
        mixed_problem(8, 1).solve("cvxpy", cvxpy_solver="nope")


def test_weights_and_costs_count() -> None:
    tokens = co.Allocation(2, upper=100)
    accuracy = co.CumulativeSurge(0.8, 10, 0.3)(tokens)
    budget = co.sum(tokens) <= 30
    heavy = co.Problem(co.Maximize(np.array([1.0, 3.0]) @ accuracy), [budget]).solve("cvxpy")
    assert heavy.funded is not None
    assert heavy.funded.tolist() == [False, True]
    dear = co.Problem(co.Maximize(co.sum(accuracy) - co.sum(tokens)), [budget]).solve("cvxpy")
    assert dear.allocation is not None
    assert not dear.allocation.any()
    assert dear.status == "optimal"


def test_thresholds_above_the_budget_and_no_budget_at_all() -> None:
    tokens = co.Allocation(5, upper=1000, integer=True)
    accuracy = co.CumulativeSurge(0.9, 200, 0.1)(tokens)
    for budget in (150, 0):
        problem = co.Problem(co.Maximize(co.sum(accuracy)), [co.sum(tokens) <= budget])
        solution = problem.solve("cvxpy")
        assert solution.status == "optimal"
        assert solution.objective == 0 == solution.bound


def test_statuses() -> None:
    tokens = co.Allocation(4, upper=100)
    accuracy = co.CumulativeSurge(0.5, 10, 0.1)(tokens)
    rows = [co.sum(tokens) <= 100, co.mean(accuracy) >= 0.4]
    solution = co.Problem(co.Maximize(co.sum(accuracy)), rows).solve("cvxpy")
    assert solution.status == "infeasible"
    endless = co.Allocation(3)
    gain = co.sum(co.CumulativeSurge(0.5, 10, 0.1)(endless))
    paid = co.Problem(co.Maximize(gain + co.sum(endless)), [endless[0] <= 5])
    assert paid.solve("cvxpy").status == "unbounded"


def test_a_time_limit_leaves_a_valid_bound() -> None:
    problem = mixed_problem(40, 5)
    solution = problem.solve("cvxpy", time_limit=1e-6)
    assert "time limit" in solution.message
    assert math.isfinite(solution.bound)
    assert solution.bound >= problem.solve("cvxpy").objective


def test_it_prints_nothing_unless_asked(capfd: pytest.CaptureFixture[str]) -> None:
    mixed_problem(8, 6).solve("cvxpy")
    assert capfd.readouterr() == ("", "")


_SLOW_IMPORT = """
import sys, time
import clearopt as co

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[2]:
            time.sleep(3)

sys.meta_path.insert(0, Slow())
tokens = co.Allocation(6, upper=100, name="tokens")
accuracy = co.CumulativeSurge([0.5, 0.6, 0.7, 0.8, 0.9, 1.0], 20, 0.1)(tokens)
problem = co.Problem(co.Maximize(co.sum(accuracy)), [co.sum(tokens) <= 150])
solution = problem.solve(solver=sys.argv[1], time_limit=2.5)
assert sys.argv[2] in sys.modules
assert solution.allocation is not None, solution.message
assert solution.seconds < 3, solution.seconds
"""


@pytest.mark.parametrize(("solver", "module"), [("cvxpy", "cvxpy"), ("scip", "pyomo.environ")])
def test_what_is_imported_is_not_counted_against_the_time_limit(solver: str, module: str) -> None:
    pytest.importorskip(module)
    command = [sys.executable, "-c", _SLOW_IMPORT, solver, module]
    subprocess.run(command, check=True, timeout=120)
