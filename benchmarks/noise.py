"""The noise study on recorded answers: what allocation is worth when thresholds are read wrongly.

    python benchmarks/noise.py ROLLOUTS [--draws 3]

Of each query half of the samples are fitted (lognormal, partially pooled), and these curves are
what an allocator would know; it reads their medians with an error e^N(0, s^2), and is scored by the
other half of the samples, then the other way round. Medians over the models of a benchmark; behind
the accuracy, for how many models it is below that of one cap for all.
"""

from __future__ import annotations

import argparse
import warnings
from functools import partial
from statistics import median

import numpy as np

import clearopt as co
from clearopt.calibration import Run, fit_curves, read_rollouts
from clearopt.replay.accounting import right_under
from clearopt.replay.splits import sample_split
from clearopt.robust import noise_study

NOISE = (0.0, 0.2, 0.4, 0.8)
SHARES = (0.1, 0.2, 0.4)
POLICIES = ("uniform", "time-share", "plain", "expected", "shrunk", "cautious")


def of_run(run: Run, draws: int) -> dict[tuple[float, float, str], float]:
    """(share, noise, policy) -> accuracy, both ways round."""
    studies = []
    for case in sample_split(run, 1, 0):
        curves = fit_curves(case.fitting, case.n).utilities
        assert isinstance(curves, co.Lognormal)
        score = partial(right_under, case.scored, n=case.n)
        studies.append(noise_study(curves, noise=NOISE, shares=SHARES, draws=draws, score=score))
    return {
        (share, noise, policy): float(np.mean([s.accuracy(policy, noise, share) for s in studies]))
        for share in SHARES
        for noise in NOISE
        for policy in POLICIES
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("rollouts")
    parser.add_argument("--benchmark", help="only this one")
    parser.add_argument("--draws", type=int, default=3)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    runs = list(read_rollouts(arguments.rollouts).matching(arguments.benchmark, None))
    for benchmark in dict.fromkeys(run.benchmark for run in runs):
        found = [of_run(run, arguments.draws) for run in runs if run.benchmark == benchmark]
        print(f"\n### {benchmark}: right answers in %, medians over {len(found)} models\n")
        print(f"| share of ample | error | {' | '.join(POLICIES)} |")
        print(f"|---|---{'|---' * len(POLICIES)}|")
        for share in SHARES:
            for noise in NOISE:
                cells = []
                for policy in POLICIES:
                    own = [each[share, noise, policy] for each in found]
                    below = sum(
                        each[share, noise, policy] < each[share, noise, "uniform"] for each in found
                    )
                    cells.append(f"{100 * median(own):.1f}" + (f" ({below})" if below else ""))
                print(f"| {100 * share:g} % | {noise:g} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
