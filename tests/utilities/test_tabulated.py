"""Measured curves: reading, shape, hull, and whole problems against dynamic programming."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import ConvexHull

import clearopt as co
from clearopt.solvers.pyomo_model import build_model, steps_meant
from clearopt.solvers.relaxation import concave_envelope, implied_bounds

both = pytest.mark.parametrize("interpolation", ["linear", "step"])


def measured(rng, m, points, *, rising, most=60):
    """Whole budgets, (m, points) each."""
    grid = np.stack([np.sort(rng.choice(np.arange(1, most), points, False)) for _ in range(m)])
    values = rng.random((m, points))
    return grid, np.sort(values, axis=1) if rising else values


# ------------------------------------------------------------------ reading a table
def test_values_at_between_and_after_the_measurements():
    at = np.array([0.0, 50.0, 100.0, 150.0, 200.0, 1e6])
    linear = co.Tabulated([100, 200], [0.4, 0.2])
    assert linear.value(at) == pytest.approx([0.0, 0.2, 0.4, 0.3, 0.2, 0.2], abs=1e-15)
    step = co.Tabulated([100, 200], [0.4, 0.2], interpolation="step")
    assert step.value(at).tolist() == [0.0, 0.0, 0.4, 0.4, 0.2, 0.2]
    assert step.value(np.nextafter(100.0, 0)) == 0.0
    assert linear.marginal(at) == pytest.approx([0.004, 0.004, -0.002, -0.002, 0.0, 0.0])
    assert not step.marginal(at).any()


@both
def test_measurements_are_met_to_the_last_bit(interpolation):
    rng = np.random.default_rng(0)
    grid = np.cumsum(rng.uniform(0.01, 3, (50, 9)), axis=1)
    values = rng.random((50, 9))
    utility = co.Tabulated(grid, values, interpolation)
    for k in range(9):
        np.testing.assert_array_equal(utility.value(grid[:, k]), values[:, k])


def test_one_table_for_all_or_one_a_query():
    shared = co.Tabulated([0, 10, 20], [0.1, 0.2, 0.8]).broadcast(4)
    assert shared.grid.shape == (4, 3)
    mixed = co.Tabulated([10, 20], [[0.2, 0.8], [0.1, 0.3]])
    assert mixed.grid.tolist() == [[0, 10, 20]] * 2
    assert mixed.value(np.array([20.0, 15.0])) == pytest.approx([0.8, 0.2])
    assert repr(mixed) == "Tabulated(grid=[0 .. 20], values=[0 .. 0.8], interpolation='linear')"
    assert mixed.kind == shared.kind
    assert mixed.kind != co.Tabulated([10, 20], [0.1, 0.2], "step").kind
    assert mixed.kind != co.Tabulated([10, 20, 30], [0.1, 0.2, 0.3]).kind
    with pytest.raises(co.DeclarationError, match=r"2 rows of measurements.*5 queries"):
        mixed(co.Allocation(5, upper=9))
    with pytest.raises(ValueError, match="read-only"):
        mixed.values[0, 0] = 1.0


@pytest.mark.parametrize("interpolation", ["linear", "step"])
def test_rows_may_start_at_nothing_or_later(interpolation):
    grid, values = [[0, 20], [10, 20]], [[0.1, 0.7], [0.2, 0.6]]
    mixed = co.Tabulated(grid, values, interpolation)
    for amount in (0.0, 5.0, 10.0, 15.0, 20.0, 30.0, 50.0):
        single = [
            co.Tabulated(g, v, interpolation).value(amount)
            for g, v in zip(grid, values, strict=True)
        ]
        assert mixed.value(np.full(2, amount)) == pytest.approx(np.ravel(single), abs=1e-15)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (([10, 10], [0.1, 0.2]), r"grid\[1\] = 10.0: must be larger"),
        (([[10, 20], [10, 5]], [0.1, 0.2]), r"grid\[1, 1\] = 5.0: must be larger"),
        (([-1, 10], [0.1, 0.2]), r"grid\[0\] = -1.0: must be at least 0"),
        (([1, np.inf], [0.1, 0.2]), r"grid\[1\] = inf: must be a finite"),
        (([1, 2], [0.1, np.nan]), r"values\[1\] = nan: must be a finite"),
        (([1, 2], [-0.1, 0.5]), r"values\[0\] = -0.1: must be at least 0"),
        (([1, 2], [0.5]), r"shape \(2,\) and values \(1,\)"),
        (([[1, 2]] * 3, [[0.5, 0.6]] * 2), r"shape \(3, 2\) and values \(2, 2\)"),
        (([[[1, 2]]], [0.5, 0.6]), r"grid: .*got shape \(1, 1, 2\)"),
        (([], []), "grid: expected"),
        (([[1, 2], [1]], [0.5, 0.6]), "grid: expected numbers"),
        (("ab", [0.5, 0.6]), "grid: expected numbers"),
        (([1, 2], [0.5, 0.6], "cubic"), "interpolation = 'cubic': must be 'linear' or 'step'"),
    ],
)
def test_wrong_tables_are_refused(arguments, match):
    with pytest.raises(co.DeclarationError, match=match):
        co.Tabulated(*arguments)


# ------------------------------------------------------------------ shape
def test_a_recovery_after_the_peak_still_counts():
    # The peak is at 100, but from 150 tokens on the second hump is all there is to gain.
    utility = co.Tabulated([100, 150, 200, 300], [0.9, 0.2, 0.5, 0.1])
    assert utility.saturation_excess == 200.0
    assert utility.inflection_excess == 150.0
    assert utility.demand(1e-4) == 100.0
    assert utility.demand(1e-4, 150.0) == 200.0
    assert utility.demand(0.0) == 100.0
    tokens = co.Allocation(2, lower=[150, 0], upper=400)
    problem = co.Problem(co.Maximize(co.sum(utility(tokens))), [co.sum(tokens) <= 320])
    assert implied_bounds(problem.program)[1][0] >= 200.0
    solution = problem.solve()
    assert solution.status == "optimal"
    assert solution.objective == pytest.approx(1.4, rel=1e-9)


@both
def test_chords_equally_steep_go_to_the_longest(interpolation):
    utility = co.Tabulated([100, 200, 300, 400], [0.1, 0.2, 0.3, 0.2], interpolation)
    assert utility.break_even_tokens() == 300.0
    assert utility.break_even_price() == pytest.approx(1e-3)
    assert utility.break_even_price(250.0) == pytest.approx(1e-3)
    assert utility.demand(1e-3 * (1 - 1e-12)) == 300.0


def test_nothing_gained_is_never_bought():
    for interpolation in ("linear", "step"):
        flat = co.Tabulated([0, 100, 200], [0.5, 0.5, 0.2], interpolation)
        assert flat.break_even_price() == 0.0
        assert flat.break_even_tokens() == 0.0
        assert flat.demand(1e-9) == 0.0


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.booleans(), st.booleans())
def test_the_hull_is_the_upper_convex_hull(seed, points, step, endless):
    rng = np.random.default_rng(seed)
    grid, values = measured(rng, 3, points, rising=False)
    utility = co.Tabulated(grid, values, "step" if step else "linear")
    lower = np.where(rng.random(3) < 0.5, 0.0, rng.uniform(0, 50, 3))
    upper = np.where(endless, np.inf, lower + rng.uniform(0.5, 60, 3))
    hull = utility.hull(lower, upper)
    for i in range(3):
        top = min(upper[i], 70.0 + lower[i])
        at = np.concatenate([[lower[i], top], grid[i]])
        at = np.unique(at[(at >= lower[i]) & (at <= top)])
        single = slice(i, i + 1)
        height = np.maximum.accumulate(utility.take(single).value(at))
        # Qhull wants an area: a point far below closes the polygon.
        corners = np.column_stack([np.append(at, [at[0], at[-1]]), np.append(height, [-9, -9])])
        vertex = np.unique(ConvexHull(corners, qhull_options="QJ1e-12").vertices)
        vertex = vertex[vertex < at.size]
        expected = np.interp(at, at[vertex], height[vertex])
        np.testing.assert_allclose(hull.take(single).value(at), expected, atol=1e-8)
        slopes = np.diff(hull.take(single).value(at)) / np.diff(at)
        assert (np.diff(slopes) <= 1e-9).all()
        assert (slopes >= 0).all()


def test_the_hull_of_one_table_and_plain_numbers():
    hull = co.Tabulated([10, 20, 30], [0.1, 0.9, 0.5]).hull(0.0, np.inf)
    assert hull.value(np.array([0.0, 10.0, 20.0, 40.0])) == pytest.approx([0, 0.45, 0.9, 0.9])
    assert hull.interpolation == "linear"


def test_the_envelope_of_other_families_is_made_from_themselves():
    tokens = co.Allocation(2, upper=100.0)
    utility = co.CumulativeSurge(0.5, 10.0, 0.1)
    program = co.Problem(co.Maximize(co.sum(utility(tokens))), [co.sum(tokens) <= 50]).program
    envelope = concave_envelope(program, program.lower, program.upper)
    assert envelope.blocks[0].family is program.utilities[0].family


# ------------------------------------------------------------------ whole problems
def dynamic_program(program):
    """The optimum over whole tokens of a program with one row of ones, any sense."""
    budget = int(program.right_hand_side[0])
    total = max(budget, int(program.upper.sum()))
    best = np.where(np.arange(total + 1) == 0, 0.0, -np.inf)
    block = program.utilities[0]
    for i in range(program.n):
        amounts = np.arange(program.lower[i], program.upper[i] + 1)
        curve = block.family.take(np.full(amounts.size, np.flatnonzero(block.index == i)[0]))
        gains = program.weight[i] * curve.value(amounts) - program.cost[i] * amounts
        updated = np.full(total + 1, -np.inf)
        for tokens, gain in zip(amounts.astype(int), gains, strict=True):
            updated[tokens:] = np.maximum(updated[tokens:], best[: total + 1 - tokens] + gain)
        best = updated
    reached = {"<=": best[: budget + 1], ">=": best[budget:], "==": best[budget : budget + 1]}
    return float(reached[program.senses[0]].max())


def random_problem(seed, interpolation, *, n, rising, whole, sense="<="):
    """Whole measurements and bounds: the optimum over tokens of any kind is one over whole ones."""
    rng = np.random.default_rng([seed, n, rising, whole])
    grid, values = measured(rng, n, int(rng.integers(1, 8)), rising=rising)
    lower = np.where(rng.random(n) < 0.2, rng.integers(1, 15, n), 0)
    upper = lower + rng.integers(5, 70, n)
    tokens = co.Allocation(n, lower=lower, upper=upper, integer=whole)
    accuracy = co.Tabulated(grid, values, interpolation)(tokens)
    price = float(rng.choice([0.0, 2e-3]))
    gain = rng.uniform(0.5, 2.0, n) @ accuracy - price * co.sum(tokens)
    budget = int(lower.sum() + rng.uniform(0.1, 0.7) * (upper - lower).sum())
    total = co.sum(tokens)
    row = {"<=": total <= budget, ">=": total >= budget, "==": total == budget}[sense]
    return co.Problem(co.Maximize(gain), [row.named("budget")])


@both
@pytest.mark.parametrize("rising", [True, False])
@pytest.mark.parametrize("whole", [True, False])
def test_the_dual_finds_the_optimum_of_the_dynamic_program(interpolation, rising, whole):
    for seed in range(12):
        problem = random_problem(seed, interpolation, n=4 + seed % 5, rising=rising, whole=whole)
        best = dynamic_program(problem.program)
        solution = problem.solve()
        assert solution.status == "optimal", seed
        assert solution.objective == pytest.approx(best, rel=2e-6, abs=1e-9), seed
        assert solution.bound >= best * (1 - 1e-12) - 1e-12, seed


@both
@pytest.mark.parametrize("sense", ["==", ">="])
def test_the_dual_where_tokens_must_be_used_up(interpolation, sense):
    for seed in range(8):
        problem = random_problem(
            seed, interpolation, n=4, rising=bool(seed % 2), whole=True, sense=sense
        )
        best = dynamic_program(problem.program)
        solution = problem.solve()
        assert solution.status == "optimal", seed
        assert solution.objective == pytest.approx(best, rel=2e-6, abs=1e-9), seed
        assert solution.bound >= best - 1e-12 * abs(best) - 1e-12, seed


@both
@pytest.mark.parametrize("rising", [True, False])
@pytest.mark.parametrize("whole", [True, False])
def test_scip_finds_the_optimum_of_the_dynamic_program(interpolation, rising, whole):
    pytest.importorskip("pyscipopt")
    for seed, n in ((20, 5), (21, 8)):
        problem = random_problem(seed, interpolation, n=n, rising=rising, whole=whole)
        best = dynamic_program(problem.program)
        solution = problem.solve("scip", time_limit=20)
        assert best - 1e-9 <= solution.bound <= best * (1 + 1e-5) + 1e-9
        if interpolation == "linear" or whole:
            assert solution.status == "optimal"
            assert solution.objective == pytest.approx(best, rel=2e-6)


@both
def test_the_relaxation_bounds_the_optimum(interpolation):
    pytest.importorskip("cvxpy")
    for seed in (30, 31):
        problem = random_problem(seed, interpolation, n=6, rising=False, whole=False)
        best = dynamic_program(problem.program)
        dual, relaxed = problem.solve(), problem.solve("cvxpy")
        assert relaxed.objective <= best + 1e-9
        assert best - 1e-9 <= relaxed.bound
        assert dual.objective == pytest.approx(best, rel=2e-6)


@pytest.mark.parametrize("whole", [False, True])
def test_a_model_of_steps_chooses_one_and_counts_the_larger_value_at_a_jump(whole):
    pyo = pytest.importorskip("pyomo.environ")
    tokens = co.Allocation(1, upper=30.0, integer=whole)
    utility = co.Tabulated([10, 20], [0.7, 0.3], "step")
    tied = co.Allocation(1, upper=30.0)  # so that the row is no bound, and cuts none of the steps
    row = co.sum(tokens) + co.sum(tied) == 30.0
    problem = co.Problem(co.Maximize(co.sum(utility(tokens))), [row])
    model = build_model(problem.program)

    def allows(amount, step, reached):
        model.tokens[0].set_value(amount)
        model.utility[0].set_value(reached)
        for k, binary in model.chosen_step.items():
            binary.set_value(int(k == step))
        ties = [*model.steps.values(), model.is_utility[0]]
        return all(pyo.value(tie.slack()) >= -1e-12 for tie in ties)

    assert len(model.chosen_step) == 3
    assert not allows(9, 2, 0.7)
    assert allows(10, 2, 0.7)
    assert not allows(10, 2, 0.8)
    assert not allows(10, 3, 0.3)
    assert allows(19, 2, 0.7)
    assert allows(20, 2, 0.7) == (not whole)
    assert not allows(21, 2, 0.7)
    assert allows(21, 3, 0.3)


def test_steps_missed_by_a_solvers_tolerance_are_taken_for_reached():
    tokens = co.Allocation(5, upper=400.0)
    utility = co.Tabulated([100, 200, 300], [0.4, 0.7, 0.1], "step")
    program = co.Problem(co.Maximize(co.sum(utility(tokens))), [co.sum(tokens) <= 400]).program
    close = np.array([200.0 - 1e-8, 99.0, 100.0 + 1e-8, 300.0, 301.0])
    lower, upper = steps_meant(program, close)
    assert lower.tolist() == [200.0, 0.0, 100.0, 0.0, 300.0]
    assert upper.tolist() == [400.0, 400.0, 400.0, np.nextafter(300.0, 0), 400.0]
