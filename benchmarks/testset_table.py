"""The table of instances in docs/testset.md, made from the files of the test set.

python benchmarks/testset_table.py
"""

from __future__ import annotations

import math
from pathlib import Path

from clearopt import testset
from clearopt.certificate import relative_gap
from clearopt.testset.instance import PROVEN

PAGE = Path(__file__).resolve().parents[1] / "docs" / "testset.md"
START, END = "<!-- instances -->\n", "<!-- end of instances -->"


def settled_by(instance: testset.Instance) -> list[str]:
    """The solvers (and the oracle, and the prices) that settle an instance alone."""
    sign, found = instance.program.sign, []
    for said in instance.evidence:
        if math.isnan(instance.best_value):
            closed = said.status == instance.status
        else:
            closed = (
                math.isfinite(said.bound)
                and relative_gap(sign * instance.best_value, sign * said.bound) <= PROVEN
            )
        if closed:
            found.append(said.solver)
    return found


def table() -> str:
    """One line an instance, by size and then by name."""
    instances = sorted(map(testset.load, testset.names()), key=lambda each: (each.n, each.name))
    lines = ["| instance | what it is | best value | gap | settled by |", "|---|---|---|---|---|"]
    for each in instances:
        known = not math.isnan(each.best_value)
        value = f"{each.best_value:.9g}" if known else each.status
        gap = f"{each.gap:.0e}" if known else "-"
        settled = ", ".join(settled_by(each)) or "nobody"
        lines.append(f"| `{each.name}` | {each.description} | {value} | {gap} | {settled} |")
    return "\n".join(lines) + "\n"


def with_table(page: str) -> str:
    """The page with the table as it is now."""
    before, _, rest = page.partition(START)
    return before + START + "\n" + table() + "\n" + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
