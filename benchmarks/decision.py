"""Thresholds trained on the allocation's value, against plain regression, on recorded answers.

    python benchmarks/decision.py ROLLOUTS [--benchmark gpqa-diamond] [--seeds 3] [--share 0.2]

The queries of a run are halved at random. On one half thresholds are regressed on the other models'
rollouts (log length, log odds, spread), and trained from there by `fit_to_value`; on the other half
allocations are made on the word of either, and scored by the recorded answers; then the other way
round. Whether a query is solved, and how far its answers scatter, comes from `fit_predictor` for
all of them, so that they differ in the threshold alone. Intervals are 95 %, of the mean over
the models.
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np

import clearopt as co
from clearopt.calibration import Run, Traces, fit_curves, read_rollouts
from clearopt.prediction import Features, fit_predictor, fit_to_value
from clearopt.replay.accounting import right_under
from clearopt.replay.predicting import features_for
from clearopt.replay.settings import Settings
from clearopt.robust import expected_utility

NAMES = (
    "uniform",
    "regression",
    "trained",
    "regression, expected",
    "trained, expected",
    "predictor",
)


def accuracy(run: Run, curves: co.Utility, cap: float, tokens: float) -> float:
    """Mean over the run's queries of the recorded answers' accuracy."""
    allocation = co.Allocation(run.n, upper=cap, name="tokens")
    budget = co.sum(allocation) <= tokens * run.n
    problem = co.Problem(co.Maximize(co.sum(curves(allocation))), [budget])
    solution = problem.solve(tolerance=1e-4, time_limit=5.0)
    return float(right_under(run.rollouts, solution.allocation + 1e-6, run.n).mean())


def halves(run: Run, features: Features, share: float, batch: int, seed: int) -> np.ndarray:
    """(names + 1,) mean accuracies over both halves, and the share of trainings that moved."""
    order = np.random.default_rng([seed, 23]).permutation(run.n)
    parts = order[: run.n // 2], order[run.n // 2 :]
    ample = float(run.rollouts.ample_cap())
    tokens, found = share * ample, []
    for seen, new in (parts, parts[::-1]):
        known, scored = run.of_queries(seen), run.of_queries(new)
        truth = fit_curves(known.rollouts, known.n).utilities
        assert isinstance(truth, co.Lognormal)
        model = fit_to_value(features.take(seen), truth, tokens, batch=batch, seed=seed)
        predictor = fit_predictor(features.take(seen), known.rollouts, law="lognormal", seed=seed)
        predicted = predictor.predict(features.take(new))
        believed = predicted.known_threshold
        row = [float(right_under(scored.rollouts, np.full(scored.n, tokens), scored.n).mean())]
        own = [
            co.Lognormal(
                believed.scale,
                model.threshold(features.take(new), regression=plain),
                believed.spread,
            )
            for plain in (True, False)
        ]
        error = np.maximum(predicted.threshold_spread, 1e-3)
        own += [expected_utility(curves, error) for curves in own]
        row += [accuracy(scored, curves, ample, tokens) for curves in own]
        row.append(accuracy(scored, predicted.utilities, ample, tokens))
        found.append([*row, float(model.steps > 0)])
    return np.mean(found, axis=0)


def of_run(run: Run, traces: Traces, share: float, batch: int, seeds: int) -> np.ndarray:
    features = features_for(run, traces, Settings(predict_from="others"))
    return np.mean([halves(run, features, share, batch, seed) for seed in range(seeds)], axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("rollouts")
    parser.add_argument("--benchmark", default="gpqa-diamond")
    parser.add_argument("--share", type=float, default=0.2, help="of ample (0.2)")
    parser.add_argument("--batch", type=int, default=12, help="queries that share a budget (12)")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    traces = read_rollouts(arguments.rollouts)
    print(
        f"| model | {' | '.join(NAMES)} | trainings that moved |\n|---{'|---' * (len(NAMES) + 1)}|"
    )
    rows = []
    for run in traces.matching(arguments.benchmark, None):
        rows.append(of_run(run, traces, arguments.share, arguments.batch, arguments.seeds))
        cells = [f"{100 * value:.1f}" for value in rows[-1]]
        print(f"| {run.model} | {' | '.join(cells)} % |", flush=True)
    table = np.array(rows)
    cells = [f"{100 * value:.1f}" for value in table.mean(axis=0)]
    print(f"| mean | {' | '.join(cells)} % |")
    for one, other in ((2, 1), (4, 3), (5, 3)):
        gain = 100 * (table[:, one] - table[:, other])
        error = 1.96 * gain.std(ddof=1) / np.sqrt(gain.size)
        print(f"\n{NAMES[one]} over {NAMES[other]}: {gain.mean():+.2f} points, "
              f"[{gain.mean() - error:.2f}, {gain.mean() + error:.2f}]")  # fmt: skip


if __name__ == "__main__":
    main()
