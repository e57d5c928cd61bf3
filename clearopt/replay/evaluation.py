"""One run in one split: every policy at every budget in every accounting, and what follows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from clearopt.calibration import CalibrationError, Run
from clearopt.confirmation.statistics import Resampled, Resampling
from clearopt.prediction import Features
from clearopt.replay.accounting import ACCOUNTINGS, Accounting, per_query, right_under
from clearopt.replay.fitting import CaseCurves
from clearopt.replay.frontier import efficient, normalised_area
from clearopt.replay.policies import Plan, plan, runs_in
from clearopt.replay.report import Evaluated, FrontierLine, Row, RunFacts, Standing
from clearopt.replay.settings import Settings
from clearopt.replay.splits import SAMPLE, Case, query_split, sample_split
from clearopt.replay.streams import difficulty_parts, sample_stream
from clearopt.validation import FloatArray

Key = tuple[str, str, float]  # accounting, policy, fraction


@dataclass(eq=False)
class _Tally:
    """Sums over the cases: by query (n,), and of each plan's own numbers."""

    right: FloatArray
    used: FloatArray
    times: FloatArray
    budgets: list[int] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)
    generated: list[float] = field(default_factory=list)
    planned: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, n: int) -> _Tally:
        return cls(np.zeros(n), np.zeros(n), np.zeros(n))

    def add(self, case: Case, made: Plan, budget: int) -> None:
        caps = made.caps.astype(np.float64)
        right = made.share * right_under(case.scored, caps, case.n)
        cut = np.minimum(case.scored.tokens, caps[case.scored.query])
        used = made.share * per_query(case.scored, cut, case.n)
        # In a stream a query may come several times.
        np.add.at(self.right, case.queries, right)
        np.add.at(self.used, case.queries, used)
        np.add.at(self.times, case.queries, 1.0)
        self.budgets.append(budget)
        self.plans.append(made)
        self.planned.append(made.share * float(caps.sum()))
        self.generated.append(float(used.sum()))

    def accuracies(self) -> FloatArray:
        """(k,) of the queries that were scored; their mean is the accuracy.

        A query counts as often as it came.
        """
        came = self.times > 0
        return np.asarray(self.right[came] / self.times[came].mean())


def evaluate(
    run: Run,
    split: str,
    settings: Settings,
    features: Features | None = None,
    estimates: FloatArray | None = None,
) -> Evaluated:
    """Replay a run.

    Args:
        run: the rollouts.
        split: "sample" or "query".
        settings: budgets, policies and draws.
        features: of the run's queries, for a query split.
        estimates: (n,) tokens that the model itself thinks the run's queries need.

    Raises:
        DeclarationError: the split is not possible on this run.
        CalibrationError: no rollout is right.
    """
    tallies: dict[Key, _Tally] = {}
    amples: dict[str, list[float]] = {name: [] for name in settings.accountings}
    ample_caps: list[int] = []
    uncapped: list[float] = []
    warnings: dict[str, None] = {}
    for case in cases(run, split, settings):
        curves = CaseCurves(case, features, settings.predictor, settings.seed)
        ample_caps.append(case.fitting.ample_cap())
        uncapped.append(float(right_under(case.scored, np.full(case.n, np.inf), case.n).mean()))
        for name in settings.accountings:
            accounting = ACCOUNTINGS[name]
            ample = accounting.ample(case.fitting, case.n)
            if ample < 1:
                raise CalibrationError("right answers took no tokens, so none are to be shared")
            amples[name].append(ample)
            planned = _plans(case, accounting, ample, curves, settings, estimates)
            for key, made, budget in planned:
                tallies.setdefault(key, _Tally.of(run.n)).add(case, made, budget)
        warnings.update(dict.fromkeys(curves.warnings))
    facts = RunFacts(
        benchmark=run.benchmark,
        model=run.model,
        split=split,
        queries=run.n,
        samples=len(run.rollouts),
        uncapped=_mean(uncapped),
        ample_cap=float(np.mean(ample_caps)),
        ample={name: float(np.mean(values)) for name, values in amples.items()},
        stream=settings.length if settings.stream is not None else None,
        warnings=tuple(warnings),
    )
    return _evaluated(facts, tallies, settings)


def cases(run: Run, split: str, settings: Settings) -> Iterable[Case]:
    """The draws of a split; each as a stream where the settings ask for one."""
    drawn = (sample_split if split == SAMPLE else query_split)(run, settings.repeats, settings.seed)
    if settings.stream is None:
        return drawn
    return (_as_stream(case, settings) for case in drawn)


def _as_stream(case: Case, settings: Settings) -> Case:
    """The case's queries as they come in a stream; how hard they are, the fitted half tells."""
    assert settings.stream is not None
    parts = difficulty_parts(case.fitting, case.n)
    seed = settings.seed * 1_000 + case.repeat
    stream = sample_stream(parts, settings.stream, length=settings.length, seed=seed)
    return case.streamed(stream.queries)


