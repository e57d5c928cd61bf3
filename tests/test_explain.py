"""`explain`: what is said of small programs word for word, and of large ones in properties."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.mathtext import MathTextParser
from scipy import sparse
from scipy.special import ndtr

import clearopt as co
from clearopt.explain import explain
from clearopt.explain.families import FORMULAS
from clearopt.explain.notation import LatexNotation, PlainNotation, readable
from clearopt.program import (
    BoundEntries,
    ConstraintGroup,
    CurveBlock,
    Program,
    UtilityBlock,
)
from clearopt.utilities import (
    CostCurve,
    CumulativeSurge,
    ExpectedTokens,
    Lognormal,
    LognormalTokens,
    ShiftedSurge,
)
from clearopt.utilities.ablations import Quadratic, Triangular
from clearopt.utilities.logistic import Hill, Logistic
from clearopt.utilities.saturating import BestOfN, SaturatingExponential
from clearopt.utilities.tabulated import Tabulated
from clearopt.utilities.total import Total


def make(n=4, **changes):
    """A program of n queries with a cumulative surge each, and nothing else."""
    family = CumulativeSurge(np.full(n, 0.8), np.full(n, 20.0), np.full(n, 0.02))
    fields = {
        "weight": np.ones(n),
        "cost": np.zeros(n),
        "lower": np.zeros(n),
        "upper": np.full(n, 100.0),
        "integer": np.zeros(n, dtype=bool),
        "utilities": (UtilityBlock(family, np.arange(n)),),
        "rows": sparse.csr_array((0, n)),
        "senses": (),
        "right_hand_side": np.zeros(0),
        "floors": sparse.csr_array((0, n)),
        "floor_levels": np.zeros(0),
    }
    return Program(**(fields | changes))


def with_row(coefficients, sense="<=", level=10.0, **changes):
    """One row, called `limit`, or several where `coefficients` has two dimensions."""
    rows = sparse.csr_array(np.atleast_2d(np.asarray(coefficients, dtype=float)))
    count = rows.shape[0]
    group = {"name": "limit", "kind": "row", "first": 0, "count": count}
    group |= {"scalar": np.ndim(coefficients) == 1}
    group |= {key: changes.pop(key) for key in ("labels", "unlimited", "name") if key in changes}
    return make(
        rows.shape[1],
        rows=rows,
        senses=(sense,) * count,
        right_hand_side=np.broadcast_to(np.asarray(level, dtype=float), count),
        constraints=(ConstraintGroup(**group),),
        **changes,
    )


def said(program, label):
    """The line with this label, its blanks single."""
    lines = [" ".join(line.split()) for line in str(explain(program)).splitlines()]
    return next(line for line in lines if line.startswith(label + " ") or line == label)


# ---------------------------------------------------------------------- word for word
def test_a_declared_problem_reads_like_this():
    n = 10
    tokens = co.Allocation(n, upper=4096, integer=True, name="tokens")
    easy, vip = np.arange(n) < 9, np.arange(n) < 2
    surge = co.CumulativeSurge(np.linspace(0.5, 1, 9), np.arange(20, 29), 0.02)(tokens[easy])
    paper = co.ShiftedSurge(0.7, 400, 0.01)(tokens[~easy])
    tenant = np.array(["acme"] * 4 + ["globex"] * 5 + ["initech"])
    problem = co.Problem(
        co.Maximize(co.sum(surge) + co.sum(paper) - 0.001 * co.sum(tokens)),
        [
            (co.sum(tokens) <= 40_000).named("budget"),
            (co.sum(tokens, by=tenant) <= {"acme": 9e3, "globex": 7e3, "initech": np.inf}).named(
                "tenant cap"
            ),
            (np.linspace(1e5, 3e5, n) @ tokens <= 8e9).named("KV"),
            (co.mean(surge, by=tenant[easy]) >= 0.3).named("fair floor"),
            (tokens[vip] >= 256).named("vip"),
        ],
    )
    expected = """\
