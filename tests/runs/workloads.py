"""Queries for the stub, whose true lengths scatter around what their curves promise."""

import numpy as np

import clearopt as co
from clearopt.runs import ExactMatch, Query, Retries, Settings, Workload
from clearopt.runs.wave import Job
from clearopt.serving import Request

QUICK = Retries(first=0.01, longest=0.05, attempts=8)
VERIFIER = ExactMatch("####")


def workload(n=40, seed=0, right=0.8, **options):
    """`right` of the answers are right; their lengths are gamma, as the curves say."""
    rng = np.random.default_rng(seed)
    threshold = rng.uniform(10, 60, n)
    rate = rng.uniform(0.05, 0.3, n)
    need = np.ceil(threshold + rng.gamma(2.0, 1 / rate)).astype(int) + 1
    say = np.where(rng.random(n) < right, np.arange(n), 99_999)
    queries = [Query(f"q{i}", f"need={max(need[i], 12)} say={say[i]}\n", str(i)) for i in range(n)]
    scale = np.full(n, right)
    return Workload(
        queries, 200, co.CumulativeSurge(scale=scale, threshold=threshold, rate=rate), **options
    )


def settings(**options):
    return Settings(**{"budget": 1600, "seed": 1, "retries": QUICK, **options})


def table(report):
    """What must be the same however often a run was killed."""
    return report.rows, report.rounds


def jobs(count, cap=50, need=40):
    """Requests whose answers need `need` tokens under a cap of `cap`."""
    return [Job(f"0:{i}", Request(f"need={need} say={i}\n", cap, seed=i)) for i in range(count)]
