"""Regret of posted prices against the offline optimum, on the four traffic streams.

    python benchmarks/streams.py [--horizons 500,2000,8000] [--draws 5] [--rollouts FILE --model M]

Queries are a simulated pool, or curves fitted to a model's rollouts.
"""

from __future__ import annotations

import argparse

import numpy as np

import clearopt as co
from clearopt.calibration import fit_curves, read_rollouts
from clearopt.online import Windows, offline_optimum, regret_study, run_windows
from clearopt.replay.streams import MIXES, difficulty_parts, sample_stream


def simulated(size: int = 600) -> tuple[co.Lognormal, np.ndarray, float]:
    difficulty = np.sort(np.random.default_rng(0).normal(size=size))
    pool = co.Lognormal(
        1 / (1 + np.exp(difficulty - 1.5)), np.exp(6.5 + 0.9 * difficulty), np.full(size, 0.35)
    )
    return pool, np.arange(size) * 3 // size, 20_000.0


def recorded(file: str, benchmark: str | None, model: str) -> tuple[co.Utility, np.ndarray, float]:
    run = read_rollouts(file).select(benchmark, model)
    fitted = fit_curves(run.rollouts, run.n)
    longest = 1.5 * float(run.rollouts.tokens.max())
    return fitted.utilities, difficulty_parts(run.rollouts, run.n), longest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--horizons", default="500,2000,8000")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--rollouts")
    parser.add_argument("--benchmark")
    parser.add_argument("--model")
    parser.add_argument("--share", type=float, default=0.2, help="of an ample cap for all")
    given = parser.parse_args()
    if given.rollouts:
        pool, parts, upper = recorded(given.rollouts, given.benchmark, given.model)
    else:
        pool, parts, upper = simulated()
    everybody = parts.size
    caps = np.geomspace(1, upper, 400)
    reached = np.array([pool.value(np.full(everybody, cap)).mean() for cap in caps])
    rate = given.share * float(caps[np.argmax(reached >= 0.99 * reached[-1])])
    horizons = [int(h) for h in given.horizons.split(",")]
    print(f"{rate:.0f} tokens a query, {given.share:.0%} of ample; {given.draws} draws")
    for mix in MIXES:

        def draw(length: int, seed: int, mix: str = mix) -> co.Utility:
            return pool.take(sample_stream(parts, mix, length=length, seed=seed).queries)

        study = regret_study(draw, rate=rate, upper=upper, horizons=horizons, draws=given.draws)
        print(f"\n{mix}\n{study.table()}")
        n = horizons[-1]
        stream = draw(n, 0)
        best = offline_optimum(stream, rate * n, upper)
        uniform = float(np.sum(stream.value(np.full(n, rate))))
        for size in (20, 100):
            run = run_windows(
                Windows(budget=rate * n, horizon=n, tolerance=1e-5), stream, upper, size
            )
            print(f"windows of {size}: behind by {1 - run.value / best.bound:.2%} at {n} queries")
        print(f"uniform caps: behind by {1 - uniform / best.bound:.0%}")


if __name__ == "__main__":
    main()