maximise      Σ_i U_i(b_i) - 0.001 Σ_i b_i       10 queries
where         U_i(b_i) = CumulativeSurge(scale [0.5 .. 1], threshold [20 .. 28], rate 0.02)  9 queries
                       = scale (1 - (1 + y) e^-y),  y = rate · max(b - threshold, 0)
              U_i(b_i) = ShiftedSurge(scale 0.7, threshold 400, rate 0.01)  1 query
                       = scale y e^(1 - y),  y = rate · max(b - threshold, 0)
subject to
  budget      Σ_i b_i ≤ 40 000                   10 queries
  tenant cap  Σ_{i in g} b_i ≤ r_g               for g in acme: 9 000, globex: 7 000; 2 groups of 4 to 5 queries; 1 without limit (initech)
  KV          Σ_i A_i b_i ≤ 8e+09                10 queries; A in [100 000 .. 300 000]
  fair floor  (1/|g|) Σ_{i in g} U_i(b_i) ≥ 0.3  for g in acme, globex; 2 groups of 4 to 5 queries
  vip         b_i ≥ 256                          bounds of 2 of 10 queries
with          l_i ≤ b_i ≤ 4 096                  b = tokens; l in {0, 256}; whole; the bounds above included
size          10 variables (10 whole), 4 rows, 2 floors, 38 nonzeros"""  # noqa: E501
    assert str(explain(problem.program)) == expected


def test_what_is_minimised_has_the_users_signs():
    n = 6
    curve = ExpectedTokens(np.array([1.0, 2, 3, 4]), np.full(4, 0.1))
    program = make(
        n,
        minimize=True,  # the program stores the negative
        weight=np.array([0.25, 0.25, 0.25, 0.25, 0, 0]),
        cost=np.array([1.0, 1, 1, 1, 2, 3]),
        offset=-5.0,
        curve_cost=np.array([0.5] * 4 + [0, 0]),
        curves=(CurveBlock(curve, np.arange(4)),),
        allocations=(("tokens", 4), ("samples %", 2)),
        lower=np.array([5.0, 6, 0, 0, 1, 1]),
        upper=np.array([9.0, 9, np.inf, 7, 1, 1]),
        semicontinuous=np.array([1, 1, 0, 0, 0, 0], dtype=bool),
        integer=np.array([0, 0, 0, 0, 1, 1], dtype=bool),
        choice=np.array([0, 0, -1, 1, 1, 1]),
        rows=sparse.csr_array(np.array([[1.0, 1, 1, 1, 0, 0]])),
        curve_rows=sparse.csr_array(np.array([[2.0, 2, 0, 0, 0, 0]])),
        senses=("==",),
        right_hand_side=np.array([-1.5]),
        constraints=(ConstraintGroup("mixed", "row", 0, 1),),
    )
    expected = """\
minimise    Σ_i tokens_i + Σ_i c_i [samples %]_i + 0.5 Σ_i C_i(tokens_i) - (1/4) Σ_i U_i(tokens_i) + 5  c in {2, 3}
where       U_i(b_i) = CumulativeSurge(scale 0.8, threshold 20, rate 0.02)  6 queries
                     = scale (1 - (1 + y) e^-y),  y = rate · max(b - threshold, 0)
            C_i(tokens_i) = ExpectedTokens(threshold [1 .. 4], rate 0.1, ends 1)  4 queries
                          = E[min(T, b)] = b - ends (y - 2 + (2 + y) e^-y) / rate,  y = rate · max(b - threshold, 0)
subject to
  mixed     Σ_i tokens_i + 2 Σ_{i in S} C_i(tokens_i) = -1.5  S: 2 of 4 queries
with        0 ≤ tokens_i ≤ u_i                                2 of 4 queries; u = 7; 1 without upper bound
            tokens_i = 0 or l_i ≤ tokens_i ≤ 9                2 of 4 queries; semicontinuous; l in {5, 6}
            [samples %]_i = 1                                 2 queries; whole
            at most one query of each choice is served        2 choices of 2 to 3 queries
size        6 variables (2 whole, 2 semicontinuous), 1 row, 2 choices, 6 nonzeros"""  # noqa: E501
    assert str(explain(program)) == expected


def test_nothing_to_say_is_said_briefly():
    program = make(3, utilities=(), weight=np.zeros(3), upper=np.full(3, np.inf))
    expected = """\
