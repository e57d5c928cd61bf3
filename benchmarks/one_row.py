"""One budget row: what a certified solve costs, in passes and in memory, beside other methods.

    python benchmarks/one_row.py [--largest 1000000] [--general] [--parquet]

Every size runs in a process of its own, after a small solve that compiles. Times are medians over
repeats; a gap stands beside every time. Units, measured in the same process over the same arrays:

- a *pass*: every query's best response at one price, with its sums (the kernel `measure`), the
  least that any price-based method must pay several times;
- *utilities*: U(b) alone for every query, compiled by JAX; *reading*: adding every array up once.

Memory is the peak of the process over what it held before the user's arrays were made, with these
arrays counted in, as a multiple of them (scale, threshold, rate; the cap is one number): once after
the declaration, once after the solve. `--general` adds HiGHS (a piecewise-linear
MILP), SCIP and CVXPY (its concave envelope) at n = 10, 100 and 1 000, a minute each.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import lambertw

import clearopt as co

UPPER = 4096.0
SLOWEST_BISECTION = 1_000_000  # queries


def draw(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    rng = np.random.default_rng(seed)
    scale, threshold = rng.uniform(0.2, 1, n), rng.uniform(5, 100, n)
    rate = 10 ** rng.uniform(-2, 0, n)
    return scale, threshold, rate, 0.3 * float(threshold.sum() + (3 / rate).sum())


def declare(n: int, seed: int = 0) -> co.Problem:
    return declared(*draw(n, seed))


def declared(scale: Any, threshold: Any, rate: Any, budget: float) -> co.Problem:
    tokens = co.Allocation(len(scale), upper=UPPER)
    accuracy = co.CumulativeSurge(scale, threshold, rate)(tokens)
    return co.Problem(co.Maximize(co.sum(accuracy)), [(co.sum(tokens) <= budget).named("budget")])


def timed(action: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    seconds, result = [], None
    for _ in range(repeats):
        start = time.perf_counter()
        result = action()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), result


# -------------------------------------------------------------------------------- units
def units(program: Any, price: float, repeats: int) -> dict[str, float]:
    """Seconds of a pass, of evaluating all utilities, and of reading the arrays."""
    import jax

    from clearopt.solvers.dual.blocks import ArraySource
    from clearopt.solvers.dual.kernels import compiled

    source = ArraySource(program, np.ones(()))
    family = program.utilities[0].family

    @jax.jit
    def utilities(parameters: Any, tokens: Any) -> Any:
        utility = family.kind.from_parameters(*parameters)
        return utility.value_at(utility.excess_of(tokens)).sum()

    def over(ask: Callable[[Any], Any]) -> None:
        with jax.enable_x64(True):
            waiting = [ask(block) for block in source.blocks()]
            for answer in waiting:
                np.asarray(answer)

    def a_pass() -> None:
        over(lambda b: compiled("measure", b.kind)(b.columns, b.valid, price))

    def all_utilities() -> None:
        over(lambda b: utilities(b.columns.parameters, b.columns.parameters[1] * 1.5))

    for action in (a_pass, all_utilities):
        action()
    return {
        "pass": timed(a_pass, repeats)[0],
        "utilities": timed(all_utilities, repeats)[0],
        "reading": timed(lambda: [p.sum() for p in family.parameters], repeats)[0],
    }


def peak() -> float:
    """Peak resident bytes since the last `forget_peak` (Linux; NaN elsewhere)."""
    status = Path("/proc/self/status")
    if not status.exists():
        return math.nan
    line = next(t for t in status.read_text().splitlines() if t.startswith("VmHWM"))
    return 1024.0 * int(line.split()[1])


def forget_peak() -> None:
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")


# -------------------------------------------------------------------------------- bisection
def bisection(scale: Any, threshold: Any, rate: Any, budget: float) -> tuple[float, float]:
    """(objective, bound): the price by bisection in NumPy, its demand by SciPy's Lambert W."""
    top = scale * rate / math.e

    def respond(price: float) -> tuple[np.ndarray, np.ndarray]:
        inside = price < top
        ratio = np.where(inside, price / (scale * rate), 1 / math.e)
        y = np.maximum(-lambertw(-ratio, -1).real, 1.0)
        tokens = np.minimum(threshold + y / rate, UPPER)
        excess = rate * np.maximum(tokens - threshold, 0.0)
        utility = scale * (1 - (1 + excess) * np.exp(-excess))
        funded = inside & (utility >= price * tokens)
        return np.where(funded, tokens, 0.0), np.where(funded, utility, 0.0)

    low, high = 0.0, float(top.max())
    while high - low > 1e-12 * high:
        middle = 0.5 * (low + high)
        low, high = (low, middle) if respond(middle)[0].sum() <= budget else (middle, high)
    tokens, utility = respond(high)
    return float(utility.sum()), float((utility - high * tokens).sum() + high * budget)


