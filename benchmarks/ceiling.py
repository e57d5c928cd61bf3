"""How much of what allocation leaves over could any fit of the same rollouts still reach?

    python benchmarks/ceiling.py ROLLOUTS [--worlds 3]

Three answers, as medians over the models of a benchmark, planned caps:

- `all but one`: the recorded rollouts, with curves fitted on all of a query's samples but the one
  that is scored, each in its turn, instead of on half of them;
- `known curves`: worlds drawn from what the fit to all rollouts leaves possible (each query's
  chance, median and spread from its posterior), in which the true curves are known to the
  allocator. No policy does better on average, however many samples it has seen. `from k samples`
  are the same worlds with curves fitted on k drawn samples a query; where k is what the recorded
  split has, they also say whether the fit behaves on real rollouts as it does on simulated ones;
- `oracle`: the curves of the very samples that are scored. How far it lies above `known curves` is
  luck of those samples, which nobody can allocate by.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from statistics import median

import numpy as np

import clearopt as co
from clearopt.calibration import FittedCurves, Rollouts, Run, fit_curves, read_rollouts
from clearopt.calibration.laws import LAWS
from clearopt.calibration.likelihood import Answers
from clearopt.calibration.population import Population, Posterior
from clearopt.calibration.priors import wide_law
from clearopt.replay.accounting import ACCOUNTINGS, right_under
from clearopt.replay.curves import Curves, Steps
from clearopt.replay.policies import plan
from clearopt.replay.splits import SAMPLE, Case, sample_split

FRACTIONS = (0.1, 0.2, 0.4)
SAMPLES = (2, 4, 16)
_MANY = 100  # samples a query that score a simulated world

PLANNED = ACCOUNTINGS["planned"]


class _Given:
    """Curves as `plan` asks for them."""

    def __init__(self, case: Case, curves: Curves | None) -> None:
        self.case, self.curves = case, curves

    def __call__(self, kind: str) -> Curves:
        assert self.curves is not None
        return self.curves

    def steps(self, accounting: object, *, scored: bool) -> Steps:
        return Steps.of(self.case.scored if scored else self.case.fitting, self.case.n, PLANNED)


def accuracies(case: Case, policy: str, curves: Curves | None = None) -> np.ndarray:
    """(budgets,) share of right answers."""
    ample = PLANNED.ample(case.fitting, case.n)
    found = []
    for fraction in FRACTIONS:
        made = plan(policy, case, PLANNED, int(fraction * ample), _Given(case, curves))
        right = right_under(case.scored, made.caps.astype(float), case.n)
        found.append(made.share * float(right.mean()))
    return np.array(found)


def fitted(case: Case) -> Curves:
    found = fit_curves(case.fitting, case.n)
    return Curves.of(found.utilities, found.cost_curves, case.n)


def all_but_one(run: Run) -> Iterator[Case]:
    """Cases in each of which one sample of every query is scored, and all others are fitted."""
    r, counts = run.rollouts, run.samples
    order = np.argsort(r.query, kind="stable")
    place = np.empty(len(r), dtype=np.intp)
    place[order] = np.arange(len(r)) - (np.cumsum(counts) - counts)[r.query[order]]
    for k in range(int(counts.min())):
        parts = [
            Rollouts(r.query[m], r.tokens[m], r.correct[m], r.finished[m])
            for m in (place != k, place == k)
        ]
        yield Case(SAMPLE, k, np.arange(run.n), *parts)


class World:
    """Queries with a chance, median and spread each, drawn from what a fit leaves possible."""

    def __init__(self, run: Run, found: FittedCurves, rng: np.random.Generator) -> None:
        model = found.models[0]
        assert isinstance(model, Population)
        answers = Answers.arranged(LAWS["lognormal"], run.rollouts, run.n, wide_law(run.rollouts))
        posterior: Posterior = model.posterior(answers, np.zeros((run.n, 0)))
        self.rng, self.queries = rng, np.arange(run.n)
        node = np.array([rng.choice(w.size, p=w) for w in posterior.weight])
        u, v, mean, square = (
            x[self.queries, node]
            for x in (posterior.u, posterior.v, posterior.chance, posterior.chance_squared)
        )
        agreement = mean * (1 - mean) / np.maximum(square - mean**2, 1e-9) - 1.0
        a, b = (np.maximum(agreement * x, 1e-3) for x in (mean, 1 - mean))
        self.chance, self.median, self.spread = rng.beta(a, b), np.exp(u), np.exp(v)
        self.stretch = float(np.exp(model.parameters.stretch))

    def truth(self) -> co.Lognormal:
        return co.Lognormal(self.chance, self.median, self.spread)

    def rollouts(self, samples: int) -> Rollouts:
        query = np.repeat(self.queries, samples)
        right = self.rng.random(query.size) < self.chance[query]
        z = self.rng.normal(size=query.size)
        tokens = self.median[query] * np.exp(self.spread[query] * z)
        tokens = np.ceil(tokens * np.where(right, 1.0, self.stretch))
        return Rollouts(query, tokens, right, np.ones(query.size, dtype=bool))


def of_run(run: Run, worlds: int) -> dict[str, np.ndarray]:
    """Row -> (budgets, 2) accuracy, and its ratio to uniform's on the same samples."""
    found: dict[str, list[np.ndarray]] = {}

    def add(name: str, own: np.ndarray, uniform: np.ndarray) -> None:
        found.setdefault(name, []).append(np.array([own, uniform]))

    for case in sample_split(run, 1, 0):
        uniform = accuracies(case, "uniform")
        add("recorded: uniform", uniform, uniform)
        add("recorded: half of the samples", accuracies(case, "dual", fitted(case)), uniform)
        add("recorded: oracle", accuracies(case, "oracle"), uniform)
    for case in all_but_one(run):
        uniform = accuracies(case, "uniform")
        add("recorded: all but one", accuracies(case, "dual", fitted(case)), uniform)
    whole = fit_curves(run.rollouts, run.n)
    for k in range(worlds):
        world = World(run, whole, np.random.default_rng([k, 17]))
        scored = world.rollouts(_MANY)
        for samples in SAMPLES:
            case = Case(SAMPLE, k, world.queries, world.rollouts(samples), scored)
            curves = fitted(case)
            uniform = accuracies(case, "uniform")
            add(f"simulated: from {samples} samples", accuracies(case, "dual", curves), uniform)
            if samples == SAMPLES[-1]:
                known = Curves.of(world.truth(), curves.cost_curves, case.n)
                add("simulated: known curves", accuracies(case, "dual", known), uniform)
    means = {name: np.mean(values, axis=0) for name, values in found.items()}
    return {name: np.array([own, own / uniform]).T for name, (own, uniform) in means.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("rollouts")
    parser.add_argument("--benchmark", help="only this one")
    parser.add_argument("--worlds", type=int, default=3)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    runs = list(read_rollouts(arguments.rollouts).matching(arguments.benchmark, None))
    for benchmark in dict.fromkeys(run.benchmark for run in runs):
        own = [of_run(run, arguments.worlds) for run in runs if run.benchmark == benchmark]
        print(f"\n### {benchmark}: right, % (times uniform), medians over {len(own)} models\n")
        names = [f"{100 * fraction:g} % of ample" for fraction in FRACTIONS]
        print(f"| | {' | '.join(names)} |\n|---{'|---' * len(names)}|")
        for row in own[0]:
            cells = []
            for k in range(len(FRACTIONS)):
                right, ratio = (median(each[row][k, j] for each in own) for j in (0, 1))
                cells.append(f"{100 * right:.1f} ({ratio:.2f})")
            print(f"| {row} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
