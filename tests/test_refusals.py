"""What expressions refuse, and what other packages see of them."""

import copy
import math

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp

import clearopt as co

N = 4


@pytest.fixture
def tokens():
    return co.Allocation(N, upper=50, name="tokens")


@pytest.mark.parametrize(
    "wrong",
    [
        float, int, complex, round, math.floor, math.ceil, math.trunc, abs, bool, iter,
        lambda x: x // 2, lambda x: 2 // x, lambda x: x % 2, lambda x: 2 % x,
        lambda x: divmod(x, 2),
        lambda x: x & 1, lambda x: 1 | x, lambda x: x ^ x, lambda x: ~x,
        lambda x: x.sum(), lambda x: x.mean(), lambda x: x.max(), lambda x: x.min(),
        lambda x: x.value, lambda x: x.T, lambda x: x.dot(x),
        jnp.exp, jnp.sum, jax.nn.sigmoid, lambda x: jnp.dot(jnp.ones(N), x),
        np.exp, np.sum, lambda x: pd.DataFrame(np.eye(N)) @ x,
    ],
)  # fmt: skip
def test_each_is_refused_by_name(tokens, wrong):
    for expression in (tokens, 2 * tokens + 1):
        with pytest.raises(co.DeclarationError, match="tokens"):
            wrong(expression)


def test_what_other_packages_leave_to_us(tokens):
    ones, matrix = np.ones(N), np.ones((2, N))
    for product in (
        ones * tokens,
        jnp.ones(N) * tokens,
        pd.Series(ones) * tokens,
        tokens * pl.Series(ones),
    ):
        assert product.length == N
    for product in (
        matrix @ tokens,
        jnp.asarray(matrix) @ tokens,
        sp.csr_array(matrix) @ tokens,
        sp.coo_matrix(matrix) @ tokens,
        pd.DataFrame(matrix).to_numpy() @ tokens,
    ):
        assert product.shape == (2,)
    assert (pd.Series(ones) <= tokens).sense == ">="
    assert (np.float64(40) >= co.sum(tokens)).sense == "<="


def test_length_and_attributes(tokens):
    assert len(tokens) == len(2 * tokens) == N
    assert len(tokens[:3]) == 3
    with pytest.raises(co.DeclarationError, match=r"len\(sum\(tokens\)\): it is one number"):
        len(co.sum(tokens))
    assert not hasattr(tokens, "sum")
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        tokens.nothing
    assert copy.deepcopy(tokens).length == N
