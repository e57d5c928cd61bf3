"""Numbers that change between solves: what follows them, and what is refused."""

import numpy as np
import pytest

import clearopt as co

N = 6
FAMILY = co.CumulativeSurge(scale=np.linspace(0.5, 1, N), threshold=np.linspace(2, 20, N), rate=0.2)


@pytest.fixture
def tokens():
    return co.Allocation(N, upper=50, name="tokens")


def test_a_parameter_stands_wherever_a_number_may(tokens):
    accuracy = FAMILY(tokens)
    b, p, w = co.Parameter(60.0, "b"), co.Parameter(0.01, "p"), co.Parameter(np.ones(N), "w")
    least, caps = co.Parameter(2.0, "least"), co.Parameter({"x": 40, "y": 30}, "caps")
    floor = co.Parameter(0.1, "floor")

    def declare(b, p, w, least, caps, floor):
        return co.Problem(
            co.Maximize(w @ accuracy - p * co.sum(tokens) + p),
            [
                (co.sum(tokens) <= 2 * b / 2).named("budget"),
                (co.sum(tokens, by=list("xxxyyy")) <= caps).named("caps"),
                (tokens[:2] >= least).named("least"),
                (co.mean(accuracy / 2) >= floor - 0.05).named("floor"),
                ((b * 0.5) * tokens[0] <= 30 * b - 3).named("odd"),
            ],
        )

    problem = declare(b, p, w, least, caps, floor)
    assert problem.parameters == {b, p, w, least, caps, floor}
    for values in (
        (70.0, 0.02, np.arange(1.0, N + 1), 3.0, {"x": 20, "y": 35}, 0.2),
        (65.0, 0.02, np.arange(1.0, N + 1), 3.0, {"x": 25, "y": np.inf}, 0.2),
        (65.0, 0.0, np.ones(N), 0.0, {"x": 25, "y": 35}, 0.15),
    ):
        for parameter, value in zip((b, p, w, least, caps, floor), values, strict=True):
            parameter.value = value
        numbers = declare(*values).program
        compiled = problem.program
        for group, other in zip(compiled.constraints, numbers.constraints, strict=True):
            assert (group.name, group.kind, group.unlimited) == (
                other.name, other.kind, other.unlimited,
            )  # fmt: skip
        for name in ("weight", "cost", "lower", "upper", "right_hand_side", "floor_levels"):
            np.testing.assert_allclose(getattr(compiled, name), getattr(numbers, name), rtol=1e-15)


def test_only_numbers_change_where_only_numbers_can(tokens):
    budget = co.Parameter(60.0, "budget")
    problem = co.Problem(co.Maximize(co.sum(FAMILY(tokens))), (co.sum(tokens) <= budget).named("b"))
    before = problem.program
    assert problem.program is before
    budget.value = 80.0
    after = problem.program
    assert after.right_hand_side.tolist() == [80.0]
    assert after.rows is before.rows  # nothing was compiled anew
    assert before.right_hand_side.tolist() == [60.0]
    assert repr(problem.constraints[0]) == "<constraint 'b': sum(tokens) <= budget>"


def test_a_solution_keeps_the_program_it_is_of(tokens):
    budget = co.Parameter(60.0, "budget")
    problem = co.Problem(co.Maximize(co.sum(FAMILY(tokens))), (co.sum(tokens) <= budget).named("b"))
    first = problem.solve()
    budget.value = 30.0
    second = problem.solve(warm_start=first)
    assert first.objective > second.objective
    assert first.allocation.sum() > 30 >= second.allocation.sum() * (1 - 1e-9)
    assert problem.value_of(tokens, first).sum() == first.allocation.sum()


def test_values_are_checked_where_they_are_used(tokens):
    budget = co.Parameter(60.0, "budget")
    problem = co.Problem(co.Maximize(co.sum(FAMILY(tokens))), (co.sum(tokens) <= budget).named("b"))
    with pytest.raises(co.DeclarationError, match="'budget' = nan"):
        budget.value = np.nan
    with pytest.raises(co.DeclarationError, match=r"'budget'.*str"):
        budget.value = "much"
    budget.value = -1.0
    with pytest.raises(co.DeclarationError, match="b = -1: below what the bounds"):
        problem.solve()
    budget.value = {"a": 1.0}
    with pytest.raises(co.DeclarationError, match="a mapping needs groups"):
        problem.solve()
    budget.value = 60.0
    assert problem.solve().status == "optimal"


