"""From the declaration to the arrays of `Program`: rows, floors, bounds, and what each is for."""

import re
import time

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import clearopt as co

N = 6
FAMILY = co.CumulativeSurge(scale=0.8, threshold=5.0, rate=0.1)


@pytest.fixture
def tokens():
    return co.Allocation(N, lower=1, upper=50, name="tokens")


def program_of(objective, *constraints):
    return co.Problem(co.Maximize(objective), constraints).program


# ------------------------------------------------------------------ the objective
def test_weights_costs_and_offset(tokens):
    weights = np.arange(1.0, 7.0)
    p = program_of(co.sum(weights * FAMILY(tokens)) - 0.01 * co.sum(tokens) + 3)
    np.testing.assert_array_equal(p.weight, weights)
    np.testing.assert_array_equal(p.cost, np.full(N, 0.01))
    assert p.offset == 3.0
    x = np.linspace(1, 50, N)
    assert p.objective(x) == pytest.approx(
        weights @ FAMILY.value(x) - 0.01 * x.sum() + 3, rel=1e-14
    )


def test_a_mean_is_a_weighted_sum(tokens):
    p = program_of(co.mean(FAMILY(tokens)))
    np.testing.assert_allclose(p.weight, 1 / N)


def test_queries_without_a_utility_have_value_zero(tokens):
    p = program_of(co.sum(FAMILY(tokens[:2])))
    assert p.weight.tolist() == [1, 1, 0, 0, 0, 0]
    assert p.utility(np.full(N, 50.0))[2:].tolist() == [0.0] * 4


def test_families_mix_in_one_problem(tokens):
    easy = np.array([True, False] * 3)
    other = co.ShiftedSurge(scale=0.5, threshold=2.0, rate=0.05)
    p = program_of(co.sum(FAMILY(tokens[easy])) + 2 * co.sum(other(tokens[~easy])))
    assert [type(b.family).__name__ for b in p.utilities] == ["CumulativeSurge", "ShiftedSurge"]
    assert [b.index.tolist() for b in p.utilities] == [[0, 2, 4], [1, 3, 5]]
    x = np.linspace(1, 50, N)
    expected = np.where(easy, FAMILY.value(x), other.value(x))
    np.testing.assert_array_equal(p.utility(x), expected)
    np.testing.assert_array_equal(p.weight, np.where(easy, 1.0, 2.0))


# ------------------------------------------------------------------ rows
def test_rows_keep_their_order_sense_and_place(tokens):
    kv = np.arange(1.0, 7.0)
    matrix = sp.random_array((2, N), density=0.5, rng=np.random.default_rng(1), format="csr")
    p = program_of(
        co.sum(FAMILY(tokens)),
        (co.sum(tokens) <= 100).named("budget"),
        (kv @ tokens <= 900).named("kv"),
        (co.sum(tokens, by=list("aabbcc")) >= {"c": 3, "b": 2, "a": 2}).named("least"),
        (matrix @ tokens == matrix @ np.full(N, 10.0)).named("two"),
    )
    expected = np.vstack([np.ones(N), kv, np.kron(np.eye(3), np.ones(2)), matrix.toarray()])
    np.testing.assert_array_equal(p.rows.toarray(), expected)
    assert p.senses == ("<=", "<=", ">=", ">=", ">=", "==", "==")
    np.testing.assert_allclose(p.right_hand_side, [100, 900, 2, 2, 3, *(matrix @ np.full(N, 10.0))])
    assert [(g.name, g.kind, g.first, g.count, g.scalar) for g in p.constraints] == [
        ("budget", "row", 0, 1, True),
        ("kv", "row", 1, 1, True),
        ("least", "row", 2, 3, False),
        ("two", "row", 5, 2, False),
    ]
    assert p.constraints[2].labels == ("a", "b", "c")


