"""`Judging`: verdicts on answers while others are still being generated."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Sequence

from clearopt.runs.queries import Query
from clearopt.runs.record import Record, fingerprint
from clearopt.runs.settings import Settings
from clearopt.runs.verifiers import FromFile, Verifier
from clearopt.runs.verifying import Verdict, Verifying


class Judging:
    """Asks a verifier about answers as they end, and notes what it says.

    Args:
        verifier: who is asked, or None: then there are no verdicts.
        record: where verdicts are noted; one that is noted is not asked for again.
        settings: of the run.
        queries: all of them; where an answer is corrected, what was said before is not used.
    """

    def __init__(
        self,
        verifier: Verifier | None,
        record: Record,
        settings: Settings,
        queries: Sequence[Query],
    ) -> None:
        self._record, self._score_cut = record, settings.score_cut
        asked = fingerprint([(query.answer, repr(query.data)) for query in queries])
        self._name = f"{_name(verifier)} {asked}"
        self._tasks: set[asyncio.Task[None]] = set()
        self._verifying = (
            None
            if verifier is None
            else Verifying(
                verifier,
                seconds=settings.verify_seconds,
                processes=settings.verify_processes,
            )
        )

    def begin(self, job: str, query: Query, text: str, *, finished: bool) -> None:
        """Have an answer looked at, unless it was or need not be."""
        if self._verifying is None or not (finished or self._score_cut):
            return
        if self._key(job) not in self._record.verdicts:
            task = asyncio.create_task(self._judge(job, query, text))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def finish(self) -> None:
        """Wait until all answers have been looked at."""
        while self._tasks:
            await asyncio.gather(*self._tasks)

    async def close(self) -> None:
        """Stop; what was not looked at yet has no verdict."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
        if self._verifying is not None:
            await asyncio.to_thread(self._verifying.close)

    def verdict(self, job: str, *, finished: bool) -> tuple[float | None, str | None]:
        """(score, how it came about) of an answer; None where there is none (yet)."""
        if self._verifying is None:
            return None, None
        if not (finished or self._score_cut):
            return 0.0, "cut"
        found = self._record.verdicts.get(self._key(job))
        return (None, None) if found is None else (float(found["score"]), str(found["status"]))

    @property
    def asks(self) -> bool:
        """Whether there is a verifier."""
        return self._verifying is not None

    async def _judge(self, job: str, query: Query, text: str) -> None:
        assert self._verifying is not None
        verdict: Verdict = await self._verifying.verdict(query, text)
        await self._record.verdict(self._key(job), verdict.to_dict())

    def _key(self, job: str) -> str:
        return f"{self._name} {job}"


def _name(verifier: Verifier | None) -> str:
    """The same in every process."""
    if isinstance(verifier, FromFile):
        return verifier.identity
    if verifier is None or dataclasses.is_dataclass(verifier):
        return repr(verifier)
    function = verifier if hasattr(verifier, "__qualname__") else type(verifier)
    return f"{function.__module__}.{function.__qualname__}"
