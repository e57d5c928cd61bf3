"""Rollouts are written as they will be read, and an interrupted collection is taken up."""

import numpy as np
import pytest

import clearopt as co
from clearopt.calibration import read_rollouts
from clearopt.replay import collect, collect_rollouts
from clearopt.serving import Generation

PROMPTS = {"a": "one", "b": "two", "c": "three"}


class Parrot:
    """Answers with the prompt and its seed's parity; every third answer is cut."""

    model, location = "zoo/parrot", "zoo/parrot"

    def __init__(self, fails_after=None):
        self.batches, self.fails_after = [], fails_after

    def generate(self, prompts, max_tokens, seeds, temperature=1.0, *, stop=()):
        if self.fails_after is not None and len(self.batches) >= self.fails_after:
            raise KeyboardInterrupt
        self.batches.append(list(seeds))
        return [
            Generation(f"{prompt} {seed % 2}", max_tokens if seed % 3 == 0 else int(seed % 50),
                       "length" if seed % 3 == 0 else "stop")
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]  # fmt: skip


def even(query, text):
    assert text.startswith(PROMPTS[query])
    return text.endswith("0")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_what_is_collected_is_what_is_read(kind, tmp_path):
    path = tmp_path / f"mine.{kind}"
    traces = collect_rollouts(Parrot(), PROMPTS, even, path, samples=20, longest=99)
    run = read_rollouts(path).select("mine", "parrot")
    assert run.queries == tuple(PROMPTS)
    assert run.samples.tolist() == [20] * 3
    np.testing.assert_array_equal(traces.tokens, run.rollouts.tokens)
    assert (run.rollouts.tokens[~run.rollouts.finished] == 99).all()
    assert 0 < run.rollouts.finished.mean() < 1
    assert not run.rollouts.correct[~run.rollouts.finished].any()
    assert run.rollouts.correct.any()


def test_an_interrupted_collection_is_taken_up(tmp_path, monkeypatch):
    monkeypatch.setattr(collect, "_BATCH", 10)
    options = {"samples": 8, "longest": 99}
    whole = collect_rollouts(Parrot(), PROMPTS, even, tmp_path / "whole.csv", **options)
    path = tmp_path / "part.csv"
    with pytest.raises(KeyboardInterrupt):
        collect_rollouts(Parrot(fails_after=2), PROMPTS, even, path, **options)
    assert not path.exists()
    second = Parrot()
    traces = collect_rollouts(second, PROMPTS, even, path, **options)
    assert len(second.batches) == 1
    np.testing.assert_array_equal(traces.tokens, whole.tokens)
    np.testing.assert_array_equal(traces.correct, whole.correct)


def test_what_is_refused_before_anything_is_generated(tmp_path):
    bird = Parrot()
    for options, said in (
        ({"samples": 0}, "samples = 0"),
        ({"longest": 0}, "longest = 0"),
        ({"path": tmp_path / "x.txt"}, "what kind of table"),
        ({"prompts": {}}, "prompts: there is none"),
    ):
        given = {"prompts": PROMPTS, "path": tmp_path / "x.csv", **options}
        with pytest.raises(co.DeclarationError, match=said):
            collect_rollouts(bird, given.pop("prompts"), even, given.pop("path"), **given)
    assert not bird.batches


@pytest.mark.vllm
def test_through_vllm(engine, tmp_path):
    prompts = {"short": "1 + 2", "long": "3 + 4 + 5"}
    traces = collect_rollouts(
        engine, prompts, lambda query, text: bool(text), tmp_path / "r.csv", samples=3, longest=8
    )
    assert len(traces) == 6
    assert (traces.tokens <= 8).all()
