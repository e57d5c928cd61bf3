"""Comparisons: what they hold, and what they are called."""

import numpy as np
import pytest

import clearopt as co


@pytest.fixture
def tokens():
    return co.Allocation(3, name="tokens")


def test_the_constant_moves_to_the_right(tokens):
    constraint = co.sum(tokens) + 5 <= 20
    assert (constraint.sense, constraint.level.tolist()) == ("<=", [15.0])
    constraint = co.sum(tokens) + 5 <= 20
    assert (constraint.sense, constraint.level.tolist()) == ("<=", [15.0])
    constraint = co.sum(tokens) == np.float64(7)
    assert (constraint.sense, constraint.level.tolist()) == ("==", [7.0])
    constraint = np.array([1.0, 2.0, 3.0]) <= tokens
    assert (constraint.sense, constraint.level.tolist()) == (">=", [1.0, 2.0, 3.0])


def test_expressions_on_both_sides(tokens):
    constraint = tokens[:2] + 1 <= 2 * tokens[1:] + 4
    assert constraint.level.tolist() == [3.0, 3.0]
    matrix = constraint.expression.linear[tokens].toarray()
    assert matrix.tolist() == [[1.0, -2.0, 0.0], [0.0, 1.0, -2.0]]


def test_a_scalar_against_several_levels_is_several_rows(tokens):
    constraint = co.sum(tokens) >= [1, 2]
    assert constraint.level.tolist() == [1.0, 2.0]
    assert constraint.expression.length == 2


def test_names_and_texts(tokens):
    constraint = co.sum(tokens) <= 4_000_000
    assert repr(constraint) == "<constraint: sum(tokens) <= 4000000>"
    assert constraint.named("budget") is constraint
    assert repr(constraint) == "<constraint 'budget': sum(tokens) <= 4000000>"
    assert repr(tokens >= [1, 2, 3]) == "<constraint: tokens >= [...]>"
    assert repr(tokens[1] >= 3) == "<constraint: tokens[1] >= 3>"
    assert repr(co.sum(tokens, by=[0, 0, 1]) <= {0: 3, 1: 4}) == (
        "<constraint: sum(tokens, by=[2 groups]) <= {...}>"
    )
    assert repr(tokens[0] <= tokens[1]) == "<constraint: tokens[0] <= tokens[1]>"
