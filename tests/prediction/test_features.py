import numpy as np
import polars as pl
import pytest

from clearopt.calibration import Rollouts
from clearopt.errors import DeclarationError
from clearopt.prediction import (
    Features,
    as_features,
    prompt_features,
    read_features,
    rollout_features,
)
from tests.shared_data import QUERY_FEATURES

TEXTS = [
    "What is 2 + 3?",
    "Let $x^2 + y^2 = 1048576$. Prove that\n\n\\frac{x}{y} is irrational.",
    "def f(a):\n    return a[0]\nWhat does f([1, 2]) return?",
    "",
]


def test_prompts_become_finite_numbers_that_depend_on_the_prompt_alone():
    together = prompt_features(TEXTS)
    assert len(together) == len(TEXTS)
    for i, text in enumerate(TEXTS):
        assert (prompt_features([text]).values[0] == together.values[i]).all()
    column = dict(zip(together.names, together.values.T, strict=True))
    assert column["digits"] == pytest.approx(np.log1p([2, 9, 3, 0]))
    assert column["digits_of_largest_number"].tolist() == [1, 7, 1, 0]
    assert column["latex"].argmax() == 1
    assert column["code"].argmax() == 2
    assert (together.values[3] == 0).all()


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("one text", "give a list"),
        ([], "there is none"),
        (["a", 3], r"texts\[1\] = 3"),
    ],
)
def test_texts_that_are_none(texts, message):
    with pytest.raises(DeclarationError, match=message):
        prompt_features(texts)


def test_everything_a_user_has_at_hand_becomes_features():
    values = np.arange(6.0).reshape(3, 2)
    rows = [{"a": 0, "b": 1}, {"b": 3, "a": 2}, {"a": 4, "b": 5}]
    for given in (Features(("a", "b"), values), rows, pl.DataFrame(rows)):
        found = as_features(given)
        assert found.names == ("a", "b")
        assert (found.values == values).all()
    assert as_features(values).names == ("x0", "x1")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.array([[1.0, np.nan]]), r"feature 'x1'\[0\] = nan"),
        ([{"a": 1.0}, {"a": np.inf}], r"feature 'a'\[1\] = inf"),
        ([{"a": 1.0}, {"b": 1.0}], r"features\[1\] has no 'a'"),
        (np.zeros(3), "shape"),
        (["what is this"], "prompt_features"),
        (np.array([["x"]]), "expected numbers"),
    ],
)
def test_bad_features_are_refused_by_name(given, message):
    with pytest.raises(DeclarationError, match=message):
        as_features(given)


def test_joining_keeps_names_apart():
    a, b = Features(("a",), np.ones((3, 1))), Features(("b",), np.zeros((3, 1)))
    assert a.joined(b).names == ("a", "b")
    assert a.joined(b).take([2]).values.tolist() == [[1.0, 0.0]]
    with pytest.raises(DeclarationError, match="two called 'a'"):
        a.joined(a)
    with pytest.raises(DeclarationError, match="not as many"):
        a.joined(b.take([0]))


def test_a_table_is_read_in_the_order_of_the_queries(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("query_id,kind,words,shift\nq2,hard,9,-1\nq1,easy,0,2\nq3,easy,5,0\n")
    found = read_features(path, ["q1", "q2"])
    assert found.names == ("words", "shift")
    assert found.values == pytest.approx(np.array([[0.0, 2.0], [np.log(10.0), -1.0]]))
    assert read_features(path, ["q3"], columns=["words"], logarithms=False).values == 5.0
    with pytest.raises(DeclarationError, match="'q4'"):
        read_features(path, ["q4"])
    with pytest.raises(DeclarationError, match="kind"):
        read_features(path, ["q1"], columns=["kind"])
    path.write_text("query_id,words\nq1,1\nq1,2\n")
    with pytest.raises(DeclarationError, match="already on line 2"):
        read_features(path, ["q1"])


@pytest.mark.skipif(not QUERY_FEATURES.exists(), reason="the shared traces are not here")
def test_the_shared_table_has_features_of_every_query():
    labels = pl.read_csv(QUERY_FEATURES)["query_id"].to_list()
    assert len(read_features(QUERY_FEATURES, labels)) == len(labels)


def test_another_models_rollouts_are_shrunk_to_its_mean():
    rng = np.random.default_rng(0)
    centre = rng.normal(7.0, 1.0, 300)
    query = np.repeat(np.arange(300), 3)
    tokens = np.exp(centre[query] + rng.normal(0, 1.0, query.size))
    correct = rng.random(query.size) < 0.6
    rollouts = Rollouts(query, tokens, correct, np.ones(query.size, bool))
    found = rollout_features(rollouts, 301, name="big")
    assert found.names == ("big log length", "big log odds", "big log spread")
    length = found.values[:300, 0]
    raw = np.bincount(query, weights=np.log(tokens)) / 3
    assert np.mean((length - centre) ** 2) < 0.9 * np.mean((raw - centre) ** 2)
    assert found.values[300, 0] == pytest.approx(raw.mean(), abs=0.02)  # no answer: the mean
    # All queries are solved alike here, so their odds are told apart hardly at all.
    assert np.ptp(found.values[:, 1]) < 0.8
