"""Small files of simulated rollouts, in the format that people bring."""

from __future__ import annotations

import csv

import numpy as np

from clearopt.calibration import Rollouts, Run, Traces, read_rollouts


def simulated(
    n=30, samples=6, *, seed=0, benchmark="sums", model="small", scale=1.0, solved=0.85
) -> list[dict]:
    """Rows of one run: lognormal lengths around each query's own, whatever model is asked."""
    difficulty = np.random.default_rng(12345).normal(size=n)
    rng = np.random.default_rng([seed, len(model)])
    rows = []
    for i in range(n):
        chance = 1 / (1 + np.exp(-(np.log(solved / (1 - solved)) - difficulty[i])))
        for k in range(samples):
            tokens = scale * np.exp(5.5 + 0.9 * difficulty[i] + 0.3 * rng.normal())
            rows.append(
                {
                    "benchmark": benchmark,
                    "model": model,
                    "query_id": f"q{i}",
                    "sample_id": k,
                    "tokens": int(np.ceil(tokens)),
                    "correct": bool(rng.random() < chance),
                    "finished": True,
                }
            )
    return rows


def write(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def traces_of(rows, tmp_path, name="rollouts.csv") -> Traces:
    return read_rollouts(write(tmp_path / name, rows))


def run_of(query, tokens, correct, finished=None) -> Run:
    """A run from plain lists; queries are named by their number."""
    finished = [True] * len(query) if finished is None else finished
    names = tuple(f"q{i}" for i in range(max(query) + 1))
    return Run("sums", "small", names, Rollouts(query, tokens, correct, finished))
