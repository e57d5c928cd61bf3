"""One of several processes that solve one sharded problem; not a test module.

    python sharded_worker.py CASE RANK PROCESSES PORT OUT

Writes its part of the result to OUT (an .npz file). The queries of all processes are drawn with
one seed and then cut into unequal parts, so that one process alone can solve the whole.
"""

import sys

import numpy as np

import clearopt as co

SHARES = (0.3, 0.7)  # of the queries, by process


def declare(case: str, rank: int | None) -> co.Problem:
    """The queries of one process, or all of them."""
    rng = np.random.default_rng(5)
    n = 6_001
    scale, threshold = rng.uniform(0.2, 1, n), rng.uniform(5, 100, n)
    rate, weight = 10 ** rng.uniform(-2, 0, n), rng.uniform(0, 2, n)
    if case == "identical":
        scale[:], threshold[:], rate[:], weight[:] = 0.7, 50.0, 0.05, 1.0
    cut = round(SHARES[0] * n)
    part = slice(None) if rank is None else slice(0, cut) if rank == 0 else slice(cut, n)
    tokens = co.Allocation(len(scale[part]), upper=4096, integer=case == "whole")
    if case == "families":  # the first process has none of the second family
        kinds = np.arange(n)[part] < cut
        values = [
            family(scale[part][mine], threshold[part][mine], rate[part][mine])(tokens[mine])
            for family, mine in ((co.CumulativeSurge, kinds), (co.ShiftedSurge, ~kinds))
            if mine.any()
        ]
        gain = co.sum(values[0]) if len(values) == 1 else co.sum(values[0]) + co.sum(values[1])
    else:
        accuracy = co.CumulativeSurge(scale[part], threshold[part], rate[part])(tokens)
        gain = weight[part] @ accuracy
    budget = 0.0 if case == "nothing" else 1e9 if case == "ample" else 120_000.0
    return co.Problem(co.Maximize(gain), [(co.sum(tokens) <= budget).named("budget")])


def main() -> None:
    cases, rank, processes, port, out = sys.argv[1:]
    import jax

    jax.distributed.initialize(
        f"localhost:{port}", num_processes=int(processes), process_id=int(rank),
        initialization_timeout=60,
    )  # fmt: skip
    from clearopt import sharded

    found = {}
    for case in cases.split(","):
        result = sharded.solve(declare(case, int(rank)))
        found |= {
            f"{case}.status": result.status,
            f"{case}.allocation": result.allocation,
            f"{case}.numbers": np.array(
                [result.objective, result.bound, result.price, result.spent, result.queries]
            ),
        }
    np.savez(out, devices=len(jax.devices()), **found)


if __name__ == "__main__":
    main()
