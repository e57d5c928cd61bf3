"""`Execution`: plan, ask, share out again what is left, look after the unfunded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clearopt.runs.abandonment import Abandonment, Cheaper, Fallback
from clearopt.runs.audit import Audited, Auditor
from clearopt.runs.judging import Judging
from clearopt.runs.ledger import Ledger
from clearopt.runs.planning import Plan, Workload, first_plan, further_plan
from clearopt.runs.progress import Watcher
from clearopt.runs.record import CHEAPER, Outcome, Record
from clearopt.runs.report import Round
from clearopt.runs.settings import Settings
from clearopt.runs.standing import Standing, finished, going_on, spent_by
from clearopt.runs.wave import Job, Stopped, Wave
from clearopt.serving.endpoint import Endpoint
from clearopt.serving.failures import EngineError
from clearopt.serving.requests import NOTHING, Request

_SEEDS = 2**31


class Execution:
    """One run, from its first plan to the end of its last request.

    What is on record is taken from there, so that the same steps lead to the same state however
    often the process was killed in between.

    Args:
        work: the queries and their curves.
        endpoint: who answers, ready.
        record: of what has happened.
        judging: who looks at answers as they end.
        settings, abandonment, watcher: see `run`.
    """

    def __init__(
        self,
        work: Workload,
        endpoint: Endpoint,
        record: Record,
        judging: Judging,
        settings: Settings,
        abandonment: Abandonment,
        watcher: Watcher,
    ) -> None:
        self.work, self.endpoint, self.record = work, endpoint, record
        self.judging, self.settings, self.abandonment = judging, settings, abandonment
        self.watcher = watcher
        self.standings = [Standing() for _ in range(work.n)]
        self.substitutes: dict[int, tuple[str, Outcome | None]] = {}
        self.rounds: list[Round] = []
        self.audits: list[Audited] = []
        self.notes: list[str] = []
        self.stopping = False
        self._current: Wave | None = None
        self.ledger = Ledger(
            settings.budget,
            settings.reserve,
            spent=record.spent["main"],
            lost=record.lost["main"],
        )
        self._auditor = Auditor()

    def stop(self) -> None:
        """Send nothing any more, and wait for what is under way."""
        self.stopping = True
        if self._current is not None:
            self._current.stop()
            self.watcher.note(
                f"{self._current.active} requests under way are waited for; Ctrl-C again stops at "
                "once, and then their caps count as lost"
            )

    async def run(self) -> None:
        """Go through all of it.

        Raises:
            EngineError, JournalError: it has to stop; what has ended stands in `standings`.
            DeclarationError: there is no first allocation.
            Stopped: it was asked to.
        """
        self._auditor = await Auditor.asking(
            self.endpoint, self.settings.reasoning, chat=self.settings.chat
        )
        aside = 0
        for number in range(self.settings.rounds + 1):
            name = str(number)
            if name not in self.record.plans:
                plan, available, aside = self._plan(number, aside)
                if isinstance(plan, str):
                    self.notes.append(f"left-over tokens were not shared out again: {plan}")
                    break
                if not plan.caps.any():
                    break
                await self.record.plan(
                    name, plan.caps.tolist(), available=available, aside=aside,
                    expected=plan.expected, price=plan.price,
                )  # fmt: skip
            aside = self.record.plans[name]["aside"]
            await self._round(number)
        await self._abandoned()

    # ------------------------------------------------------------------ rounds
    def _plan(self, number: int, aside: int) -> tuple[Plan | str, int, int]:
        """A plan (or why not), the tokens it shares out, those set aside for fallback answers."""
        solving = {"solver": self.settings.solver, "time_limit": self.settings.solver_seconds}
        available = self.ledger.plannable
        if number:
            available = max(available - aside, 0)
            plan = further_plan(
                self.work,
                available,
                spent_by(self.standings),
                going_on(self.standings),
                finished(self.standings),
                **solving,
            )
            return plan, available, aside
        whole = available
        while True:
            first = first_plan(self.work, available, **solving)
            if not isinstance(self.abandonment, Fallback):
                return first, available, 0
            aside = self.abandonment.tokens * int((first.caps < 1).sum())
            if aside <= whole - available or aside >= whole:
                return first, available, min(aside, whole - available)
            available = whole - aside

    async def _round(self, number: int) -> None:
        noted = self.record.plans[str(number)]
        caps = np.array(noted["caps"], dtype=np.int64)
        jobs = {int(i): self._job(number, int(i), int(caps[i])) for i in np.flatnonzero(caps)}
        # The longest first: they would be waited for at the end.
        order = sorted(jobs.values(), key=lambda job: -job.cap)
        what = "generating" if not number else f"continuing, round {number}"
        try:
            await self._wave(self.endpoint, self.ledger, order, what)
        finally:
            spent = ended = 0
            for i, job in jobs.items():
                outcome = self.record.outcomes.get(job.name)
                self.standings[i].take(job.name, job.cap, outcome)
                if outcome is not None and (answer := outcome.generation) is not None:
                    self.audits.append(self._auditor.audit(job.name, job.request, answer))
                    spent += answer.tokens + answer.overrun
                    ended += answer.finished
            self.rounds.append(
                Round(
                    number=number,
                    available=noted["available"],
                    planned=int(caps.sum()),
                    spent=spent,
                    sent=len(jobs),
                    ended=ended,
                    expected=noted["expected"],
                    price=noted["price"],
                )
            )

    def _job(self, number: int, i: int, cap: int) -> Job:
        prefix, settings = self.standings[i].prefix, self.settings
        limit = None
        if settings.reasoning is not None:
            limit = settings.reasoning.thinking_tokens(prefix.tokens + cap)
        request = Request(
            prompt=self.work.queries[i].prompt,
            max_tokens=cap,
            seed=int(self._seeds(number)[i]),
            temperature=settings.temperature,
            stop=settings.stop,
            prefix=prefix,
            thinking_tokens=limit,
            chat=settings.chat,
        )
        return Job(f"{number}:{i}", request)

    def _seeds(self, number: int) -> NDArray[np.int64]:
        rng = np.random.default_rng([self.settings.seed, 4, number])
        return rng.integers(_SEEDS, size=self.work.n)

    async def _wave(
        self, endpoint: Endpoint, ledger: Ledger, jobs: Sequence[Job], what: str
    ) -> None:
        if self.stopping:
            raise Stopped
        settings = self.settings
        open_ = sum(job.name not in self.record.outcomes for job in jobs)
        self.watcher.begin(what, open_, ledger)
        for job in jobs:
            if (outcome := self.record.outcomes.get(job.name)) is not None:
                self._judge(job, outcome)
        wave = Wave(
            endpoint,
            self.record,
            ledger,
            settings.retries,
            request_timeout=settings.request_timeout,
            charge_lost=settings.charge_lost,
            on_end=self._ended,
            on_wait=self.watcher.note,
        )
        self._current = wave
        try:
            await wave.run(jobs)
        finally:
            self._current = None
            self.watcher.finish()

    def _ended(self, job: Job, outcome: Outcome) -> None:
        self.watcher.ended(job, outcome)
        self._judge(job, outcome)

    def _judge(self, job: Job, outcome: Outcome) -> None:
        if (answer := outcome.generation) is not None:
            query = self.work.queries[int(job.name.partition(":")[2])]
            text = job.request.prefix.text + answer.text
            if self.settings.reasoning is not None:
                text = self.settings.reasoning.answer_in(text)
            self.judging.begin(job.name, query, text, finished=answer.finished)

    # ------------------------------------------------------------------ the unfunded
    @property
    def unfunded(self) -> list[int]:
        """Queries that were never sent, by position."""
        return [i for i, standing in enumerate(self.standings) if not standing.funded]

    async def _abandoned(self) -> None:
        choice = self.abandonment
        if isinstance(choice, Fallback):
            positions = self.unfunded
            # What is left pays for so many; the others are left out.
            count = min(len(positions), self.ledger.plannable // choice.tokens)
            await self._instead("fallback", positions[:count], self.endpoint, self.ledger)
        elif isinstance(choice, Cheaper):
            positions = self.unfunded
            budget = choice.tokens * len(positions) if choice.budget is None else choice.budget
            lost, spent = self.record.lost[CHEAPER], self.record.spent[CHEAPER]
            ledger = Ledger(budget, spent=spent, lost=lost)
            try:
                async with choice.endpoint as endpoint:
                    count = budget // choice.tokens
                    await self._instead(CHEAPER, positions[:count], endpoint, ledger)
            except EngineError as error:
                self.notes.append(f"the other engine cannot serve: {error}")

    async def _instead(
        self, name: str, positions: Sequence[int], endpoint: Endpoint, ledger: Ledger
    ) -> None:
        """Ask for short answers to unfunded queries; which they were is on record."""
        choice = self.abandonment
        assert isinstance(choice, Fallback | Cheaper)
        if name not in self.record.plans:
            caps = np.zeros(self.work.n, dtype=np.int64)
            caps[list(positions)] = choice.tokens
            await self.record.plan(name, caps.tolist())
        seeds = self._seeds(self.settings.rounds + 1)
        jobs = {}
        for i in np.flatnonzero(self.record.plans[name]["caps"]):
            prompt, more = self.work.queries[i].prompt, getattr(choice, "instruction", "")
            request = Request(
                prompt=prompt + more if isinstance(prompt, str) else prompt,
                chat=self.settings.chat,
                max_tokens=choice.tokens,
                seed=int(seeds[i]),
                temperature=self.settings.temperature,
                stop=self.settings.stop,
                thinking_tokens=0 if name == "fallback" and self.settings.reasoning else None,
                prefix=NOTHING,
            )
            jobs[int(i)] = Job(f"{name}:{i}", request)
        try:
            await self._wave(endpoint, ledger, list(jobs.values()), f"{name} answers")
        finally:
            for i, job in jobs.items():
                outcome = self.record.outcomes.get(job.name)
                self.substitutes[i] = (job.name, outcome)
                if outcome is not None and outcome.generation is not None:
                    audited = self._auditor.audit(job.name, job.request, outcome.generation)
                    self.audits.append(audited)
