"""The operators: what an expression is, checked by evaluating the arrays it holds."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp

import clearopt as co

N = 5
RNG = np.random.default_rng(0)
TOKENS = RNG.uniform(0, 100, N)
WEIGHTS = np.array([1.0, 2.0, 0.5, 4.0, 3.0])
MASK = np.array([True, False, True, True, False])


@pytest.fixture
def tokens():
    return co.Allocation(N, upper=100, name="tokens")


@pytest.fixture
def family():
    return co.CumulativeSurge(scale=0.9, threshold=RNG.uniform(0, 20, N), rate=0.1)


@pytest.fixture
def accuracy(tokens, family):
    return family(tokens)


def evaluate(expression, values=TOKENS):
    """The expression's value at an allocation, straight from its matrices."""
    total = expression.constant.copy()
    for matrix in expression.linear.values():
        total += matrix @ values
    for atom, matrix in expression.utilities.items():
        total += matrix @ atom.family.value(values[atom.index])
    return total[0] if expression.scalar else total


def same(expression, reference):
    np.testing.assert_allclose(evaluate(expression), reference, rtol=1e-14, atol=1e-14)
    assert expression.shape == np.shape(reference)


# ------------------------------------------------------------------ arithmetic
def test_arithmetic_with_numbers(tokens):
    same(2 * tokens, 2 * TOKENS)
    same(tokens * 2.5, 2.5 * TOKENS)
    same(tokens / 4, TOKENS / 4)
    same(-tokens, -TOKENS)
    same(tokens + 3, TOKENS + 3)
    same(3 + tokens, TOKENS + 3)
    same(3 - tokens, 3 - TOKENS)
    same(tokens - 3, TOKENS - 3)
    same(np.float64(2) * tokens, 2 * TOKENS)
    same(True * tokens, TOKENS)


@pytest.mark.parametrize("kind", [np.asarray, list, tuple, pd.Series])
def test_arithmetic_with_arrays_from_either_side(tokens, accuracy, family, kind):
    column = kind(WEIGHTS)
    same(tokens * column, WEIGHTS * TOKENS)
    same(column * tokens, WEIGHTS * TOKENS)
    same(column * accuracy, WEIGHTS * family.value(TOKENS))
    same(tokens + column, TOKENS + WEIGHTS)
    same(column - tokens, WEIGHTS - TOKENS)
    same(tokens / column, TOKENS / WEIGHTS)


def test_polars_columns_stand_on_the_right(tokens):
    same(tokens * pl.Series(WEIGHTS), WEIGHTS * TOKENS)
    same(tokens[pl.Series(MASK)], TOKENS[MASK])


def test_a_scalar_meets_a_vector(tokens):
    same(co.sum(tokens) + WEIGHTS, TOKENS.sum() + WEIGHTS)
    same(co.sum(tokens) * WEIGHTS, TOKENS.sum() * WEIGHTS)
    same(tokens - co.mean(tokens), TOKENS - TOKENS.mean())
    same(co.mean(tokens) - tokens, TOKENS.mean() - TOKENS)


def test_utilities_and_tokens_add_up(tokens, accuracy, family):
    mixed = co.sum(WEIGHTS * accuracy) - 0.01 * co.sum(tokens) + 5
    same(mixed, WEIGHTS @ family.value(TOKENS) - 0.01 * TOKENS.sum() + 5)
    same(accuracy + accuracy, 2 * family.value(TOKENS))


def test_several_allocations():
    first, second = co.Allocation(3, name="a"), co.Allocation(3, name="b")
    total = first + 2 * second
    assert set(total.linear) == {first, second}
    x, y = np.arange(3.0), np.arange(3.0, 6.0)
    value = total.linear[first] @ x + total.linear[second] @ y
    np.testing.assert_array_equal(value, x + 2 * y)


# ------------------------------------------------------------------ matrices
DENSE = RNG.normal(size=(3, N)) * (RNG.random((3, N)) < 0.6)


@pytest.mark.parametrize(
    "kind",
    [
        np.asarray,
        np.ndarray.tolist,
        sp.csr_matrix,
        sp.csc_matrix,
        sp.coo_matrix,
        sp.lil_matrix,
        sp.dok_matrix,
        sp.csr_array,
        sp.csc_array,
        sp.coo_array,
        sp.dia_array,
        sp.bsr_array,
    ],
)
def test_matrix_times_allocation(tokens, kind):
    same(kind(DENSE) @ tokens, DENSE @ TOKENS)
    same(tokens @ kind(DENSE.T), DENSE @ TOKENS)


