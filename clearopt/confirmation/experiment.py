"""The confirmation: calibrate, declare, solve, check, and generate through vLLM.

Nothing of an evaluation query but its prompt is looked at before its answer is scored: utilities
come from other queries' rollouts, and so does what counts as ample. At each budget all
policies answer the same queries with the same seeds, so that they differ in their caps alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import clearopt as co
from clearopt.calibration import Rollouts, SurgeModel, fit_surge_model
from clearopt.confirmation.journal import Journal, fingerprint, model_fingerprint
from clearopt.confirmation.narrator import Narrator
from clearopt.confirmation.policies import Plan, allocate, declare
from clearopt.confirmation.prompts import ANSWER_END, prompt_texts, speaks_tasks
from clearopt.confirmation.report import Report, Row, installed_versions
from clearopt.confirmation.settings import Settings
from clearopt.confirmation.statistics import paired_bootstrap
from clearopt.confirmation.tasks import Task, is_correct, split_tasks

if TYPE_CHECKING:
    from clearopt.serving import Engine, Generation

CHECKERS = ("dual", "scip", "cvxpy", "uniform")
_SEEDS = 2**30  # calibration draws its seeds below, evaluation at or above

CheckRows = tuple[dict[str, Any], ...]


@dataclass(frozen=True, eq=False)
class Batch:
    """One policy's answers to the n queries at one budget: tokens (n,), correct (n,), seconds."""

    tokens: NDArray[np.int64]
    correct: NDArray[np.bool_]
    seconds: float


class Speaker:
    """The engine, made when first needed, and how tasks are put to it."""

    def __init__(self, make: Callable[[], Engine]) -> None:
        self._make = make
        self._engine: Engine | None = None
        self._bare = False

    def answer(
        self, tasks: Sequence[Task], caps: NDArray[np.int64], seeds: NDArray[np.int64]
    ) -> tuple[list[Generation], NDArray[np.bool_], float]:
        """Answers, whether each is right, and the seconds their generation took."""
        if self._engine is None:
            self._engine = self._make()
            self._bare = speaks_tasks(self._engine, tasks)
        prompts = prompt_texts(tasks, bare=self._bare)
        started = time.perf_counter()
        answers = self._engine.generate(prompts, caps, seeds, stop=() if self._bare else ANSWER_END)
        seconds = time.perf_counter() - started
        right = [
            is_correct(task, answer.text, whole=self._bare or answer.finished)
            for task, answer in zip(tasks, answers, strict=True)
        ]
        return answers, np.array(right, dtype=bool), seconds

    def needed(self, answer: Generation) -> int:
        """Tokens the answer needed; where words are whole, without the one that ends it."""
        return answer.tokens - int(self._bare and answer.finished)


def run_confirmation(
    settings: Settings,
    *,
    engine: Engine | None = None,
    out: Path | None = None,
    narrator: Narrator | None = None,
) -> Report:
    """Run the whole confirmation.

    Args:
        settings: what to run.
        engine: an engine to generate with; made from `settings.model` when first needed if None.
        out: where the journal is kept; a run with the same configuration is taken up from it.
        narrator: tells what happens as it happens; silent by default.

    Returns:
        The report; incomplete (`complete` False) if it was interrupted while generating.

    Raises:
        ClearoptError: vLLM or a solver is missing, no such model, the model solves nothing.
    """
    narrator = narrator or Narrator.silent()
    from clearopt.serving import resolve_model

    location = engine.location if engine is not None else resolve_model(settings.model)
    journal = Journal(out, _configuration(settings, location))
    speaker = Speaker(lambda: engine if engine is not None else _make_engine(settings, narrator))
    calibration, evaluation = split_tasks(settings.calibration, settings.queries, settings.seed)

    narrator.heading("Calibrate", "what do tokens buy, as far as a prompt shows?")
    rollouts = _calibrate(settings, calibration, speaker, journal, narrator)
    model = fit_surge_model([task.features for task in calibration], rollouts)
    ample_cap = rollouts.ample_cap()
    narrator.calibrated(model, ample_cap)

    plans, check = plan_and_check(settings, model, ample_cap, evaluation, narrator)
    narrator.heading("Confirm", "the same caps as max_tokens in vLLM, on the real model")
    batches: dict[tuple[str, float], Batch] = {}
    try:
        with narrator.progress("generating", len(plans)) as advance:
            for (policy, fraction), plan in plans.items():
                batches[policy, fraction] = _generate(
                    settings, evaluation, plan, fraction, speaker, journal
                )
                advance()
    except KeyboardInterrupt:
        narrator.note("Interrupted: what follows is what was finished.")
    rows = _rows(settings, plans, batches)
    return _report(settings, model, ample_cap, rows, check, len(rows) == len(plans), True)


