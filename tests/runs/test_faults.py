"""Whatever fails: no answer is lost, none counted twice, the budget holds, the table is the same.

The reserve pays for what was lost on the way; with it, a disturbed run ends as a clean one does.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from clearopt.runs import ExactMatch, Retries, run
from clearopt.serving import Server
from tests.runs.client import CONCURRENCY, chosen, work
from tests.runs.workloads import VERIFIER, settings, table, workload
from tests.serving.stub import Running, Stub

ROOT = Path(__file__).resolve().parents[2]
PLANNED, RESERVE = 1200, 8000


def ran(
    url, *, budget=PLANNED, reserve=0, out=None, verifier=None, concurrency=CONCURRENCY, **more
):
    server = Server(url, "stub", concurrency=concurrency, idle_timeout=4.0)
    settled = chosen(budget=budget + reserve, reserve=reserve, **more)
    return run(work(), server, settled, verifier=verifier, out=out)


@pytest.fixture(scope="module")
def clean():
    stub = Stub()
    with Running(stub) as url:
        report = ran(url, verifier=ExactMatch("####"))
    assert len(report.rounds) > 2
    assert report.gain > 0
    assert stub.generated == report.spending.spent
    return report


def held(report, stub, clean):
    """What must be so after any fault."""
    spending = report.spending
    assert report.complete
    assert [vars(row) | {"score": 0, "verdict": 0, "first_score": 0} for row in report.rows] == [
        vars(row) | {"score": 0, "verdict": 0, "first_score": 0} for row in clean.rows
    ]
    assert report.rounds == clean.rounds
    assert spending.spent == clean.spending.spent
    assert spending.spent + spending.lost <= spending.budget
    assert stub is None or stub.generated <= spending.spent + spending.lost


@pytest.mark.parametrize(
    "faults",
    [
        "429:0-30,429:50-90",
        "500:0-9,500:40-49,500:70",
        "503:3-20,502:30-33",
        "hang:5,hang:20-22",
        "truncate:0-5,truncate:60-65",
        "reset:10-15,garbage:30-32",
        "429:0-9,500:10-14,hang:20,truncate:30-33,reset:40,garbage:50,abort:55-58",
    ],
)
def test_faults_of_the_server(faults, clean):
    stub = Stub(faults)
    with Running(stub) as url:
        report = ran(url, reserve=RESERVE, verifier=ExactMatch("####"))
    held(report, stub, clean)
    assert table(report) == table(clean)


def test_faults_with_curves_and_the_exact_optimum():
    with Running(Stub()) as url:
        undisturbed = run(workload(), Server(url, "stub"), settings(), verifier=VERIFIER)
    stub = Stub("500:0-9,truncate:12-20,429:25-40")
    with Running(stub) as url:
        server = Server(url, "stub")
        report = run(
            workload(), server, settings(budget=5600, reserve=4000), verifier=VERIFIER
        )  # fmt: skip
    assert table(report) == table(undisturbed)
    assert stub.generated <= report.spending.spent + report.spending.lost <= 5600


def test_more_tokens_than_max_tokens(clean):
    """Overrunning answers are cut at their caps; what arrived beyond is paid for."""
    stub = Stub("overrun:*", delay=0.001)
    with Running(stub) as url:
        report = ran(url)
    assert report.complete
    assert report.spending.spent + report.spending.lost <= PLANNED
    assert len(report.rows) == 60
    assert any("max_tokens was ignored" in note for note in report.notes)


@pytest.mark.parametrize("seed", range(4))
def test_without_a_reserve_the_budget_holds_all_the_same(seed):
    rng = random.Random(seed)
    kinds = ["429", "500", "truncate", "reset", "garbage"]
    faults = ",".join(f"{rng.choice(kinds)}:{n}" for n in range(200) if rng.random() < 0.3)
    stub = Stub(faults)
    with Running(stub) as url:
        report = ran(url)
    assert report.complete
    assert stub.generated <= report.spending.spent + report.spending.lost <= PLANNED
    assert sum(report.statuses.values()) == 60
    assert sum(row.spent for row in report.rows) == report.spending.spent


# -------------------------------------------------------------------------------- killed servers
@contextmanager
def served(port, log, delay):
    """A stub in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.serving.stub", "--port", str(port), "--log", str(log),
         "--delay", str(delay)], cwd=ROOT,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_the_server_is_killed_in_mid_batch_and_restarted(tmp_path, clean):
    port, log = free_port(), tmp_path / "log"
    log.touch()

    def seen():
        return log.read_bytes().count(b"\n")

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            ran, f"http://127.0.0.1:{port}", reserve=RESERVE, out=tmp_path / "run",
            retries=Retries(first=0.05, longest=0.3, attempts=50),
        )  # fmt: skip
        for _ in range(3):
            with served(port, log, 0.002):
                wanted = seen() + 12
                while seen() < wanted and not running.done():
                    time.sleep(0.002)
        with served(port, log, 0):
            report = running.result()
    held(report, None, clean)
    assert report.spending.attempts_lost > 0


