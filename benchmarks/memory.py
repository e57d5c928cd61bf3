"""How much memory declaring and solving takes, as a multiple of the user's own arrays.

    python benchmarks/memory.py [--largest 10000000] [--case NAME ...]

Every case runs in a process of its own, where small problems of the same kind are solved first, so
that imports, JAX and its compiled kernels are there already. From then on the peak of the process
(VmHWM in /proc/self/status, Linux alone) is watched, over what it held before the arrays were made:

- *total*: the peak with the user's arrays counted in, over their bytes. The aim is at most 3.
- *on top*: the same without them.

The user's arrays are scale, threshold and rate, float64 (the cap is one number); with tenants,
their int64 labels too. A *read-only* case marks the arrays as never to be written to, so that
nothing need be copied. Streaming from Parquet has no arrays: there the peak itself must not grow
with the rows.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from one_row import UPPER, declared, draw, forget_peak, peak

import clearopt as co

TENANTS = 1_000
CHUNK = 2**17  # rows of a table in memory at once


def one_row(n: int) -> tuple[list[np.ndarray], Callable[..., co.Problem]]:
    *arrays, budget = draw(n)
    return arrays, lambda: declared(*arrays, budget)


def read_only(n: int) -> tuple[list[np.ndarray], Callable[..., co.Problem]]:
    arrays, declare = one_row(n)
    for array in arrays:
        array.setflags(write=False)
    return arrays, declare


def whole_tokens(n: int) -> tuple[list[np.ndarray], Callable[..., co.Problem]]:
    scale, threshold, rate, budget = draw(n)

    def declare() -> co.Problem:
        tokens = co.Allocation(n, upper=UPPER, integer=True)
        accuracy = co.CumulativeSurge(scale, threshold, rate)(tokens)
        return co.Problem(co.Maximize(co.sum(accuracy)), [co.sum(tokens) <= math.floor(budget)])

    return [scale, threshold, rate], declare


def tenants(
    n: int, *, whole: bool = False, nested: bool = True
) -> tuple[list[np.ndarray], Callable[..., co.Problem]]:
    """Caps on tenants, of which about half bind where they are `nested` under a budget."""
    scale, threshold, rate, budget = draw(n)
    tenant = np.random.default_rng(1).integers(0, TENANTS, n)
    wanted = np.bincount(tenant, weights=threshold + 3 / rate, minlength=TENANTS)
    share = np.random.default_rng(2).uniform(0.2, 0.5, TENANTS)
    caps = {label: cap for label, cap in enumerate((share * wanted).tolist()) if wanted[label]}

    def declare() -> co.Problem:
        tokens = co.Allocation(n, upper=UPPER, integer=whole)
        accuracy = co.CumulativeSurge(scale, threshold, rate)(tokens)
        rows = [(co.sum(tokens, by=tenant) <= caps).named("cap")]
        if nested:
            rows.insert(0, (co.sum(tokens) <= budget).named("budget"))
        return co.Problem(co.Maximize(co.sum(accuracy)), rows)

    return [scale, threshold, rate, tenant], declare


# What is solved, how large, and how large the problems are that warm JAX up.
CASES: dict[str, tuple[Callable[[int], Any], int, tuple[int, ...]]] = {
    "one row": (one_row, 10_000_000, (20_000, 600_000)),
    "one row, read-only": (read_only, 10_000_000, (20_000, 600_000)),
    "one row, whole tokens": (whole_tokens, 10_000_000, (20_000, 600_000)),
    "1000 tenants": (tenants, 1_000_000, (20_000, 600_000)),
    "1000 tenants, whole tokens": (partial(tenants, whole=True), 1_000_000, (20_000, 600_000)),
    "1000 tenants, no budget": (partial(tenants, nested=False), 1_000_000, (20_000, 600_000)),
}


def in_memory(case: str, n: int) -> dict[str, Any]:
    """Peaks of one case, in this process."""
    make, _, warming = CASES[case]
    for small in warming:
        make(min(small, n))[1]().solve(time_limit=60)
    gc.collect()
    forget_peak()
    before = peak()
    arrays, declare = make(n)
    held = sum(array.nbytes for array in arrays)
    gc.collect()
    forget_peak()
    problem = declare()
    stated = peak() - before
    forget_peak()
    start = time.perf_counter()
    solution = problem.solve(time_limit=600)
    return {
        "n": n, "input": held, "declared": stated / held, "solved": (peak() - before) / held,
        "seconds": time.perf_counter() - start, "status": solution.status, "gap": solution.gap,
    }  # fmt: skip


def streamed(n: int) -> dict[str, Any]:
    """The peak of a stream of `n` rows over what the process held after a short one."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "queries.parquet", Path(folder) / "allocated.parquet"

        def solve(rows: int) -> Any:
            budget = child("--write", str(source), str(rows))["budget"]
            forget_peak()
            options: dict[str, Any] = {"upper": UPPER, "chunk": CHUNK, "force": True}
            return co.solve_parquet(source, target, budget=budget, **options)

        solve(2 * CHUNK)
        gc.collect()
        forget_peak()
        before = peak()
        start = time.perf_counter()
        result = solve(n)
        return {"n": n, "peak": peak() - before, "before": before, "status": result.status,
                "gap": result.gap, "seconds": time.perf_counter() - start}  # fmt: skip


def write(path: str, rows: int) -> dict[str, Any]:
    """A table of so many queries, and the budget that goes with it."""
    import polars

    scale, threshold, rate, budget = draw(rows)
    frame = polars.DataFrame({"scale": scale, "threshold": threshold, "rate": rate})
    frame.write_parquet(path, row_group_size=100_000)
    return {"budget": budget}


def child(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--largest", type=int, default=10_000_000)
    parser.add_argument("--case", nargs="*", default=[*CASES, "parquet"])
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)  # one child's work
    parser.add_argument("--write", nargs=2, help=argparse.SUPPRESS)  # another's
    arguments = parser.parse_args()
    if arguments.write is not None:
        print(json.dumps(write(arguments.write[0], int(arguments.write[1]))))
        return
    if arguments.inside is not None:
        case, n = arguments.inside[0], int(arguments.inside[1])
        found = streamed(n) if case == "parquet" else in_memory(case, n)
        print(json.dumps(found, default=float))
        return
    print(
        f"{'case':<26} {'n':>9} {'input MB':>9} {'declared':>9} {'total':>7} {'on top':>7}  proven"
    )
    for case in (c for c in arguments.case if c != "parquet"):
        found = child("--inside", case, str(min(CASES[case][1], arguments.largest)))
        print(f"{case:<26} {found['n']:>9} {found['input'] / 1e6:>9.0f} {found['declared']:>9.2f} "
              f"{found['solved']:>7.2f} {found['solved'] - 1:>7.2f}  {found['status']}, gap "
              f"{found['gap']:.1e}, {found['seconds']:.3g} s")  # fmt: skip
    if "parquet" in arguments.case:
        for n in sorted({min(n, arguments.largest) for n in (1_000_000, 8_000_000)}):
            found = child("--inside", "parquet", str(n))
            print(f"{'parquet':<26} {n:>9}: {found['peak'] / 1e6:.0f} MB on top of "
                  f"{found['before'] / 1e6:.0f}; {found['status']}, gap {found['gap']:.1e}, "
                  f"{found['seconds']:.3g} s")  # fmt: skip


if __name__ == "__main__":
    main()