def _plans(
    case: Case,
    accounting: Accounting,
    ample: float,
    curves: CaseCurves,
    settings: Settings,
    estimates: FloatArray | None,
) -> Iterable[tuple[Key, Plan, int]]:
    for fraction in settings.fractions:
        budget = int(fraction * ample + 1e-9)
        for policy in settings.policies:
            if runs_in(
                policy,
                case.split,
                accounting.name,
                informed=curves.informed,
                estimated=estimates is not None,
            ):
                made = plan(
                    policy,
                    case,
                    accounting,
                    budget,
                    curves,
                    estimates=None if estimates is None else estimates[case.queries],
                    seed=settings.seed,
                    time_limit=settings.time_limit,
                )
                yield (accounting.name, policy, fraction), made, budget


# -------------------------------------------------------------------------------- what follows
def _evaluated(facts: RunFacts, tallies: dict[Key, _Tally], settings: Settings) -> Evaluated:
    accuracies = {key: tally.accuracies() for key, tally in tallies.items()}
    n = next(iter(accuracies.values())).size
    resampling = Resampling(n, seed=settings.seed, resamples=settings.resamples)
    drawn = {key: resampling.draw(values) for key, values in accuracies.items()}
    rows, standings = [], []
    for key, tally in tallies.items():
        rows.append(_row(facts, key, tally, drawn, resampling))
        standings.append(_standing(facts, key, drawn, resampling))
    order = sorted(range(len(rows)), key=lambda k: _place(rows[k], settings))
    return Evaluated(
        facts,
        tuple(rows[k] for k in order),
        tuple(standings[k] for k in order),
        tuple(_frontiers(facts, tallies, accuracies)),
    )


def _place(row: Row, settings: Settings) -> tuple[int, float, int]:
    accounting = settings.accountings.index(row.accounting)
    return accounting, row.fraction, settings.policies.index(row.policy)


def _row(
    facts: RunFacts,
    key: Key,
    tally: _Tally,
    drawn: dict[Key, Resampled],
    resampling: Resampling,
) -> Row:
    accounting, policy, fraction = key
    found = resampling.compare(drawn[key], drawn[accounting, "uniform", fraction])
    plans = tally.plans
    prices = [made.price for made in plans if made.price is not None]
    gaps = [made.gap for made in plans if made.gap is not None]
    worst = next((made.status for made in plans if made.status != "optimal"), "optimal")
    return Row(
        policy=policy,
        fraction=fraction,
        budget=round(_mean(tally.budgets)),
        accuracy=found.accuracy.value,
        low=found.accuracy.low,
        high=found.accuracy.high,
        ratio=found.ratio.value,
        ratio_low=found.ratio.low,
        ratio_high=found.ratio.high,
        expected_accuracy=_mean([made.expected or 0.0 for made in plans]),
        planned=round(_mean(tally.planned)),
        generated=round(_mean(tally.generated)),
        price=_mean(prices) if prices else None,
        gap=max(gaps) if len(gaps) == len(plans) else None,
        funded=_mean([made.funded for made in plans]),
        solver_status=worst,
        seconds=None,
        tokens_per_second=None,
        solver_seconds=_mean([made.seconds for made in plans]),
        benchmark=facts.benchmark,
        model=facts.model,
        accounting=accounting,
        split=facts.split,
    )


def _standing(
    facts: RunFacts, key: Key, drawn: dict[Key, Resampled], resampling: Resampling
) -> Standing:
    accounting, policy, fraction = key
    mine = drawn[key]
    uniform = drawn[accounting, "uniform", fraction]
    time_share = drawn[accounting, "time-share", fraction]
    oracle = drawn.get((accounting, "oracle", fraction))
    over = resampling.compare(mine, time_share).ratio
    gain = resampling.share_of_gain(mine, uniform, oracle) if oracle is not None else None
    return Standing(
        benchmark=facts.benchmark,
        model=facts.model,
        split=facts.split,
        accounting=accounting,
        policy=policy,
        fraction=fraction,
        uniform=uniform.mean,
        time_share=time_share.mean,
        oracle=oracle.mean if oracle is not None else None,
        over_time_share=over.value,
        over_time_share_low=over.low,
        over_time_share_high=over.high,
        gain_share=gain.value if gain is not None else None,
        gain_share_low=gain.low if gain is not None else None,
        gain_share_high=gain.high if gain is not None else None,
    )


def _frontiers(
    facts: RunFacts, tallies: dict[Key, _Tally], accuracies: dict[Key, FloatArray]
) -> Iterable[FrontierLine]:
    points: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for (accounting, policy, fraction), tally in tallies.items():
        # What was paid: the whole budget where caps are promised, else what was really used.
        paid = tally.generated if accounting == "realised" else tally.budgets
        cost = _mean(paid) / facts.ample[accounting] if accounting == "realised" else fraction
        accuracy = float(accuracies[accounting, policy, fraction].mean())
        points.setdefault((accounting, policy), []).append((cost, accuracy))
    largest = max(fraction for _, _, fraction in tallies)
    for (accounting, policy), mine in points.items():
        mine.sort()
        rivals = [
            point
            for (where, who), theirs in points.items()
            if where == accounting and who != "oracle"
            for point in theirs
        ]
        costs, values = zip(*mine, strict=True)
        yield FrontierLine(
            benchmark=facts.benchmark,
            model=facts.model,
            split=facts.split,
            accounting=accounting,
            policy=policy,
            area=normalised_area(costs, values, cost=largest, accuracy=facts.uncapped),
            points=tuple(
                (cost, value, flag)
                for (cost, value), flag in zip(mine, efficient(mine, rivals), strict=True)
            ),
        )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
