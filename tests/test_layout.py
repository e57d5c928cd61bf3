"""Which utility and curve each query of a program has, and sums of several on one query."""

import numpy as np
import pytest

import clearopt as co
from clearopt.utilities.total import Total

N = 5
FIRST = co.CumulativeSurge(scale=0.8, threshold=5.0, rate=0.1)
LATER = co.CumulativeSurge(scale=0.1, threshold=6.0, rate=0.1)


@pytest.fixture
def tokens():
    return co.Allocation(N, upper=60, name="tokens")


def program(objective, *constraints):
    return co.Problem(co.Maximize(objective), constraints).program


def test_the_same_utility_written_twice_is_one(tokens):
    compiled = program(
        2 * co.sum(FIRST(tokens)) + co.sum(FIRST(tokens[2:])), co.sum(FIRST(tokens[:3])) >= 0.1
    )
    assert compiled.weight.tolist() == [2, 2, 3, 3, 3]
    assert compiled.floors.toarray().tolist() == [[1, 1, 1, 0, 0]]
    assert len(compiled.utilities) == 1


def test_parameters_are_compared_query_by_query(tokens):
    scale = np.array([0.8, 0.8, 0.8, 0.8, 0.5])
    other = co.CumulativeSurge(scale=scale, threshold=5.0, rate=0.1)
    compiled = program(co.sum(FIRST(tokens)) + co.sum(other(tokens)))
    amounts = np.full(N, 40.0)
    by_hand = FIRST.value(40.0) + other.value(amounts)
    np.testing.assert_allclose(compiled.weight * compiled.utility(amounts), by_hand, rtol=1e-14)
    assert [type(b.family) for b in compiled.utilities].count(Total) == 1


def test_a_sum_keeps_its_shares_in_objective_and_floors(tokens):
    both = FIRST(tokens) + 3 * LATER(tokens)
    compiled = program(np.arange(1.0, 6.0) @ both, (co.mean(both[:2]) >= 0.2).named("floor"))
    amounts = np.linspace(0.0, 60.0, N)
    by_hand = FIRST.value(amounts) + 3 * LATER.value(amounts)
    utility = compiled.utility(amounts)
    np.testing.assert_allclose(compiled.weight * utility, np.arange(1.0, 6.0) * by_hand)
    np.testing.assert_allclose(compiled.floors @ utility, by_hand[:2].mean())


def test_parts_of_the_queries_may_have_a_sum(tokens):
    compiled = program(co.sum(FIRST(tokens)) + co.sum(LATER(tokens[[3, 1]])))
    amounts = np.full(N, 30.0)
    by_hand = np.full(N, FIRST.value(30.0))
    by_hand[[1, 3]] += LATER.value(30.0)
    np.testing.assert_allclose(compiled.weight * compiled.utility(amounts), by_hand)


def test_a_problem_with_sums_is_solved_to_its_optimum(tokens):
    problem = co.Problem(
        co.Maximize(co.sum(FIRST(tokens)) + co.sum(LATER(tokens[2:]))), co.sum(tokens) <= 90
    )
    solution = problem.solve()
    assert solution.status == "optimal"
    scip = problem.solve("scip", time_limit=20)
    assert scip.objective <= solution.bound * (1 + 1e-6)
    assert solution.objective <= scip.bound * (1 + 1e-6)


def test_two_cost_curves_on_one_query_are_refused(tokens):
    cost = co.ExpectedTokens(threshold=5, rate=[0.1, 0.1, 0.2, 0.1, 0.1])(tokens)
    other = co.ExpectedTokens(threshold=5, rate=0.1)(tokens)
    same = co.ExpectedTokens(threshold=5, rate=0.1)(tokens[:2])
    program(co.sum(FIRST(tokens)), co.sum(cost) <= 50, co.sum(same) <= 20)
    with pytest.raises(co.DeclarationError, match="query 2 has two different cost curves"):
        program(co.sum(FIRST(tokens)), co.sum(cost) <= 50, co.sum(other) <= 60)


def test_families_of_several_allocations_are_laid_end_to_end():
    first = co.Allocation(2, upper=50, name="first")
    second = co.Allocation(3, upper=70, name="second")
    compiled = program(co.sum(FIRST(second)) + co.sum(LATER(first)), co.sum(first) <= 20)
    assert compiled.allocations == (("second", 3), ("first", 2))
    assert compiled.rows.toarray().tolist() == [[0, 0, 0, 1, 1]]
    assert sorted(np.concatenate([b.index for b in compiled.utilities])) == list(range(N))


def test_an_array_changed_after_the_declaration_changes_nothing():
    scale, view = np.full(N, 0.8), np.full(N, 30.0)
    upper = view[:]
    upper.setflags(write=False)  # read-only, but of memory that can be written to
    tokens = co.Allocation(N, upper=upper)
    compiled = program(co.sum(co.CumulativeSurge(scale, 5.0, 0.1)(tokens)))
    scale[0], view[0] = 0.1, 1.0
    assert compiled.utilities[0].family.scale[0] == 0.8
    assert compiled.upper[0] == 30.0


def test_an_array_that_nobody_can_write_to_is_not_copied():
    scale = np.full(N, 0.8)
    scale.setflags(write=False)
    compiled = program(co.sum(co.CumulativeSurge(scale, 5.0, 0.1)(co.Allocation(N, upper=30))))
    assert np.shares_memory(compiled.utilities[0].family.scale, scale)
    assert compiled.utilities[0].where == slice(0, N)
    assert compiled.utilities[0].index.tolist() == list(range(N))
