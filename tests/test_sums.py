"""Sums in pieces: the same as in one, whatever the pieces."""

import math

import numpy as np
import pytest
from scipy import sparse

from clearopt import sums


@pytest.mark.parametrize("seed", range(20))
def test_a_product_in_pieces_is_the_product(monkeypatch, seed):
    """Rows of every length, empty ones too, about a piece of a few dozen entries."""
    rng = np.random.default_rng(seed)
    monkeypatch.setattr(sums, "_PIECE", 32)
    n = 200
    lengths = rng.choice([0, 1, 5, 31, 32, 33, 150, n], size=rng.integers(1, 12))
    columns = [np.sort(rng.permutation(n)[:length]) for length in lengths]
    ends = np.cumsum([0, *lengths])
    data = rng.normal(size=int(ends[-1]))
    matrix = sparse.csr_array(
        (data, np.concatenate([*columns, np.zeros(0, int)]), ends), (lengths.size, n)
    )
    vector = rng.normal(size=n)
    found = sums.times(matrix, vector)
    for row, column in enumerate(columns):
        terms = data[ends[row] : ends[row + 1]] * vector[column]
        assert abs(found[row] - math.fsum(terms)) <= 1e-14 * math.fsum(np.abs(terms))