def test_vector_times_allocation_is_a_scalar(tokens, accuracy, family):
    same(WEIGHTS @ tokens, WEIGHTS @ TOKENS)
    same(tokens @ WEIGHTS, WEIGHTS @ TOKENS)
    same(WEIGHTS @ accuracy, WEIGHTS @ family.value(TOKENS))


def test_matrix_times_a_computed_vector(tokens):
    same(DENSE @ (2 * tokens + 1), DENSE @ (2 * TOKENS + 1))


# ------------------------------------------------------------------ indexing
@pytest.mark.parametrize(
    "key",
    [
        MASK,
        MASK.tolist(),
        pd.Series(MASK),
        slice(1, 4),
        slice(None, None, -2),
        np.array([4, 0]),
        [2, 2, 1],
        np.array([-1, 3], dtype=np.int8),
        np.array([0, 4], dtype=np.uint16),
    ],
)
def test_indexing_is_numpys(tokens, accuracy, family, key):
    same(tokens[key], TOKENS[np.asarray(key)] if not isinstance(key, slice) else TOKENS[key])
    expected = family.value(TOKENS)
    same(accuracy[key], expected[key] if isinstance(key, slice) else expected[np.asarray(key)])


def test_one_index_is_a_scalar(tokens):
    same(tokens[3], TOKENS[3])
    same(tokens[-1], TOKENS[-1])
    same(tokens[np.int64(2)], TOKENS[2])


def test_a_part_keeps_its_group_labels(tokens):
    totals = co.sum(tokens, by=list("aabbc"))
    assert totals[1:].labels == ("b", "c")
    same(totals[1:], [TOKENS[2] + TOKENS[3], TOKENS[4]])
    assert totals[0].labels is None


# ------------------------------------------------------------------ utilities
def test_a_utility_of_a_part(tokens):
    family = co.ShiftedSurge(scale=0.5, threshold=5.0, rate=0.05)
    same(family(tokens[MASK]), family.value(TOKENS[MASK]))
    same(family(tokens[2]), family.value(TOKENS[2]))
    same(family(tokens[[3, 1]])[::-1], family.value(TOKENS[[1, 3]]))


def test_parameters_must_fit_the_part(tokens):
    family = co.CumulativeSurge(scale=[0.5] * N, threshold=5.0, rate=0.05)
    with pytest.raises(co.DeclarationError, match=r"scale=.* has length 5, but it applies to 3"):
        family(tokens[MASK])


# ------------------------------------------------------------------ what a person reads
def test_texts(tokens, accuracy):
    assert repr(tokens) == "<vector of 5: tokens>"
    assert repr(co.sum(2 * tokens + 1)) == "<scalar: sum(2 * tokens + 1)>"
    assert repr(co.sum(accuracy) - 0.5 * co.sum(tokens)) == (
        "<scalar: sum(CumulativeSurge(tokens)) - 0.5 * sum(tokens)>"
    )
    assert repr(WEIGHTS * (tokens + 1)) == "<vector of 5: [...] * (tokens + 1)>"
    assert repr(tokens[2]) == "<scalar: tokens[2]>"
    assert repr(co.sum(tokens, by=list("aabbc"))) == "<vector of 3: sum(tokens, by=[3 groups])>"


def test_allocations_are_named_apart_by_default():
    assert co.Allocation(1).name != co.Allocation(1).name


def test_allocation_keeps_its_own_copy_of_the_bounds():
    upper = np.full(3, 10.0)
    tokens = co.Allocation(3, upper=upper, integer=[1, 0, 1])
    upper[:] = 0
    assert tokens.upper.tolist() == [10.0] * 3
    assert tokens.integer.tolist() == [True, False, True]


def test_expressions_are_keys_and_have_no_truth_value(tokens):
    assert {tokens: 1}[tokens] == 1
    assert tokens != co.Allocation(N)
    with pytest.raises(co.DeclarationError, match="no truth value"):
        bool(tokens)
    with pytest.raises(co.DeclarationError, match=r"co\.sum"):
        sum(tokens)
    for function in (np.sum, np.mean, np.cumsum, lambda t: np.dot(WEIGHTS, t)):
        with pytest.raises(
            co.DeclarationError, match=r"numpy\.\w+ takes numbers, not tokens; write co\.sum"
        ):
            function(tokens)