def rehearse(settings: Settings, *, narrator: Narrator | None = None) -> Report:
    """Declare, solve and check without a model, on utilities calibrated beforehand.

    The queries are those of the confirmation; the utilities are the ones the shipped reasoner was
    found to have. Nothing is generated, so no accuracy is reported, only what is expected.
    """
    from clearopt.confirmation.defaults import DEFAULT_AMPLE_CAP, default_model

    narrator = narrator or Narrator.silent()
    _, evaluation = split_tasks(settings.calibration, settings.queries, settings.seed)
    model = default_model()
    plans, check = plan_and_check(settings, model, DEFAULT_AMPLE_CAP, evaluation, narrator)
    rows = _rows(settings, plans, {}, confirmed=False)
    return _report(settings, model, DEFAULT_AMPLE_CAP, rows, check, True, False)


def plan_and_check(
    settings: Settings,
    model: SurgeModel,
    ample_cap: int,
    evaluation: Sequence[Task],
    narrator: Narrator,
) -> tuple[dict[tuple[str, float], Plan], CheckRows]:
    """Every policy's plan at every budget, and the solvers' comparison on a sub-problem."""
    features = [task.features for task in evaluation]
    utilities, n = model.utilities(features), len(evaluation)
    shown = min(settings.fractions, key=lambda fraction: abs(fraction - 0.2))
    narrator.heading("Declare", f"{n} queries, {100 * shown:g} % of the tokens that are ample")
    narrator.problem(declare(utilities, n, _budget(shown, ample_cap, n), settings.longest))

    narrator.heading("Solve", "each policy at each budget")
    plans: dict[tuple[str, float], Plan] = {}
    with narrator.progress("solving", len(settings.fractions) * len(settings.policies)) as advance:
        for fraction in settings.fractions:
            for policy in settings.policies:
                plans[policy, fraction] = allocate(
                    policy,
                    utilities,
                    n,
                    _budget(fraction, ample_cap, n),
                    settings.longest,
                    seed=settings.seed,
                    time_limit=settings.time_limit,
                )
                advance()
    narrator.plans(plans)
    return plans, _check(settings, model, ample_cap, features, shown, narrator)


def _check(
    settings: Settings,
    model: SurgeModel,
    ample_cap: int,
    features: Sequence[Any],
    fraction: float,
    narrator: Narrator,
) -> CheckRows:
    """The solvers side by side on the first few queries."""
    few = settings.check_queries
    if few < 1:
        return ()
    narrator.heading("Check", f"{few} of the queries through other solvers")
    problem = declare(
        model.utilities(features[:few]), few, _budget(fraction, ample_cap, few), settings.longest
    )
    with narrator.waiting("comparing solvers"):
        # A dozen queries, in this process: others would import every solver anew.
        comparison = co.compare(
            problem, solvers=CHECKERS, time_limit=settings.check_seconds, isolated=False
        )
    narrator.text(str(comparison))
    return tuple(
        {key: _finite(value) for key, value in row.items()} for row in comparison.to_dicts()
    )


def _calibrate(
    settings: Settings,
    tasks: Sequence[Task],
    speaker: Speaker,
    journal: Journal,
    narrator: Narrator,
) -> Rollouts:
    key = "calibration"
    found = journal.get(key)
    if found is None:
        repeated = [task for task in tasks for _ in range(settings.samples)]
        caps = np.full(len(repeated), settings.longest, dtype=np.int64)
        seeds = np.random.default_rng([settings.seed, 1]).integers(_SEEDS, size=len(repeated))
        with narrator.waiting(f"generating {len(repeated)} rollouts"):
            answers, correct, seconds = speaker.answer(repeated, caps, seeds)
        found = {
            "tokens": [speaker.needed(answer) for answer in answers],
            "correct": correct.tolist(),
            "finished": [answer.finished for answer in answers],
            "generated": sum(answer.tokens for answer in answers),
            "seconds": seconds,
        }
        journal.record(key, found)
    narrator.generated(len(found["tokens"]), found["generated"], found["seconds"])
    query = np.repeat(np.arange(len(tasks)), settings.samples)
    return Rollouts(query, found["tokens"], found["correct"], found["finished"])


