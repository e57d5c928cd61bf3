"""The report: well-formed, self-contained, and it says what the rows say."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

import clearopt as co
from clearopt.comparison import Comparison, ComparisonRow
from clearopt.comparison.svg import decades

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Checked(HTMLParser):
    """Every element is closed in its order; collects attributes and texts."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def row(
    instance: str, solver: str, objective: float, bound: float, **more: object
) -> ComparisonRow:
    known: dict[str, object] = {
        "status": "optimal" if objective == bound else "feasible", "gap": 0.0, "rigorous": True,
        "feasible": True, "violation": 0.0, "seconds": 0.5, "message": "", "solution": None,
        "curve": ((0.1, math.nan, math.inf), (0.2, 0.5 * objective, 2 * bound),
                  (0.5, objective, bound)),
    }  # fmt: skip
    known |= more
    return ComparisonRow(  # type: ignore[arg-type]
        instance=instance, solver=solver, objective=objective, bound=bound, **known
    )


def comparison() -> Comparison:
    crash = row("<b>two</b>", "scip", math.nan, math.inf, status=None, feasible=False,
                rigorous=False, outcome="crashed", message="crashed & gone", curve=())  # fmt: skip
    rows = [
        row("one", "dual", 10.0, 10.0),
        row("one", "scip", 9.5, 11.0, seconds=3.0),
        row("<b>two</b>", "dual", 4.0, 4.0, minimize=True),
        crash,
    ]
    return Comparison(rows, 1e-6, machine={"processor": "a & b"}, versions={"clearopt": "0"})


def test_a_report_is_well_formed_and_asks_the_network_for_nothing(tmp_path: Path) -> None:
    path = comparison().to_html(tmp_path / "report.html", title="A < B")
    text = path.read_text(encoding="utf-8")
    page = Checked()
    page.feed(text)
    page.close()
    assert page.open == []
    assert not [a for a in page.attributes if a[1] in ("src", "href", "srcset", "data", "action")]
    assert not re.search(r"https?:|//[a-z]|@import|url\(|fetch\(|XMLHttp", text)
    for drawing in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(drawing)
        assert not re.search(r"\b(nan|inf)\b", drawing)
    told = "".join(page.texts)
    for said in ("A < B", "<b>two</b>", "crashed & gone", "a & b", "2 of 2 solved"):
        assert said in told
    assert "prefers-color-scheme: dark" in text
    assert "No checked allocation lies past" in told


def test_contradictions_are_at_the_top() -> None:
    from clearopt.comparison.html import page

    wrong = comparison()
    wrong.rows[1] = replace(wrong.rows[1], objective=12.0)
    said = page(wrong, "Report")
    assert "one: scip found 12, above the bound 10 of dual" in said
    assert said.index("Contradictions") < said.index("<h2>")
    assert wrong.contradictions == ["one: scip found 12, above the bound 10 of dual",
                                    "one: scip found 12, above the bound 11 of scip"]  # fmt: skip


def test_a_comparison_without_any_answer_still_has_a_page(tmp_path: Path) -> None:
    crash = comparison().rows[3]
    path = Comparison([replace(crash, instance="")], 1e-6).to_html(tmp_path / "empty.html")
    page = Checked()
    page.feed(path.read_text(encoding="utf-8"))
    assert page.open == []


def test_a_real_comparison(tmp_path: Path) -> None:
    tokens = co.Allocation(6, upper=100)
    accuracy = co.CumulativeSurge(0.9, [5, 9, 14, 20, 30, 44], 0.1)(tokens)
    problem = co.Problem(co.Maximize(co.sum(accuracy)), [co.sum(tokens) <= 120])
    path = co.compare(problem, ["dual", "uniform"], isolated=False).to_html(tmp_path / "r.html")
    assert path.read_text(encoding="utf-8").count("<svg") >= 4


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.02, 3.0], (0.01, 10.0)), ([0.01, 10.0], (0.01, 10.0)), ([1.0], (1.0, 10.0)),
     ([1e-30, 5.0], (1e-10, 10.0)), ([0.0, math.nan, math.inf], (1e-10, 100.0))],
)  # fmt: skip
def test_axes_end_at_powers_of_ten(values: list[float], expected: tuple[float, float]) -> None:
    assert decades(values, floor=1e-10, ceiling=100.0) == pytest.approx(expected)
