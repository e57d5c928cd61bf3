"""The replay's result: rows, what is derived from them, and `report.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from statistics import median
from typing import Any

from clearopt.atomic import written_whole
from clearopt.confirmation.report import Row as ConfirmationRow
from clearopt.confirmation.report import installed_versions

FILE_NAME = "report.json"


@dataclass(frozen=True)
class Row(ConfirmationRow):
    """One policy at one budget on one run: the confirmation's row, and where it belongs.

    Attributes:
        benchmark, model: of the run.
        accounting: what the budget is counted in, "planned" caps or "realised" tokens.
        split: "sample" or "query".

    `generated` is what the scored answers used under the caps; nothing was generated, so `seconds`
    and `tokens_per_second` are None. Numbers are means over the draws of the split, `gap` is the
    largest.
    """

    benchmark: str
    model: str
    accounting: str
    split: str


@dataclass(frozen=True)
class Standing:
    """Where a policy stands between the baselines and the oracle, at one budget on one run.

    Attributes:
        uniform, time_share, oracle: their accuracies, without which no ratio says anything; the
            last is None where it was not run.
        over_time_share: accuracy as a multiple of time-share's, with its 95 % interval.
        gain_share: the share of the oracle's gain over uniform that is reached, with its interval;
            None where the oracle gains nothing.
    """

    benchmark: str
    model: str
    split: str
    accounting: str
    policy: str
    fraction: float
    uniform: float
    time_share: float
    oracle: float | None
    over_time_share: float | None
    over_time_share_low: float | None
    over_time_share_high: float | None
    gain_share: float | None
    gain_share_low: float | None
    gain_share_high: float | None


@dataclass(frozen=True)
class FrontierLine:
    """A policy's cost against accuracy over the budgets.

    Attributes:
        area: mean accuracy over costs from nothing to the largest budget, as a share of the
            accuracy with ample tokens.
        points: (cost as a share of ample, accuracy, whether no policy but the oracle is better for
            the same or a smaller cost), by cost.
    """

    benchmark: str
    model: str
    split: str
    accounting: str
    policy: str
    area: float
    points: tuple[tuple[float, float, bool], ...]


@dataclass(frozen=True)
class RunFacts:
    """What was evaluated.

    Attributes:
        queries, samples: how many queries, and rollouts of all of them.
        uncapped: accuracy of the scored answers without a cap.
        ample_cap: tokens; the mean over the draws.
        ample: accounting -> tokens that are ample for all the queries together.
        stream: length of the streams drawn, or None.
        warnings: what the fits said.
    """

    benchmark: str
    model: str
    split: str
    queries: int
    samples: int
    uncapped: float
    ample_cap: float
    ample: Mapping[str, float]
    stream: int | None
    warnings: Sequence[str]


@dataclass(frozen=True)
class Summary:
    """A policy at one budget over the models of a benchmark.

    Attributes:
        models: how many runs.
        uniform, time_share, accuracy, oracle: medians of the accuracies.
        ratio, least_ratio: median and smallest ratio to uniform, of the runs that have one.
        above, below: runs whose interval of the ratio lies above 1, and below it.
        over_time_share: median ratio to time-share.
        gain_share: median share of the oracle's gain.
    """

    benchmark: str
    split: str
    accounting: str
    policy: str
    fraction: float
    models: int
    uniform: float
    time_share: float
    accuracy: float
    oracle: float | None
    ratio: float | None
    least_ratio: float | None
    above: int
    below: int
    over_time_share: float | None
    gain_share: float | None


@dataclass(frozen=True)
class Evaluated:
    """All that one run in one split gave."""

    facts: RunFacts
    rows: tuple[Row, ...]
    standings: tuple[Standing, ...]
    frontiers: tuple[FrontierLine, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Evaluated:
        """The inverse of `to_dict`, also after JSON."""
        lines = [
            FrontierLine(**{**line, "points": tuple(_point(point) for point in line["points"])})
            for line in plain["frontiers"]
        ]
        return cls(
            RunFacts(**{**plain["facts"], "warnings": tuple(plain["facts"]["warnings"])}),
            tuple(Row(**row) for row in plain["rows"]),
            tuple(Standing(**standing) for standing in plain["standings"]),
            tuple(lines),
        )


def _point(point: Sequence[Any]) -> tuple[float, float, bool]:
    cost, accuracy, efficient = point
    return float(cost), float(accuracy), bool(efficient)


@dataclass(frozen=True)
class Report:
    """The whole result of a replay.

    Attributes:
        source: the file of the rollouts.
        seed: of everything drawn.
        complete: whether every run that was asked for is there.
        rows, standings, frontiers, runs: of all runs; see their classes.
        summaries: over the models of each benchmark.
        skipped: policy -> why it was not run.
        notes: what the file leaves out, and runs that could not be evaluated, with the reason.
        settings: every setting of the replay.
        versions: of Python and of the packages that matter.
    """

    source: str
    seed: int
    complete: bool
    rows: tuple[Row, ...]
    standings: tuple[Standing, ...]
    frontiers: tuple[FrontierLine, ...]
    runs: tuple[RunFacts, ...]
    summaries: tuple[Summary, ...]
    skipped: Mapping[str, str]
    notes: tuple[str, ...]
    settings: Mapping[str, Any]
    versions: Mapping[str, str | None] = field(default_factory=lambda: installed_versions())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    def row(self, policy: str, fraction: float, **where: str) -> Row:
        """The row of a policy at a budget; KeyError unless there is exactly one.

        Args:
            policy: its name.
            fraction: the budget as a share of ample.
            where: benchmark, model, accounting or split, as far as needed to tell rows apart.
        """
        found = [
            row
            for row in self.rows
            if row.policy == policy
            and row.fraction == fraction
            and all(getattr(row, name) == value for name, value in where.items())
        ]
        if len(found) != 1:
            raise KeyError((policy, fraction, where, f"{len(found)} rows"))
        return found[0]

    def write(self, folder: str | Path) -> Path:
        """Write `folder/report.json`, all or nothing; returns its path."""
        path = Path(folder) / FILE_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        with written_whole(path) as file:
            file.write(text.encode() + b"\n")
        return path


def summarised(rows: Sequence[Row], standings: Sequence[Standing]) -> tuple[Summary, ...]:
    """Every policy at every budget over the models of a benchmark, in the rows' order."""
    keys = ("benchmark", "split", "accounting", "policy", "fraction")
    groups: dict[tuple[Any, ...], list[tuple[Row, Standing]]] = {}
    for row, standing in zip(rows, standings, strict=True):
        groups.setdefault(tuple(getattr(row, key) for key in keys), []).append((row, standing))
    return tuple(
        Summary(**dict(zip(keys, key, strict=True)), **_over_models(group))
        for key, group in groups.items()
    )


def _over_models(group: Sequence[tuple[Row, Standing]]) -> dict[str, Any]:
    ratios = [row.ratio for row, _ in group if row.ratio is not None]
    oracles = [s.oracle for _, s in group if s.oracle is not None]
    over = [s.over_time_share for _, s in group if s.over_time_share is not None]
    shares = [s.gain_share for _, s in group if s.gain_share is not None]
    return {
        "models": len(group),
        "uniform": median(s.uniform for _, s in group),
        "time_share": median(s.time_share for _, s in group),
        "accuracy": median(row.accuracy or 0.0 for row, _ in group),
        "oracle": median(oracles) if oracles else None,
        "ratio": median(ratios) if ratios else None,
        "least_ratio": min(ratios, default=None),
        # No lower limit: uniform got nothing right, and this policy did.
        "above": sum(row.ratio_low is None or row.ratio_low > 1 for row, _ in group),
        "below": sum(row.ratio_high is not None and row.ratio_high < 1 for row, _ in group),
        "over_time_share": median(over) if over else None,
        "gain_share": median(shares) if shares else None,
    }


ROW_KEYS = tuple(each.name for each in fields(Row))