def _generate(
    settings: Settings,
    tasks: Sequence[Task],
    plan: Plan,
    fraction: float,
    speaker: Speaker,
    journal: Journal,
) -> Batch:
    """A policy's answers at one budget, from the journal where they are there already."""
    # The allocation is part of the key: a solver that changed its mind is not given old answers.
    key = f"{plan.policy} {fraction:g} {fingerprint(plan.tokens.tolist())}"
    found = journal.get(key)
    if found is None:
        # Seeds depend on budget and query, not on the policy.
        rng = np.random.default_rng([settings.seed, 2, round(fraction * 1e9)])
        seeds = rng.integers(_SEEDS, 2 * _SEEDS, size=len(tasks))
        answers, correct, seconds = speaker.answer(tasks, plan.tokens, seeds)
        tokens = [answer.tokens for answer in answers]
        found = {"tokens": tokens, "correct": correct.tolist(), "seconds": seconds}
        journal.record(key, found)
    return Batch(np.array(found["tokens"]), np.array(found["correct"]), float(found["seconds"]))


def _rows(
    settings: Settings,
    plans: dict[tuple[str, float], Plan],
    batches: dict[tuple[str, float], Batch],
    *,
    confirmed: bool = True,
) -> tuple[Row, ...]:
    rows = []
    for (policy, fraction), plan in plans.items():
        batch = batches.get((policy, fraction))
        measured: dict[str, Any] = dict.fromkeys(
            ("accuracy", "low", "high", "ratio", "ratio_low", "ratio_high", "generated",
             "seconds", "tokens_per_second")
        )  # fmt: skip
        if batch is not None:
            uniform = batches["uniform", fraction]
            result = paired_bootstrap(
                batch.correct, uniform.correct, seed=settings.seed, resamples=settings.resamples
            )
            generated = int(batch.tokens.sum())
            measured = {
                "accuracy": result.accuracy.value,
                "low": result.accuracy.low,
                "high": result.accuracy.high,
                "ratio": result.ratio.value,
                "ratio_low": result.ratio.low,
                "ratio_high": result.ratio.high,
                "generated": generated,
                "seconds": batch.seconds,
                "tokens_per_second": generated / batch.seconds if batch.seconds > 0 else None,
            }
        elif confirmed:
            continue  # interrupted before it was generated
        rows.append(
            Row(
                policy=policy,
                fraction=fraction,
                budget=plan.budget,
                expected_accuracy=plan.expected,
                planned=int(plan.tokens.sum()),
                price=plan.price,
                gap=plan.gap,
                funded=plan.funded,
                solver_status=plan.status,
                solver_seconds=plan.seconds,
                **measured,
            )
        )
    return tuple(rows)


def _report(
    settings: Settings,
    model: SurgeModel,
    ample_cap: int,
    rows: tuple[Row, ...],
    check: CheckRows,
    complete: bool,
    confirmed: bool,
) -> Report:
    return Report(
        rows=rows,
        queries=settings.queries,
        seed=settings.seed,
        model=settings.model,
        ample=ample_cap * settings.queries,
        ample_cap=ample_cap,
        confirmed=confirmed,
        complete=complete,
        calibration=model.to_dict(),
        check=check,
        settings=settings.to_dict(),
    )


def _make_engine(settings: Settings, narrator: Narrator) -> Engine:
    from clearopt.serving import Engine

    with narrator.waiting(f"loading {settings.model} into vLLM"):
        return Engine(settings.model, seed=settings.seed)


def _finite(value: Any) -> Any:
    """None for a number that JSON cannot hold."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _budget(fraction: float, ample_cap: int, n: int) -> int:
    return int(fraction * ample_cap * n + 1e-9)


def _configuration(settings: Settings, location: str) -> dict[str, Any]:
    """What generated answers depend on, the caps apart (those are in the journal's keys)."""
    chosen, versions = settings.to_dict(), installed_versions()
    kept = ("queries", "calibration", "samples", "seed", "longest")
    return {
        **{name: chosen[name] for name in kept},
        "model": model_fingerprint(location),
        "versions": {name: versions[name] for name in ("clearopt", "vllm", "torch")},
    }