# -------------------------------------------------------------------------------- killed clients
class Client:
    """The client in a process that is told what to run, and forks for it."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.runs.client"], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def start(self, url, out, **options):
        order = {"url": url, "out": str(out), "budget": PLANNED + RESERVE, "reserve": RESERVE}
        self.process.stdin.write(json.dumps(order | options) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def ended(self):
        return int(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()


@pytest.fixture(scope="module")
def client():
    client = Client()
    yield client
    client.close()


def taken_up(url, out):
    return ran(url, reserve=RESERVE, out=out)


def test_the_client_is_killed_at_twenty_random_moments(tmp_path, clean, client):
    rng = random.Random(7)
    stub = Stub(delay=0.002)
    with Running(stub) as url:
        for _ in range(20):
            # At a moment in what the server does, so that it is the same on any machine.
            pause, until = rng.random() * 0.004, stub.generated + rng.randrange(120)
            child = client.start(url, tmp_path)
            while stub.generated < until and (
                stub.running or not (tmp_path / "report.json").exists()
            ):
                time.sleep(0.001)
            time.sleep(pause)
            os.kill(child, signal.SIGKILL)
            assert client.ended() == -signal.SIGKILL
        assert not (tmp_path / "report.json").exists()  # all twenty came before its end
        report = taken_up(url, tmp_path)
        asked = len(stub.log)
        again = taken_up(url, tmp_path)
    held(report, stub, clean)
    assert report.spending.lost > 0
    assert len(stub.log) == asked  # nothing is asked once it is answered
    assert table(again) == table(report)


@pytest.mark.parametrize("cut", [1, 7, 30])
def test_a_torn_last_line_of_the_journal(cut, tmp_path, clean, client):
    stub = Stub(delay=0.001)
    with Running(stub) as url:
        child = client.start(url, tmp_path)
        while stub.generated < 400:
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
        client.ended()
        journal = tmp_path / "journal.jsonl"
        os.truncate(journal, journal.stat().st_size - cut)
        report = taken_up(url, tmp_path)
    held(report, None, clean)


@pytest.mark.parametrize("limit", [3000, 9000, 20_000])
def test_a_full_disk(limit, tmp_path, clean, client):
    stub = Stub()
    with Running(stub) as url:
        client.start(url, tmp_path, limit=limit)
        code = client.ended()
        assert code in (4, 9)  # a partial report; or nothing was answered yet
        assert (tmp_path / "journal.jsonl").stat().st_size <= limit
        report = taken_up(url, tmp_path)
    held(report, stub, clean)


def test_ctrl_c_leaves_a_partial_report(tmp_path, clean, client):
    stub = Stub(delay=0.002)
    with Running(stub) as url:
        child = client.start(url, tmp_path, verify=True)
        while stub.generated < 400:
            time.sleep(0.001)
        os.kill(child, signal.SIGINT)
        assert client.ended() == 4
        part = json.loads((tmp_path / "report.json").read_text())
        assert stub.generated == part["spending"]["spent"]  # what was under way was waited for
        report = taken_up(url, tmp_path)
    assert part["complete"] is False
    assert part["notes"][-1] == "interrupted"
    assert 0 < part["statuses"]["answered"] < clean.statuses["answered"]
    assert part["statuses"]["interrupted"] > 0
    assert part["spending"]["lost"] == 0
    assert part["spending"]["spent"] <= 400 + 2 * 60 * CONCURRENCY
    held(report, stub, clean)
    assert report.spending.lost == 0


def test_a_second_ctrl_c_stops_at_once(tmp_path, clean):
    client = Client()  # of its own: others left lines unread that say the same
    stub = Stub("hang:20-23")
    with Running(stub) as url:
        child = client.start(url, tmp_path)
        while len(stub.log) < 24 or stub.running < CONCURRENCY:
            time.sleep(0.001)
        os.kill(child, signal.SIGINT)
        while "under way are waited for" not in client.process.stderr.readline():
            pass
        os.kill(child, signal.SIGINT)
        assert client.ended() == 4
        client.close()
        part = json.loads((tmp_path / "report.json").read_text())
        assert part["notes"][-1] == "interrupted"
        assert part["spending"]["lost"] > 0
        assert stub.generated <= part["spending"]["spent"] + part["spending"]["lost"]
        report = taken_up(url, tmp_path)
    held(report, stub, clean)
