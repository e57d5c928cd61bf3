"""`collect_rollouts`: sampled answers of a model of your own through vLLM, written as a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clearopt.calibration import Traces, read_rollouts
from clearopt.calibration.traces import write_rollouts
from clearopt.confirmation.journal import Journal, model_fingerprint
from clearopt.confirmation.narrator import Narrator
from clearopt.errors import DeclarationError
from clearopt.tables import format_of

if TYPE_CHECKING:
    from clearopt.serving import Engine, Generation

Verifier = Callable[[str, str], bool]
"""From a query's label and an answer's text to whether it is right."""

_BATCH = 256  # answers generated at a time: what an interruption loses at most
_SEEDS = 2**30


def collect_rollouts(
    engine: Engine | str | Path,
    prompts: Mapping[str, str],
    verify: Verifier,
    path: str | Path,
    *,
    samples: int = 8,
    longest: int = 4096,
    temperature: float = 1.0,
    stop: Sequence[str] = (),
    seed: int = 0,
    benchmark: str | None = None,
    model: str | None = None,
    narrator: Narrator | None = None,
) -> Traces:
    """Sample answers with ample tokens, verify them, and write them in the format of rollouts.

    One rollout gives the whole curve: under a smaller cap with the same seed the answer is a prefix
    of it. Batches are journaled in a folder beside the file as they are done, and an interrupted
    collection is taken up from there; the folder is left when the file has been written.

    Args:
        engine: an engine, or what `Engine` takes: a folder or a name on the hub.
        prompts: query's label -> prompt, ready for the model (a chat template applied).
        verify: from a query's label and an answer's text to whether it is right. It is not asked
            about an answer that was cut, which counts as wrong.
        path: where to write: .csv, .tsv, .jsonl or .parquet.
        samples: answers a query.
        longest: cap of each answer in tokens; one that reaches it is censored, so make it ample.
        temperature, stop: as in `Engine.generate`.
        seed: of the sampling; every answer has a seed of its own.
        benchmark, model: labels; by default the file's name and the model's.
        narrator: tells what happens as it happens; silent by default.

    Returns:
        What `read_rollouts` reads from the file.

    Raises:
        DeclarationError: there is no prompt, or a number is out of range.
        MissingExtraError: vLLM or polars is not installed.
    """
    path = Path(path)
    format_of(path)  # fail before the work rather than after it
    for name, value in (("samples", samples), ("longest", longest)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise DeclarationError(f"{name} = {value!r}: must be a whole number of at least 1")
    if not prompts:
        raise DeclarationError("prompts: there is none; give a mapping from labels to prompts")
    narrator = narrator or Narrator.silent()
    engine = _made(engine, seed) if isinstance(engine, str | Path) else engine
    queries = [query for query in prompts for _ in range(samples)]
    seeds = np.random.default_rng([seed, 3]).integers(_SEEDS, size=len(queries))
    journal = Journal(
        path.with_name(path.name + ".journal"),
        {
            "prompts": dict(prompts),
            "model": model_fingerprint(engine.location),
            "samples": samples,
            "longest": longest,
            "temperature": temperature,
            "stop": list(stop),
            "seed": seed,
        },
    )
    found: dict[str, list[Any]] = {"tokens": [], "finished": [], "correct": []}
    starts = range(0, len(queries), _BATCH)
    with narrator.progress(f"generating {len(queries)} answers", len(starts)) as advance:
        for start in starts:
            asked = queries[start : start + _BATCH]
            key = f"answers from {start}"
            batch = journal.get(key)
            if batch is None:
                answers = engine.generate(
                    [prompts[query] for query in asked],
                    longest,
                    seeds[start : start + _BATCH],
                    temperature,
                    stop=stop,
                )
                batch = _verified(asked, answers, verify)
                journal.record(key, batch)
            for name, values in found.items():
                values += batch[name]
            advance()
    columns: dict[str, Sequence[Any]] = {
        "benchmark": [benchmark or path.name.split(".")[0]] * len(queries),
        "model": [model or Path(engine.model).name] * len(queries),
        "query_id": queries,
        "sample_id": [number % samples for number in range(len(queries))],
        **found,
    }
    return read_rollouts(write_rollouts(columns, path))


def _verified(
    queries: Sequence[str], answers: Sequence[Generation], verify: Verifier
) -> dict[str, Any]:
    return {
        "tokens": [answer.tokens for answer in answers],
        "finished": [answer.finished for answer in answers],
        "correct": [
            bool(answer.finished and verify(query, answer.text))
            for query, answer in zip(queries, answers, strict=True)
        ],
    }


def _made(model: Any, seed: int) -> Engine:
    from clearopt.serving import Engine

    return Engine(model, seed=seed)
