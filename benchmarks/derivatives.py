"""Prices and their derivatives for a batch of budgets: found in JAX, and in a callback.

    python benchmarks/derivatives.py [--queries 100] [--budgets 100] [--repeats 5]

Both evaluate the dual value and its gradient in the budget for all budgets, compiled, under
`jax.vmap`, in one process and in turn; the medians of several repeats are shown with their ratio,
and how far the bounds are apart. What JAX compiles is timed apart. Beside them the batch in JAX is
held against as many single calls.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import clearopt as co


def declared(n: int, seed: int = 0) -> co.Problem:
    rng = np.random.default_rng(seed)
    tokens = co.Allocation(n, upper=4096.0, name="tokens")
    surge = co.CumulativeSurge(
        rng.uniform(0.2, 1, n), rng.uniform(5, 100, n), 10 ** rng.uniform(-2, 0, n)
    )
    budget = (co.sum(tokens) <= 30.0 * n).named("budget")
    return co.Problem(co.Maximize(co.sum(surge(tokens))), [budget])


def seconds(action: Callable[[Any], Any], given: Any) -> tuple[float, Any]:
    started = time.perf_counter()
    found = action(given)
    for part in jax.tree.leaves(found):
        part.block_until_ready()
    return time.perf_counter() - started, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--budgets", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    problem = declared(options.queries)
    native = co.differentiable(problem, price_search="jax")
    called = co.differentiable(problem, price_search="solver")
    factors = np.linspace(0.1, 2.0, options.budgets)

    def slope_of(layer: co.derivatives.Layer) -> Callable[[Any], Any]:
        def value(budget: Any) -> Any:
            return layer.dual_value({"right_hand_side": {"budget": budget}})

        return jax.value_and_grad(value)

    with jax.enable_x64(True):
        one = jax.jit(slope_of(native))
        batch = jax.jit(jax.vmap(slope_of(native)))
        callback = jax.jit(jax.vmap(slope_of(called)))
        bend = jax.jit(jax.vmap(jax.grad(lambda b: slope_of(native)(b)[1])))
        budgets = jnp.asarray(30.0 * options.queries * factors)
        seconds(one, budgets[0])
        for name, action in (("batch", batch), ("batch, second derivatives", bend)):
            print(f"compiling the {name}: {seconds(action, budgets)[0]:.2f} s")
        ways: dict[str, Callable[[Any], Any]] = {
            "in JAX, one batch": batch,
            "in JAX, one by one": lambda moved: [one(budget) for budget in moved],
            "by the solver, one batch": callback,
            "in JAX, second derivatives": bend,
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        found: dict[str, Any] = {}
        for repeat in range(options.repeats):
            moved = budgets * (1 + 1e-3 * repeat)  # a layer remembers what it has just solved
            for name, way in ways.items():
                spent, found[name] = seconds(way, moved)
                times[name].append(spent)
        bound, its = (found[f"{way}, one batch"][0] for way in ("in JAX", "by the solver"))
        apart = float(jnp.abs(bound / its - 1).max())
    first = statistics.median(times["in JAX, one batch"])
    print(f"{options.queries} queries, {options.budgets} budgets, medians of {options.repeats}:")
    for name, repeats in times.items():
        median = statistics.median(repeats)
        print(f"  {name:<28}{1e3 * median:10.1f} ms  {median / first:8.1f} x")
    print(f"bounds apart by at most {apart:.1e} relatively")


if __name__ == "__main__":
    main()
