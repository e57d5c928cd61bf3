"""The tables of benchmarks/README.md, from the report of a replay.

    clearopt replay ROLLOUTS --predict-from others --out report
    python benchmarks/replay.py report/report.json [--accounting planned] [--split sample]

Medians over the models of a benchmark: accuracies of the policies, ratios to both baselines (of
models for which uniform answers anything right), for how many models the interval of the ratio to
uniform lies above and below 1, the share of the oracle's gain that is reached, and the area under
each policy's frontier.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

SHOWN = ("uniform", "time-share", "proportional", "price", "dual", "dual-informed",
         "dual-unpooled", "oracle")  # fmt: skip


def accuracies(report: dict[str, Any], benchmark: str, split: str, accounting: str) -> list[str]:
    """A row a budget: what each policy answers right, in %."""
    own = _of(report["summaries"], benchmark, split, accounting)
    policies = [name for name in SHOWN if any(s["policy"] == name for s in own)]
    lines = _header(["budget, % of ample", *policies])
    for fraction in sorted({s["fraction"] for s in own}):
        by_policy = {s["policy"]: s for s in own if s["fraction"] == fraction}
        cells = [f"{100 * by_policy[name]['accuracy']:.1f}" for name in policies]
        lines.append(_row([f"{100 * fraction:g}", *cells]))
    return lines


def ratios(report: dict[str, Any], benchmark: str, split: str, accounting: str) -> list[str]:
    """A row a budget: `dual` against the baselines, whose accuracies stand beside the ratios."""
    own = _of(report["summaries"], benchmark, split, accounting)
    lines = _header(["budget, % of ample", "uniform, %", "time-share, %", "dual, %", "x uniform",
                     "least", "x time-share", "models above, below 1",
                     "share of the oracle's gain, %"])  # fmt: skip
    for s in own:
        if s["policy"] == "dual":
            cells = [f"{100 * s[name]:.1f}" for name in ("uniform", "time_share", "accuracy")]
            cells += [_number(s[name]) for name in ("ratio", "least_ratio", "over_time_share")]
            cells.append(f"{s['above']}, {s['below']} of {s['models']}")
            cells.append(_number(s["gain_share"], 100, 0))
            lines.append(_row([f"{100 * s['fraction']:g}", *cells]))
    return lines


def areas(report: dict[str, Any], benchmark: str, split: str, accounting: str) -> list[str]:
    """One row: the median area under each policy's frontier."""
    own = _of(report["frontiers"], benchmark, split, accounting)
    policies = [name for name in SHOWN if any(line["policy"] == name for line in own)]
    cells = [
        f"{median(line['area'] for line in own if line['policy'] == name):.3f}" for name in policies
    ]
    return [*_header(["area", *policies]), _row(["median", *cells])]


def _of(
    entries: Iterable[dict[str, Any]], benchmark: str, split: str, accounting: str
) -> list[dict[str, Any]]:
    wanted = (benchmark, split, accounting)
    return [e for e in entries if (e["benchmark"], e["split"], e["accounting"]) == wanted]


def _header(names: list[str]) -> list[str]:
    return [_row(names), _row(["---"] * len(names))]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float | None, factor: float = 1.0, digits: int = 2) -> str:
    return "-" if value is None else f"{factor * value:.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("report", type=Path)
    parser.add_argument("--accounting", default=None)
    parser.add_argument("--split", default=None)
    options = parser.parse_args()
    report = json.loads(options.report.read_text(encoding="utf-8"))
    keys = [(s["benchmark"], s["split"], s["accounting"]) for s in report["summaries"]]
    for benchmark, split, accounting in dict.fromkeys(keys):
        if options.accounting in (None, accounting) and options.split in (None, split):
            print(f"\n### {benchmark}, {split} split, {accounting}\n")
            for table in (accuracies, ratios, areas):
                print("\n".join(table(report, benchmark, split, accounting)) + "\n")


if __name__ == "__main__":
    main()
