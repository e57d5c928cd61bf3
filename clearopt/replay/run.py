"""The replay: all runs of a file, one after the other, with a journal and a partial report."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from clearopt.calibration import CalibrationError, Run, Traces, read_rollouts
from clearopt.confirmation.journal import Journal
from clearopt.confirmation.narrator import Narrator
from clearopt.confirmation.report import installed_versions
from clearopt.errors import DeclarationError
from clearopt.prediction import Features
from clearopt.replay.evaluation import evaluate
from clearopt.replay.policies import SKIPPED
from clearopt.replay.predicting import estimates_for, features_for
from clearopt.replay.report import Evaluated, Report, summarised
from clearopt.replay.settings import Settings
from clearopt.replay.splits import QUERY, SAMPLE, require_two_queries, require_two_samples

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Job = tuple[Run, str]
"""A run and a split."""


def replay(
    rollouts: Traces | str | Path,
    settings: Settings | None = None,
    *,
    out: Path | None = None,
    narrator: Narrator | None = None,
    processes: int = 1,
) -> Report:
    """Evaluate every policy over the budgets on recorded rollouts.

    Args:
        rollouts: from `read_rollouts`, or the path of a file for it.
        settings: what to evaluate; by default both accountings, and the splits that the file and
            the settings allow.
        out: a folder where a journal is kept, from which an interrupted replay is taken up.
        narrator: tells what happens as it happens; silent by default.
        processes: how many runs are evaluated at a time; with more than one, a script needs its
            `if __name__ == "__main__":`.

    Returns:
        The report; incomplete (`complete` False) if it was interrupted. A run that cannot be
        evaluated (nothing right, one sample a query) is a note in it, not an error.

    Raises:
        DeclarationError: the file, a benchmark, a model or a feature table is not what is asked
            for.
    """
    settings = settings or Settings()
    narrator = narrator or Narrator.silent()
    traces = rollouts if isinstance(rollouts, Traces) else read_rollouts(rollouts)
    runs = traces.matching(settings.benchmark, settings.model)
    journal = Journal(out, _configuration(traces, settings))
    notes = list(traces.notes)
    if not settings.predicts and QUERY in settings.splits:
        notes.append(
            "no query split: there is nothing to predict an unseen query's curve from; give "
            "--features FILE or --predict-from MODEL"
        )
    splits = [split for split in settings.splits if split == SAMPLE or settings.predicts]
    jobs = [(run, split) for run in runs for split in splits]
    found: list[Evaluated] = []
    complete = False
    try:
        with narrator.progress(f"replaying {len(runs)} runs", len(jobs)) as advance:
            for outcome in _outcomes(jobs, traces, settings, journal, processes):
                if isinstance(outcome, Evaluated):
                    found.append(outcome)
                else:
                    notes.append(outcome)
                advance()
        complete = True
    except KeyboardInterrupt:
        notes.append(f"interrupted: {len(found)} of {len(jobs)} runs and splits are here")
    return _report(traces, settings, found, tuple(dict.fromkeys(notes)), complete)


def _outcomes(
    jobs: Sequence[Job], traces: Traces, settings: Settings, journal: Journal, processes: int
) -> Iterator[Evaluated | str]:
    """What became of each job, in their order: a result, or why there is none."""
    refused: dict[Job, str] = {}
    later: dict[Job, Callable[[], Evaluated]] = {}
    with _workers(min(processes, len(jobs))) as start:
        for job in jobs:
            if journal.get(_key(job)) is None:
                try:
                    features = _prepared(*job, traces, settings)
                    estimates = estimates_for(job[0], settings)
                except DeclarationError as reason:
                    refused[job] = _about(job, reason)
                else:
                    later[job] = start(evaluate, *job, settings, features, estimates)
        for job in jobs:
            if job in later:
                try:
                    journal.record(_key(job), later[job]().to_dict())
                except (CalibrationError, DeclarationError) as reason:
                    refused[job] = _about(job, reason)
            known = journal.get(_key(job))
            yield refused[job] if known is None else Evaluated.from_dict(known)


@contextmanager
def _workers(processes: int) -> Iterator[Callable[..., Callable[[], Evaluated]]]:
    """A function that starts a call, and gives one that waits for what it returns.

    With one process the call is made in this one, when it is waited for.
    """
    if processes < 2:
        yield partial
        return
    before = set(multiprocessing.active_children())
    # Workers begin afresh, for JAX does not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_heed_no_interrupt)
    try:
        with _one_thread_each():
            yield lambda *call: pool.submit(*call).result
        pool.shutdown()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()  # in the middle of a run, which would go on for minutes
        raise


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started meanwhile do their linear algebra in one thread: several would only wait
    for each other, at the cost of the other processes."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update({name: value or "1" for name, value in before.items()})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]


def _heed_no_interrupt() -> None:
    """Ctrl-C reaches every process of a terminal; the parent answers for all of them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _prepared(run: Run, split: str, traces: Traces, settings: Settings) -> Features | None:
    """Raise unless the split is possible; the features, where there are any."""
    (require_two_samples if split == SAMPLE else require_two_queries)(run)
    if not settings.predicts:
        return None
    try:
        return features_for(run, traces, settings)
    except DeclarationError:
        if split == SAMPLE:  # which can do without
            return None
        raise


def _key(job: Job) -> str:
    run, split = job
    return f"{run.benchmark} {run.model} {split}"


def _about(job: Job, reason: Exception) -> str:
    (run, split), said = job, str(reason)
    return said if said.startswith(run.name) else f"{run.name}, {split} split: {said}"


def _report(
    traces: Traces,
    settings: Settings,
    found: list[Evaluated],
    notes: tuple[str, ...],
    complete: bool,
) -> Report:
    rows = tuple(row for each in found for row in each.rows)
    standings = tuple(standing for each in found for standing in each.standings)
    return Report(
        source=traces.source,
        seed=settings.seed,
        complete=complete,
        rows=rows,
        standings=standings,
        frontiers=tuple(line for each in found for line in each.frontiers),
        runs=tuple(each.facts for each in found),
        summaries=summarised(rows, standings),
        skipped={
            name: why
            for name, why in SKIPPED.items()
            if name in settings.policies and settings.estimates is None
        },
        notes=notes,
        settings=settings.to_dict(),
    )


def _configuration(traces: Traces, settings: Settings) -> dict[str, Any]:
    """What a run's results depend on; the settings that only choose runs are left out."""
    chosen = settings.to_dict()
    for name in ("benchmark", "model", "splits"):
        del chosen[name]
    versions = installed_versions()
    return {
        "rollouts": _digest(traces),
        "features": _file_digest(settings.features),
        "estimates": _file_digest(settings.estimates),
        "settings": chosen,
        "versions": {name: versions[name] for name in ("clearopt", "jax", "numpy", "scipy")},
    }


def _digest(traces: Traces) -> str:
    digest = hashlib.sha256()
    for labels in (traces.benchmark, traces.model, traces.query_id):
        digest.update("\0".join(labels).encode())
    for array in (traces.tokens, traces.correct, traces.finished):
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def _file_digest(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise DeclarationError(f"{path}: cannot be read ({error.strerror})") from error
