"""The replay: all runs of a file, one after the other, with a journal and a partial report."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clearopt.calibration import CalibrationError, Run, Traces, read_rollouts
from clearopt.confirmation.journal import Journal
from clearopt.confirmation.narrator import Narrator
from clearopt.confirmation.report import installed_versions
from clearopt.errors import DeclarationError
from clearopt.replay.evaluation import evaluate
from clearopt.replay.policies import SKIPPED
from clearopt.replay.predicting import features_for
from clearopt.replay.report import Evaluated, Report, summarised
from clearopt.replay.settings import Settings
from clearopt.replay.splits import QUERY, SAMPLE, require_two_queries, require_two_samples


def replay(
    rollouts: Traces | str | Path,
    settings: Settings | None = None,
    *,
    out: Path | None = None,
    narrator: Narrator | None = None,
) -> Report:
    """Evaluate every policy over the budgets on recorded rollouts.

    Args:
        rollouts: from `read_rollouts`, or the path of a file for it.
        settings: what to evaluate; by default both accountings, and the splits that the file and
            the settings allow.
        out: a folder where a journal is kept, from which an interrupted replay is taken up.
        narrator: tells what happens as it happens; silent by default.

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
    jobs = [(run, split) for run in runs for split in settings.splits]
    found: list[Evaluated] = []
    notes = list(traces.notes)
    if not settings.predicts and QUERY in settings.splits:
        notes.append(
            "no query split: there is nothing to predict an unseen query's curve from; give "
            "--features FILE or --predict-from MODEL"
        )
    complete = False
    try:
        with narrator.progress(f"replaying {len(runs)} runs", len(jobs)) as advance:
            for run, split in jobs:
                try:
                    found += _results(run, split, traces, settings, journal)
                except (CalibrationError, DeclarationError) as reason:
                    notes.append(_about(run, split, reason))
                advance()
        complete = True
    except KeyboardInterrupt:
        notes.append(f"interrupted: {len(found)} of {len(jobs)} runs and splits are here")
    return _report(traces, settings, found, tuple(dict.fromkeys(notes)), complete)


def _results(
    run: Run, split: str, traces: Traces, settings: Settings, journal: Journal
) -> Iterator[Evaluated]:
    """One result, or none where the settings leave the split nothing to predict from."""
    if split == QUERY and not settings.predicts:
        return
    key = f"{run.benchmark} {run.model} {split}"
    known = journal.get(key)
    if known is None:
        if split == SAMPLE:
            require_two_samples(run)
            features = None
        else:
            require_two_queries(run)
            features = features_for(run, traces, settings)
        result = evaluate(run, split, settings, features)
        journal.record(key, result.to_dict())
        known = journal.get(key)
    assert known is not None
    yield Evaluated.from_dict(known)


def _about(run: Run, split: str, reason: Exception) -> str:
    said = str(reason)
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
        skipped={name: why for name, why in SKIPPED.items() if name in settings.policies},
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
