import numpy as np
import pytest

from clearopt.calibration import Rollouts
from clearopt.errors import DeclarationError
from clearopt.prediction.summaries import summarise


def simulated(seed, queries=400, samples=4, cap=np.inf, within=0.4, between=0.8):
    rng = np.random.default_rng(seed)
    centre = rng.normal(6.0, between, queries)
    query = np.repeat(np.arange(queries), samples)
    length = np.exp(centre[query] + rng.normal(0.0, within, query.size))
    share = rng.beta(2.0, 1.0, queries)
    correct = rng.random(query.size) < share[query]
    finished = length <= cap
    return centre, share, Rollouts(query, np.minimum(length, cap), correct, finished)


@pytest.mark.parametrize("samples", [2, 4, 16])
@pytest.mark.parametrize("cap", [np.inf, 600.0])
def test_recovers_what_lengths_were_drawn_from_cut_or_not(samples, cap):
    centre, _, rollouts = simulated(1, samples=samples, cap=cap)
    found = summarise(rollouts)
    assert found.mean == pytest.approx(6.0, abs=4 * 0.8 / np.sqrt(400))
    assert np.sqrt(found.between) == pytest.approx(0.8, abs=0.12)
    assert np.sqrt(found.within) == pytest.approx(0.4, abs=0.05)
    rms = np.sqrt(np.mean((found.shrunk_log_length - centre) ** 2))
    # No better than the posterior's own standard deviation, and not much worse.
    ideal = 1 / np.sqrt(1 / 0.8**2 + samples / 0.4**2)
    assert rms < (1.1 if np.isinf(cap) else 1.9) * ideal


def test_cut_answers_are_taken_to_be_longer_than_what_was_seen():
    _, _, rollouts = simulated(2, cap=400.0)
    cut = ~rollouts.finished
    assert 0.2 < cut.mean() < 0.7
    assert (summarise(rollouts).imputed[cut] > np.log(400.0)).all()
    assert (summarise(rollouts).imputed[~cut] == np.log(rollouts.tokens[~cut])).all()


def test_shrunk_shares_are_nearer_to_the_truth_than_raw_ones():
    _, share, rollouts = simulated(3)
    found = summarise(rollouts)
    raw = found.right / found.count
    assert np.mean((found.shrunk_share - share) ** 2) < 0.7 * np.mean((raw - share) ** 2)
    assert ((found.shrunk_share > 0) & (found.shrunk_share < 1)).all()


def test_one_answer_a_query_is_taken_as_it_is():
    _, _, rollouts = simulated(4, samples=1)
    found = summarise(rollouts)
    assert found.within == 0.0
    assert found.shrunk_log_length == pytest.approx(np.log(rollouts.tokens))
    assert np.isfinite(found.shrunk_log_spread).all()


def test_equal_answers_divide_by_nothing():
    rollouts = Rollouts([0, 0, 1, 1], [5, 5, 5, 5], [True] * 4, [True] * 4)
    found = summarise(rollouts, 3)
    assert found.shrunk_log_length == pytest.approx(np.log(5.0))
    assert found.right.tolist() == [2, 2, 0]
    nobody = summarise(Rollouts([0, 1], [0, 9], [False] * 2, [False] * 2))
    assert np.isnan(nobody.right_log_length).all()
    assert np.isfinite(nobody.imputed).all()


def test_answers_beyond_the_queries_are_refused():
    with pytest.raises(DeclarationError, match="query 4"):
        summarise(Rollouts([4], [1], [True], [True]), 4)
