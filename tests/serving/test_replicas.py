import asyncio

import pytest

import clearopt as co
from clearopt.serving import Replicas, Request, Server, answer_all
from tests.runs.workloads import QUICK, jobs
from tests.serving.stub import Running, Stub


def test_requests_are_shared_among_replicas():
    stubs = [Stub(delay=0.001), Stub(delay=0.001)]
    with Running(stubs[0]) as first, Running(stubs[1]) as second:
        replicas = Replicas([Server(url, "m", concurrency=5) for url in (first, second)])
        answers = answer_all(replicas, [Request(f"need=30 say={i}\n", 40) for i in range(40)])
    assert [a.text.rpartition(" ")[2] for a in answers] == [str(i) for i in range(40)]
    assert all(10 <= len(stub.log) <= 30 for stub in stubs)
    assert all(stub.most_running <= 5 for stub in stubs)
    assert replicas.name == "m"


def test_a_replica_that_is_down_is_passed_over():
    from clearopt.runs.journal import Journal
    from clearopt.runs.ledger import Ledger
    from clearopt.runs.record import Record
    from clearopt.runs.wave import Wave

    async def go(url):
        servers = [Server("http://127.0.0.1:9", "m", concurrency=4), Server(url, "m")]
        record = Record(Journal(None), {})
        async with Replicas(servers) as replicas:
            await Wave(replicas, record, Ledger(10**6), QUICK).run(jobs(200))
        return record

    with Running(Stub()) as url:
        record = asyncio.run(go(url))
    assert {outcome.end for outcome in record.outcomes.values()} == {"answered"}
    assert sum(record.attempts.values()) < 600


def test_the_same_endpoint_twice_is_refused():
    server = Server("http://h")
    for endpoints in ([], [server, server]):
        with pytest.raises(co.DeclarationError, match="at least one endpoint, and none twice"):
            Replicas(endpoints)
