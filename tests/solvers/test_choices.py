"""Menus: of the options of each query at most one gets tokens."""

import numpy as np
import pytest

import clearopt as co
from clearopt.solvers.choices import Choices


def build(seed, n, *, whole=True, budget=80.0):
    rng = np.random.default_rng(seed)

    def family():
        return co.CumulativeSurge(
            rng.uniform(0.2, 1, n), rng.uniform(0, 15, n), 10 ** rng.uniform(-1, 0.3, n)
        )

    families = family(), family()
    small = co.Allocation(n, upper=30, integer=whole, name="small")
    large = co.Allocation(n, upper=40, integer=whole, name="large")
    problem = co.Problem(
        co.Maximize(co.sum(families[0](small)) + co.sum(families[1](large))),
        [
            (co.sum(small) + 3 * co.sum(large) <= budget).named("budget"),
            co.at_most_one(small, large).named("model"),
        ],
    )
    return problem, families, small, large


def dynamic_program(families, n, budget):
    best = np.zeros(budget + 1)
    for i in range(n):
        curves = [f.broadcast(n).take(np.array([i])) for f in families]
        options = [(k, v) for k, v in enumerate(curves[0].value(np.arange(31.0)))]
        options += [(3 * k, v) for k, v in enumerate(curves[1].value(np.arange(41.0)))]
        updated = np.full(budget + 1, -np.inf)
        for charge, value in options:
            if charge <= budget:
                rest = best[: budget + 1 - charge]
                updated[charge:] = np.maximum(updated[charge:], rest + value)
        best = updated
    return float(best.max())


@pytest.mark.parametrize("seed", range(12))
def test_whole_tokens_against_dynamic_programming(seed):
    problem, families, small, large = build(seed, 6)
    solution = problem.solve()
    reference = dynamic_program(families, 6, 80)
    assert solution.bound >= reference * (1 - 1e-12)
    assert solution.objective == pytest.approx(reference, rel=2e-3)
    assert solution.objective <= reference * (1 + 1e-12)
    both = problem.value_of(small, solution) * problem.value_of(large, solution)
    assert (both == 0).all()


@pytest.mark.parametrize("whole", [False, True])
def test_the_back_ends_agree(whole):
    problem, *_ = build(3, 5, whole=whole, budget=60.0)
    table = co.compare(problem, ["dual", "scip", "cvxpy"], time_limit=15)
    assert not table.contradictions
    assert all(row.feasible for row in table), table
    assert table["scip"].gap < 0.05


def test_what_is_chosen_is_checked():
    problem, *_ = build(0, 4)
    from clearopt.certificate import check_feasibility

    both = np.r_[np.full(4, 5.0), np.full(4, 3.0)]
    assert check_feasibility(problem.program, both).where.startswith("choice")
    assert check_feasibility(problem.program, np.r_[both[:4], np.zeros(4)]).ok
    assert problem.program.choice.tolist() == [0, 1, 2, 3] * 2


def test_an_option_that_must_be_taken_leaves_nothing_for_the_others():
    small, large = co.Allocation(3, upper=30, name="small"), co.Allocation(3, upper=40, name="big")
    family = co.CumulativeSurge(0.9, 5, 0.2)
    problem = co.Problem(
        co.Maximize(co.sum(family(small)) + 2 * co.sum(family(large))),
        [co.at_most_one(small, large), small[1] >= 7, co.sum(small) + co.sum(large) <= 70],
    )
    assert problem.program.upper.tolist() == [30, 30, 30, 40, 0, 40]
    assert problem.solve().allocation[4] == 0


def test_without_rows_the_best_option_is_taken():
    problem, families, *_ = build(5, 6, budget=1e6)
    solution = problem.solve()
    best = np.maximum(families[0].value(np.full(6, 30.0)), families[1].value(np.full(6, 40.0)))
    assert solution.objective == pytest.approx(best.sum(), rel=1e-9)
    assert solution.status == "optimal"


def test_three_options_and_parts_of_allocations():
    a, b, c = (co.Allocation(4, upper=20, name=name) for name in "abc")
    family = co.CumulativeSurge(0.9, 3, 0.4)
    menu = co.at_most_one(a[:2], b[2:], c[[3, 0]])
    problem = co.Problem(
        co.Maximize(sum(co.sum(family(x)) for x in (a, b, c))),
        [menu, co.sum(a) + co.sum(b) + co.sum(c) <= 60],
    )
    number = problem.program.choice
    assert number[[0, 6, 11]].tolist() == [0, 0, 0]
    assert number[[1, 7, 8]].tolist() == [1, 1, 1]
    solution = problem.solve()
    assert (solution.allocation[[0, 6, 11]] > 0).sum() <= 1
    assert (solution.allocation[[1, 7, 8]] > 0).sum() <= 1


def test_refusals():
    a, b = co.Allocation(3, upper=9, name="a"), co.Allocation(3, upper=9, name="b")
    short = co.Allocation(2, upper=9, name="short")
    for wrong, message in (
        (lambda: co.at_most_one(a), "got 1 option"),
        (lambda: co.at_most_one(a, short), r"options\[1\] has 2 entries, options\[0\] 3"),
        (lambda: co.at_most_one(a, 2 * b), r"options\[1\] is `2 \* b`; an option is an Allocation"),
        (lambda: co.at_most_one(a, co.sum(b)), "not a computed expression"),
        (lambda: co.at_most_one(a, 3), r"options\[1\] is int, not an Allocation"),
        (lambda: co.Problem(co.Maximize(co.sum(a)), [co.at_most_one(a, a)]), "twice in one"),
        (
            lambda: co.Problem(
                co.Maximize(co.sum(a)), [co.at_most_one(a, b), co.at_most_one(b, a)]
            ),
            r"b\[0\] is in two choices",
        ),
        (
            lambda: co.Problem(
                co.Maximize(co.sum(a)), [co.at_most_one(a, b), a[1] >= 2, b[1] >= 3]
            ),
            "entry 1: a and b both have a lower bound",
        ),
        (lambda: co.at_most_one(a, b).named(""), "non-empty"),
    ):
        with pytest.raises(co.DeclarationError, match=message):
            wrong()
    with pytest.raises(co.UnsupportedProblemError, match="'price' cannot take choices"):
        co.Problem(co.Maximize(co.sum(a)), [co.at_most_one(a, b)]).solve("price")


def test_choices_by_group():
    choices = Choices.of(np.array([1, -1, 0, 1, 0, -1, 1]))
    assert choices is not None
    surplus = np.array([3.0, -5.0, 2.0, 7.0, 2.0, 1.0, -1.0])
    assert choices.best(surplus).tolist() == [False, True, True, True, False, True, False]
    assert choices.second(surplus).tolist() == [7.0, 0.0, 2.0, 3.0, 2.0, 0.0, 7.0]
    assert not choices.broken(np.array([1.0, 9, 0, 0, 2, 9, 0]))
    assert choices.broken(np.array([1.0, 0, 0, 2, 0, 0, 0]))
    assert choices.matrix().toarray().tolist() == [[0, 0, 1, 0, 1, 0, 0], [1, 0, 0, 1, 0, 0, 1]]
    assert Choices.of(np.full(3, -1)) is None
