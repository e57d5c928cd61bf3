"""left diag(d) right' by counting pairs of rows: the same as the product of matrices."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from clearopt.solvers.dual.gram import Pairs


@pytest.mark.parametrize("seed", range(6))
def test_pairs_equal_the_product_of_matrices(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 60))
    left, right = (
        sparse.random_array((int(rng.integers(1, 9)), n), density=0.2, rng=rng, format="csr")
        for _ in range(2)
    )
    for a, b in ((left, right), (left, left)):
        pairs = Pairs(sparse.csc_array(a), sparse.csc_array(b))
        diagonal = rng.normal(size=n)
        product = pairs(diagonal)
        expected = (a.toarray() * diagonal) @ b.toarray().T
        np.testing.assert_allclose(product.toarray(), expected, rtol=1e-13, atol=1e-15)
        assert product.has_canonical_format


def test_columns_with_many_rows_are_left_to_products_of_matrices():
    crowded = sparse.csr_array(np.ones((30, 5)))
    nested = sparse.csr_array(np.eye(30))
    assert Pairs.of(crowded, crowded) is None
    assert Pairs.of(nested, nested) is not None
