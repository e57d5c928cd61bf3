"""What curves predicted for unseen queries are worth, on recorded rollouts.

    python benchmarks/prediction.py ROLLOUTS --features TABLE
    python benchmarks/prediction.py ROLLOUTS --source gpt-5.2@low [--source ...]

Of every run (a model on a benchmark) the queries are halved at random, several times. Each half is
predicted by what was learnt on the other, from a table of features or from another model's
rollouts on the same queries, and shares its own part of the budget. A query then counts with the
share of its samples that are right under its cap. Beside it stand one cap for all and time-share,
whose cap is the best one of the half that was learnt from. Intervals are over queries, paired.
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import dataclass

import numpy as np

import clearopt as co
from clearopt.calibration import CalibrationError, Run, Traces, read_rollouts
from clearopt.confirmation.statistics import paired_bootstrap
from clearopt.errors import DeclarationError
from clearopt.prediction import (
    Features,
    PredictionWarning,
    fit_predictor,
    read_features,
    rollout_features,
)

SHARES = (0.1, 0.2, 0.4)


@dataclass
class Scores:
    """(n,) sums over the repeats, by budget."""

    allocated: list[np.ndarray]
    uniform: list[np.ndarray]
    shared: list[np.ndarray]


def right_under(run: Run, caps: np.ndarray) -> np.ndarray:
    """(n,) the share of each query's samples that are right under its cap."""
    r = run.rollouts
    right = r.solved & (r.tokens <= caps[r.query] + 1e-9)
    return np.bincount(r.query, weights=right, minlength=run.n) / run.samples


def best_cap(run: Run, tokens: float) -> float:
    """The common cap at which a random share of the queries answers most for `tokens` a query."""
    caps = np.unique(run.rollouts.tokens[run.rollouts.solved])
    gains = [right_under(run, np.full(run.n, c)).mean() * min(1.0, tokens / c) for c in caps]
    return float(caps[int(np.argmax(gains))])


def evaluate(
    run: Run, features: Features, repeats: int, **options: str
) -> tuple[Scores, dict[str, float]]:
    n, ample = run.n, run.rollouts.ample_cap()
    scores = Scores(*([np.zeros(n) for _ in SHARES] for _ in range(3)))
    signals = []
    for repeat in range(repeats):
        order = np.random.default_rng([repeat, 5]).permutation(n)
        halves = order[: n // 2], order[n // 2 :]
        for train, test in (halves, halves[::-1]):
            known, new = run.of_queries(train), run.of_queries(test)
            fitted = fit_predictor(features.take(train), known.rollouts, **options)
            signals.append(fitted.signal)
            curves = fitted.predict(features.take(test)).utilities
            tokens = co.Allocation(new.n, upper=float(ample))
            budget = (co.sum(tokens) <= ample * new.n).named("budget")
            problem = co.Problem(co.Maximize(co.sum(curves(tokens))), [budget])
            budgets = [share * ample * new.n for share in SHARES]
            solutions = problem.sweep("budget", budgets, tolerance=1e-3, time_limit=5.0)
            for k, (share, solution) in enumerate(zip(SHARES, solutions, strict=True)):
                cap = best_cap(known, share * ample)
                served = min(1.0, share * ample / cap)
                scores.allocated[k][test] += right_under(new, solution.allocation)
                scores.uniform[k][test] += right_under(new, np.full(new.n, share * ample))
                scores.shared[k][test] += served * right_under(new, np.full(new.n, cap))
    for column in (scores.allocated, scores.uniform, scores.shared):
        for values in column:
            values /= repeats
    return scores, {key: float(np.mean([s[key] for s in signals])) for key in signals[0]}


def aligned(run: Run, other: Run) -> Run:
    """The other model's run in the order of this one's queries."""
    return other.of_queries([other.queries.index(query) for query in run.queries])


def features_of(run: Run, traces: Traces, table: str | None, source: str | None) -> Features:
    if table is not None:
        return read_features(table, run.queries)
    other = aligned(run, traces.select(run.benchmark, source))
    return rollout_features(other.rollouts, run.n, name=str(source))


def line(run: Run, scores: Scores, signal: dict[str, float]) -> str:
    cells = [run.benchmark, run.model, f"{signal['length']:.2f}, {signal['solve']:.2f}"]
    for mine, uniform, shared in zip(scores.allocated, scores.uniform, scores.shared, strict=True):
        found = paired_bootstrap(mine, uniform)
        low, high = (
            "inf" if end is None else f"{end:.2f}" for end in (found.ratio.low, found.ratio.high)
        )
        ratio = "-" if found.ratio.value is None else f"{found.ratio.value:.2f}"
        accuracies = " / ".join(f"{100 * v.mean():.1f}" for v in (uniform, shared, mine))
        cells.append(f"{accuracies}; {ratio} [{low}, {high}]")
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("rollouts")
    parser.add_argument("--features", help="a table with a column query_id")
    parser.add_argument("--source", action="append", default=[], help="a model in the rollouts")
    parser.add_argument("--benchmark", help="only this one")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--regressor", default="ridge")
    parser.add_argument("--law", default="measured")
    arguments = parser.parse_args()
    options = {"regressor": arguments.regressor, "law": arguments.law}
    warnings.simplefilter("ignore", PredictionWarning)
    traces = read_rollouts(arguments.rollouts)
    header = ["benchmark", "model", "signal: length, solve"]
    header += [f"{100 * share:g} %: uniform / time-share / predicted; ratio" for share in SHARES]
    for source in arguments.source or [None]:
        print(f"\npredicted from {source or arguments.features}\n")
        print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|")
        for run in traces.matching(arguments.benchmark, None):
            if run.model == source:
                continue
            try:
                features = features_of(run, traces, arguments.features, source)
                scores, signal = evaluate(run, features, arguments.repeats, **options)
            except (CalibrationError, DeclarationError, ValueError) as error:
                print(f"| {run.benchmark} | {run.model} | {error} |", flush=True)
                continue
            print(line(run, scores, signal), flush=True)


if __name__ == "__main__":
    main()
