"""`Wave`: many requests at once, each to its end, under the budget."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from clearopt.runs.ledger import Ledger
from clearopt.runs.record import Outcome, Record
from clearopt.runs.retries import Brake, Retries
from clearopt.serving.endpoint import Endpoint
from clearopt.serving.failures import BusyError, LostError, RefusedError
from clearopt.serving.requests import Request


@dataclass(frozen=True)
class Job:
    """A request and the name by which the journal knows it."""

    name: str
    request: Request

    @property
    def cap(self) -> int:
        """Tokens that it may cost."""
        return self.request.max_tokens


class Stopped(Exception):
    """The run was asked to stop; nothing is under way any more."""


class Wave:
    """Sends jobs, at most `concurrency` at a time, and sees each to its end.

    A worker that waits to try again keeps its place: an overloaded engine gets fewer requests,
    not more.

    Args:
        endpoint: who answers, ready.
        record, ledger: where it is noted, and what it is paid from.
        retries: how failures are met.
        request_timeout: seconds that one attempt may take; None: as long as it shows life.
        charge_lost: whether an attempt whose answer never came is charged its cap.
        on_end: called with a job and its outcome as it ends.
        on_wait: called with the reason, when the engine begins to be busy or out of reach.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        record: Record,
        ledger: Ledger,
        retries: Retries,
        *,
        request_timeout: float | None = None,
        charge_lost: bool = True,
        on_end: Callable[[Job, Outcome], None] = lambda job, outcome: None,
        on_wait: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self.endpoint, self.record, self.ledger = endpoint, record, ledger
        self.retries, self.request_timeout, self.charge_lost = retries, request_timeout, charge_lost
        self._on_end, self._on_wait = on_end, on_wait
        self._rng = random.Random()  # of waits alone: no result depends on it
        self._queue: deque[Job] = deque()
        self._parked: deque[Job] = deque()
        self._room = asyncio.Condition()
        self._active = 0
        self._stop = asyncio.Event()

    @property
    def active(self) -> int:
        """How many jobs are under way."""
        return self._active

    def stop(self) -> None:
        """Send nothing any more; what is under way is waited for, so that nothing is lost."""
        self._stop.set()

    async def run(self, jobs: Sequence[Job]) -> None:
        """See every job to its end, except those that the record says have ended.

        Raises:
            EngineError, JournalError: the run has to stop; what has ended is on record.
            Stopped: it was asked to.
        """
        self._queue.extend(job for job in jobs if job.name not in self.record.outcomes)
        for job in self._queue:
            self.ledger.commit(job.cap)
        self._brake = Brake(self.retries, self._on_wait)
        count = min(self.endpoint.concurrency, len(self._queue))
        workers = [asyncio.create_task(self._work()) for _ in range(count)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        if self._stop.is_set():
            raise Stopped
        for job in self._parked:  # nothing is under way any more that could free their tokens
            why = "attempts whose answers were lost have used its tokens up"
            await self._end(job, 0, Outcome("no tokens", why=why))

    # ------------------------------------------------------------------ workers
    async def _work(self) -> None:
        while (job := await self._next()) is not None:
            try:
                await self._serve(job)
            finally:
                self._active -= 1
                if self._parked:
                    async with self._room:
                        self._room.notify_all()

    async def _next(self) -> Job | None:
        """The next job that may be sent; None where there is none any more."""
        while not self._stop.is_set():
            while self._parked and self.ledger.free >= self._parked[0].cap:
                job = self._parked.popleft()
                self.ledger.commit(job.cap)
                self._queue.append(job)
            if self._queue:
                job = self._queue.popleft()
                if self.ledger.free < 0:
                    self._park(job)
                    continue
                self._active += 1
                return job
            async with self._room:
                if not self._parked or not self._active:
                    return None
                if self.ledger.free < self._parked[0].cap:
                    await self._room.wait()
        return None

    def _park(self, job: Job) -> None:
        self.ledger.release(job.cap)
        self._parked.append(job)

    # ------------------------------------------------------------------ one job
    async def _serve(self, job: Job) -> None:
        failures = lost = 0
        while not self._stop.is_set():
            if self._brake.seconds > 0:
                await self._pause(self._brake.seconds)
                continue
            if self.ledger.free < 0:  # what others cost meanwhile is to be paid for
                self._park(job)
                return
            attempt = await self.record.sent(job.name, job.cap)
            try:
                async with asyncio.timeout(self.request_timeout):
                    generation = await self.endpoint.answer(job.request)
            except BusyError as error:
                await self.record.failed(job.name, attempt, None, str(error))
                failures += 1
                self._brake.hold(error.retry_after, error)
            except (LostError, TimeoutError) as error:
                why = str(error) or f"no answer within {self.request_timeout:g} s"
                failures, lost = failures + 1, lost + 1
                await self._lose(job, attempt, why)
                if lost >= self.retries.attempts:
                    await self._end(job, attempt, Outcome("failed", why=why))
                    return
            except RefusedError as error:
                await self._end(job, attempt, Outcome("refused", why=str(error)))
                return
            except asyncio.CancelledError:
                # Withdrawn, with part of it generated: noted by its absence, as after a crash.
                self.ledger.lose(job.cap if self.charge_lost else 0)
                raise
            else:
                self._brake.succeeded()
                await self._end(job, attempt, Outcome("answered", generation))
                return
            if self.ledger.free >= 0:  # else asking again would exceed the budget
                await self._pause(self.retries.wait(failures, self._rng))

    async def _pause(self, seconds: float) -> None:
        """Wait so long, or until the run is to stop."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    async def _lose(self, job: Job, attempt: int, why: str) -> None:
        charged = job.cap if self.charge_lost else 0
        self.ledger.lose(charged)
        await self.record.failed(job.name, attempt, charged, why)

    async def _end(self, job: Job, attempt: int, outcome: Outcome) -> None:
        await self.record.ended(job.name, attempt, outcome)
        if outcome.end == "no tokens":
            pass  # its tokens were let go of when it was parked
        elif (answer := outcome.generation) is not None:
            self.ledger.settle(job.cap, answer.tokens + answer.overrun)
        else:
            self.ledger.release(job.cap)
        self._on_end(job, outcome)
