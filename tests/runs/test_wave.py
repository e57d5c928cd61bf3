import asyncio
import itertools
import random

import pytest

import clearopt as co
from clearopt.runs.journal import Journal
from clearopt.runs.ledger import Ledger
from clearopt.runs.record import Record
from clearopt.runs.retries import Retries
from clearopt.runs.wave import Job, Wave
from clearopt.serving import EngineError, Request, Server
from tests.runs.workloads import QUICK, jobs
from tests.serving.stub import Running, Stub


def run(stub, given, *, budget=10**6, reserve=0, retries=QUICK, options=None, **wave):
    """The record and the ledger after a wave of jobs."""

    async def go(url):
        record = Record(Journal(None), {})
        ledger = Ledger(budget, reserve)
        async with Server(url, "stub", **{"idle_timeout": 4.0} | (options or {})) as server:
            await Wave(server, record, ledger, retries, **wave).run(given)
        return record, ledger

    with Running(stub) as url:
        return asyncio.run(go(url))


def texts(record):
    return {job: outcome.generation.text for job, outcome in record.outcomes.items()}


@pytest.fixture(scope="module")
def clean():
    record, ledger = run(Stub(), jobs(60))
    assert ledger.spent == 60 * 40
    assert ledger.committed == ledger.lost == 0
    return texts(record)


@pytest.mark.parametrize(
    ("faults", "lost"),
    [
        ("429:0-39,429:50-59", 0),
        ("503:10-19", 0),
        ("500:5-24", 20),
        ("truncate:3-8", 6),
        ("reset:0-4,garbage:20", 6),
        ("hang:7-9", 3),
        ("429:0-9,500:10-19,truncate:30,hang:31", 12),
    ],
)
def test_faults_change_no_answer(clean, faults, lost):
    stub = Stub(faults)
    record, ledger = run(stub, jobs(60), budget=60 * 40 + 60 * 50, reserve=0)
    assert texts(record) == clean
    assert (record.unseen, ledger.lost) == (lost, lost * 50)
    assert stub.generated <= ledger.spent + ledger.lost <= ledger.budget
    assert ledger.spent == 60 * 40


def test_at_most_so_many_at_once(clean):
    stub = Stub(delay=0.001)
    record, _ = run(stub, jobs(60), options={"concurrency": 7})
    assert texts(record) == clean
    assert stub.most_running == 7


def test_retry_after_holds_everybody_back():
    stub = Stub("429:0")
    stub.retry_after = "0.5"
    begun = []

    async def go(url):
        loop = asyncio.get_running_loop()
        async with Server(url, "stub", concurrency=4) as server:
            answer = server.answer

            async def noted(request):
                begun.append(loop.time())
                return await answer(request)

            server.answer = noted
            await Wave(server, Record(Journal(None), {}), Ledger(10**6), QUICK).run(jobs(40))

    with Running(stub) as url:
        asyncio.run(go(url))
    assert len(begun) == 41
    gaps = [later - earlier for earlier, later in itertools.pairwise(begun)]
    assert max(gaps) > 0.3


def test_a_request_that_never_works_costs_itself():
    stub = Stub("500:*")
    record, ledger = run(stub, jobs(1), retries=Retries(attempts=3, first=0.01))
    (outcome,) = record.outcomes.values()
    assert outcome.end == "failed"
    assert "answers 500" in outcome.why
    assert (len(stub.log), ledger.lost, ledger.committed) == (3, 150, 0)
    record, ledger = run(Stub("400:0"), jobs(3))
    assert sorted(o.end for o in record.outcomes.values()) == ["answered", "answered", "refused"]
    assert ledger.free == 10**6 - 80


def test_a_slow_request_is_given_up_at_its_time_limit():
    record, ledger = run(
        Stub(delay=0.2), jobs(1), request_timeout=0.3, retries=Retries(attempts=2, first=0.01)
    )
    assert record.outcomes["0:0"].why == "no answer within 0.3 s"
    assert ledger.lost == 100


