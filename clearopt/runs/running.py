"""`run`: queries, an engine and a budget in; every query's end, and a report, out."""

from __future__ import annotations

import asyncio
import hashlib
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from clearopt.errors import DeclarationError
from clearopt.runs.abandonment import Abandonment, Cheaper, Queue, Skip
from clearopt.runs.audit import findings
from clearopt.runs.execution import Execution
from clearopt.runs.journal import FILE_NAME, Journal, JournalError
from clearopt.runs.judging import Judging
from clearopt.runs.planning import Workload
from clearopt.runs.progress import Silent, Watcher
from clearopt.runs.record import CHEAPER, Record
from clearopt.runs.report import Report, Row, Spending, Status
from clearopt.runs.settings import Settings
from clearopt.runs.verifiers import Verifier
from clearopt.runs.wave import Stopped
from clearopt.serving.endpoint import Endpoint
from clearopt.serving.failures import AttemptError, EngineError


def run(
    work: Workload,
    endpoint: Endpoint,
    settings: Settings,
    *,
    verifier: Verifier | None = None,
    abandonment: Abandonment | None = None,
    out: Path | None = None,
    watcher: Watcher | None = None,
) -> Report:
    """Answer the queries within the budget.

    The budget is shared out by the curves, and every query is asked with its share as its cap.
    When all of them have ended, tokens that were left over are shared out again among those that
    were cut or not sent, and so on. Each step is in a journal before the next one begins: give
    the same arguments again after a crash, and the run goes on from there.

    Args:
        work: queries, curves and constraints.
        endpoint: `Engine(...)`, `Server(...)`, or one of your own.
        settings: the budget and how it is spent.
        verifier: tells right answers; None: none is told.
        abandonment: what happens to queries that get no tokens; by default they are skipped.
        out: folder of the journal; None keeps none.
        watcher: is told what happens as it happens.

    Returns:
        The report; incomplete (`complete` False) after Ctrl-C, at the time limit, or when the
        engine or the journal failed, which a note then says.

    Raises:
        DeclarationError: an argument is wrong, there is no allocation, or the folder holds
            another run.
        EngineError: the engine cannot serve, and nothing was answered.
    """
    return asyncio.run(
        _run(work, endpoint, settings, verifier, abandonment, out, watcher, heeds_ctrl_c=True)
    )


async def run_async(
    work: Workload,
    endpoint: Endpoint,
    settings: Settings,
    *,
    verifier: Verifier | None = None,
    abandonment: Abandonment | None = None,
    out: Path | None = None,
    watcher: Watcher | None = None,
) -> Report:
    """`run`, for a program that has an event loop already; cancelled, it gives a partial report."""
    return await _run(work, endpoint, settings, verifier, abandonment, out, watcher)


async def _run(
    work: Workload,
    endpoint: Endpoint,
    settings: Settings,
    verifier: Verifier | None,
    abandonment: Abandonment | None,
    out: Path | None,
    watcher: Watcher | None,
    *,
    heeds_ctrl_c: bool = False,
) -> Report:
    started = time.monotonic()
    abandonment = abandonment or Skip()
    journal = Journal(None if out is None else out / FILE_NAME)
    try:
        record = Record(
            journal, _about(work, endpoint, settings, abandonment),
            charge_lost=settings.charge_lost,
        )  # fmt: skip
        resumed = len(record.outcomes)
        judging = Judging(verifier, record, settings, work.queries)
        execution = Execution(
            work, endpoint, record, judging, settings, abandonment, watcher or Silent()
        )
        with _ctrl_c(execution) if heeds_ctrl_c else nullcontext():
            stopped = await _executed(execution, endpoint, settings)
        rows = tuple(_row(execution, i, complete=not stopped) for i in range(work.n))
        notes = [*execution.notes, *findings(execution.audits), *_troubles(rows)]
        if journal.damaged:
            notes.append(f"damaged lines of the journal were passed over: {journal.damaged[:10]}")
        if stopped:
            notes.append(stopped)
        report = Report(
            rows=rows,
            rounds=tuple(execution.rounds),
            spending=_spending(execution),
            complete=not stopped,
            engine=endpoint.name,
            abandonment=abandonment.to_dict(),
            notes=tuple(notes),
            settings=settings.to_dict(),
            seconds=time.monotonic() - started,
            resumed=resumed,
            audits=tuple(audited.to_dict() for audited in execution.audits),
        )
        if isinstance(abandonment, Queue) and not stopped:
            abandonment.write([work.queries[i] for i in execution.unfunded])
        return report
    finally:
        journal.close()