# -------------------------------------------------------------------------------- one size
def one_size(n: int, with_bisection: bool) -> dict[str, Any]:
    """Everything at one n, in this process."""
    repeats = 5 if n <= 100_000 else 3
    for small in (min(n, 20_000), 600_000 if n >= 2**19 else 20_000):
        declare(small).solve()  # compiles, for both sizes of blocks
    forget_peak()
    before = peak()
    arrays = draw(n)
    held = sum(array.nbytes for array in arrays[:3])
    forget_peak()
    seconds, problem = timed(lambda: declared(*arrays), 1)
    found: dict[str, Any] = {
        "n": n, "declare": seconds, "memory declared": (peak() - before) / held
    }  # fmt: skip
    forget_peak()
    solution = problem.solve()
    found["memory solved"] = (peak() - before) / held
    found["solve"], solution = timed(problem.solve, repeats)
    found |= {"gap": solution.gap, "status": solution.status,
              "evaluations": solution.statistics.get("passes")}  # fmt: skip
    found["units"] = units(problem.program, float(solution.prices["budget"]), repeats)
    if with_bisection:
        found["bisection"], (objective, bound) = timed(lambda: bisection(*arrays), 1)
        found["bisection gap"] = (bound - objective) / bound
    return found


def report(found: dict[str, Any]) -> None:
    unit = found["units"]

    def line(method: str, seconds: float, gap: float, status: str, more: str = "") -> None:
        ratios = " ".join(f"{seconds / unit[name]:>9.0f}" for name in unit)
        print(f"{found['n']:>9} {method:<10} {seconds:>9.3g} {ratios} {gap:>9.1e}  {status}{more}")

    memory = f"{found['memory declared']:.1f}, {found['memory solved']:.1f} x the arrays"
    asked = "" if found["evaluations"] is None else f", {found['evaluations']} evaluations"
    line("dual", found["solve"], found["gap"], found["status"], f"; memory {memory}{asked}")
    if "bisection" in found:
        line("bisection", found["bisection"], found["bisection gap"], "no proof of its own")
    nanoseconds = ", ".join(f"{k} {1e9 * v / found['n']:.3g}" for k, v in unit.items())
    print(f"{'':>9} declared in {found['declare']:.3g} s; ns a query: {nanoseconds}")


def general(n: int) -> None:
    problem = declare(n)
    problem.solve()
    for solver in ("dual", "highs", "scip", "cvxpy"):
        seconds, solution = timed(lambda s=solver: problem.solve(s, time_limit=60), 1)
        print(f"{n:>9} {solver:<10} {seconds:>9.3g} {'':>29} {solution.gap:>9.1e}  "
              f"{solution.status}")  # fmt: skip


def from_parquet(n: int) -> None:
    import polars

    scale, threshold, rate, budget = draw(n)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "queries.parquet"
        frame = polars.DataFrame({"scale": scale, "threshold": threshold, "rate": rate})
        frame.write_parquet(path, row_group_size=100_000)
        del frame, scale, threshold, rate
        forget_peak()
        before = peak()
        result = co.solve_parquet(
            path, Path(folder) / "out.parquet", budget=budget, upper=UPPER, chunk=2**18
        )
        print(
            f"{n:>9} {'parquet':<10} {result.seconds:>9.3g} {'':>29} {result.gap:>9.1e}  "
            f"{result.status}; {(peak() - before) / 1e6:.0f} MB on top of {before / 1e6:.0f}, "
            f"{result.passes} evaluations, compiling included"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--largest", type=int, default=1_000_000)
    parser.add_argument("--general", action="store_true")
    parser.add_argument("--parquet", action="store_true")
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)  # one child's work
    arguments = parser.parse_args()
    if arguments.size is not None:
        found = one_size(arguments.size, arguments.size <= SLOWEST_BISECTION)
        print(json.dumps(found, default=float))
        return
    print(f"{'n':>9} {'method':<10} {'seconds':>9} {'/ pass':>9} {'/ utils':>9} {'/ read':>9} "
          f"{'gap':>9}  status")  # fmt: skip
    for n in (20_000, 100_000, 1_000_000, 10_000_000):
        if n <= arguments.largest:
            command = [sys.executable, __file__, "--size", str(n)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            report(json.loads(done.stdout.splitlines()[-1]))
    if arguments.general:
        for n in (10, 100, 1_000):
            general(n)
    if arguments.parquet:
        from_parquet(arguments.largest)


if __name__ == "__main__":
    main()
