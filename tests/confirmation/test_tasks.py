"""The reasoning problems: reproducible, disjoint, and verified exactly."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from clearopt.confirmation import tasks
from clearopt.confirmation.tasks import (
    Difficulty,
    Task,
    generate_tasks,
    is_correct,
    is_held_out,
    make_task,
    prompt_features,
    split_tasks,
    worked_solution,
)

BATCH = generate_tasks(400, seed=5)


def independent_answer(prompt: str) -> str:
    """The answer by plain integers, reduced only at the end, from a reading of our own."""
    modulus, start, chain = re.fullmatch(r"mod (\d+) : (\d+) (.*) \?", prompt).groups()
    value = int(start)
    for operator, operand in re.findall(r"s\d+ (\S) (\d+)", chain):
        k = int(operand)
        value = {
            "+": value + k,
            "-": value - k,
            "x": sum([value] * k),
            "*": value * k,
            # Plain powers of long chains would have too many digits.
            "^": (value % int(modulus)) ** k,
        }[operator]
    return str(value % int(modulus))


def test_same_seed_same_tasks() -> None:
    assert generate_tasks(50, seed=3) == generate_tasks(50, seed=3)
    assert generate_tasks(50, seed=3) != generate_tasks(50, seed=4)
    assert generate_tasks(80, seed=3)[:50] == generate_tasks(50, seed=3)


def test_tasks_do_not_depend_on_the_process() -> None:
    code = (
        "from clearopt.confirmation.tasks import generate_tasks as g; print(g(3, seed=9)[2].prompt)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == generate_tasks(3, seed=9)[2].prompt


def test_import_is_light() -> None:
    code = (
        "import sys, clearopt.confirmation.tasks; "
        "print([m for m in ('torch', 'transformers', 'vllm') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_prompts_and_names_are_distinct_and_held_out() -> None:
    many = generate_tasks(3000, seed=1)
    assert len({t.prompt for t in many}) == len({t.task_id for t in many}) == 3000
    assert all(is_held_out(t.prompt) for t in many)
    assert not any(is_held_out(t.prompt) for t in generate_tasks(300, seed=1, side="training"))


def test_hold_out_is_one_in_eight() -> None:
    share = np.mean([is_held_out(t.prompt) for t in generate_tasks(4000, seed=2, side="any")])
    assert 0.10 < share < 0.15


def test_split_is_disjoint_and_alike() -> None:
    calibration, evaluation = split_tasks(600, 500, seed=7)
    assert (len(calibration), len(evaluation)) == (600, 500)
    assert not {t.prompt for t in calibration} & {t.prompt for t in evaluation}
    steps = [np.mean([t.features["steps"] for t in part]) for part in (calibration, evaluation)]
    assert abs(steps[0] - steps[1]) < 2
    assert split_tasks(600, 500, seed=7) == (calibration, evaluation)
    assert split_tasks(0, 4, seed=7)[0] == []


def test_answers_by_an_independent_evaluator() -> None:
    for task in BATCH:
        assert task.answer == independent_answer(task.prompt), task.prompt
    assert {o for t in BATCH for o in t.prompt.split()} >= set(tasks.OPERATORS)


def test_answers_cannot_be_guessed() -> None:
    many = generate_tasks(4000, seed=11)
    assert Counter(t.answer for t in many).most_common(1)[0][1] < 0.10 * len(many)


def test_features_come_from_the_prompt_alone() -> None:
    for task in BATCH:
        assert task.features == prompt_features(task.prompt)
        kinds = ("add", "subtract", "repeat", "product", "power")
        assert task.features["steps"] == sum(task.features[k] for k in kinds)
        assert task.features["steps"] == len(re.findall(r"s\d+", task.prompt))
    shifted = prompt_features("mod 43 : 18 s1 + 9 s2 x 4 ?")
    assert shifted == prompt_features("mod 43 : 17 s1 + 9 s2 x 4 ?")  # other answer, same features
    assert (shifted["add"], shifted["repeat"], shifted["repeat_total"]) == (1, 1, 4)
    assert set(shifted) == set(BATCH[0].features)


def test_some_problems_are_beyond_and_can_be_told_from_the_prompt() -> None:
    beyond = [t.features["steps"] > tasks.TRAINED_STEPS or t.features["power"] > 0 for t in BATCH]
    assert 0.04 < np.mean(beyond) < 0.13
    none = generate_tasks(300, seed=5, difficulty=Difficulty(beyond=0.0))
    assert max(t.features["steps"] for t in none) == tasks.TRAINED_STEPS
    assert max(t.features["power"] for t in none) == 0


def test_verifier_accepts_every_worked_solution_and_no_truncation_of_it() -> None:
    rng = np.random.default_rng(0)
    for task in BATCH:
        words = worked_solution(task, rng).split()
        assert is_correct(task, " ".join(words))
        assert is_correct(task, " " + " ".join(words) + "\n")
        for cut in range(len(words)):
            assert not is_correct(task, " ".join(words[:cut]))
        # Characters, too: a half-written mark or answer never counts.
        text = " ".join(words)
        for cut in range(1, len(task.answer) + 6):
            assert not is_correct(task, text[:-cut]), text[:-cut]


def test_verifier_rejects_every_wrong_answer() -> None:
    task = make_task("mod 43 : 17 s1 + 9 s2 x 4 s3 - 12 ?")
    assert task.answer == "6"
    right = "plain s1 17 + 9 = 26 #### "
    for number in range(200):
        assert is_correct(task, right + str(number)) == (number == 6)
    for wrong in ("06", "6.5", "-6", "six", "6,", "####", "", " ", "66", "#### 6 ####"):
        assert not is_correct(task, right + wrong)
    for text in ("", "6", "### 6", "s1 17 + 9 = 6", "#### 6 then #### 7", "####\n\n6"):
        assert not is_correct(task, text)
    for text in ("#### 6", "####6", "#### 7 no #### 6", "#### 6</s>", "#### 6\nHope this helps"):
        assert is_correct(task, text)


def test_an_answer_that_may_have_been_cut_does_not_count() -> None:
    task = make_task("mod 43 : 17 s1 + 9 s2 x 4 s3 - 12 ?")
    assert is_correct(task, "#### 6")
    assert not is_correct(task, "#### 6", whole=False)
    assert is_correct(task, "#### 6\n", whole=False)
    assert is_correct(task, "#### 6 .", whole=False)


def test_solutions_say_the_answer_only_at_the_end() -> None:
    rng = np.random.default_rng(1)
    for task in BATCH:
        words = worked_solution(task, rng).split()
        steps = int(task.features["steps"])
        assert [w for w in words if re.fullmatch(r"s\d+", w)] == [f"s{i + 1}" for i in range(steps)]
        assert words.count("####") == 1
        assert words[-2:] == ["####", task.answer]


def test_every_word_is_in_the_vocabulary() -> None:
    rng = np.random.default_rng(2)
    known = tasks.vocabulary()
    assert len(known) == len(set(known))
    for task in BATCH:
        assert set(f"{task.prompt} {worked_solution(task, rng)}".split()) <= set(known)


def test_needs_spread_over_an_order_of_magnitude() -> None:
    rng = np.random.default_rng(3)
    lengths = [len(worked_solution(t, rng).split()) for t in BATCH]
    low, high = np.percentile(lengths, [1, 97])
    assert low < 16
    assert high > 180


def test_same_prompt_needs_a_random_length() -> None:
    rng = np.random.default_rng(4)
    task = next(t for t in BATCH if t.features["steps"] == 12)
    lengths = np.array([len(worked_solution(task, rng).split()) for _ in range(1000)])
    extra = lengths - lengths.min()
    assert 0.10 < lengths.std() / lengths.mean() < 0.25
    assert np.mean(extra**3) > 0
    assert np.median(extra) < extra.mean()  # a tail to the right


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "hello",
        "mod 43 : 1 ?",
        "mod 97 : 1 s1 + 2 ?",
        "mod 43 : 1 s2 + 2 ?",
        "mod 43 : 1 s1 + 2",
    ],
)
def test_what_is_not_a_problem_is_refused(prompt: str) -> None:
    with pytest.raises(ValueError, match="not a chain problem"):
        make_task(prompt)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="n must not be negative, got -1"):
        generate_tasks(-1, seed=0)
    with pytest.raises(ValueError, match="side must be"):
        generate_tasks(1, seed=0, side="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="counts must not be negative"):
        split_tasks(-1, 2, seed=0)
    with pytest.raises(ValueError, match="longest must be"):
        Difficulty(longest=0)
    with pytest.raises(ValueError, match="weights must be"):
        Difficulty(weights=(0.0, 0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="skew must be positive"):
        Difficulty(skew=float("nan"))
    with pytest.raises(ValueError, match="reach must lie"):
        Difficulty(reach=0.0)
    with pytest.raises(ValueError, match="beyond must lie"):
        Difficulty(beyond=1.5)
    few = Difficulty(longest=1, weights=(0.0, 0.0, 1.0, 0.0), beyond=0.0)
    with pytest.raises(ValueError, match="distinct prompts found"):
        generate_tasks(10_000, seed=0, difficulty=few)


def test_task_is_frozen_and_hashable() -> None:
    task = BATCH[0]
    assert isinstance(task, Task)
    assert task in {task}
    with pytest.raises(AttributeError):
        task.answer = "0"  # type: ignore[misc]


def test_shipped_reasoner_is_small_and_fits_the_tasks() -> None:
    folder = Path(tasks.__file__).with_name("reasoner")
    assert sum(f.stat().st_size for f in folder.iterdir()) <= 4_000_000
    words = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    assert set(tasks.vocabulary()) <= set(words)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["vocab_size"] == len(words)
    rng = np.random.default_rng(6)
    longest = max(len(f"{t.prompt} {worked_solution(t, rng)}".split()) for t in BATCH)
    assert longest < config["max_position_embeddings"]