@contextmanager
def _ctrl_c(execution: Execution) -> Iterator[None]:
    """The first Ctrl-C waits for what is under way, the second one stops at once."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def interrupt() -> None:
        if not execution.stopping:
            execution.stop()
        elif task is not None:
            task.cancel()

    try:
        if not callable(signal.getsignal(signal.SIGINT)):  # ignored, as in the background
            raise ValueError
        loop.add_signal_handler(signal.SIGINT, interrupt)
    except (ValueError, RuntimeError, NotImplementedError):  # not the main thread, or Windows
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)


async def _executed(execution: Execution, endpoint: Endpoint, settings: Settings) -> str:
    """Run it; returns why it stopped before its end, or nothing."""
    record, judging = execution.record, execution.judging
    stopped = ""
    try:
        await record.begin()
        async with asyncio.timeout(settings.time_limit), endpoint:
            await execution.run()
            await judging.finish()
    except Stopped:
        stopped = "interrupted"
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()
        stopped = "interrupted"
    except TimeoutError:
        stopped = f"the time limit of {settings.time_limit:g} s was reached"
    except (EngineError, JournalError, AttemptError) as error:
        answered = any(outcome.generation for outcome in record.outcomes.values())
        if not answered:
            raise
        stopped = str(error)
    finally:
        await record.journal.drain()
        await judging.close()
    return stopped


# -------------------------------------------------------------------------------- the report
def _row(execution: Execution, i: int, *, complete: bool) -> Row:
    standing, query = execution.standings[i], execution.work.queries[i]
    judging = execution.judging
    name, substitute = execution.substitutes.get(i, ("", None))
    why = ""
    status: Status
    job, finished, text, reason = "", False, standing.prefix.text, standing.reason
    spent, planned = standing.spent, standing.planned
    if standing.jobs:
        status = "answered" if standing.finished else "cut"
        job, finished = standing.jobs[-1], standing.finished
        if standing.waiting:
            status, why = "interrupted", "its continuation has not ended"
        elif standing.outcome is not None and standing.outcome.generation is None:
            why = f"not continued: {standing.outcome.why}"
    elif standing.waiting:
        status = "interrupted"
    elif standing.outcome is not None:
        end, why = standing.outcome.end, standing.outcome.why
        status = "failed" if end == "answered" else end
    elif substitute is not None and (answer := substitute.generation) is not None:
        status = "cheaper" if name.startswith(f"{CHEAPER}:") else "fallback"
        job, finished, text, reason = name, answer.finished, answer.text, answer.finish_reason
        spent, planned = (
            answer.tokens + answer.overrun,
            execution.record.plans[name.partition(":")[0]]["caps"][i],
        )
    elif substitute is not None:
        status, why = "skipped", substitute.why
    elif not complete:
        status = "interrupted"
    else:
        status = "queued" if isinstance(execution.abandonment, Queue) else "skipped"
    score: float | None = 0.0 if judging.asks and status != "interrupted" else None
    verdict = None
    if job:
        score, verdict = judging.verdict(job, finished=finished)
    return Row(
        key=query.key,
        status=status,
        planned=int(planned),
        spent=int(spent),
        rounds=len(standing.jobs),
        finish_reason=reason,
        score=score,
        verdict=verdict,
        first_score=_first_score(execution, i, score),
        text=text,
        why=why,
    )


def _troubles(rows: Sequence[Row]) -> list[str]:
    """What went wrong with how many queries, and one example of each."""
    told = []
    for status, what in (("refused", "were refused"), ("failed", "failed")):
        of_them = [row for row in rows if row.status == status]
        if of_them:
            told.append(f"{len(of_them)} queries {what}, {of_them[0].key!r}: {of_them[0].why}")
    kept = [row for row in rows if row.status in ("answered", "cut") and row.why]
    if kept:
        told.append(f"{len(kept)} answers were not continued, {kept[0].key!r}: {kept[0].why}")
    unsure = [row for row in rows if row.verdict in ("raised", "timed out", "died")]
    if unsure:
        told.append(
            f"the verifier gave no score for {len(unsure)} answers, which count as wrong: "
            f"{unsure[0].key!r} {unsure[0].verdict}"
        )
    return told


def _first_score(execution: Execution, i: int, score: float | None) -> float | None:
    """The score that the query had after the first round."""
    standing = execution.standings[i]
    if score is None or not standing.jobs:
        return score
    first = f"0:{i}"
    outcome = execution.record.outcomes.get(first)
    if outcome is None or outcome.generation is None:
        return 0.0
    return execution.judging.verdict(first, finished=outcome.generation.finished)[0]


def _spending(execution: Execution) -> Spending:
    record, budget = execution.record, execution.settings.budget
    # The ledger also knows of requests that were withdrawn when the run was interrupted.
    spent, lost = record.spent["main"], max(record.lost["main"], execution.ledger.lost)
    return Spending(
        budget=budget,
        spent=spent,
        lost=lost,
        unspent=budget - spent - lost,
        attempts_lost=record.unseen,
        asked_again=sum(attempts > 1 for attempts in record.attempts.values()),
        cheaper=record.spent[CHEAPER] + record.lost[CHEAPER],
    )


# -------------------------------------------------------------------------------- which run it is
def _about(
    work: Workload, endpoint: Endpoint, settings: Settings, abandonment: Abandonment
) -> dict[str, Any]:
    """What the answers depend on; a run is known by it."""
    if isinstance(abandonment, Cheaper) and abandonment.endpoint is endpoint:
        raise DeclarationError("Cheaper: this is the engine of the run itself")
    digest = hashlib.sha256()
    for query in work.queries:
        digest.update(repr((query.key, query.prompt)).encode())
    curves = hashlib.sha256(repr(type(work.utilities).__name__).encode())
    numbers = [] if work.utilities is None else work.utilities.parameters
    for array in (work.upper, work.weights, *numbers):
        curves.update(np.ascontiguousarray(np.asarray(array, dtype=np.float64)).tobytes())
    return {
        "engine": endpoint.name,
        "queries": digest.hexdigest()[:16],
        "curves": curves.hexdigest()[:16],
        "settings": settings.answers_depend_on(),
        "abandonment": abandonment.to_dict(),
    }
