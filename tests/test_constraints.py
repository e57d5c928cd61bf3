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


def test_one_number_against_a_list_is_refused(tokens):
    for levels in ([1, 2], [1], np.ones(3)):
        with pytest.raises(co.DeclarationError, match=r"sum\(tokens\) is one number.*list of"):
            co.sum(tokens) >= levels
    with pytest.raises(co.DeclarationError, match="by=labels"):
        tokens[0] <= [1, 2]
    # Against another expression it stands in every row.
    assert (co.sum(tokens) >= 2 * tokens).expression.length == tokens.length


def test_there_is_no_logic_of_constraints(tokens):
    first, second = co.sum(tokens) <= 5, tokens[0] >= 1
    with pytest.raises(
        co.DeclarationError, match=r"& with `sum\(tokens\) <= 5`.*\[first, second\]"
    ):
        first & second
    with pytest.raises(co.DeclarationError, match=r"\| with .*semicontinuous=True.*co.at_most_one"):
        first | second
    with pytest.raises(co.DeclarationError, match=r"~ with .*cannot be negated.*with <="):
        ~second


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
