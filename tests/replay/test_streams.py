import numpy as np
import pytest
from rollout_files import simulated, traces_of

import clearopt as co
from clearopt.replay import MIXES, sample_stream
from clearopt.replay.streams import EASY, HARD, MEDIUM, difficulty_parts


@pytest.fixture
def pool(tmp_path):
    return next(traces_of(simulated(n=31, samples=6), tmp_path).runs())


def test_parts_are_thirds_ranked_by_what_is_solved(pool):
    parts = difficulty_parts(pool.rollouts, pool.n)
    assert sorted(np.bincount(parts)) == [10, 10, 11]
    solved = np.bincount(pool.rollouts.query, weights=pool.rollouts.solved)
    assert solved[parts == EASY].min() >= solved[parts == MEDIUM].max()
    assert solved[parts == MEDIUM].min() >= solved[parts == HARD].max()


@pytest.mark.parametrize("mix", MIXES)
def test_a_stream_has_the_mix_that_was_asked_for(pool, mix):
    stream = sample_stream(pool, mix, length=6000, seed=3)
    assert len(stream) == 6000
    parts = difficulty_parts(pool.rollouts, pool.n)
    np.testing.assert_array_equal(parts[stream.queries], stream.part)
    first, last = np.array(MIXES[mix])
    for half, wanted in ((stream.part[:600], first), (stream.part[-600:], last)):
        # Four standard deviations of a share of 600 draws, and the drift within them.
        shares = np.bincount(half, minlength=3) / 600
        np.testing.assert_allclose(shares, wanted, atol=0.08 + 0.05 * np.abs(last - first).max())


def test_streams_depend_on_the_seed_alone(pool):
    first = sample_stream(pool, "drifting", seed=1)
    assert len(first) == 500
    np.testing.assert_array_equal(first.queries, sample_stream(pool, "drifting", seed=1).queries)
    assert (first.queries != sample_stream(pool, "drifting", seed=2).queries).any()


def test_a_pool_without_hard_queries_still_gives_a_stream():
    stream = sample_stream(np.array([EASY]), "hard-heavy", length=5)
    assert stream.queries.tolist() == [0] * 5


def test_what_is_no_stream(pool):
    with pytest.raises(co.DeclarationError, match="'steady': known are balanced"):
        sample_stream(pool, "steady")
    with pytest.raises(co.DeclarationError, match="length = 0"):
        sample_stream(pool, "balanced", length=0)
