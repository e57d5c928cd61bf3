"""Infeasible problems name the constraints that conflict, as few as can be, and their misses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import clearopt as co
from clearopt.program import ConstraintGroup, CurveBlock, Program, UtilityBlock
from clearopt.solvers.conflict import Conflict, find_conflict, infeasibility_message
from clearopt.solvers.tangents import Box
from clearopt.utilities import CumulativeSurge, ExpectedTokens, Hill, ShiftedSurge, Tabulated

TENANT = np.array(["acme", "acme", "globex", "globex", "initech", "initech"])


def declared(n: int, constraints: Callable[[Any, Any], list[Any]], **allocation: Any) -> Program:
    tokens = co.Allocation(n, **allocation)
    accuracy = co.CumulativeSurge(0.9, 50.0, 0.05)(tokens)
    return co.Problem(co.Maximize(co.sum(accuracy)), constraints(tokens, accuracy)).program


def named(conflict: Conflict | None) -> list[Any]:
    assert conflict is not None
    assert conflict.irreducible
    return [m.name if m.entry is None else (m.name, m.entry) for m in conflict.members]


def amounts(of: Any) -> dict[str, float]:
    return {member.name: amount for member, amount in of.items()}


# ------------------------------------------------------------------------------ what is named
def test_two_rows() -> None:
    program = declared(
        4,
        lambda t, a: [
            (co.sum(t) <= 500).named("budget"),
            (co.sum(t) >= 632.5).named("use"),
            (t[0] + t[1] >= 10).named("harmless"),
        ],
    )
    conflict = find_conflict(program)
    assert named(conflict) == ["budget", "use"]
    assert conflict is not None
    assert sum(conflict.missed_by.values()) == pytest.approx(132.5)
    assert amounts(conflict.relief) == pytest.approx({"budget": 132.5, "use": 132.5})
    message = conflict.message
    for part in ("'budget' (sum(", "<= 500) and 'use'", "cannot hold together", "by 132.5",
                 "Raise 'budget' by at least 132.5 or lower 'use' by at least 132.5"):  # fmt: skip
        assert part in message, message
    assert conflict.discrete == ()


def test_a_floor_that_its_budget_cannot_pay() -> None:
    def build(*which: str) -> Program:
        return declared(
            6,
            lambda t, a: [
                c
                for c in (
                    (co.sum(t) <= 300).named("budget"),
                    (co.mean(a) >= 0.8).named("floor"),
                    (co.sum(t, by=TENANT) <= 1e6).named("cap"),
                )
                if c.name in which
            ],
        )

    conflict = find_conflict(build("budget", "floor", "cap"))
    assert named(conflict) == ["budget", "floor"]
    assert find_conflict(build("floor", "cap")) is None
    assert find_conflict(build("budget", "cap")) is None
    # All six are alike, and the envelope is concave: the relaxation serves each with a sixth.
    utility = CumulativeSurge(0.9, 50.0, 0.05)
    slope = float(utility.break_even_price())
    assert conflict is not None
    relief = amounts(conflict.relief)
    assert relief["floor"] == pytest.approx(0.8 - 50 * slope, rel=1e-4)
    assert float(utility.value((300 + relief["budget"]) / 6)) == pytest.approx(0.8, rel=1e-4)


def test_only_the_tenant_that_cannot_is_named() -> None:
    program = declared(
        6,
        lambda t, a: [
            (co.sum(t, by=TENANT) <= {"acme": 300, "globex": 100, "initech": 300}).named("cap"),
            (co.mean(a, by=TENANT) >= 0.5).named("floor"),
            (co.sum(t) <= 1500).named("budget"),
        ],
    )
    conflict = find_conflict(program)
    assert named(conflict) == [("cap", "globex"), ("floor", "globex")]
    assert conflict is not None
    assert "'cap'['globex'] (sum(" in conflict.message
    assert "<= 100)" in conflict.message


def test_a_position_counts_the_entries_without_a_limit() -> None:
    program = declared(
        3,
        lambda t, a: [
            (np.eye(3) @ t + co.sum(t) <= [np.inf, 50, np.inf]).named("caps"),
            (t[1] + 0 * t[0] + t[2] >= 70).named("demand"),
        ],
    )
    assert named(find_conflict(program)) == [("caps", 1), "demand"]


def test_three_that_conflict_though_any_two_agree() -> None:
    rows = {
        "x": lambda t: t[0] + t[1] <= 10,
        "y": lambda t: t[1] + t[2] <= 10,
        "z": lambda t: co.sum(t) >= 21,
        "idle": lambda t: t[0] - t[2] <= 5,
    }

    def build(*names: str) -> Program:
        return declared(3, lambda t, a: [rows[k](t).named(k) for k in names], upper=20)

    conflict = find_conflict(build("x", "y", "z", "idle"))
    assert named(conflict) in (["x", "y", "z"], ["x", "z", "idle"], ["y", "z", "idle"])
    assert named(find_conflict(build("x", "y", "z"))) == ["x", "y", "z"]
    for pair in (("x", "y"), ("x", "z"), ("y", "z")):
        assert find_conflict(build(*pair)) is None


def test_many_floors_under_one_budget_are_named_as_one_constraint() -> None:
    n = 54
    program = declared(
        n,
        lambda t, a: [
            (co.sum(t) <= 60 * n).named("budget"),
            (co.mean(a, by=np.arange(n)) >= 0.7).named("floor"),
        ],
    )
    conflict = find_conflict(program)
    assert conflict is not None
    names = {member.name for member in conflict.members}
    assert names == {"budget", "floor"}
    assert "cannot hold together" in conflict.message
    assert len(conflict.message) < 500


# ------------------------------------------------------------------------------------- bounds
def with_vips(budget: float) -> Program:
    program = declared(
        6,
        lambda t, a: [
            (t[:3] >= 256).named("vip"),
            (t <= 1000).named("at most"),
            (co.sum(t) <= 5000).named("budget"),
        ],
    )
    lower, upper = np.zeros(6), np.full(6, np.inf)
    level = np.array([budget])
    return replace(program, right_hand_side=level, declared_lower=lower, declared_upper=upper)


def test_a_constraint_that_became_bounds_takes_part() -> None:
    conflict = find_conflict(with_vips(500))
    assert named(conflict) == ["vip", "budget"]
    assert conflict is not None
    assert amounts(conflict.missed_by) == pytest.approx({"vip": 0.0, "budget": 3 * 256 - 500})
    assert "oosen 'vip'" in conflict.message


def test_bounds_of_unknown_origin_count_as_given() -> None:
    program = replace(with_vips(500), declared_lower=np.zeros(0), declared_upper=np.zeros(0))
    assert named(find_conflict(program)) == ["budget"]


def test_bounds_that_cross() -> None:
    program = with_vips(5000)
    groups = tuple(
        replace(g, bounds=replace(g.bounds, level=np.full(6, 100.0)))
        if g.name == "at most" and g.bounds is not None
        else g
        for g in program.constraints
    )
    crossed = replace(program, upper=np.full(6, 100.0), constraints=groups)
    conflict = find_conflict(crossed)
    assert named(conflict) == ["vip", "at most"]
    assert conflict is not None
    assert sum(conflict.missed_by.values()) == pytest.approx(156)


def test_an_upper_bound_keeps_a_floor_out_of_reach() -> None:
    program = declared(
        4,
        lambda t, a: [
            (t <= 100).named("at most"),
            (co.mean(a) >= 0.5).named("floor"),
            (co.sum(t) <= 1e5).named("budget"),
        ],
    )
    conflict = find_conflict(replace(program, floor_levels=np.array([0.7])))
    assert named(conflict) == ["at most", "floor"]
    assert conflict is not None
    best = float(CumulativeSurge(0.9, 50.0, 0.05).value(100.0))
    assert amounts(conflict.relief)["floor"] == pytest.approx(0.7 - best)


# ------------------------------------------------------------------------------- whole tokens
def test_whole_tokens() -> None:
    constraints: Callable[[Any, Any], list[Any]] = lambda t, a: [  # noqa: E731
        (2 * t[0] + 2 * t[1] == 3).named("odd"),
        (co.sum(t) <= 100).named("budget"),
    ]
    assert find_conflict(declared(2, constraints)) is None
    conflict = find_conflict(declared(2, constraints, integer=True))
    assert named(conflict) == ["odd"]
    assert conflict is not None
    assert conflict.discrete == ("whole tokens",)
    assert sum(conflict.missed_by.values()) == pytest.approx(1)
    assert "whole tokens" in conflict.message


def test_a_least_amount_that_may_be_declined() -> None:
    program = declared(
        3,
        lambda t, a: [
            (co.sum(t) <= 90).named("budget"),
            (co.sum(t) >= 30).named("use"),
        ],
        upper=200,
    )
    program = replace(program, lower=np.full(3, 100.0), semicontinuous=np.ones(3, dtype=bool))
    conflict = find_conflict(program)
    assert named(conflict) == ["budget", "use"]
    assert conflict is not None
    assert conflict.discrete == ("queries that get nothing or their least amount",)
    assert find_conflict(replace(program, lower=np.full(3, 80.0))) is None


def test_one_of_two_options_cannot_do_the_work_of_both() -> None:
    program = declared(4, lambda t, a: [(co.sum(a) >= 2.5).named("floor")], upper=np.full(4, 400.0))
    assert find_conflict(program) is None
    chosen = replace(program, choice=np.array([0, 0, 1, 1]))
    conflict = find_conflict(chosen)
    assert named(conflict) == ["floor"]
    best = 2 * float(CumulativeSurge(0.9, 50.0, 0.05).value(400.0))
    assert conflict is not None
    assert sum(conflict.missed_by.values()) == pytest.approx(2.5 - best, rel=1e-6)
    assert find_conflict(replace(chosen, floor_levels=np.array([0.999 * best]))) is None


# -------------------------------------------------------------------------------- cost curves
def with_curves(level: float, sense: Any, floor: float) -> Program:
    """Four queries whose realised cost is limited, and a mean accuracy that is promised."""
    n = 4
    family = CumulativeSurge(0.9, np.full(n, 50.0), np.full(n, 0.05))
    curve = ExpectedTokens(np.full(n, 20.0), np.full(n, 0.02), np.ones(n))
    every = np.arange(n)
    return Program(
        weight=np.ones(n), cost=np.zeros(n), lower=np.zeros(n), upper=np.full(n, 1000.0),
        integer=np.zeros(n, dtype=bool), utilities=(UtilityBlock(family, every),),
        rows=sparse.csr_array((1, n)), senses=(sense,), right_hand_side=np.array([level]),
        floors=sparse.csr_array(np.full((1, n), 1 / n)), floor_levels=np.array([floor]),
        constraints=(ConstraintGroup("realised", "row", 0, 1),
                     ConstraintGroup("floor", "floor", 0, 1)),
        curves=(CurveBlock(curve, every),), curve_rows=sparse.csr_array(np.ones((1, n))),
    )  # fmt: skip


def test_a_budget_on_realised_tokens() -> None:
    most = 4 * float(ExpectedTokens(20.0, 0.02).value(1000.0))
    conflict = find_conflict(with_curves(0.2 * most, "<=", 0.899))
    assert named(conflict) == ["realised", "floor"]
    assert find_conflict(with_curves(1.1 * most, "<=", 0.899)) is None
    # Costs lie below their tangents: no more can be spent than C(1000) each.
    conflict = find_conflict(with_curves(1.01 * most, ">=", 0.1))
    assert named(conflict) == ["realised"]
    assert conflict is not None
    assert sum(conflict.missed_by.values()) == pytest.approx(0.01 * most, rel=1e-4)
    assert find_conflict(with_curves(0.999 * most, ">=", 0.1)) is None


# ---------------------------------------------------------------------------------- properties
def curve(family: Any, n: int, rng: np.random.Generator) -> Any:
    if family is Tabulated:  # steps, of no particular shape
        return Tabulated([0, 10, 50, 120, 300], [0, 0.1, 0.15, 0.6, 0.7], "step").broadcast(n)
    if family is Hill:
        return Hill(rng.uniform(0.2, 1, n), rng.uniform(10, 80, n), rng.uniform(0.6, 3, n))
    return family(rng.uniform(0.2, 1, n), rng.uniform(0, 80, n), 10 ** rng.uniform(-2, 0, n))


@pytest.mark.parametrize("family", [CumulativeSurge, ShiftedSurge, Hill, Tabulated])
def test_tangents_hold_and_touch(family: Any) -> None:
    rng = np.random.default_rng(1)
    n = 12
    utility = curve(family, n, rng)
    program = declared(n, lambda t, a: [co.sum(t) <= 1000])
    program = replace(program, utilities=(UtilityBlock(utility, np.arange(n)),))
    lower, upper = rng.uniform(0, 60, n), rng.uniform(60, 400, n)
    grid = np.linspace(lower, upper, 4001)
    values = np.array([utility.value(row) for row in grid])
    box = Box(program, lower, upper)
    for query, slope, height in zip(box.query, box.slope, box.height, strict=True):
        assert (values[:, query] <= height + slope * grid[:, query] + 1e-12).all()
    for share in (0.001, 0.2, 0.7, 1.0):
        at = lower + share * (upper - lower)
        height, slope = box.tangents(at)
        assert (values <= height + slope * grid + 1e-10).all()
        # Tokens need not be used up: past its peak the envelope stays there.
        best = np.maximum.accumulate(values)
        for i in range(n):
            hull = _upper_hull(grid[:, i], best[:, i], at[i])
            assert height[i] + slope[i] * at[i] == pytest.approx(hull, abs=3e-3)


def _upper_hull(x: np.ndarray, y: np.ndarray, at: float) -> float:
    hull: list[int] = []
    for i in range(x.size):
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            if (y[b] - y[a]) * (x[i] - x[a]) <= (y[i] - y[a]) * (x[b] - x[a]):
                hull.pop()
            else:
                break
        hull.append(i)
    return float(np.interp(at, x[hull], y[hull]))


def random_problem(seed: int, *, whole: bool) -> co.Problem:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 15))
    tenant = rng.integers(0, 3, n)
    tokens = co.Allocation(n, upper=1000, integer=whole)
    utility = co.CumulativeSurge(
        rng.uniform(0.3, 1, n), rng.uniform(5, 80, n), 10 ** rng.uniform(-2, 0, n)
    )
    accuracy = utility(tokens)
    reach = utility.value(np.full(n, 1000.0))
    floors = [0.9 * rng.uniform() * reach[tenant == g].mean() for g in np.unique(tenant)]
    constraints = [
        (co.sum(tokens) <= 10 ** rng.uniform(1, 3.7)).named("budget"),
        (co.sum(tokens, by=tenant) <= 10 ** rng.uniform(1, 3.5)).named("cap"),
        (co.mean(accuracy, by=tenant)
         >= dict(zip(np.unique(tenant).tolist(), floors, strict=True))).named("floor"),
        (rng.uniform(0, 2, n) @ tokens >= rng.uniform(1, 500)).named("demand"),
        (tokens[: n // 2] <= rng.uniform(20, 1000)).named("limit"),
    ]  # fmt: skip
    return co.Problem(co.Maximize(co.sum(accuracy)), constraints)


def build(seed: int, *, whole: bool) -> co.Problem | None:
    try:
        return random_problem(seed, whole=whole)
    except co.DeclarationError:  # out of reach of the bounds alone: refused before
        return None


@pytest.mark.parametrize("start", [0, 12])
@pytest.mark.parametrize("whole", [False, True])
def test_never_a_conflict_where_there_is_an_allocation(whole: bool, start: int) -> None:
    solved = 0
    for seed in range(start, start + 4):
        problem = build(seed, whole=whole)
        if problem is None:
            continue
        solution = problem.solve(time_limit=0.3)
        if solution.allocation is not None:
            solved += 1
            conflict = find_conflict(problem.program)
            assert conflict is None, (seed, conflict.message)
    assert solved >= 1


def without(program: Program, conflict: Conflict, dropped: Any | None) -> Program:
    """The program with the members of the conflict alone, and without one of them."""
    kept = [member for member in conflict.members if member is not dropped]
    rows, floors, groups = [], [], []
    lower, upper = program.declared_lower.copy(), program.declared_upper.copy()
    for group in program.constraints:
        for member in kept:
            if member.name != group.name:
                continue
            if group.bounds is not None:
                assert group.bounds.sense == "<="
                np.minimum.at(upper, group.bounds.query, group.bounds.level)
                groups.append(group)
                continue
            entries = range(group.count)
            if member.entry is not None:
                assert group.labels is not None
                entries = [group.labels.index(member.entry)]
            target = rows if group.kind == "row" else floors
            target.extend(group.first + e for e in entries)
    return replace(
        program,
        rows=sparse.csr_array(program.rows[rows]),
        senses=tuple(program.senses[k] for k in rows),
        right_hand_side=program.right_hand_side[rows],
        floors=sparse.csr_array(program.floors[floors]),
        floor_levels=program.floor_levels[floors],
        curve_rows=sparse.csr_array((len(rows), program.n)),
        constraints=tuple(groups),
        lower=lower,
        upper=upper,
    )


@pytest.mark.parametrize("start", [2, 22])
def test_every_member_is_needed_and_together_they_conflict(start: int) -> None:
    found = set()
    for seed in range(start, start + 4):
        problem = build(seed, whole=False)
        conflict = None if problem is None else find_conflict(problem.program)
        if problem is None or conflict is None:
            continue
        assert conflict.irreducible
        found.add(frozenset(member.name for member in conflict.members))
        again = find_conflict(without(problem.program, conflict, None))
        assert again is not None, seed
        assert len(again.members) == len(conflict.members)
        for member in conflict.members:
            rest = find_conflict(without(problem.program, conflict, member))
            assert rest is None, (seed, member)
    assert found


@settings(max_examples=12, deadline=None)
@given(
    level=st.floats(1e-3, 1e9),
    miss=st.sampled_from([1e-9, 1e-8, 1e-5, 1e-2, 0.5]),
)
def test_what_is_missed_by_a_rounding_error_is_no_conflict(level: float, miss: float) -> None:
    program = declared(
        3, lambda t, a: [(co.sum(t) <= level).named("a"), (co.sum(t) >= 0.9 * level).named("b")]
    )
    program = replace(program, right_hand_side=np.array([level, level * (1 + miss)]))
    conflict = find_conflict(program)
    assert (conflict is None) == (miss < 1e-7)
    if conflict is not None:
        assert sum(conflict.missed_by.values()) == pytest.approx(miss * level, rel=1e-3)


# ------------------------------------------------------------------------------------- the rest
def test_rows_without_a_name_are_numbered() -> None:
    program = declared(3, lambda t, a: [co.sum(t) <= 50, co.sum(t) >= 60])
    conflict = find_conflict(replace(program, constraints=()))
    assert named(conflict) == ["row 0", "row 1"]


def test_the_message_alone() -> None:
    rows: Callable[[Any, Any], list[Any]] = lambda t, a: [  # noqa: E731
        (co.sum(t) <= 50).named("budget"), (co.sum(t) >= 60).named("use")]  # fmt: skip
    message = infeasibility_message(declared(3, rows), 5.0)
    assert message is not None
    assert message.startswith("'budget' (")
    assert infeasibility_message(declared(3, lambda t, a: rows(t, a)[:1])) is None


def test_two_thousand_queries() -> None:
    rng = np.random.default_rng(0)
    n = 2000
    threshold, rate = rng.uniform(5, 100, n), 10 ** rng.uniform(-2, 0, n)
    tokens = co.Allocation(n, upper=4096, integer=True)
    accuracy = co.CumulativeSurge(rng.uniform(0.2, 1, n), threshold, rate)(tokens)
    need = float((threshold + 3 / rate).sum())
    tenant = rng.integers(0, 20, n)
    program = co.Problem(
        co.Maximize(co.sum(accuracy)),
        [
            (co.sum(tokens) <= 0.3 * need).named("budget"),
            (co.mean(accuracy) >= 0.45).named("quality"),
            (co.mean(accuracy, by=tenant) >= 0.1).named("floor"),
            (co.sum(tokens, by=tenant) <= 0.1 * need).named("cap"),
            (tokens[:50] >= 20).named("vip"),
        ],
    ).program
    assert named(find_conflict(program, time_limit=6)) == ["budget", "quality"]


def test_without_time_nothing_is_claimed() -> None:
    assert find_conflict(with_vips(500), time_limit=1e-9) is None


def test_a_conflict_that_lies_in_the_shape_of_the_utilities_is_named():
    # Half of a jump would do, and so no relaxation sees it; nobody can have half of one.
    tokens = co.Allocation(2, upper=100, name="tokens")
    accuracy = co.CumulativeSurge(scale=1.0, threshold=30, rate=[0.5, 0.6])(tokens)
    problem = co.Problem(
        co.Maximize(co.sum(accuracy)),
        [
            (co.sum(tokens) <= 50).named("budget"),
            (accuracy >= 0.45).named("floor"),
            (co.sum(tokens) <= 90).named("needless"),
        ],
    )
    solution = problem.solve()
    assert solution.status == "infeasible"
    for piece in ("'budget'", "'floor'[0]", "'floor'[1]", "by at least", "cannot hold together"):
        assert piece in solution.message, solution.message
    assert "needless" not in solution.message
    # Each alone would have to give way by so much, and then it works.
    relief = float(solution.message.split("'budget' by at least ")[1].split()[0].rstrip(","))
    roomier = co.Problem(
        co.Maximize(co.sum(accuracy)),
        [co.sum(tokens) <= 50 + 1.001 * relief, (accuracy >= 0.45).named("floor")],
    ).solve()
    assert roomier.status == "optimal"