def test_floors(tokens):
    accuracy = FAMILY(tokens)
    p = program_of(
        co.sum(accuracy),
        (co.mean(accuracy, by=list("aaabbb")) >= {"a": 0.3, "b": 0.2}).named("fair"),
        (accuracy[2] >= 0.1).named("one"),
        co.sum(tokens) <= 200,
        (np.array([1.0, 0, 0, 0, 0, 2]) @ accuracy >= 0.5).named("weighted"),
    )
    third = 1 / 3
    expected = [
        [third] * 3 + [0] * 3,
        [0] * 3 + [third] * 3,
        [0, 0, 1, 0, 0, 0],
        [1, 0, 0, 0, 0, 2],
    ]
    np.testing.assert_allclose(p.floors.toarray(), expected)
    assert p.floor_levels.tolist() == [0.3, 0.2, 0.1, 0.5]
    assert [(g.name, g.kind, g.first) for g in p.constraints] == [
        ("fair", "floor", 0),
        ("one", "floor", 2),
        ("constraint 2", "row", 0),
        ("weighted", "floor", 3),
    ]


def test_an_infinite_limit_is_no_row_and_its_price_is_zero(tokens):
    p = program_of(
        co.sum(FAMILY(tokens)),
        (co.sum(tokens, by=list("aabbcc")) <= {"a": np.inf, "b": 30, "c": np.inf}).named("cap"),
        (np.tri(3, N, 1)[1:] @ tokens <= [np.inf, 20]).named("pair"),
        (co.sum(tokens) <= np.inf).named("budget"),
        (co.mean(FAMILY(tokens)) >= -np.inf).named("floor"),
    )
    assert p.rows.shape[0] == 2
    assert p.right_hand_side.tolist() == [30.0, 20.0]
    assert p.floors.shape[0] == 0
    from clearopt.assemble import make_solution

    solution = make_solution(
        p,
        solver="test",
        seconds=0.0,
        allocation=p.lower,
        row_prices=np.array([0.5, 0.25]),
        floor_prices=np.zeros(0),
    )
    assert solution.prices["cap"] == {"a": 0.0, "b": 0.5, "c": 0.0}
    assert solution.prices["pair"].tolist() == [0.0, 0.25]
    assert solution.prices["budget"] == 0.0
    assert solution.prices["floor"] == 0.0


# ------------------------------------------------------------------ bounds
def test_limits_on_single_queries_are_bounds_not_rows(tokens):
    vip = np.array([False, True, True, False, False, False])
    p = program_of(
        co.sum(FAMILY(tokens)),
        tokens[vip] >= 16,
        tokens <= [50, 40, 60, 50, 50, 50],
        2 * tokens[3] + 1 <= 21,
        -tokens[4] >= -30,
        tokens[5] == 7,
    )
    assert p.rows.shape[0] == 0
    assert p.lower.tolist() == [1, 16, 16, 1, 1, 7]
    assert p.upper.tolist() == [50, 40, 50, 10, 30, 7]


def test_a_sum_is_a_row_even_over_one_query():
    tokens = co.Allocation(1, upper=9)
    p = program_of(co.sum(FAMILY(tokens)), (co.sum(tokens) <= 5).named("budget"))
    assert p.rows.shape[0] == 1
    p = program_of(co.sum(FAMILY(tokens)), (np.ones(1) @ tokens <= 5).named("budget"))
    assert p.rows.shape[0] == 1


def test_a_matrix_or_groups_with_one_query_a_row_are_bounds(tokens):
    matrix = np.zeros((3, N))
    matrix[0, 1], matrix[1, 3] = 2.0, -1.0  # the last row charges nobody
    p = program_of(
        co.sum(FAMILY(tokens)),
        (matrix @ tokens <= [50, -5, 3]).named("matrix"),
        (matrix[:2] @ tokens[:] == [40, -7]).named("pinned"),
        (co.sum(tokens, by=range(N)) <= dict(enumerate([9, np.inf, 8, 20, 20, 20]))).named("own"),
    )
    assert p.rows.shape[0] == 0
    assert p.upper.tolist() == [9, 20, 8, 7, 20, 20]
    assert p.lower.tolist() == [1, 20, 1, 7, 1, 1]
    solution = co.Problem.from_program(p).solve()
    assert solution.status == "optimal"
    assert solution.prices["matrix"].tolist() == [0, 0, 0]
    pinned, own = solution.prices["pinned"], solution.prices["own"]
    assert list(own) == list(range(N))
    assert own[1] == 0 < own[0]
    slope = FAMILY.broadcast(N).marginal(solution.allocation)
    assert own[4] == pytest.approx(slope[4], rel=1e-9)
    assert pinned == pytest.approx([slope[1] / 2, -slope[3]], rel=1e-9, abs=1e-12)
    # A row of several queries among them: rows, all of them.
    matrix[2, :2] = 1.0
    p = program_of(co.sum(FAMILY(tokens)), matrix @ tokens <= [50, -5, 3])
    assert p.rows.shape[0] == 3


