"""`co.sum` and `co.mean`, whole and by group."""

import time

import numpy as np
import pandas as pd
import polars as pl
import pytest

import clearopt as co
from clearopt.grouping import factorize

TENANT = ["globex", "acme", "globex", "initech", "acme"]
TOKENS = np.array([1.0, 2.0, 4.0, 8.0, 16.0])


@pytest.fixture
def tokens():
    return co.Allocation(5, name="tokens")


def evaluate(expression):
    (matrix,) = expression.linear.values()
    return matrix @ TOKENS + expression.constant


LABELS = [
    TENANT,
    tuple(TENANT),
    np.array(TENANT),
    np.array(TENANT, dtype=object),
    np.array(TENANT, dtype=np.dtypes.StringDType()),
    pd.Series(TENANT),
    pd.Series(TENANT, index=[9, 3, 5, 1, 0]),
    pd.Series(TENANT, dtype="category"),
    pd.Categorical(TENANT),
    pd.Index(TENANT),
    pl.Series(TENANT),
    pl.Series(TENANT, dtype=pl.Categorical),
]


@pytest.mark.parametrize("by", LABELS, ids=lambda by: type(by).__name__)
def test_groups_stand_in_order_of_first_appearance(tokens, by):
    total = co.sum(tokens, by=by)
    assert total.labels == ("globex", "acme", "initech")
    assert evaluate(total).tolist() == [5.0, 18.0, 8.0]
    assert evaluate(co.mean(tokens, by=by)).tolist() == [2.5, 9.0, 8.0]


@pytest.mark.parametrize(
    ("by", "labels"),
    [
        ([30, 10, 30, 20, 10], (30, 10, 20)),
        (np.array([30, 10, 30, 20, 10], dtype=np.int16), (30, 10, 20)),
        (np.array([3.5, 1.0, 3.5, 2.0, 1.0]), (3.5, 1.0, 2.0)),
        ([True, False, True, True, False], (True, False)),
        (
            [("eu", 1), ("us", 1), ("eu", 1), ("eu", 2), ("us", 1)],
            (("eu", 1), ("us", 1), ("eu", 2)),
        ),
        (["a", 1, "a", None.__class__, 1], ("a", 1, None.__class__)),
        (np.array(["2026-01-01", "2026-01-02"] * 2 + ["2026-01-01"], dtype="datetime64[D]"), None),
    ],
)
def test_any_hashable_is_a_label(by, labels):
    group, found = factorize(by, 5, "by")
    assert labels is None or found == labels
    assert [found[g] for g in group] == (list(by) if labels else [x.item() for x in by])


def test_whole_sums_and_means(tokens):
    assert evaluate(co.sum(tokens)) == [31.0]
    assert evaluate(co.mean(tokens)) == pytest.approx([6.2], rel=1e-15)
    assert evaluate(co.sum(2 * tokens + 1)) == [67.0]
    assert evaluate(co.mean(2 * tokens + 1)) == pytest.approx([13.4], rel=1e-15)
    assert co.sum(tokens).scalar
    assert evaluate(co.sum(co.sum(tokens))) == [31.0]


def test_a_mapping_is_matched_by_label(tokens):
    limits = {"initech": 3.0, "globex": 1.0, "acme": 2.0}
    total = co.sum(tokens, by=TENANT)
    for value in (limits, pd.Series(limits)):
        assert (total <= value).level.tolist() == [1.0, 2.0, 3.0]
    assert (total <= [1.0, 2.0, 3.0]).level.tolist() == [1.0, 2.0, 3.0]
    assert (total <= 7).level.tolist() == [7.0, 7.0, 7.0]
    assert (total + 1 <= limits).level.tolist() == [0.0, 1.0, 2.0]


def test_groups_compare_with_groups(tokens):
    (co.sum(tokens, by=TENANT) <= 3 * co.mean(tokens, by=TENANT)).named("spread")
    with pytest.raises(co.DeclarationError, match="the groups of the two sides differ"):
        co.sum(tokens, by=TENANT) <= co.mean(tokens, by=["a", "b", "b", "c", "a"])


def test_a_million_labels_take_no_python_loop_worth_mentioning():
    n = 1_000_000
    labels = np.random.default_rng(0).integers(0, 1000, n)
    for by in (labels, np.array([f"tenant {k}" for k in range(1000)], dtype=object)[labels]):
        started = time.process_time()
        co.sum(co.Allocation(n), by=by)
        assert time.process_time() - started < 5.0  # about 0.5 s; a loop over rows takes minutes


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint64])
@pytest.mark.parametrize("seed", range(3))
def test_whole_numbers_are_grouped_as_one_by_one(kind, seed):
    """Whatever their type and range, close together (by a table) or far apart (sorted)."""
    rng = np.random.default_rng(seed)
    ends = np.iinfo(kind)
    close = rng.integers(ends.max - 20, ends.max, 70_000, dtype=kind, endpoint=True)
    low = rng.integers(ends.min, ends.min + 20, 70_000, dtype=kind, endpoint=True)
    for by in (close, low, np.concatenate([close, low])[rng.permutation(140_000)]):
        group, labels = factorize(by, by.size, "by")
        numbers = {}
        expected = [numbers.setdefault(label, len(numbers)) for label in by.tolist()]
        assert group.tolist() == expected
        assert labels == tuple(numbers)


def test_a_sum_by_group_holds_no_array_of_ones():
    n = 50_000
    tokens = co.Allocation(n, upper=9, name="tokens")
    tenant = np.arange(n) % 7
    total = co.sum(tokens, by=tenant)
    (matrix,) = total.linear.values()
    assert matrix.data.strides == (0,)
    amounts = np.random.default_rng(0).random(n)
    assert np.allclose(matrix @ amounts, np.bincount(tenant, amounts))
    problem = co.Problem(co.Maximize(co.sum(co.Logistic(1.0, 5.0, 1.0)(tokens))),
                         [co.sum(tokens) <= 9.0, total <= 3.0])  # fmt: skip
    assert problem.program.rows.data.strides == (0,)
    both = np.r_[amounts.sum(), np.bincount(tenant, amounts)]
    assert np.allclose(problem.program.rows @ amounts, both)
    assert np.allclose(problem.program.activity(amounts), both)
