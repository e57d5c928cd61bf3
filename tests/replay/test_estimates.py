"""A model's own estimates are read, told where they cannot be, and shared out in a replay."""

import numpy as np
import pytest
from rollout_files import simulated, traces_of

import clearopt as co
from clearopt.calibration import read_rollouts
from clearopt.replay import Settings, collect_rollouts, estimates_of, replay, tale_estimates
from clearopt.replay.accounting import ACCOUNTINGS
from clearopt.replay.estimates import parse_estimate
from clearopt.replay.policies import plan
from clearopt.replay.splits import sample_split
from clearopt.serving import Generation

FAST = {"repeats": 1, "fractions": (0.2,), "resamples": 200, "splits": ("sample",)}


class Oracle:
    """Replies with what it is told to, and remembers what it was asked."""

    model, location = "zoo/oracle", "zoo/oracle"

    def __init__(self, replies):
        self.replies, self.asked = replies, None

    def generate(self, prompts, max_tokens, seeds, temperature=1.0, *, stop=()):
        self.asked = list(prompts)
        return [Generation(reply, len(reply), "stop") for reply in self.replies]


@pytest.mark.parametrize(
    ("reply", "tokens"),
    [
        ("[[350]]", 350),
        ("Budget: [[1,200]].", 1200),
        ("[[about 90 tokens]]", 90),
        ("I first thought [[100]], but it is rather [[250]]", 250),
        ("With 3 steps of 40 each: [[120]]", 120),
        ("About 1 500 tokens.", 1500),
        ("1.2k", 1200),
        ("2 kg? No: no idea", 2),
        (" 75\n", 75),
        ("[ 64 ]", 64),
        ("", None),
        ("quite a lot", None),
        ("between 200 and 300", None),
        ("s1 17 + 9 = 26 s2 26 x 4 = 9 35 18 #### 18", None),
        ("[[0]]", None),
        ("[[99999999999999999999]]", None),
        ("[[]]", None),
        ("v2.5.1", None),
    ],
)
def test_replies(reply, tokens):
    assert parse_estimate(reply) == tokens


def test_what_cannot_be_read_stands_at_the_median_and_is_told():
    found = estimates_of("abcd", ["[[100]]", "who knows", "[[300]]", "[[500]]"])
    assert found.tokens.tolist() == [100, 300, 300, 500]
    assert found.readable.tolist() == [True, False, True, True]
    assert found.unreadable == 1
    assert "1 replies unreadable, taken as 300" in repr(found)
    assert estimates_of("ab", ["[[100]]", ""], fallback=7.0).tokens.tolist() == [100, 7]
    nothing = estimates_of("ab", ["", "no"])
    assert nothing.unreadable == 2
    assert np.ptp(nothing.tokens) == 0  # all alike, as under a uniform cap


def test_a_question_goes_into_the_request_as_it_is():
    engine = Oracle(["[[10]]", "[[20]]"])
    questions = {"a": "what is {x} + {question}?", "b": "one"}
    found = tale_estimates(engine, questions, template=lambda text: f"<user>{text}</user>")
    assert found.tokens.tolist() == [10, 20]
    assert found.queries == ("a", "b")
    assert all(text.startswith("<user>Do not solve") for text in engine.asked)
    assert "Problem: what is {x} + {question}?\n" in engine.asked[0]


def test_what_is_refused():
    for given, options, said in (
        ({}, {}, "questions: there is none"),
        ({"a": "x"}, {"request": "how many?"}, "request: says nowhere"),
        ({"a": "x"}, {"fallback": 0.0}, "fallback = 0.0"),
    ):
        with pytest.raises(co.DeclarationError, match=said):
            tale_estimates(Oracle([]), given, **options)
    with pytest.raises(co.DeclarationError, match="replies: 1 for 2"):
        estimates_of("ab", ["1"])


def test_caps_are_in_proportion_and_within_the_budget(tmp_path):
    run = next(traces_of(simulated(n=20), tmp_path).runs())
    case = next(iter(sample_split(run, 1, 0)))
    estimates = np.geomspace(50, 5000, 20)
    for accounting in ACCOUNTINGS.values():
        budget = int(0.2 * accounting.ample(case.fitting, case.n))
        made = plan("tale-ep", case, accounting, budget, None, estimates=estimates)
        caps = made.caps.astype(float)
        charged = accounting.total(case.fitting, caps)
        assert 0.99 * budget <= charged <= budget
        free = caps < caps.max()
        ratio = caps[free] / estimates[free]
        np.testing.assert_allclose(ratio, ratio.mean(), atol=2.0 / estimates.min())
    alike = plan("tale-ep", case, ACCOUNTINGS["planned"], 1000, None, estimates=np.ones(20))
    assert alike.caps.tolist() == [50] * 20


def test_a_replay_takes_them_from_a_table(tmp_path):
    rows = simulated(n=20)
    traces = traces_of(rows, tmp_path)
    queries = next(traces.runs()).queries
    # The mean length is the best that a model could know of itself.
    means = [np.mean([r["tokens"] for r in rows if r["query_id"] == q]) for q in queries]
    table = estimates_of(queries, [f"[[{mean:.0f}]]" for mean in means]).write(tmp_path / "e.csv")
    report = replay(traces, Settings(estimates=table, **FAST))
    assert not report.skipped
    for accounting in ("planned", "realised"):
        row = report.row("tale-ep", 0.2, accounting=accounting)
        assert 0 <= row.accuracy <= report.row("oracle", 0.2, accounting=accounting).accuracy

    short = estimates_of(queries[:-1], ["[[9]]"] * 19).write(tmp_path / "short.csv")
    report = replay(traces, Settings(estimates=short, **FAST))
    assert not report.rows
    assert any(f"no row has 'query_id' = '{queries[-1]}'" in note for note in report.notes)
    nothing = estimates_of(queries, ["[[9]]"] * 20).write(tmp_path / "zero.csv")
    nothing.write_text(nothing.read_text().replace("9.0", "0.0"))
    notes = replay(traces, Settings(estimates=nothing, **FAST)).notes
    assert any("must be positive" in note for note in notes)


@pytest.mark.vllm
def test_through_vllm(engine, tmp_path):
    """From a real model to a replay of its own rollouts by its own estimates.

    The shipped reasoner knows the words of its sums alone, so that next to no reply can be read:
    that is told, and such queries count alike.
    """
    from clearopt.confirmation.tasks import generate_tasks, is_correct

    tasks = {task.task_id: task for task in generate_tasks(12, seed=4)}
    questions = {label: task.prompt for label, task in tasks.items()}
    estimates = tale_estimates(engine, questions, longest=48)
    assert len(estimates.replies) == 12
    assert np.isfinite(estimates.tokens).all()
    assert (estimates.tokens >= 1).all()
    assert (estimates.tokens[~estimates.readable] == estimates.fallback).all()
    again = tale_estimates(engine, questions, longest=48)
    assert again.replies == estimates.replies

    path = tmp_path / "r.csv"
    collect_rollouts(
        engine, questions, lambda q, text: is_correct(tasks[q], text), path, samples=2, longest=300
    )
    table = estimates.write(tmp_path / "estimates.csv")
    report = replay(read_rollouts(path), Settings(estimates=table, **FAST))
    assert (
        report.row("tale-ep", 0.2, accounting="planned").planned
        <= report.row("uniform", 0.2, accounting="planned").budget
    )