def test_what_limits_nobody_holds_or_is_refused(tokens):
    accuracy, nobody = FAMILY(tokens), np.zeros(N, dtype=bool)
    vacuous = [
        tokens[nobody] >= 5,
        tokens[[]] == 5,
        co.sum(tokens[nobody]) <= 5,
        np.zeros((2, N)) @ tokens >= [0, -1],
        co.sum(tokens[nobody], by=[]) <= {},
        accuracy[nobody] >= 0.5,
        FAMILY(tokens[nobody]) >= 0.5,
        co.sum(FAMILY(tokens[nobody])) >= 0,
        co.at_most_one(tokens[nobody], co.Allocation(3, upper=9, name="other")[[]]),
    ]
    budget = (co.sum(tokens) <= 100).named("budget")
    total = co.sum(accuracy) + co.sum(co.Hill(np.zeros(0), 10, 2)(tokens[nobody]))
    problem = co.Problem(co.Maximize(total), [budget, *vacuous])
    assert problem.program.rows.shape[0] == 1
    assert problem.program.floors.shape[0] == 0
    solution = problem.solve()
    alone = co.Problem(co.Maximize(co.sum(accuracy)), [budget]).solve()
    assert solution.objective == alone.objective
    assert solution.prices["constraint 1"].shape == (0,)
    assert solution.prices["constraint 3"] == 0.0
    assert solution.prices["constraint 4"].tolist() == [0.0, 0.0]
    assert solution.prices["constraint 5"] == {}
    assert "no limit" in str(problem.explain())
    for broken, where in (
        (co.sum(tokens[nobody]) >= 5, "constraint 0: `sum(tokens[...]) >= 5`"),
        (np.zeros((2, N)) @ tokens <= [1, -1], "constraint 0[1]"),
        (co.sum(FAMILY(tokens[nobody])) >= 0.5, "left side is 0, which is not >= 0.5"),
    ):
        with pytest.raises(co.DeclarationError, match=re.escape(where)):
            program_of(co.sum(accuracy), broken)
    with pytest.raises(co.DeclarationError, match="nothing has no mean"):
        co.mean(tokens[nobody])


def test_bounds_that_cross_name_where_they_are_from():
    tokens = co.Allocation(3, lower=29, upper=150, semicontinuous=True, integer=True, name="tokens")
    for constraints, pieces in (
        ([(tokens[0] == 25).named("pin")],
         "at least 29 (its least amount where it gets any, as pin: `tokens[0] == 25` demands), "
         "and at most 25 (from pin: `tokens[0] == 25`)"),
        ([tokens[0] >= 40, (tokens <= 35).named("cap")],
         "at most 35, below its lower bound of 40 tokens (from constraint 0: `tokens[0] >= 40`)"),
        ([(tokens <= 35).named("cap"), tokens[0] >= 40],
         "above its upper bound of 35 tokens (from cap: `tokens <= 35`)"),
        ([tokens[0] >= 30.2, tokens[0] <= 30.8],
         "at least 31 (from constraint 0: `tokens[0] >= 30.2`), and at most 30 (from constraint 1"),
    ):  # fmt: skip
        with pytest.raises(co.DeclarationError, match=re.escape(pieces)):
            program_of(co.sum(FAMILY(tokens)), *constraints)


def test_bounds_of_whole_tokens_are_whole():
    tokens = co.Allocation(3, lower=0.5, upper=9.7, integer=[True, False, True])
    p = program_of(co.sum(FAMILY(tokens)), 0.1 * tokens[2] <= 0.3)
    assert p.lower.tolist() == [1.0, 0.5, 1.0]
    # 0.3 / 0.1 is 2.9999999999999996: the limit meant is 3.
    assert p.upper.tolist() == [9.0, 9.7, 3.0]


