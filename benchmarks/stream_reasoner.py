"""Two thousand queries priced as they come and answered by the shipped model through vLLM.

    python benchmarks/stream_reasoner.py [--queries 2000] [--share 0.2] [--picture stream.png]

Curves are predicted from the prompts by the model of `clearopt confirm`. Compared are a market that
starts cold, one that knows three hundred earlier queries, and a cap that is the same for all. The
regret is that of the caps; through vLLM tokens that answers leave are sold again, which the offline
optimum of caps does not know of.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from clearopt.confirmation.defaults import default_model
from clearopt.confirmation.tasks import generate_tasks
from clearopt.online import (
    PostedPrice,
    offline_optimum,
    plot_stream,
    price_of_history,
    run_posted,
)
from clearopt.runs import Arrival, ExactMatch, Query, Settings, Workload, run, run_stream
from clearopt.serving import Engine

LONGEST = 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--share", type=float, default=0.2, help="of an ample cap for all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", default="stream.png")
    given = parser.parse_args()
    n = given.queries
    tasks = generate_tasks(n + 300, seed=given.seed)
    model = default_model()
    known, coming = tasks[:300], tasks[300:]
    curves = model.utilities([task.features for task in coming])
    earlier = model.utilities([task.features for task in known])
    ample = next(
        cap for cap in range(1, LONGEST)
        if curves.value(np.full(n, cap)).mean() >= 0.99 * curves.value(np.full(n, LONGEST)).mean()
    )  # fmt: skip
    rate = given.share * ample
    budget = int(rate * n)
    queries = [Query(task.task_id, task.prompt, task.answer) for task in coming]
    arrivals = [
        Arrival(query, curves.take(slice(i, i + 1)), LONGEST) for i, query in enumerate(queries)
    ]
    best = offline_optimum(curves, budget, LONGEST)
    learnt = price_of_history(earlier, rate, LONGEST)
    engine, verifier = Engine("reasoner"), ExactMatch(mark="####")
    settings = Settings(budget=budget, seed=given.seed, verify_seconds=60.0)
    print(f"{n} queries, {rate:.1f} tokens each, {given.share:.0%} of ample ({ample})")
    uniform = run(Workload(queries, int(rate)), engine, settings, verifier=verifier)
    print(f"one cap for all, left-over tokens shared out again: {uniform.right / n:.1%} right")
    planned, report = {}, None
    for name, start in (("cold", {}), ("warm", {"price": learnt, "learnt_from": 300})):

        def market(start: dict = start) -> PostedPrice:
            return PostedPrice(budget=budget, horizon=n, **start)

        planned[name] = run_posted(market(), curves, LONGEST)
        behind = best.bound - planned[name].value
        print(
            f"{name}: the sum of the caps behind the offline optimum by {behind / best.bound:.2%}"
        )
        started = time.perf_counter()
        report = run_stream(arrivals, engine, market(), settings, verifier=verifier)
        print(f"  {report.summary()}\n  {n / (time.perf_counter() - started):.0f} queries/s")
    through = "warm, through vLLM"
    plot_stream(
        prices={name: run.prices for name, run in planned.items()} | {through: report.prices},
        accuracy={name: run.accuracy for name, run in planned.items()} | {through: report.scores},
        regret={name: best.utilities - run.accuracy for name, run in planned.items()},
        path=given.picture,
        offline_price=best.prices["budget"],
    )
    print(f"Drawn: {given.picture}")


if __name__ == "__main__":
    main()