def test_lost_tokens_are_paid_by_giving_way():
    """Without a reserve and without early finishers there is nothing to ask again with."""
    stub = Stub("500:0-4")
    record, ledger = run(stub, jobs(20, cap=50, need=90), budget=20 * 50)
    ends = [outcome.end for outcome in record.outcomes.values()]
    assert (ends.count("answered"), ends.count("no tokens")) == (15, 5)
    assert (ledger.spent, ledger.lost, ledger.free) == (15 * 50, 5 * 50, 0)
    assert stub.generated <= ledger.budget


def test_early_finishers_pay_for_what_was_lost():
    record, ledger = run(Stub("500:0-4"), jobs(40, cap=50, need=40), budget=40 * 50)
    assert {outcome.end for outcome in record.outcomes.values()} == {"answered"}
    assert ledger.free == 40 * 50 - 40 * 40 - 5 * 50


@pytest.mark.parametrize("seed", range(20))
def test_the_budget_holds_under_any_faults(seed):
    """Random faults, caps and needs: what the stub generated is covered, whatever became of it."""
    rng = random.Random(seed)
    kinds = ["429", "500", "truncate", "reset", "garbage"]
    faults = ",".join(f"{rng.choice(kinds)}:{n}" for n in range(80) if rng.random() < 0.4)
    given = [
        Job(f"0:{i}", Request(f"need={rng.randint(5, 90)} say={i}\n", rng.randint(1, 60), seed=i))
        for i in range(40)
    ]
    planned = sum(job.cap for job in given)
    budget = planned + rng.choice([0, 0, planned // 5])
    stub = Stub(faults)
    record, ledger = run(stub, given, budget=budget)
    assert stub.generated <= ledger.spent + ledger.lost <= budget
    assert ledger.committed == 0
    assert len(record.outcomes) == 40
    received = [o.generation.tokens for o in record.outcomes.values() if o.generation]
    assert sum(received) == ledger.spent == record.spent["main"]


def test_a_server_that_ignores_caps_is_charged_for_what_it_sends():
    stub = Stub("overrun:*", interval=4, delay=0.0001)
    record, ledger = run(stub, jobs(10, cap=21, need=90), options={"concurrency": 1}, budget=220)
    answered = [o.generation for o in record.outcomes.values() if o.generation]
    assert all(a.tokens == 21 and a.overrun > 0 for a in answered)
    assert {o.end for o in record.outcomes.values()} == {"answered", "no tokens"}
    assert ledger.spent == sum(a.tokens + a.overrun for a in answered) <= 220


def test_an_engine_out_of_reach_stops_the_run():
    async def go():
        async with Server("http://127.0.0.1:9", "stub") as server:
            retries = Retries(first=0.01, longest=0.05, patience=0.3)
            await Wave(server, Record(Journal(None), {}), Ledger(10**6), retries).run(jobs(5))

    with pytest.raises(EngineError, match=r"nothing was answered for .* cannot be reached"):
        asyncio.run(go())


def test_a_wrong_key_stops_the_run_at_once():
    stub = Stub(key="right")
    with pytest.raises(EngineError, match="answers 401"):
        run(stub, jobs(500), options={"concurrency": 3})
    assert len(stub.log) == 0


def test_bad_settings_are_named():
    with pytest.raises(co.DeclarationError, match="attempts = 0: must be above 0"):
        Retries(attempts=0)
    with pytest.raises(co.DeclarationError, match="reserve = 5: must lie between 0 and the budget"):
        Ledger(4, 5)


def test_waits_grow_up_to_the_longest():
    rng, retries = random.Random(0), Retries(first=1, longest=10)
    for failures, most in ((1, 1), (2, 2), (4, 8), (5, 10), (5000, 10)):
        waits = [retries.wait(failures, rng) for _ in range(300)]
        assert 0.8 * most < max(waits) <= most
        assert min(waits) < 0.2 * most