maximise  0
with      b_i ≥ 0
size      3 variables, 0 rows, 0 nonzeros"""
    assert str(explain(program)) == expected


def test_latex_says_the_same():
    program = with_row([1, 1, 0, 0], name="a_b", allocations=(("tokens", 4),))
    expected = r"""\begin{aligned}
  \text{maximise} & \sum_{i} \, U_{i}(b_{i}) && 4\text{ queries} \\
  \text{where} & U_{i}(b_{i}) = \text{CumulativeSurge(scale }0.8\text{, threshold }20\text{, rate }0.02\text{)} && 4\text{ queries} \\
   & \qquad {} = \mathrm{scale}\,\bigl(1-(1+y)\,e^{-y}\bigr),\quad y=\mathrm{rate}\cdot\max(b-\mathrm{threshold},0) \\
  \text{subject to} &  \\
  \text{a}\_\text{b} & \sum_{i \in S} \, b_{i} \leq 10 && S\text{: }2\text{ of }4\text{ queries} \\
  \text{with} & 0 \leq b_{i} \leq 100 && b\text{ = tokens} \\
  \text{size} & 4\text{ variables, }1\text{ row, }2\text{ nonzeros}
\end{aligned}"""  # noqa: E501
    assert explain(program).latex() == expected


# ---------------------------------------------------------------------- coefficients and sums
@pytest.mark.parametrize(
    ("coefficients", "formula"),
    [
        ([1, 1, 1, 1], "Σ_i b_i ≤ 10 4 queries"),
        ([-1, -1, -1, -1], "-Σ_i b_i ≤ 10 4 queries"),
        ([3, 3, 3, 3], "3 Σ_i b_i ≤ 10 4 queries"),
        ([0.25] * 4, "(1/4) Σ_i b_i ≤ 10 4 queries"),
        ([0, 0.5, 0.5, 0], "(1/2) Σ_{i in S} b_i ≤ 10 S: 2 of 4 queries"),
        ([0, 1, 1, 0], "Σ_{i in S} b_i ≤ 10 S: 2 of 4 queries"),
        ([1, 2, 3, 4], "Σ_i A_i b_i ≤ 10 4 queries; A in [1 .. 4]"),
        ([1, -2, 0, 0], "Σ_{i in S} A_i b_i ≤ 10 S: 2 of 4 queries; A in {-2, 1}"),
        ([-1, -2, -3, 0], "-Σ_{i in S} A_i b_i ≤ 10 S: 3 of 4 queries; A in [1 .. 3]"),
        ([1, 1, 1, 1 + 1e-12], "Σ_i A_i b_i ≤ 10 4 queries; A ≈ 1"),
        ([0, 0, 7, 0], "7 b_2 ≤ 10 1 of 4 queries"),
        ([0, 0, 0, 0], "0 ≤ 10"),
        (np.ones((2, 4)), "Σ_i b_i ≤ 10 2 rows of 4 queries"),
        ([[1, 1, 0, 0], [0, 1, 1, 1]], "Σ_{i in k} b_i ≤ 10 2 rows of 2 to 3 queries"),
        ([[2, 2, 0, 0], [0, 1, 1, 1]],
         "A_k Σ_{i in k} b_i ≤ 10 2 rows of 2 to 3 queries; A in {1, 2}"),
        ([[0.5, 0.5, 0, 0], [0, 1 / 3, 1 / 3, 1 / 3]],
         "(1/|k|) Σ_{i in k} b_i ≤ 10 2 rows of 2 to 3 queries"),
        ([[1, 2, 0, 0], [0, 1, 3, 1]],
         "Σ_{i in k} A_ki b_i ≤ 10 2 rows of 2 to 3 queries; A in [1 .. 3]"),
        (np.diag([1, 2, 2, 1]), "A_i b_i ≤ 10 4 queries; A in {1, 2}"),
        (np.eye(4)[:3], "b_i ≤ 10 3 of 4 queries"),
    ],
)  # fmt: skip
def test_coefficients_and_sums(coefficients, formula):
    assert said(with_row(coefficients), "limit") == f"limit {formula}"


@pytest.mark.parametrize(("sense", "sign"), [("<=", "≤"), (">=", "≥"), ("==", "=")])
def test_every_sense(sense, sign):
    program = with_row([1, 1, 1, 1], sense, -2.5)
    assert said(program, "limit") == f"limit Σ_i b_i {sign} -2.5 4 queries"
    assert {"≤": r"\leq ", "≥": r"\geq ", "=": "= "}[sign] + "-2.5" in explain(program).latex()


def test_senses_that_differ_within_one_group():
    program = make(2, rows=sparse.csr_array(np.ones((2, 2))), senses=("<=", ">="),
                   right_hand_side=np.ones(2))  # fmt: skip
    assert said(program, "rows") == "rows 0-1 Σ_i b_i ≤/≥ 1 2 rows of 2 queries"


@pytest.mark.parametrize("count", [2, 4, 5, 1000])
def test_labels_are_shown_by_the_first_few(count):
    labels = tuple(f"tenant {k}" for k in range(count))
    program = with_row(np.eye(count), level=np.arange(count), labels=labels)
    line = said(program, "limit")
    assert [f"tenant {k}: {k}" in line for k in (0, 2, 3)] == [True, count > 2, count == 4]
    assert ("and 997 more" in line) == (count == 1000)
    assert ("r in [0 .. 999]" in line) == (count == 1000)
    assert f"{count:,} group".replace(",", " ") in line


def test_infinite_limits_have_no_row_but_are_counted():
    program = with_row(np.ones((1, 4)), labels=("a",), unlimited=("b", "c"))
    assert said(program, "limit").endswith("1 group of 4 queries; 2 without limit (b, c)")
    nothing = make(constraints=(
        ConstraintGroup("limit", "row", 0, 0, labels=(), unlimited=tuple("abcdef")),
        ConstraintGroup("positions", "floor", 0, 0, scalar=False, unlimited=(0, 1)),
        ConstraintGroup("empty", "row", 0, 0, labels=()),
    ))  # fmt: skip
    assert said(nothing, "limit") == "limit no limit 6 without limit (a, b, c and 3 more)"
    assert said(nothing, "positions") == "positions no limit 2 without limit"
    assert said(nothing, "empty") == "empty nothing"
    assert explain(nothing).counts["unlimited"] == 8


@pytest.mark.parametrize(
    ("query", "factor", "level", "sense", "expected"),
    [
        ([0, 1], [1, 1], [5, 5], ">=", "b_i ≥ 5 bounds of 2 of 4 queries"),
        ([0, 1, 2, 3], [1, 1, 1, 1], [5, 6, 7, 8], "<=",
         "b_i ≤ r_i r in [5 .. 8]; bounds of 4 queries"),
        ([2], [2], [6], "==", "2 b_2 = 6 bound of 1 of 4 queries"),
        ([0, 1], [1, -1], [5, 5], "<=",
         "A_i b_i ≤ 5 bounds of 2 of 4 queries; A in {-1, 1}"),
        ([0, 1], [1, 1], [5, np.inf], "<=",
         "b_i ≤ 5 bound of 1 of 4 queries; 1 without limit"),
        ([0, 1], [1, 1], [np.inf, np.inf], "<=", "no limit 2 without limit"),
    ],
)  # fmt: skip
def test_bounds(query, factor, level, sense, expected):
    bounds = BoundEntries(np.array(query), np.array(factor, float), np.array(level, float), sense)
    program = make(constraints=(ConstraintGroup("box", "bound", 0, 0, bounds=bounds),))
    assert said(program, "box") == f"box {expected}"
    assert said(program, "with").endswith("the bounds above included")


def test_one_index_serves_two_allocations_entry_by_entry():
    pairs = np.hstack([np.eye(2), -2 * np.eye(2)])
    allocations = (("small", 2), ("large", 2))
    line = said(with_row(pairs, level=0, allocations=allocations), "limit")
    assert line == "limit small_i - 2 large_i ≤ 0 2 queries"
    crossed = said(with_row(pairs[:, [0, 1, 3, 2]], level=0, allocations=allocations), "limit")
    assert crossed.startswith("limit Σ_{i in k} small_i - 2 Σ_{i in k} large_i ≤ 0")


def test_rows_that_nobody_declared_are_told_too():
    program = make(
        2,
        rows=sparse.csr_array(np.ones((3, 2))),
        senses=("<=",) * 3,
        right_hand_side=np.arange(3.0),
        floors=sparse.csr_array(np.ones((1, 2))),
        floor_levels=np.array([0.5]),
        constraints=(ConstraintGroup("second", "row", 1, 1),),
    )
    assert said(program, "row 0") == "row 0 Σ_i b_i ≤ 0 2 queries"
    assert said(program, "second") == "second Σ_i b_i ≤ 1 2 queries"
    assert said(program, "row 2") == "row 2 Σ_i b_i ≤ 2 2 queries"
    assert said(program, "floor 0") == "floor 0 Σ_i U_i(b_i) ≥ 0.5 2 queries"


def test_duplicates_and_stored_zeros_count_as_what_they_add_up_to():
    row = sparse.csr_array(
        (np.array([1.0, 1.0, 2.0, 0.0]), np.array([0, 0, 1, 2]), np.array([0, 4])), shape=(1, 4)
    )
    program = make(rows=row, senses=("<=",), right_hand_side=np.ones(1))
    assert said(program, "row 0") == "row 0 2 Σ_{i in S} b_i ≤ 1 S: 2 of 4 queries"
    assert program.rows.nnz == 4  # the program is as it was


def test_queries_without_a_utility_and_weights_of_nothing():
    part = UtilityBlock(ShiftedSurge(np.ones(2), np.ones(2), np.ones(2)), np.array([1, 3]))
    program = make(utilities=(part,), weight=np.array([5.0, 2, 5, 2]))
    text = str(explain(program))
    assert said(program, "maximise") == "maximise 2 Σ_{i in S} U_i(b_i) S: 2 of 4 queries"
    assert re.search(r"U_i = 0 +the other 2 queries", text)


def test_families_the_package_does_not_know_show_their_repr():
    class Mine(CumulativeSurge):
        def __repr__(self):
            return "Mine(\n" + "x" * 500 + ")"

    class Namesake(CumulativeSurge):  # a name of the package's, but not its family
        pass

    Namesake.__name__ = "Logistic"

    members = (np.ones(1), np.ones(1), np.ones(1))
    program = make(2, utilities=(UtilityBlock(Mine(*members), np.array([0])),
                                 UtilityBlock(Namesake(*members), np.array([1]))))  # fmt: skip
    where = [line for line in str(explain(program)).splitlines() if "U_i(b_i) =" in line]
    assert "= Mine( xxx" in where[0]
    assert len(where[0]) < 240
    assert "Logistic(scale=1, threshold=1, rate=1)" in where[1]
    assert "midpoint" not in str(explain(program))


def test_measured_lengths_are_counted_not_listed():
    curve = ExpectedTokens.from_lengths(np.arange(40.0)).broadcast(4)
    program = make(curves=(CurveBlock(curve, np.arange(4)),), curve_cost=np.ones(4))
    text = str(explain(program))
    assert "ExpectedTokens.from_lengths(40 numbers of lengths in [0 .. 39])" in text
    assert "T one of the measured lengths" in text


@pytest.mark.parametrize(
    "family",
    [
        CumulativeSurge(0.7, 30, 0.05),
        ShiftedSurge(0.7, 30, 0.05),
        SaturatingExponential(0.7, 30, 0.05),
        Logistic(0.7, 30, 0.05),
        Hill(0.7, 30, 3),
        Lognormal(0.7, 30, 0.5),
        BestOfN(0.2, 30),
        Triangular(0.7, 30, 90),
        Quadratic(0.7, 30, 90),
        ExpectedTokens(30, 0.05, 0.6),
        LognormalTokens(30, 0.5, 0.6),
    ],
    ids=lambda family: type(family).__name__,
)
def test_formulas_are_those_of_the_families(family):
    family = family.broadcast(1)
    curve = isinstance(family, CostCurve)
    block = (CurveBlock if curve else UtilityBlock)(family, np.zeros(1, int))
    blocks = {"curves" if curve else "utilities": (block,)}
    text = str(explain(make(1, **blocks)))
    formula = FORMULAS[type(family).__name__][0]
    assert formula in text
    _parse_latex(explain(make(1, **blocks)).latex())
    # As Python: what stands side by side is multiplied, bars are a modulus, ^ is a power.
    python = re.sub(r"\|([^|]*)\|", r"abs(\1)", formula.removeprefix("E[min(T, b)] = "))
    python = re.sub(r"(?<=[\w)]) (?=[\w(])", " * ", python).replace("^", "**").replace("·", "*")
    value, *definition = python.split(",  ")
    for b in np.linspace(0, 200, 41):
        names = {name: float(getattr(family, name)[0]) for name in family.parameter_names}
        names |= {"b": b, "e": np.e, "max": max, "min": min, "abs": abs}
        names |= {"Phi": ndtr, "log": lambda x: np.log(x) if x > 0 else -np.inf}
        for line in definition:
            exec(line, names)
        assert eval(value, names) == pytest.approx(float(family.value(np.array([b]))[0]), abs=1e-12)
    if isinstance(family, BestOfN):
        assert "BestOfN(success 0.2, tokens_per_sample 30)" in text


def test_tables_and_sums_of_families():
    table = Tabulated([0, 10, 50], [[0, 0.5, 0.6]] * 4).broadcast(4)
    text = str(explain(make(utilities=(UtilityBlock(table, np.arange(4)),))))
    assert "Tabulated(3 numbers of grid in [0 .. 50], 3 numbers of values in [0 .. 0.6]" in text
    assert f"interpolation {table.interpolation})" in text
    parts = [
        family(np.ones(4), np.ones(4), np.ones(4)) for family in (CumulativeSurge, ShiftedSurge)
    ]
    total = Total.of(parts, [np.ones(4), np.array([2.0, 1, 1, 1])])
    program = make(utilities=(UtilityBlock(total, np.arange(4)),))
    text = str(explain(program))
    first, second = (
        f"{f}(scale 1, threshold 1, rate 1)" for f in ("CumulativeSurge", "ShiftedSurge")
    )
    assert f"U_i(b_i) = {first} + {{1, 2}} {second}  4 queries" in text
    assert "ShiftedSurge = scale y e^(1 - y)" in text
    assert repr(total).startswith("CumulativeSurge(scale=1, ")
    assert " + [1 .. 2] * ShiftedSurge(scale=1, " in repr(total)
    _parse_latex(explain(program).latex())


def test_a_sum_is_written_with_its_factors_and_without_what_is_multiplied_by_nothing():
    tokens = co.Allocation(3, upper=100, name="tokens")
    first, second = co.Logistic(0.5, 40, 0.1)(tokens), co.Logistic(0.3, 50, 0.1)(tokens)
    alone = "Logistic(scale 0.5, midpoint 40, rate 0.1)"
    both = f"{alone} + 2 Logistic(scale 0.3, midpoint 50, rate 0.1)"
    for factor, after in ((2, both), (0, alone)):
        total = co.sum(1 * first + factor * second)
        explanation = co.Problem(co.Maximize(total), [co.sum(tokens) <= 120]).explain()
        assert f"U_i(b_i) = {after}  3 queries" in str(explanation)
        _parse_latex(explanation.latex())
    # Many sums of one kind are told together.
    many = sum(
        (co.sum(k * co.Logistic(0.5, 40, 0.1)(tokens) + co.Logistic(0.1 * k, 45, 0.1)(tokens))
         for tokens, k in ((co.Allocation(2, upper=9, name=f"t{k}"), k + 1) for k in range(8))),
        start=co.sum(tokens),
    )  # fmt: skip
    text = str(co.Problem(co.Maximize(many)).explain())
    assert (
        "[1 .. 8] Logistic(scale 0.5, midpoint 40, rate 0.1) + Logistic(scale [0.1 .. 0.8]" in text
    )
    assert "16 queries, declared in 8 parts" in text


# ---------------------------------------------------------------------- however large
def test_a_large_program_takes_a_page():
    n, groups = 200_000, 1_000
    rng = np.random.default_rng(0)
    by_group = sparse.csr_array(
        (np.ones(n), (np.arange(n) % groups, np.arange(n))), shape=(groups, n)
    )
    entries = sparse.csr_array(sparse.eye_array(n, format="csr"))
    family = CumulativeSurge(*(rng.uniform(0.1, 1, n) for _ in range(3)))
    program = make(
        n,
        utilities=(UtilityBlock(family, np.arange(n)),),
        rows=sparse.csr_array(sparse.vstack([by_group, entries])),
        senses=("<=",) * (groups + n),
        right_hand_side=rng.random(groups + n),
        floors=by_group / (n // groups),
        floor_levels=np.full(groups, 0.3),
        choice=np.arange(n) // 4,
        constraints=(
            ConstraintGroup("cap", "row", 0, groups, labels=tuple(range(groups))),
            ConstraintGroup("each", "row", groups, n, scalar=False),
            ConstraintGroup("fair", "floor", 0, groups, labels=tuple(range(groups))),
        ),
    )
    explanation = explain(program)
    assert len(str(explanation).splitlines()) < 15
    assert said(program, "fair").startswith(
        "fair (1/200) Σ_{i in g} U_i(b_i) ≥ 0.3 for g in 0, 1, 2 and 997 more; 1 000 groups of"
    )
    assert explanation.counts == {
        "variables": n, "whole": 0, "semicontinuous": 0, "choices": n // 4, "allocations": 1,
        "constraints": 3, "rows": groups + n, "floors": groups, "bounds": 0, "unlimited": 0,
        "nonzeros": 3 * n, "utilities": n, "curves": 0,
    }  # fmt: skip


def test_many_constraints_families_and_allocations_take_a_page():
    n = 300
    one = CumulativeSurge(np.ones(1), np.ones(1), np.ones(1))
    program = make(
        n,
        utilities=tuple(UtilityBlock(one, np.array([i])) for i in range(n)),
        rows=sparse.csr_array(np.tri(n)),
        senses=("<=",) * n,
        right_hand_side=np.ones(n),
        curve_rows=sparse.csr_array(np.ones((n, n))),
        curves=tuple(CurveBlock(ExpectedTokens(np.ones(1), np.ones(1)), np.array([i]))
                     for i in range(n)),
        allocations=tuple((f"allocation {i}" * 9, 1) for i in range(n)),
        semicontinuous=np.ones(n, dtype=bool),
        lower=np.ones(n),
        constraints=tuple(ConstraintGroup(f"row {k}" + "x" * 99, "row", k, 1) for k in range(n)),
    )  # fmt: skip
    text = str(explain(program))
    assert len(text.splitlines()) < 60
    assert max(map(len, text.splitlines())) < 500
    assert "and 280 more constraints (280 rows)" in text
    assert "300 queries, declared in 300 parts" in text
    assert "296 more allocations" in text
    _check_latex(explain(program).latex())


# ---------------------------------------------------------------------- names and LaTeX
ODD = ["a_b", "100 %", "R&D", "#1", "{x}", "c:\\new", "x^2", "~user", "$5", "größe", "質問", "<b>",
       "two\nlines", "\x1b[31mred", "]_i", "{}", "{0}", "\\text{", "_", "a\u202eb"]  # fmt: skip


def _check_latex(latex):
    """Balanced, one environment, and nothing special to TeX outside its place."""
    assert latex.startswith("\\begin{aligned}\n")
    assert latex.endswith("\n\\end{aligned}")
    body = latex[len("\\begin{aligned}\n") : -len("\n\\end{aligned}")]
    assert "\\begin" not in body
    assert "\\end" not in body
    for row in body.split(" \\\\\n"):
        assert "\n" not in row
        depth = 0
        for brace in re.findall(r"(?<!\\)[{}]", row):
            depth += 1 if brace == "{" else -1
            assert depth >= 0
        assert depth == 0
        inside = re.findall(r"\\text\{([^{}]*)\}", row)
        assert row.count("\\text{") == len(inside)
        for words in inside:
            assert not set(words) & set("_%&#${}\\^~")
        formula = re.sub(r"\\text\{[^{}]*\}", "", row)
        assert not re.search(r"(?<!\\)[%#$~]", formula)
        assert not re.search(r"(?<!\\)_(?![{i])", formula)  # an index, or escaped
        assert len(re.findall(r"(?<!\\)&", formula)) in (1, 3)


# What Matplotlib's reader of TeX does not know, though LaTeX does.
UNKNOWN = {r"\&": "+", r"\bigl": "", r"\bigr": "", r"\qquad": r"\quad", r"\backprime": r"\prime"}


def _parse_latex(latex):
    """Every cell is a formula that a reader of TeX understands."""
    parser = MathTextParser("path")
    for row in latex.splitlines()[1:-1]:
        for cell in filter(None, re.split(r"(?<!\\)&+", row.removesuffix("\\\\"))):
            for command, instead in UNKNOWN.items():
                cell = cell.replace(command, instead)
            if cell.strip():
                parser.parse(f"${cell.strip()}$")


@pytest.mark.parametrize("name", ODD)
def test_odd_names_stay_on_their_line_and_are_escaped(name):
    program = with_row(
        [[1, 0, 0, 0], [0, 1, 1, 1]],
        level=[1, 2],
        name=name,
        labels=(name, (name, 3)),
        unlimited=(name,),
        allocations=((name, 2), (name, 1), ("", 1)),
    )
    plain = with_row([1, 1, 1, 1], labels=(name,), allocations=((name, 4),))
    assert len(str(explain(program)).splitlines()) == len(str(explain(with_row(
        np.ones((2, 4)), allocations=(("a", 2), ("b", 1), ("c", 1))))).splitlines())  # fmt: skip
    for explanation in (explain(program), explain(plain)):
        assert all(c.isprintable() for c in str(explanation) if c != "\n")
        assert readable(name) in str(explanation)
        _check_latex(explanation.latex())
        _parse_latex(explanation.latex())


@given(st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_words_are_balanced(name):
    latex = LatexNotation().words(readable(name))
    _check_latex(f"\\begin{{aligned}}\nx & {latex}\n\\end{{aligned}}")
    assert PlainNotation().words(readable(name)) == readable(name)
    assert len(readable(name)) <= 32


def test_latex_of_every_kind_of_statement():
    bounds = BoundEntries(np.array([0]), np.ones(1), np.ones(1), ">=")
    curve = CurveBlock(ExpectedTokens(np.ones(4), np.ones(4)), np.arange(4))
    shifted = UtilityBlock(ShiftedSurge(np.ones(2), np.ones(2), np.ones(2)), np.arange(2))
    program = make(
        utilities=(shifted,),
        cost=np.array([1e-7, 1e12, 1, 1]),
        curves=(curve,),
        curve_cost=np.ones(4),
        rows=sparse.csr_array(np.arange(8.0).reshape(2, 4)),
        senses=("<=", "=="),
        right_hand_side=np.array([1e10, -3e-9]),
        floors=sparse.csr_array(np.full((1, 4), 0.25)),
        floor_levels=np.ones(1),
        offset=-2.0,
        minimize=True,
        semicontinuous=np.array([1, 0, 0, 0], dtype=bool),
        lower=np.array([1.0, 0, 0, 0]),
        choice=np.zeros(4, dtype=int),
        constraints=(
            ConstraintGroup("rows", "row", 0, 2, scalar=False),
            ConstraintGroup("box", "bound", 0, 0, bounds=bounds),
        ),
    )
    explanation = explain(program)
    _check_latex(explanation.latex())
    _parse_latex(explanation.latex())
    assert explanation._repr_latex_() == f"$${explanation.latex()}$$"
    assert repr(explanation) == str(explanation)
    for piece in (r"3 \times 10^{-9}", r"10^{10}", r"\frac{1}{4}", "{minimise}", "+ 2"):
        assert piece in explanation.latex()


@pytest.mark.parametrize(
    ("value", "plain", "latex"),
    [
        (0, "0", "0"),
        (-0.0, "0", "0"),
        (4e6, "4 000 000", r"4\,000\,000"),
        (-1234.5, "-1 234.5", r"-1\,234.5"),
        (0.1 + 0.2, "0.3", "0.3"),
        (1e9, "1e+09", "10^{9}"),
        (-1e-9, "-1e-09", "-10^{-9}"),
        (2.5e10, "2.5e+10", r"2.5 \times 10^{10}"),
        (np.inf, "∞", r"\infty"),
        (-np.inf, "-∞", r"-\infty"),
    ],
)
def test_numbers(value, plain, latex):
    assert PlainNotation().number(value) == plain
    assert LatexNotation().number(value) == latex