def test_a_row_that_relates_two_queries_is_a_row(tokens):
    p = program_of(co.sum(FAMILY(tokens)), tokens[0] <= tokens[1], tokens[:2] >= tokens[2:4])
    np.testing.assert_array_equal(
        p.rows.toarray(),
        [[1, -1, 0, 0, 0, 0], [1, 0, -1, 0, 0, 0], [0, 1, 0, -1, 0, 0]],
    )
    assert p.senses == ("<=", ">=", ">=")


# ------------------------------------------------------------------ several allocations
def test_several_allocations_stand_one_after_the_other():
    think, answer = (
        co.Allocation(3, upper=50, name="think"),
        co.Allocation(2, upper=9, name="answer"),
    )
    problem = co.Problem(
        co.Maximize(co.sum(FAMILY(think)) + co.sum(FAMILY(answer))),
        [co.sum(think) + 2 * co.sum(answer) <= 60, answer >= 4],
    )
    assert problem.allocations == (think, answer)
    p = problem.program
    assert p.rows.toarray().tolist() == [[1, 1, 1, 2, 2]]
    assert p.lower.tolist() == [0, 0, 0, 4, 4]
    assert [b.index.tolist() for b in p.utilities] == [[0, 1, 2], [3, 4]]


# ------------------------------------------------------------------ the same thing said twice
def test_the_same_utility_may_be_named_twice(tokens):
    p = program_of(co.sum(FAMILY(tokens)), co.mean(FAMILY(tokens)) >= 0.1)
    assert len(p.utilities) == 1
    p = program_of(co.sum(FAMILY(tokens)) + co.sum(FAMILY(tokens)))
    assert p.weight.tolist() == [2.0] * N


def _left_sides(program, group, x):
    """What a constraint comes to: a row, or the bounds that rows over one query become."""
    if group.bounds is not None:
        return group.bounds.factor * x[group.bounds.query]
    return (program.rows @ x)[group.rows]


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_random_declarations_evaluate_like_numpy(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    n = int(rng.integers(1, 8))
    tokens = co.Allocation(n, upper=1e6)
    family = co.ShiftedSurge(
        scale=rng.uniform(0, 1, n), threshold=rng.uniform(0, 9, n), rate=rng.uniform(0.01, 1, n)
    )
    accuracy, x = family(tokens), rng.uniform(0, 60, n)
    weights, by = rng.uniform(0, 3, n), rng.integers(0, 3, n)
    matrix = rng.normal(size=(2, n))
    p = program_of(
        co.sum(weights * accuracy) - co.sum(rng.uniform(size=n) * 0.0 * tokens),
        matrix @ tokens <= matrix @ x + 1,
        co.sum(weights * tokens, by=by) <= 1e7,
        co.sum(accuracy, by=by) >= 0,
    )
    groups = list(dict.fromkeys(by.tolist()))
    activity = np.concatenate([matrix @ x, [np.sum((weights * x)[by == g]) for g in groups]])
    sides = [_left_sides(p, group, x) for group in p.constraints if group.kind != "floor"]
    np.testing.assert_allclose(np.concatenate(sides), activity, rtol=1e-12, atol=1e-12)
    value = family.value(x)
    np.testing.assert_allclose(p.floors @ p.utility(x), [value[by == g].sum() for g in groups])
    assert p.objective(x) == pytest.approx(weights @ value, rel=1e-12, abs=1e-15)


@pytest.mark.slow
def test_a_million_queries_compile_in_seconds():
    n = 1_000_000
    rng = np.random.default_rng(0)
    tenant, vip = rng.integers(0, 1000, n), rng.random(n) < 0.01
    started = time.process_time()
    tokens = co.Allocation(n, upper=4096, integer=True)
    accuracy = co.CumulativeSurge(
        scale=rng.uniform(0.1, 1, n),
        threshold=rng.uniform(0, 500, n),
        rate=rng.uniform(0.001, 0.1, n),
    )(tokens)
    co.Problem(
        co.Maximize(co.sum(rng.random(n) * accuracy)),
        [
            co.sum(tokens) <= 4e8,
            co.sum(tokens, by=tenant) <= 1e9,
            co.mean(accuracy, by=tenant) >= 1e-4,
            tokens[vip] >= 256,
        ],
    )
    assert (
        time.process_time() - started < 20.0
    )  # about 3 s; a Python loop over queries takes minutes
