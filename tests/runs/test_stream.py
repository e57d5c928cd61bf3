"""Streams through an engine: priced as they come, the budget held, nothing asked twice."""

import asyncio
import json

import numpy as np
import pytest

import clearopt as co
from clearopt.online import PostedPrice
from clearopt.runs import Arrival, Retries, Settings, run_stream, run_stream_async
from clearopt.serving import EngineError, Server
from tests.runs.workloads import QUICK, VERIFIER, workload
from tests.serving.stub import Running, Stub


def arrivals(n=60, seed=0, **options):
    work = workload(n, seed)
    curves = work.utilities
    return [
        Arrival(query, curves.broadcast(n).take(slice(i, i + 1)), 200.0, **options)
        for i, query in enumerate(work.queries)
    ]


def market(n=60, rate=30.0, **options):
    return PostedPrice(budget=rate * n, horizon=n, **options)


def streamed(stub, coming=None, priced=None, *, concurrency=8, settings=None, **options):
    with Running(stub) as url:
        return run_stream(
            arrivals() if coming is None else coming,
            Server(url, "stub", concurrency=concurrency),
            market() if priced is None else priced,
            settings or Settings(budget=1, retries=QUICK),
            verifier=VERIFIER,
            **options,
        )


def test_queries_are_priced_answered_and_judged_in_their_order():
    stub, priced = Stub(), market()
    report = streamed(stub, priced=priced)
    assert report.complete
    assert [row.key for row in report.rows] == [f"q{i}" for i in range(60)]
    assert stub.generated == report.spent == sum(row.spent for row in report.rows) <= report.budget
    assert priced.spent == report.spent
    assert priced.reserved == 0
    for row in report.rows:
        assert row.spent <= row.cap
        assert (row.status == "abandoned") == (row.cap == 0)
        right = row.status == "answered" and row.text.endswith(f"#### {row.key[1:]}")
        assert row.score == float(right)
    assert {"answered", "abandoned"} <= {row.status for row in report.rows}
    assert len(set(report.prices)) > 30
    assert report.accuracy == pytest.approx(report.scores.mean())
    assert "right" in report.summary()


def test_what_is_not_used_is_sold_again():
    report = streamed(Stub(), concurrency=1)
    caps = sum(row.cap for row in report.rows)
    assert report.spent <= report.budget < caps


def test_one_after_the_other_a_stream_is_repeatable():
    first, second = (streamed(Stub(delay=d), concurrency=1) for d in (0.0, 0.0005))
    assert first.rows == second.rows


def test_lost_answers_are_paid_for():
    stub, priced = Stub("reset:3-6"), market()
    report = streamed(stub, priced=priced)
    assert report.lost > 0
    assert report.spent + report.lost <= report.budget
    assert priced.spent == report.spent + report.lost


def test_a_stream_is_taken_up_and_nothing_is_asked_twice(tmp_path):
    whole = streamed(Stub(), concurrency=1)
    first = streamed(Stub(), arrivals()[:25], concurrency=1, out=tmp_path)
    stub = Stub()
    second = streamed(stub, concurrency=1, out=tmp_path)
    assert second.rows[:25] == first.rows
    assert second.rows == whole.rows
    asked = sum(row.status != "abandoned" for row in second.rows[25:])
    assert len(stub.log) == asked
    report = json.loads(second.write(tmp_path / "report").read_text())
    assert len(report["rows"]) == 60


def test_a_server_that_is_not_there_is_told():
    impatient = Settings(budget=1, retries=Retries(first=0.01, longest=0.02, patience=0.2))
    with pytest.raises(EngineError):
        run_stream(arrivals(), Server("http://127.0.0.1:9", "stub"), market(), impatient)


def test_arrivals_in_time_and_tiers():
    async def coming():
        for number, arrival in enumerate(arrivals(20)):
            await asyncio.sleep(0.001)
            yield Arrival(arrival.query, arrival.utility, 200.0, "gold" if number % 2 else None)

    priced = market(20, floors={"gold": 0.6})
    with Running(Stub()) as url:
        report = asyncio.run(
            run_stream_async(coming(), Server(url, "stub"), priced, Settings(budget=1))
        )
    assert len(report.rows) == 20
    assert priced.tiers["gold"].queries == 10
    assert report.accuracy is None


def test_a_cancelled_stream_gives_a_partial_report():
    async def endless():
        for arrival in arrivals(200):
            yield arrival
            await asyncio.sleep(0.01)

    async def interrupted(url):
        task = asyncio.create_task(
            run_stream_async(endless(), Server(url, "stub"), market(200), Settings(budget=1))
        )
        await asyncio.sleep(0.3)
        task.cancel()
        return await task

    with Running(Stub()) as url:
        report = asyncio.run(interrupted(url))
    assert not report.complete
    assert report.notes == ("interrupted",)
    assert 0 < len(report.rows) < 200
    assert report.spent <= report.budget


def test_a_market_repeats_what_it_quoted():
    curve = co.CumulativeSurge(0.9, 30.0, 0.1)
    one, other = market(), market()
    quotes = [one.quote(curve, 100.0) for _ in range(10)]
    for quote in quotes:
        again = other.repeat(curve, quote.tokens, quote.price)
        assert again == quote
    assert other.reserved == one.reserved
    assert np.isclose(other.price, one.price)
    with pytest.raises(co.DeclarationError, match="at least 0"):
        other.lose(-1)
