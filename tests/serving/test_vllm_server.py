"""A real vLLM server with the shipped model, as `clearopt serve` starts it."""

import contextlib
import socket
import subprocess
import time
import urllib.error
import urllib.request

import numpy as np
import pytest

from clearopt.cli import main
from clearopt.confirmation.defaults import default_model
from clearopt.confirmation.tasks import generate_tasks, is_correct
from clearopt.runs import ExactMatch, Fallback, Query, Settings, Workload, run
from clearopt.serving import Prefix, Reasoning, RefusedError, Replicas, Request, Server, answer_all
from clearopt.serving.launch import server_command

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

KEY = "a-key-for-the-tests"
# The prompts of the tasks end in "?", and their answers stand after "####".
REASONING = Reasoning(3, start="?", end="####")
TASKS = generate_tasks(40, seed=3)
PROMPTS = [task.prompt for task in TASKS]


@pytest.fixture(scope="module")
def replicas(tmp_path_factory):
    """Addresses of two servers of the same model, started side by side."""
    addresses = []
    with contextlib.ExitStack() as stack:
        processes = []
        for number in range(2):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            command, environment = server_command("reasoner", port=port, reasoning=REASONING)
            log = tmp_path_factory.mktemp("server") / f"log{number}"
            output = stack.enter_context(log.open("wb"))
            process = subprocess.Popen(
                command, env=environment | {"VLLM_API_KEY": KEY}, stdout=output, stderr=output
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
            processes.append((process, log))
            addresses.append(f"http://127.0.0.1:{port}")
        for address, (process, log) in zip(addresses, processes, strict=True):
            for _ in range(1200):
                if ready(address):
                    break
                assert process.poll() is None, log.read_text()[-3000:]
                time.sleep(0.5)
        yield addresses


@pytest.fixture(scope="module")
def url(replicas):
    return replicas[0]


def ready(address):
    try:
        return urllib.request.urlopen(f"{address}/health", timeout=5).status == 200
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", KEY)


def test_caps_seeds_and_finish_reasons(url):
    caps = np.arange(1, 41)
    requests = [
        Request(p, int(cap), seed=i) for i, (p, cap) in enumerate(zip(PROMPTS, caps, strict=True))
    ]
    answers = answer_all(Server(url), requests)
    assert all(a.tokens == len(a.token_ids) <= cap for a, cap in zip(answers, caps, strict=True))
    assert all(a.tokens == cap for a, cap in zip(answers, caps, strict=True) if not a.finished)
    assert {a.finish_reason for a in answers} == {"stop", "length"}
    assert answers == answer_all(Server(url), requests)
    ample = answer_all(Server(url), [Request(p, 100, seed=i) for i, p in enumerate(PROMPTS)])
    for part, whole in zip(answers, ample, strict=True):
        assert part.token_ids == whole.token_ids[: part.tokens]


def test_a_prefix_is_continued(url):
    first, whole = answer_all(
        Server(url), [Request(PROMPTS[0], cap, temperature=0) for cap in (11, 100)]
    )
    prefix = Prefix().then(first)
    (rest,) = answer_all(Server(url), [Request(PROMPTS[0], 100, temperature=0, prefix=prefix)])
    assert first.token_ids + rest.token_ids == whole.token_ids
    assert first.text + rest.text == whole.text


def test_what_the_server_refuses_costs_one_request(url):
    with pytest.raises(RefusedError, match=r"answers 400: .*512"):
        answer_all(Server(url), [Request(" ".join(["7"] * 600), 5)])


def workload():
    utilities = default_model().utilities([task.features for task in TASKS])
    return Workload([Query(t.task_id, t.prompt, t.answer) for t in TASKS], 400, utilities)


def test_a_run_and_its_resumption(url, tmp_path):
    settings = Settings(budget=1500, seed=5)
    report, again = (
        run(workload(), Server(url), settings, verifier=ExactMatch("####"), out=tmp_path,
            abandonment=Fallback(4))
        for _ in range(2)
    )  # fmt: skip
    assert report.complete
    assert report.rows == again.rows
    assert report.rounds == again.rounds
    assert report.spending.spent <= 1500
    assert report.spending.lost == 0
    assert report.notes == ()
    assert len(report.rounds) > 1
    right = [is_correct(t, r.text) for t, r in zip(TASKS, report.rows, strict=True)]
    scored = [r.score == 1 for r in report.rows if r.finish_reason == "stop"]
    assert scored == [ok for ok, r in zip(right, report.rows, strict=True)
                      if r.finish_reason == "stop"]  # fmt: skip
    assert report.right > 5
    assert set(report.statuses) <= {"answered", "cut", "fallback"}


def test_thinking_is_limited_and_tokens_are_kept_for_the_answer(url):
    work = Workload([Query(t.task_id, t.prompt, t.answer) for t in TASKS], 400)
    settings = Settings(budget=40 * 16, rounds=0, reasoning=REASONING)
    report = run(work, Server(url), settings, verifier=ExactMatch())  # of what follows "####"
    assert report.right > 3
    assert all("####" in row.text for row in report.rows)  # nobody was cut in mid-thought
    thinking = [audit["thinking_spent"] for audit in report.audits]
    assert max(thinking) == 13
    assert report.notes == ()
    plain = run(work, Server(url), Settings(budget=40 * 16, rounds=0))
    assert sum("####" in row.text for row in plain.rows) < 30


def test_the_command(url, tmp_path, capsys):
    table = tmp_path / "queries.csv"
    lines = [f"{t.task_id},{t.prompt},{t.answer}" for t in TASKS]
    table.write_text("\n".join(["id,prompt,answer", *lines]) + "\n")
    arguments = ["run", str(table), "--budget", "1500", "--server", url, "--verify", "exact",
                 "--mark", "####"]  # fmt: skip
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert "of 1,500 spent" in told
    assert (tmp_path / "queries.run" / "answers.jsonl").is_file()
    journal = (tmp_path / "queries.run" / "journal.jsonl").read_text()
    assert KEY not in told + journal + (tmp_path / "queries.run" / "report.json").read_text()


def test_two_replicas_answer_as_one_does(replicas):
    requests = [Request(prompt, 60, seed=i) for i, prompt in enumerate(PROMPTS)]
    counted = [Counted(address, concurrency=4) for address in replicas]
    together = answer_all(Replicas(counted), requests)
    assert [a.tokens for a in together] == [a.tokens for a in answer_all(counted[0], requests)]
    assert counted[1].answers > 5
    tasks = [Query(task.task_id, task.prompt, task.answer) for task in TASKS]
    report = run(
        Workload(tasks, 100), Replicas([Server(a) for a in replicas]), Settings(budget=1200),
        verifier=ExactMatch(mark="####"),
    )  # fmt: skip
    assert report.complete
    assert report.spending.spent <= 1200


class Counted(Server):
    """A server that counts what it was asked."""

    answers = 0

    async def answer(self, request):
        self.answers += 1
        return await super().answer(request)
