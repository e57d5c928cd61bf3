"""The public test set: every file holds, every solver agrees with it, and bad files are refused."""

from __future__ import annotations

import copy
import gzip
import importlib.util
import json
import math
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest

import clearopt as co
from clearopt import testset
from clearopt.assemble import make_solution
from clearopt.cli import main
from clearopt.testing import inspect_solution
from clearopt.testset.document import document, parsed
from clearopt.testset.store import layout

ROOT = Path(__file__).resolve().parents[1]
DATA = files("clearopt.testset") / "data"
CERTIFYING = ("dual", "scip", "highs", "dp", "ortools", "cvxpy")
ROUNDING = 1e-9  # relative
TOLERANCES = 2e-6  # relative: what solvers with tolerances of their own may be off by

every = pytest.mark.parametrize("name", testset.names())


def table_script():
    spec = importlib.util.spec_from_file_location(
        "testset_table", ROOT / "benchmarks" / "testset_table.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def size(instance):
    return max(abs(instance.best_value), 1e-300)


# ------------------------------------------------------------------ what the files say
@every
def test_a_file_comes_back_to_the_byte(name, tmp_path):
    (file,) = [each for each in DATA.iterdir() if each.name.removesuffix(".gz") == f"{name}.json"]
    instance = testset.load(name)
    assert instance.name == name
    assert instance.description.endswith(".")
    testset.write(instance, tmp_path / file.name)
    written = (tmp_path / file.name).read_bytes()
    if file.name.endswith(".gz"):  # whose bytes depend on the version of zlib
        assert gzip.decompress(written) == gzip.decompress(file.read_bytes())
    else:
        assert written == file.read_bytes()


@every
def test_the_best_known_allocation_stands_up_to_the_independent_checker(name):
    instance = testset.load(name)
    program = instance.program
    if instance.allocation is None:
        assert instance.status in ("infeasible", "unbounded")
        return
    prices = {}
    if program.n <= 1000:  # sampling every query's best response takes its time
        prices = {"row_prices": instance.row_prices, "floor_prices": instance.floor_prices}
    solution = make_solution(
        program,
        solver="best known",
        seconds=0.0,
        allocation=instance.allocation,
        bound=program.sign * instance.best_bound,
        tolerance=max(instance.gap, 2e-6),
        **prices,
    )
    found = inspect_solution(program, solution, proof="search")
    assert found.faults == []
    assert found.violation <= 1e-9
    assert found.objective == pytest.approx(instance.best_value, rel=ROUNDING)
    if prices and instance.row_prices is not None and math.isfinite(found.price_bound):
        beyond = program.sign * (found.price_bound - instance.best_value)
        assert beyond >= -ROUNDING * size(instance)


@every
def test_nothing_in_the_evidence_contradicts_the_best(name):
    instance = testset.load(name)
    sign = instance.program.sign
    for said in instance.evidence:
        if instance.allocation is None:
            assert math.isnan(said.value) or instance.status == "unbounded", said
            assert said.status != "optimal", said
            continue
        assert said.status not in ("infeasible", "unbounded"), said
        allowed = TOLERANCES * size(instance)
        if math.isfinite(said.value):
            assert sign * (said.value - instance.best_bound) <= allowed, said
        if math.isfinite(said.bound):
            assert sign * (instance.best_value - said.bound) <= allowed, said


def test_what_is_called_optimal_is_settled_by_two_but_for_a_few():
    """By two solvers, a solver and the oracle, or a solver and what its prices prove; where one
    alone has closed the gap, the bounds of the others come near."""
    settled_by = table_script().settled_by
    solved = [each for each in map(testset.load, testset.names()) if each.status == "optimal"]
    alone = [each for each in solved if len(settled_by(each)) < 2]
    assert len(alone) <= len(solved) / 6, [each.name for each in alone]
    for each in alone:
        assert len(settled_by(each)) == 1
        near = [
            said
            for said in each.evidence
            if abs(said.bound - each.best_value) <= 0.015 * size(each)
        ]
        assert len(near) >= 2, each.name


def test_the_set_is_as_wide_as_it_says():
    instances = list(map(testset.load, testset.names()))
    assert len(instances) >= 60
    assert len(testset.names("readme")) == 11  # as the README says
    assert {5, 10, 20, 50, 100, 1000, 10_000, 100_000} <= {each.n for each in instances}
    assert {each.status for each in instances} == {
        "optimal", "feasible", "infeasible", "unbounded",
    }  # fmt: skip
    families = {
        type(block.family).__name__ for each in instances for block in each.program.utilities
    }
    assert families >= {
        "CumulativeSurge", "ShiftedSurge", "Logistic", "Hill", "SaturatingExponential", "BestOfN",
        "Tabulated", "Triangular", "Quadratic",
    }  # fmt: skip
    assert sum(file.stat().st_size for file in Path(str(DATA)).iterdir()) < 3e6


def test_the_table_in_the_docs_is_up_to_date():
    page = (ROOT / "docs" / "testset.md").read_text(encoding="utf-8")
    made = table_script().with_table(page)
    assert page == made, "run python benchmarks/testset_table.py"


# ------------------------------------------------------------------ what solvers say to it
@every
def test_the_dual_neither_beats_the_bound_nor_rules_out_the_value(name):
    instance = testset.load(name)
    sign = instance.program.sign
    solution = instance.problem.solve(time_limit=2)
    if instance.allocation is None:
        assert solution.status in (instance.status, "unknown")
        return
    assert solution.status in ("optimal", "feasible", "unknown")
    allowed = ROUNDING * size(instance)
    if solution.allocation is not None:
        assert sign * (solution.objective - instance.best_bound) <= allowed
    assert sign * (instance.best_value - solution.bound) <= allowed


@pytest.mark.slow
def test_no_certifying_solver_contradicts_another_or_what_is_known():
    small = [each for each in map(testset.load, testset.names("small")) if each.n <= 12]
    assert len(small) >= 12
    comparison = co.compare(small, CERTIFYING, time_limit=1, processes=2)
    assert comparison.contradictions == []
    assert set(comparison.known) == {each.name for each in small}
    # On a busy machine a second may not do for one instance or the other, but for none at all?
    ran = {row.solver for row in comparison.rows if row.outcome == "ran"}
    assert ran >= set(CERTIFYING)


# ------------------------------------------------------------------ choosing and reading
def test_names_by_pattern_and_by_tag():
    assert testset.names("surge-5-*") == ["surge-5-b10"]
    assert set(testset.names("small")) < set(testset.names())
    assert testset.names() == sorted(testset.names())
    with pytest.raises(co.DeclarationError, match="no instance is called 'surge-6-b10'"):
        testset.names("surge-6-b10")
    with pytest.raises(co.DeclarationError, match="no instance is called 'surge-6-b10'"):
        testset.load("surge-6-b10")
    with pytest.raises(co.DeclarationError, match="cannot be read"):
        testset.load("none.json")
    with pytest.raises(co.DeclarationError, match=r"named \*\.json"):
        testset.write(testset.load("surge-5-b10"), "none.txt")
    with pytest.raises(co.DeclarationError, match="expected a clearopt"):
        testset.write(testset.load("surge-5-b10").program, "none.json")


def test_an_instance_of_every_kind_of_entry_comes_back(tmp_path):
    """What the shipped ones do not have: a sum of utilities, sampled lengths, odd labels."""
    tokens = co.Allocation(4, upper=[30, 40, 60, 50], integer=True)
    both = co.CumulativeSurge(0.5, 0.0, 0.1)(tokens) + co.SaturatingExponential(0.3, 0, 0.2)(tokens)
    lengths = co.ExpectedTokens.from_lengths([[3.0, 9.0, 20.0]] * 2)(tokens[:2])
    problem = co.Problem(
        co.Maximize(co.sum(both) - 0.001 * co.sum(tokens[2:]) + 2),
        [
            (co.sum(tokens, by=["a", "b", "a", "b"]) <= {"a": 40, "b": 35}).named("cap"),
            (co.sum(lengths) <= 15).named("realised"),
            tokens[:2] >= 1,
        ],
    )
    solution = problem.solve()
    instance = testset.Instance(
        "odd", "Odd.", problem.program, "optimal", solution.objective, solution.bound,
        allocation=solution.allocation, row_prices=solution.row_prices, tags=("mine",), seed=3,
        evidence=(testset.Evidence("dual", value=solution.objective, bound=solution.bound),),
    )  # fmt: skip
    for path in (tmp_path / "odd.json", tmp_path / "odd.json.gz"):
        testset.write(instance, path)
        again = testset.load(path)
        assert document(again) == document(instance)
        assert again.evidence[0].version == ""
        solved = again.problem.solve()
        assert solved.objective == pytest.approx(solution.objective, rel=ROUNDING)
        assert set(solved.prices) == {"cap", "realised"}
        assert set(solved.prices["cap"]) == {"a", "b"}


@pytest.fixture(scope="module")
def good():
    return document(testset.load("everything-8")) | {"evidence": []}


DAMAGE = {
    "format": (lambda d: d.update(format="else"), "no instance of the test set"),
    "version": (lambda d: d.update(version=2), "newer clearopt, in version 2"),
    "name": (lambda d: d.update(name="Two Words"), "lower-case words"),
    "entry": (lambda d: d.update(bst={}), "'bst' is not known here"),
    "missing": (lambda d: d["program"].pop("upper"), "program: 'upper' is missing"),
    "n": (lambda d: d["program"].update(n=0), "n = 0"),
    "misspelt": (lambda d: d["program"].update(intger=True), "'intger' is not known here"),
    "length": (lambda d: d["program"].update(upper=[1, 2]), "upper: has 2 entries"),
    "text": (lambda d: d["program"].update(upper="many"), "upper: 'many' is not a number"),
    "flag": (lambda d: d["program"].update(integer=[1] * 8), "integer: must be true or false"),
    "menus": (lambda d: d["program"].update(menus=[[0, 1], [1, 2]]), "query 1 is in a menu"),
    "query": (lambda d: d["program"]["rows"][0].update(queries=[0, 8]), "entry 1 is 8"),
    "twice": (lambda d: d["program"]["rows"][0].update(queries=[3, 3]), "query 3 stands there"),
    "stretch": (
        lambda d: d["program"]["rows"][0].update(queries={"from": 4, "to": 99}),
        "from 4 to 99",
    ),
    "coefficients": (
        lambda d: d["program"]["rows"][0].update(coefficients=[1, 2]),
        r"rows\[0\]: coefficients: has 2 entries",
    ),
    "sense": (lambda d: d["program"]["rows"][0].update(sense="<"), "must be one of '<='"),
    "level": (lambda d: d["program"]["rows"][0].update(right_hand_side=None), "must be a finite"),
    "names": (lambda d: d["program"]["rows"][0].update(constraint="floor"), "the same name"),
    "family": (lambda d: d["program"]["utilities"][0].update(family="Sigmoidal"), "family = "),
    "parameter": (lambda d: d["program"]["utilities"][0].update(rtae=1), "'rtae' is not known"),
    "negative": (lambda d: d["program"]["utilities"][0].update(rate=-1), "rate"),
    "crossed": (lambda d: d["program"].update(lower=99), "lies below the lower bound"),
    "value": (lambda d: d["best"].update(value=9.0), "the allocation is worth"),
    "bound": (lambda d: d["best"].update(bound=0.1), "lies past it"),
    "allocation": (lambda d: d["best"].update(allocation=25), "is not feasible"),
    "status": (lambda d: d["best"].update(status="feasible"), "up to 2e-06 it is 'optimal'"),
    "outcome": (lambda d: d["best"].update(status="infeasible"), "there is no best value"),
    "prices": (lambda d: d["best"].update(row_prices=[1]), "row_prices: has 1 entries"),
    "evidence": (lambda d: d.update(evidence=[{"solver": 3}]), "'solver' is not a text"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_file_gives_one_clear_error(what, good, tmp_path):
    damage, message = DAMAGE[what]
    data = copy.deepcopy(good)
    damage(data)
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(data))
    with pytest.raises(co.DeclarationError, match=message) as raised:
        testset.load(path)
    assert str(raised.value).startswith(str(path))


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\x1f\x8bxx", b'{"a": NaN}', b"\xff"])
def test_what_is_no_document_is_refused(content, tmp_path):
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(co.DeclarationError, match=r"bad\.json"):
        testset.load(path)


def test_what_contradicts_itself_is_not_written(tmp_path):
    instance = testset.load("surge-5-b10")
    for wrong in (
        replace(instance, best_value=9.0),
        replace(instance, allocation=instance.allocation * 2),
        replace(instance, name="A"),
    ):
        with pytest.raises(co.DeclarationError, match="cannot be written"):
            testset.write(wrong, tmp_path / "wrong.json")
    assert list(tmp_path.iterdir()) == []


def test_the_layout_is_json():
    data = {"a": [1, 2.5, None], "b": [{"c": "x, y"}, {}], "d": "e, f" * 40, "g": [[1, 2], [3]]}
    assert json.loads(layout(data)) == data
    assert parsed("again", json.loads(layout(document(testset.load("menu-5x3"))))).n == 15


# ------------------------------------------------------------------ the command
def test_compare_takes_the_set_and_files_of_ones_own(tmp_path, capsys):
    path = tmp_path / "mine.json"
    testset.write(replace(testset.load("ties-10"), name="mine"), path)
    arguments = ["compare", "testset:surge-5-*", str(path), "--solvers", "dual,uniform"]
    assert main([*arguments, "--json", str(tmp_path / "all.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[2:8]] == [
        [name, solver] for name in ("surge-5-b10", "mine") for solver in ("best", "dual", "uniform")
    ]
    assert set(json.loads((tmp_path / "all.json").read_text())["known"]) == {"surge-5-b10", "mine"}
    assert main([*arguments, "--summary"]) == 0
    assert [line.split()[:4] for line in capsys.readouterr().out.splitlines()[2:4]] == [
        ["dual", "2", "2", "2"],
        ["uniform", "2", "0", "0"],
    ]
    again = tmp_path / "surge-5-b10.json"
    again.write_bytes(path.read_bytes())
    assert main(["compare", "testset:surge-5-b10", str(again)]) == 2
    assert "the test set has an instance of that name" in capsys.readouterr().err
    assert main(["compare", "testset:nothing-so-called"]) == 2


def test_a_row_past_what_is_known_is_a_contradiction():
    instance = testset.load("surge-5-b10")
    low = replace(instance, best_bound=1.0, best_value=0.9)
    comparison = co.compare(low, "dual", isolated=False)
    (sentence,) = comparison.contradictions
    assert "above the bound 1 of best known" in sentence
    high = replace(instance, best_bound=3.0, best_value=2.9)
    (sentence,) = co.compare([high], "dual", isolated=False).contradictions
    assert "best known found 2.9, above the bound 1.15473057 of dual" in sentence
