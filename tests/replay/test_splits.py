"""What is fitted is never scored, and what is drawn depends on the seed alone."""

import numpy as np
import pytest
from rollout_files import run_of, simulated, traces_of

import clearopt as co
from clearopt.replay.splits import QUERY, SAMPLE, query_split, sample_split


def counts(rollouts, n):
    return np.bincount(rollouts.query, minlength=n)


def test_each_half_is_fitted_once_and_scored_once(tmp_path):
    run = next(traces_of(simulated(n=9, samples=5), tmp_path).runs())
    first, second = sample_split(run, 1, 0)
    assert (first.split, first.n) == (SAMPLE, 9)
    assert (counts(first.fitting, 9) == 2).all()
    assert (counts(first.scored, 9) == 3).all()
    for a, b in ((first.fitting, second.scored), (first.scored, second.fitting)):
        np.testing.assert_array_equal(a.tokens, b.tokens)
    for i in range(9):
        both = [*first.fitting.tokens[first.fitting.query == i],
                *first.scored.tokens[first.scored.query == i]]  # fmt: skip
        assert sorted(both) == sorted(run.rollouts.tokens[run.rollouts.query == i])


def test_draws_differ_by_repeat_and_seed_and_repeat_themselves(tmp_path):
    run = next(traces_of(simulated(n=9, samples=6), tmp_path).runs())
    draws = [case.fitting.tokens.tolist() for case in sample_split(run, 3, 0)]
    assert draws == [case.fitting.tokens.tolist() for case in sample_split(run, 3, 0)]
    assert len({str(draw) for draw in draws}) == 6
    assert draws != [case.fitting.tokens.tolist() for case in sample_split(run, 3, 1)]


def test_a_query_with_one_sample_is_scored_unfitted_and_else_left_out():
    run = run_of([0, 0, 1, 2, 2, 2], [1, 2, 3, 4, 5, 6], [1] * 6)
    first, second = sample_split(run, 1, 0)
    assert first.queries.tolist() == [0, 1, 2]
    assert counts(first.fitting, 3).tolist() == [1, 0, 1]
    assert second.queries.tolist() == [0, 2]
    assert counts(second.scored, 2).tolist() == [1, 1]


def test_one_sample_a_query_cannot_be_split():
    run = run_of([0, 1], [5, 6], [1, 1])
    with pytest.raises(co.DeclarationError, match="every query has one sample"):
        list(sample_split(run, 1, 0))
    (case,) = query_split(run, 1, 0)
    assert (case.split, sorted(case.folds)) == (QUERY, [0, 1])
    with pytest.raises(co.DeclarationError, match="there is one query"):
        list(query_split(run_of([0, 0], [5, 6], [1, 1]), 1, 0))


def test_folds_are_even(tmp_path):
    run = next(traces_of(simulated(n=23, samples=2), tmp_path).runs())
    first, second = query_split(run, 2, 0)
    assert sorted(np.bincount(first.folds)) == [4, 4, 5, 5, 5]
    assert first.folds.tolist() != second.folds.tolist()


def test_a_stream_repeats_the_rollouts_of_its_queries():
    run = run_of([0, 0, 1, 1], [1, 2, 3, 4], [1] * 4)
    (case, _) = sample_split(run, 1, 0)
    stream = case.streamed(np.array([1, 0, 1]))
    assert stream.queries.tolist() == [1, 0, 1]
    assert stream.stream[0] is case
    lengths = case.scored.tokens
    assert stream.scored.tokens.tolist() == [lengths[1], lengths[0], lengths[1]]
    assert stream.scored.query.tolist() == [0, 1, 2]
