"""`run_stream`: queries priced as they arrive, each answered at once under its cap.

A run shares a budget out among queries it knows; here each arrival buys its cap at the market's
price (`clearopt.online.PostedPrice`) and is sent the moment there is a place for it. What an answer
leaves of its cap is back in the market before the next one is quoted. Journal, retries, ledger and
verifiers are those of `run`: a stream that was killed is taken up with the caps and prices on
record, nothing answered is asked again, and what was generated never exceeds the budget.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterable, AsyncIterator, Hashable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from clearopt.online.market import PostedPrice, Quote
from clearopt.runs.journal import FILE_NAME, Journal, JournalError
from clearopt.runs.judging import Judging
from clearopt.runs.ledger import Ledger
from clearopt.runs.queries import Query
from clearopt.runs.record import Outcome, Record
from clearopt.runs.settings import Settings
from clearopt.runs.stream_report import StreamReport, StreamRow
from clearopt.runs.verifiers import Verifier
from clearopt.runs.wave import Job, Stopped, Wave
from clearopt.serving.endpoint import Endpoint
from clearopt.serving.failures import EngineError
from clearopt.serving.requests import Request
from clearopt.utilities import Utility

_SEEDS = 2**31


@dataclass(frozen=True)
class Arrival:
    """A query that has come.

    Attributes:
        query: what is asked.
        utility: its expected accuracy by cap, one member.
        upper: the most tokens it may have.
        tier: whose floor it counts for, where the market has floors.
    """

    query: Query
    utility: Utility
    upper: float = math.inf
    tier: Hashable | None = None


Arrivals = Iterable[Arrival] | AsyncIterable[Arrival]


def run_stream(
    arrivals: Arrivals,
    endpoint: Endpoint,
    market: PostedPrice,
    settings: Settings | None = None,
    *,
    verifier: Verifier | None = None,
    out: Path | None = None,
) -> StreamReport:
    """Answer queries as they come.

    Args:
        arrivals: in their order; an asynchronous iterable where they come in time. While the
            engine is full, the next one waits.
        endpoint: `Engine(...)`, `Server(...)`, or one of your own.
        market: the budget and its price; it goes on learning.
        settings: of sampling, retries and verifying. Its budget, reserve, rounds and solver have
            no part in a stream.
        verifier: tells right answers; None: none is told.
        out: folder of the journal; None keeps none. Give the same arrivals again to go on after
            a crash, with a market made anew as the first one was.

    Returns:
        The report; incomplete after Ctrl-C, or when the engine or the journal failed.

    Raises:
        EngineError: the engine cannot serve, and nothing was answered.
        DeclarationError: the folder holds another run.
    """
    return asyncio.run(
        run_stream_async(arrivals, endpoint, market, settings, verifier=verifier, out=out)
    )


async def run_stream_async(
    arrivals: Arrivals,
    endpoint: Endpoint,
    market: PostedPrice,
    settings: Settings | None = None,
    *,
    verifier: Verifier | None = None,
    out: Path | None = None,
) -> StreamReport:
    """`run_stream`, for a program that has an event loop already."""
    started = time.monotonic()
    chosen = replace(settings or Settings(budget=1), budget=max(int(market.budget), 1), reserve=0)
    journal = Journal(None if out is None else out / FILE_NAME)
    try:
        about = {"engine": endpoint.name, "stream": _about(chosen)}
        record = Record(journal, about, charge_lost=chosen.charge_lost)
        judging = Judging(verifier, record, chosen, [])
        stream = _Stream(endpoint, market, record, judging, chosen)
        stopped = ""
        try:
            await record.begin()
            async with endpoint:
                await stream.run(arrivals)
                await judging.finish()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
            stopped = "interrupted"
        except (EngineError, JournalError) as error:
            if not any(outcome.generation for outcome in record.outcomes.values()):
                raise
            stopped = str(error)
        finally:
            await journal.drain()
            await judging.close()
        return StreamReport(
            rows=tuple(stream.row(k) for k in range(len(stream.arrived))),
            budget=market.budget,
            spent=record.spent["main"],
            lost=max(record.lost["main"], stream.ledger.lost),
            complete=not stopped,
            engine=endpoint.name,
            notes=(stopped,) if stopped else (),
            seconds=time.monotonic() - started,
        )
    finally:
        journal.close()


class _Stream:
    """One stream under way."""

    def __init__(
        self,
        endpoint: Endpoint,
        market: PostedPrice,
        record: Record,
        judging: Judging,
        settings: Settings,
    ) -> None:
        self.endpoint, self.market, self.record = endpoint, market, record
        self.judging, self.settings = judging, settings
        self.arrived: list[tuple[Arrival, Quote, str]] = []
        self.ledger = Ledger(
            int(market.budget), spent=record.spent["main"], lost=record.lost["main"]
        )
        self._lost = self.ledger.lost  # of it, what the market knows
        market.lose(self._lost)
        self._jobs: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None

    async def run(self, arrivals: Arrivals) -> None:
        slots = asyncio.Semaphore(self.endpoint.concurrency)
        try:
            async for arrival in _in_time(arrivals):
                await slots.acquire()
                if self._failure is not None:
                    break
                task = asyncio.create_task(self._one(arrival, slots, await self._quoted(arrival)))
                self._jobs.add(task)
                task.add_done_callback(self._jobs.discard)
            while self._jobs:
                await asyncio.gather(*self._jobs)
        finally:
            for task in self._jobs:
                task.cancel()
            await asyncio.gather(*self._jobs, return_exceptions=True)
        if self._failure is not None:
            raise self._failure

    async def _quoted(self, arrival: Arrival) -> tuple[Quote, str]:
        """Its cap, which is on record before anything is sent."""
        name = f"stream:{len(self.arrived)}:{arrival.query.key}"
        noted = self.record.plans.get(name)
        if noted is None:
            quote = self.market.quote(arrival.utility, arrival.upper, arrival.tier)
            self.arrived.append((arrival, quote, name))
            await self.record.plan(name, [int(quote.tokens)], price=quote.price)
        else:
            quote = self.market.repeat(
                arrival.utility, noted["caps"][0], noted["price"], arrival.tier
            )
            self.arrived.append((arrival, quote, name))
        self.ledger.budget = int(self.market.budget)
        return quote, name

    async def _one(
        self, arrival: Arrival, slots: asyncio.Semaphore, quoted: tuple[Quote, str]
    ) -> None:
        quote, name = quoted
        try:
            if not quote.funded:
                return
            number = quote.number
            rng = np.random.default_rng([self.settings.seed, 5, number])
            request = Request(
                prompt=arrival.query.prompt,
                max_tokens=int(quote.tokens),
                seed=int(rng.integers(_SEEDS)),
                temperature=self.settings.temperature,
                stop=self.settings.stop,
                chat=self.settings.chat,
            )
            outcome = self.record.outcomes.get(name)
            if outcome is None:
                await self._wave().run([Job(name, request)])
                outcome = self.record.outcomes[name]
            answer = outcome.generation
            spent = 0 if answer is None else min(answer.tokens, int(quote.tokens))
            self.market.settle(quote, spent)
            overrun = 0 if answer is None else answer.overrun + answer.tokens - spent
            self.market.lose(self.ledger.lost - self._lost + overrun)
            self._lost = self.ledger.lost
            if answer is not None:
                self.judging.begin(name, arrival.query, answer.text, finished=answer.finished)
        except (EngineError, JournalError, Stopped) as error:
            self._failure = self._failure or error
        finally:
            slots.release()

    def _wave(self) -> Wave:
        return Wave(
            self.endpoint,
            self.record,
            self.ledger,
            self.settings.retries,
            request_timeout=self.settings.request_timeout,
            charge_lost=self.settings.charge_lost,
        )

    # ------------------------------------------------------------------ the report
    def row(self, k: int) -> StreamRow:
        """What became of the k-th arrival."""
        arrival, quote, name = self.arrived[k]
        outcome: Outcome | None = self.record.outcomes.get(name)
        answer = None if outcome is None else outcome.generation
        if not quote.funded:
            status, score = "abandoned", 0.0 if self.judging.asks else None
        elif outcome is None:
            status, score = "interrupted", None
        elif answer is None:
            status, score = outcome.end, 0.0 if self.judging.asks else None
        else:
            status = "answered" if answer.finished else "cut"
            score, _ = self.judging.verdict(name, finished=answer.finished)
        return StreamRow(
            key=arrival.query.key,
            status=status,
            cap=int(quote.tokens),
            spent=0 if answer is None else answer.tokens + answer.overrun,
            price=quote.price,
            expected=quote.accuracy,
            score=score,
            text="" if answer is None else answer.text,
            why="" if outcome is None else outcome.why,
        )


async def _in_time(arrivals: Arrivals) -> AsyncIterator[Arrival]:
    if isinstance(arrivals, AsyncIterable):
        async for arrival in arrivals:
            yield arrival
        return
    for arrival in arrivals:
        yield arrival


def _about(settings: Settings) -> dict[str, Any]:
    """What the answers depend on."""
    return {
        "seed": settings.seed,
        "temperature": settings.temperature,
        "stop": list(settings.stop),
        "chat": settings.chat,
    }