def test_what_a_parameter_does_not_do(tokens):
    caps = co.Parameter({"a": 1.0}, "caps")
    with pytest.raises(co.DeclarationError, match="caps is a mapping by label"):
        2 * caps
    with pytest.raises(co.DeclarationError, match="no truth value"):
        bool(co.Parameter(1.0, "p"))
    with pytest.raises(co.DeclarationError, match="name = 3"):
        co.Parameter(1.0, 3)
    array = co.Parameter([1.0, 2.0], "p")
    with pytest.raises(ValueError, match="read-only"):
        array.value[0] = 5.0
    assert repr(co.Parameter(2.0, "p") / 4 + 1) == "<((p / 4) + 1) = 1.5>"


def test_sweep_over_a_constraint_and_over_a_parameter(tokens):
    budget = co.Parameter(60.0, "budget")
    objective = co.Maximize(co.sum(FAMILY(tokens)))
    by_name = co.Problem(objective, (co.sum(tokens) <= 60).named("b"))
    by_parameter = co.Problem(objective, (co.sum(tokens) <= budget).named("b"))
    values = [20, 50, 90]
    named, driven = by_name.sweep("b", values), by_parameter.sweep(budget, values)
    alone = [co.Problem(objective, co.sum(tokens) <= v).solve() for v in values]
    for left, right, reference in zip(named, driven, alone, strict=True):
        assert left.status == right.status == "optimal"
        assert left.objective == pytest.approx(reference.objective, rel=1e-9)
        assert right.objective == pytest.approx(reference.objective, rel=1e-9)
    assert budget.value == 60.0
    assert by_name.program.right_hand_side.tolist() == [60.0]
    assert len(by_parameter.sweep("b", [20])) == 1
    assert by_name.sweep("b", []) == []


def test_sweep_over_bounds_groups_and_limits_that_come_and_go(tokens):
    problem = co.Problem(
        co.Maximize(co.sum(FAMILY(tokens))),
        [
            (co.sum(tokens, by=list("xxxyyy")) <= {"x": 20, "y": 30}).named("caps"),
            (tokens[:2] <= 30).named("bound"),
        ],
    )
    solutions = problem.sweep("caps", [{"x": 5, "y": 5}, {"x": 50, "y": np.inf}, 40])
    assert [s.prices["caps"].keys() for s in solutions] == [{"x", "y"}] * 3
    assert solutions[0].objective < solutions[2].objective <= solutions[1].objective
    low, high = problem.sweep("bound", [0, 50])
    assert low.allocation[:2].tolist() == [0, 0]
    assert low.objective < high.objective


def test_sweep_refuses(tokens):
    problem = co.Problem(
        co.Maximize(co.sum(FAMILY(tokens))),
        [(co.sum(tokens) <= 60).named("b"), (tokens[0] <= tokens[1]).named("order")],
    )
    with pytest.raises(co.DeclarationError, match="no constraint is named 'c'; there are 'b', 'o"):
        problem.sweep("c", [1])
    with pytest.raises(co.DeclarationError, match="'p' is not a parameter of this problem"):
        problem.sweep(co.Parameter(1.0, "p"), [1])
    with pytest.raises(co.DeclarationError, match=r"order: .* compares two expressions"):
        problem.sweep("order", [1])
    with pytest.raises(co.DeclarationError, match="warm_start = 3"):
        problem.solve(warm_start=3)


def test_a_parameter_keeps_the_shape_of_what_it_stands_in():
    tokens = co.Allocation(3, upper=9, name="tokens")
    weight, budget = co.Parameter(1.0, name="weight"), co.Parameter(9.0, name="budget")
    limits = co.Parameter(5.0, name="limits")
    accuracy = co.Hill(0.5, 3, 2)(tokens)
    problem = co.Problem(
        co.Maximize(weight * co.sum(accuracy)),
        [(co.sum(tokens) <= budget).named("budget"), tokens <= limits],
    )
    first = problem.solve().objective
    budget.value = [9, 10]
    with pytest.raises(co.DeclarationError, match="one number, and this is a list of 2"):
        problem.solve()
    budget.value = 9
    for value in ([1.0, 2.0], [1.0]):
        weight.value = value
        with pytest.raises(
            co.DeclarationError, match=r"weight \* sum.*declared as one number.*'weight'.*vector of"
        ):
            problem.solve()
    weight.value = 2
    limits.value = [5, 5, 4]  # one a query, as the one number was: the same shape
    assert problem.solve().objective < 2 * first + 1e-9
