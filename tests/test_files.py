"""Programs and solutions come back from a file as they were; anything else is refused."""

import dataclasses
import datetime
import enum
import functools
import json
import math
import os
import pickle
import stat
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

import clearopt as co
from clearopt.files import load_program, load_solution, save_program, save_solution
from clearopt.files.families import STORED, family_class
from clearopt.program import BoundEntries, ConstraintGroup, CurveBlock, Program, UtilityBlock
from tests.brute_force import FEATURES, random_problem

ROUND_TRIPS = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


# -------------------------------------------------------------------------------- comparing
def assert_same(first, second, where="it"):
    """Equal in type, dtype, shape and every bit; whatever the thing is made of."""
    assert type(first) is type(second), where
    if sparse.issparse(first):
        for part in ("data", "indices", "indptr", "shape"):
            assert_same(getattr(first, part), getattr(second, part), f"{where}.{part}")
    elif isinstance(first, np.ndarray):
        assert first.dtype == second.dtype, where
        assert first.shape == second.shape, where
        np.testing.assert_array_equal(first, second, err_msg=where)
    elif isinstance(first, co.Utility | co.CostCurve):
        assert first.kind == second.kind, where
        for k, pair in enumerate(zip(first.parameters, second.parameters, strict=True)):
            assert_same(*pair, f"{where}.parameters[{k}]")
    elif dataclasses.is_dataclass(first):
        for field in dataclasses.fields(first):
            assert_same(
                getattr(first, field.name), getattr(second, field.name), f"{where}.{field.name}"
            )
        for name in ("prices", "marginal_values") if isinstance(first, co.Solution) else ():
            assert_same(getattr(first, name), getattr(second, name), f"{where}.{name}")
    elif isinstance(first, tuple | list):
        assert len(first) == len(second), where
        for k, pair in enumerate(zip(first, second, strict=True)):
            assert_same(*pair, f"{where}[{k}]")
    elif isinstance(first, dict):
        assert_same(list(first), list(second), f"{where}: keys")
        assert_same(list(first.values()), list(second.values()), f"{where}: values")
    elif isinstance(first, float) and math.isnan(first):
        assert math.isnan(second), where
    else:
        assert repr(first) == repr(second), where


def there_and_back(program, folder):
    save_program(program, folder / "p.npz")
    return load_program(folder / "p.npz")


# -------------------------------------------------------------------------------- examples
def everything():
    """A problem with every feature of a program; most fields are not at their defaults."""
    rng = np.random.default_rng(5)
    n = 6
    think = co.Allocation(
        n, lower=2, upper=[40, 50, np.inf, 30, 30, 30], integer=True, name="think"
    )
    small = co.Allocation(n, lower=4, upper=60, integer=True, semicontinuous=True, name="small")
    large = co.Allocation(n, upper=90, integer=[True, False] * 3, name="large")
    utility = co.CumulativeSurge(rng.uniform(0.3, 0.9, n), rng.uniform(2, 9, n), 0.2)(think)
    other = co.ShiftedSurge(0.8, 3, 0.1)(small[:4])
    third = co.CumulativeSurge(0.9, 1, 0.3)(large)
    cost = co.ExpectedTokens(threshold=1, rate=0.2, ends=0.9)(large)
    lengths = co.ExpectedTokens.from_lengths([3, 9, 30], cut=[False, False, True])(small)
    labels = [("acme", 1), 2.5, ("acme", 1), datetime.date(2025, 1, 31), 2.5, True]
    caps = {("acme", 1): 60, 2.5: math.inf, datetime.date(2025, 1, 31): 40, True: math.inf}
    return co.Problem(
        co.Minimize(co.sum(think) + 0.5 * co.sum(cost) + 3),
        [
            (co.sum(think) + co.sum(small) <= 150).named("budget"),
            (co.sum(think, by=labels) <= caps).named("caps"),
            (think[1:4] <= [20, math.inf, 25]).named("bounds"),
            (co.sum(cost) + co.sum(lengths) <= 200).named("realised"),
            (co.mean(utility, by=[1, 1, 2, 2, 3, 3]) >= [0.1, -np.inf, 0.2]).named("floors"),
            (co.sum(other) + co.sum(third) >= 0.4).named("floor"),
            think[0] - think[1] >= -20,
            co.at_most_one(small, large),
        ],
    )


def simple(n=5):
    tokens = co.Allocation(n, upper=60, integer=True, name="tokens")
    accuracy = co.CumulativeSurge(0.8, np.linspace(1, 20, n), 0.2)(tokens)
    return co.Problem(co.Maximize(co.sum(accuracy)), [(co.sum(tokens) <= 70).named("budget")])


FAMILIES = {
    "CumulativeSurge": lambda: ([0.5, 1.0], [3.0, 0.0], [0.1, 0.7]),
    "ShiftedSurge": lambda: ([0.5, 1.0], [3.0, 0.0], [0.1, 0.7]),
    "Triangular": lambda: ([0.5, 1.0], [3.0, 0.0], [10.0, 7.0]),
    "Quadratic": lambda: ([0.5, 1.0], [3.0, 0.0], [10.0, 7.0]),
    "Logistic": lambda: ([0.5, 1.0], [30.0, 5.0], [0.1, 0.7]),
    "Hill": lambda: ([0.5, 1.0], [30.0, 5.0], [2.0, 0.5]),
    "Lognormal": lambda: ([0.5, 1.0], [30.0, 5.0], [0.3, 1.5]),
    "SaturatingExponential": lambda: ([0.5, 1.0], [3.0, 0.0], [0.1, 0.7]),
    "BestOfN": lambda: ([0.1, 0.2], [3.0, 4.0]),
    "Tabulated": lambda: ([[0, 10, 20], [0, 5, 40]], [[0, 0.1, 0.7], [0.1, 0.3, 0.2]], "step"),
    "ExpectedTokens": lambda: ([3.0, 0.0], [0.1, 0.7], [1.0, 0.5]),
    "LognormalTokens": lambda: ([30.0, 5.0], [0.3, 1.5], [1.0, 0.5]),
    "SampledTokens": lambda: ([[5, 2, 9], [4, 4, 1]], np.eye(2, 3) > 0),
}


def of_family(name):
    """A program whose two queries have that family."""
    tokens = co.Allocation(2, upper=90, name="tokens")
    if name == "Total":
        first = co.CumulativeSurge([0.5, 0.6], [3.0, 0.0], [0.1, 0.2])(tokens)
        second = co.CumulativeSurge([0.3, 0.2], [3.0, 0.0], [0.1, 0.2])(tokens)
        return co.Problem(co.Maximize(co.sum(first) + 2 * co.sum(second)), [co.sum(tokens) <= 70])
    family = family_class(name)(*FAMILIES[name]())
    if STORED[name].role == "utility":
        return co.Problem(co.Maximize(co.sum(family(tokens))), [co.sum(tokens) <= 70])
    accuracy = co.CumulativeSurge(0.5, 3, 0.1)(tokens)
    return co.Problem(co.Maximize(co.sum(accuracy)), [co.sum(family(tokens)) <= 70])


# -------------------------------------------------------------------------------- round trips
@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("whole", [True, False])
def test_problems_come_back_the_same_and_solve_the_same(feature, whole, tmp_path):
    problem = random_problem(3, feature, whole=whole)
    co.save(problem, tmp_path / "p.npz")
    loaded = co.load(tmp_path / "p.npz")
    assert isinstance(loaded, co.Problem)
    assert_same(problem.program, loaded.program)
    assert str(loaded.explain()) == str(problem.explain())
    solution, again = problem.solve(), loaded.solve()
    for name in ("status", "allocation", "objective", "bound"):
        assert_same(getattr(solution, name), getattr(again, name), name)


def test_every_feature_of_a_program_comes_back(tmp_path):
    program = everything().program
    assert program.has_curves
    assert program.minimize
    assert (program.choice >= 0).any()
    assert program.semicontinuous.any()
    assert any(group.unlimited for group in program.constraints)
    assert any(group.bounds is not None for group in program.constraints)
    assert {type(block.family).__name__ for block in program.curves} == {
        "ExpectedTokens",
        "SampledTokens",
    }
    assert_same(program, there_and_back(program, tmp_path))


def test_no_field_is_forgotten():
    """A field added to these classes has to be added to the files, and then here."""
    names = lambda cls: {field.name for field in dataclasses.fields(cls)}  # noqa: E731
    assert names(Program) == {
        "weight", "cost", "lower", "upper", "integer", "utilities", "rows", "senses",
        "right_hand_side", "floors", "floor_levels", "constraints", "offset", "semicontinuous",
        "choice", "curves", "curve_rows", "curve_cost", "minimize", "allocations",
        "objective_text", "declared_lower", "declared_upper",
    }  # fmt: skip
    assert names(ConstraintGroup) == {
        "name", "kind", "first", "count", "labels", "scalar", "unlimited", "bounds", "text",
    }  # fmt: skip
    assert names(BoundEntries) == {"query", "factor", "level", "sense"}
    assert names(UtilityBlock) == {"family", "where"}  # `index`, as a slice where it can be one
    assert names(CurveBlock) == {"family", "index"}
    assert names(co.Solution) == {
        "status", "program", "allocation", "objective", "bound", "utilities", "funded",
        "feasibility", "solver", "seconds", "message", "statistics", "row_prices", "floor_prices",
        "tolerance",
    }  # fmt: skip


@pytest.mark.parametrize("name", list(STORED))
def test_every_family_comes_back(name, tmp_path):
    program = of_family(name).program
    blocks = program.utilities if STORED[name].role == "utility" else program.curves
    assert type(blocks[0].family).__name__ == name
    assert_same(program, there_and_back(program, tmp_path))


def test_every_public_family_is_on_the_list():
    """Sigmoidal alone holds more than numbers."""
    import clearopt.utilities as utilities

    public = {
        name
        for name in utilities.__all__
        if isinstance(getattr(utilities, name), type)
        and issubclass(getattr(utilities, name), co.Utility | co.CostCurve)
    }
    assert public - {"Utility", "CostCurve", "Sigmoidal"} <= set(STORED)


@pytest.mark.parametrize(
    "build", [simple, everything, lambda: random_problem(2, "floor", whole=True)]
)
def test_solutions_come_back_the_same(build, tmp_path):
    solution = build().solve(time_limit=20)
    assert solution.allocation is not None
    co.save(solution, tmp_path / "s.npz")
    loaded = co.load(tmp_path / "s.npz")
    assert isinstance(loaded, co.Solution)
    assert_same(solution, loaded)
    assert loaded.summary() == solution.summary()
    assert loaded.gap == solution.gap


def test_solutions_without_an_allocation_come_back(tmp_path):
    tokens = co.Allocation(2, upper=60, integer=True)
    accuracy = co.CumulativeSurge(0.8, 10, 0.2)(tokens)
    problem = co.Problem(
        co.Maximize(co.sum(accuracy)),
        [co.sum(tokens) <= 30, accuracy[0] >= 0.7, accuracy[1] >= 0.7],
    )
    solution = problem.solve()
    assert solution.status == "infeasible"
    save_solution(solution, tmp_path / "s.npz")
    assert_same(solution, load_solution(tmp_path / "s.npz"))


def test_a_loaded_solution_starts_another_solve(tmp_path):
    problem = simple()
    co.save(problem.solve(), tmp_path / "s.npz")
    again = problem.solve(warm_start=co.load(tmp_path / "s.npz"))
    assert again.objective == problem.solve().objective


def test_statistics_that_are_no_plain_data_are_left_out(tmp_path):
    kept = {
        "nodes": 3, "gap": math.inf, "log": ["a", {"b": (1, None)}], "count": np.int64(4),
        "name": "x", "by k": {1: 2.0},
    }  # fmt: skip
    lost = {"model": object(), "nested": [1, {"f": len}], 7: "no name", "array": np.ones(2)}
    solution = dataclasses.replace(simple().solve(), statistics=kept | lost)
    save_solution(solution, tmp_path / "s.npz")
    assert_same(load_solution(tmp_path / "s.npz").statistics, kept)


LABELS = [
    "", "naïve \ud800 \0", -1, 2**200, 0, True, False, None, 0.1, -0.0, math.inf, 5e-324, (),
    ("a", (1, None), 2.5), datetime.date(1, 1, 1), datetime.datetime(2025, 1, 31, 12, 30, 1, 7),
    datetime.datetime(2025, 1, 1, fold=1),
    datetime.datetime(2025, 1, 31, tzinfo=datetime.UTC),
    datetime.datetime(2025, 1, 31, tzinfo=datetime.timezone(datetime.timedelta(hours=-3))),
    np.int64(7), np.uint8(255), np.float32(0.1), np.float64(0.1), np.bool_(True), np.str_("x"),
    np.datetime64("2025-01-31"), np.datetime64("2025-01-31T01:02:03.004", "ms"), (np.int32(3),),
]  # fmt: skip


def labelled(labels):
    """A program whose one constraint has these labels, which its declaration might not take."""
    program = simple(max(len(labels), 1)).program
    group = ConstraintGroup(
        "caps", "bound", 0, 0, tuple(labels), False,
        bounds=BoundEntries(np.arange(len(labels)), *np.ones((2, len(labels))), "<="),
    )  # fmt: skip
    return dataclasses.replace(program, constraints=(group,))


@pytest.mark.parametrize("label", LABELS, ids=repr)
def test_labels_come_back_exactly(label, tmp_path):
    (group,) = there_and_back(labelled([label]), tmp_path).constraints
    assert_same(group.labels, (label,))


class Colour(enum.IntEnum):
    RED = 1


@pytest.mark.parametrize(
    "label",
    [Colour.RED, frozenset({1}), b"x", 1j, ("a", object), np.complex128(1), np.timedelta64(1, "s"),
     datetime.time(1), 10**4500,
     datetime.datetime(2025, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(0), "X"))],
    ids=lambda label: type(label).__name__,
)  # fmt: skip
def test_other_labels_are_refused_by_name(label, tmp_path):
    with pytest.raises(
        co.DeclarationError, match=r"constraint 'caps': the label .* cannot be saved"
    ):
        save_program(labelled([label]), tmp_path / "p.npz")
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------------------- any program
finite = st.floats(-1e9, 1e9)
positive = st.floats(1e-6, 1e6)
plain = st.recursive(
    st.one_of(
        st.text(max_size=4), st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False),
        st.dates(), st.datetimes(), st.sampled_from([np.int16(3), np.float32(0.25)]),
    ),
    lambda inner: st.tuples(inner, inner),
    max_leaves=4,
)  # fmt: skip


def arrays(draw, elements, length):
    return np.array(draw(st.lists(elements, min_size=length, max_size=length)), dtype=np.float64)


def matrix(draw, rows, n, elements):
    dense = arrays(draw, st.one_of(st.just(0.0), elements), rows * n).reshape(rows, n)
    return sparse.csr_array(dense)


@st.composite
def programs(draw):
    n, k, j = draw(st.integers(1, 5)), draw(st.integers(0, 3)), draw(st.integers(0, 2))
    integer = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)), dtype=bool)
    lower = np.floor(arrays(draw, st.floats(0, 100), n))
    upper = lower + np.floor(arrays(draw, st.one_of(st.floats(0, 1e6), st.just(math.inf)), n))
    order = np.array(draw(st.permutations(range(n))), dtype=np.intp)
    split, end = sorted(draw(st.tuples(st.integers(0, n), st.integers(0, n))))
    families = []
    for cls, index in ((co.CumulativeSurge, order[:split]), (co.ShiftedSurge, order[split:end])):
        m = index.size
        if m:
            parameters = [
                arrays(draw, e, m) for e in (st.floats(0, 1), st.floats(0, 1e4), positive)
            ]
            families.append(UtilityBlock(cls(*parameters), index))
    curves = ()
    if draw(st.booleans()):
        lengths = arrays(draw, st.floats(0, 1e4), n * 3).reshape(n, 3)
        curves = (CurveBlock(co.ExpectedTokens.from_lengths(lengths), np.arange(n)),)
    kind = draw(st.sampled_from(["row", "floor", "bound"]))
    count = {"row": k, "floor": j, "bound": 0}[kind]
    length = count or n
    labels = draw(
        st.none() | st.lists(plain, unique=True, min_size=length, max_size=length).map(tuple)
    )
    bounds = None
    if kind == "bound":
        bounds = BoundEntries(order, arrays(draw, positive, n), arrays(draw, finite, n), "==")
    elif not count:
        labels = None
    group = ConstraintGroup(
        name=draw(st.text(max_size=5)), kind=kind, first=0, count=count, labels=labels,
        scalar=draw(st.booleans()), bounds=bounds, text=draw(st.text(max_size=5)),
    )  # fmt: skip
    return Program(
        weight=arrays(draw, st.floats(0, 1e9), n), cost=arrays(draw, finite, n), lower=lower,
        upper=upper, integer=integer, utilities=tuple(families), rows=matrix(draw, k, n, finite),
        senses=tuple(draw(st.lists(st.sampled_from(["<=", ">=", "=="]), min_size=k, max_size=k))),
        right_hand_side=arrays(draw, finite, k), floors=matrix(draw, j, n, positive),
        floor_levels=arrays(draw, finite, j), constraints=(group,), offset=draw(finite),
        semicontinuous=lower > 50, choice=np.full(n, -1, dtype=np.intp), curves=curves,
        curve_rows=matrix(draw, k, n, finite), curve_cost=arrays(draw, finite, n),
        minimize=draw(st.booleans()), allocations=(("t", n),), objective_text=draw(st.text()),
        declared_lower=lower, declared_upper=upper,
    )  # fmt: skip


@ROUND_TRIPS
@given(program=programs())
def test_any_program_comes_back(program, tmp_path):
    assert_same(program, there_and_back(program, tmp_path))


# -------------------------------------------------------------------------------- edited files
@functools.cache
def solved_simply():
    return simple().solve()


@functools.cache
def everything_saved():
    """The bytes of a file of `everything()`."""
    with tempfile.TemporaryDirectory() as folder:
        co.save(everything(), f"{folder}/p.npz")
        return Path(folder, "p.npz").read_bytes()


def saved(tmp_path, thing=None):
    path = tmp_path / "saved.npz"
    if thing is None:
        path.write_bytes(everything_saved())
    else:
        co.save(thing, path)
    return path


def edit(path, change):
    """Rewrite the file after `change(header, arrays)` has done its mischief."""
    with np.load(path, allow_pickle=False) as found:
        arrays = dict(found)
    header = json.loads(arrays.pop("header").tobytes())
    change(header, arrays)
    text = json.dumps(header).encode()
    np.savez(path, header=np.frombuffer(text, dtype=np.uint8), **arrays)
    return path


def put(name, value):
    """An edit: the array `name` becomes `value`, or what `value` makes of it."""

    def change(header, arrays):
        arrays[name] = value(arrays[name]) if callable(value) else value

    return change


def entry(array, position, value):
    array = array.copy()
    array[position] = value
    return array


def head(*path, to):
    """An edit: the entry of the header at `path` becomes `to`."""

    def change(header, arrays):
        inner = header
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = to

    return change


BAD_PROGRAMS = [
    (lambda h, a: h.pop("offset"), "header: 'offset' is missing"),
    (head("offset", to="3"), "offset = '3': must be a finite number"),
    (head("offset", to={"float": "inf"}), "must be a finite number"),
    (head("offset", to={"float": "os.system"}), "'offset' is not a number"),
    (head("offset", to=True), "offset = True: must be a finite number"),
    (head("minimize", to=1), "'minimize' is not true or false"),
    (head("allocations", to=[["think", 3]]), "do not add up to the 18 queries"),
    (head("allocations", to="think"), "'allocations' is not a list"),
    (head("objective_text", to=None), "'objective_text' is not a text"),
    (head("content", to="recipe"), "content = 'recipe': must be one of 'problem', 'solution'"),
    (head("utilities", 0, "family", to="os.system"), "family = 'os.system': must be one of"),
    (head("utilities", 0, "family", to="ExpectedTokens"), "must be one of"),
    (head("utilities", to={}), "'utilities' is not a list"),
    (head("utilities", 0, to=3), "utilities\\[0\\]: expected an object, got 3"),
    (head("constraints", 0, "kind", to="wish"), "constraints\\[0\\]: kind = 'wish'"),
    (head("constraints", 0, "count", to=9), "there are no 9 rows from 0 on"),
    (head("constraints", 0, "first", to=-1), "first = -1: must be a whole number"),
    (head("constraints", 0, "name", to="caps"), "two constraints have the same name"),
    (head("constraints", 1, "labels", 0, to={"tuple": 4}), "'labels' is not a list of labels"),
    (head("constraints", 1, "labels", 0, to=[1]), "is not a label"),
    (head("constraints", 1, "labels", 0, to={"class": "x"}), "not a value that a clearopt file"),
    (head("constraints", 1, "labels", 0, to={"numpy": "object", "value": 1}), "not a value"),
    (head("constraints", 1, "labels", 0, to={"numpy": "uint8", "value": 256}), "not a value"),
    (head("constraints", 1, "labels", 0, to={"date": "soon"}), "'labels' is not a list of labels"),
    (head("constraints", 1, "labels", to=["a"]), "1 labels for 2 entries"),
    (head("constraints", 1, "labels", to=["a", "a"]), "holds a label twice"),
    (head("constraints", 1, "unlimited", 0, to={"tuple": ["acme", 1]}), "limited and unlimited"),
    (head("constraints", 2, "bounds", to=None), "'bounds' belongs to constraints"),
    (head("constraints", 2, "bounds", "sense", to="<"), "sense = '<': must be one of"),
    (lambda h, a: a.pop("weight"), "the array 'weight' is missing"),
    (lambda h, a: a.pop("utilities.0.rate"), "the array 'utilities.0.rate' is missing"),
    (put("weight", np.zeros(0)), "'weight' is empty"),
    (put("weight", np.zeros(3)), "'rows.shape' says"),
    (put("weight", lambda x: entry(x, 4, -1)), "'weight' is wrong at \\[4\\]: -1.0 must be at"),
    (put("weight", lambda x: entry(x, 4, np.nan)), "'weight' is wrong at \\[4\\]: nan is not fin"),
    (put("weight", lambda x: x.astype(str)), "holds <U.*, not float64 numbers"),
    (put("weight", lambda x: x.reshape(-1, 1)), "'weight' has shape \\(18, 1\\), not \\(any\\)"),
    (put("weight", lambda x: x.astype(np.complex128)), "holds complex128"),
    (put("cost", lambda x: x[:-1]), "'cost' has shape \\(17,\\), not \\(18\\)"),
    (put("cost", lambda x: entry(x, 0, np.inf)), "'cost' is wrong at \\[0\\]: inf"),
    (put("lower", lambda x: entry(x, 0, -1)), "must be at least 0 tokens"),
    (put("lower", lambda x: entry(x, 0, 1e9)), "'upper' is wrong at \\[0\\].*below the lower"),
    (put("upper", lambda x: entry(x, 0, 7.5)), "must be whole where tokens are"),
    (put("upper", lambda x: entry(x, 0, np.nan)), "is not a number"),
    (put("integer", lambda x: x.astype(int)), "holds int64, not booleans"),
    (put("choice", lambda x: entry(x, 0, 99)), "'choice' is wrong at \\[0\\]: 99"),
    (put("choice", lambda x: entry(x, [0, 1], 17)), "two queries in one choice"),
    (put("senses", lambda x: x + 3), "'senses' is wrong"),
    (put("senses", lambda x: x[1:]), "'senses' has shape"),
    (put("rows.shape", lambda x: x + 1), "'rows.shape' says"),
    (put("rows.shape", lambda x: -x), "'rows.shape' is wrong"),
    (put("curve_rows.shape", lambda x: x - [1, 0]), "'curve_rows.shape' says"),
    (put("rows.shape", np.array([2**60, 18])), "'rows.indptr' must have"),
    (put("rows.indices", lambda x: entry(x, 2, 18)), "'rows.indices' is wrong at \\[2\\]: 18"),
    (put("rows.indices", lambda x: entry(x, 2, -1)), "'rows.indices' is wrong at \\[2\\]: -1"),
    (put("rows.indices", lambda x: x[1:]), "'rows.indices' has shape"),
    (put("rows.indices", lambda x: x * 0.5), "holds float64, not whole numbers"),
    (put("rows.indptr", lambda x: entry(x, 1, 10**6)), "'rows.indptr' is wrong at \\[1\\]"),
    (put("rows.indptr", lambda x: entry(x, 2, 0)), "lies below the entry before it"),
    (put("rows.indptr", lambda x: entry(x, 0, 1)), "must run from 0 to"),
    (put("rows.data", lambda x: entry(x, 0, np.nan)), "'rows.data' is wrong"),
    (put("floors.data", lambda x: -x), "'floors.data' is wrong"),
    (put("right_hand_side", lambda x: x[1:]), "'right_hand_side' has shape"),
    (put("floor_levels", lambda x: x * np.inf), "'floor_levels' is wrong"),
    (put("declared_lower", lambda x: x[:4]), "'declared_lower' has shape"),
    (put("utilities.0.index", lambda x: entry(x, 0, 18)), "'utilities.0.index' is wrong"),
    (put("utilities.0.index", lambda x: entry(x, 0, x[1])), "stands there already"),
    (put("utilities.0.index", lambda x: x[:0]), "'utilities.0.index' is empty"),
    (put("utilities.0.rate", lambda x: entry(x, 1, -2)), "rate\\[1\\] = -2.0: must be positive"),
    (put("utilities.0.rate", lambda x: x[:2]), "'utilities.0.rate' has shape"),
    (put("utilities.0.scale", lambda x: entry(x, 0, np.inf)), "'utilities.0.scale' is wrong"),
    (put("constraints.2.query", lambda x: x + 99), "'constraints.2.query' is wrong"),
    (put("constraints.2.factor", lambda x: 0 * x), "'constraints.2.factor' is wrong"),
    (put("constraints.2.level", lambda x: x * np.nan), "'constraints.2.level' is wrong"),
]


@pytest.mark.parametrize(("change", "message"), BAD_PROGRAMS, ids=[m for _, m in BAD_PROGRAMS])
def test_an_edited_program_says_what_is_wrong(change, message, tmp_path):
    path = edit(saved(tmp_path), change)
    with pytest.raises(co.DeclarationError, match=message) as refused:
        co.load(path)
    assert str(path) in str(refused.value)


def test_an_untouched_edit_still_loads(tmp_path):
    path = edit(saved(tmp_path), lambda header, arrays: None)
    assert_same(co.load(path).program, everything().program)


@pytest.mark.parametrize("name", ["SampledTokens", "Tabulated", "BestOfN", "Total"])
def test_families_with_rules_of_their_own_keep_them(name, tmp_path):
    kind = "utilities" if STORED[name].role == "utility" else "curves"
    edits = {
        "SampledTokens": [(put("curves.0.lengths", lambda x: x[:, ::-1]), "must be ascending"),
                          (put("curves.0.lengths", lambda x: x[:, :0]), "must be ascending"),
                          (put("curves.0.lengths", lambda x: -x), "must be ascending")],
        "Tabulated": [(put("utilities.0.grid", lambda x: x[:, ::-1]), "larger than the entry"),
                      (put("utilities.0.grid", lambda x: x[:, 1:]), "has shape"),
                      (put("utilities.0.grid", lambda x: x + 1), "must start at 0"),
                      (head("utilities", 0, "interpolation", to="cubic"), "'cubic'")],
        "BestOfN": [(put("utilities.0.scale", lambda x: 2 * x), "must be 1"),
                    (put("utilities.0.success", lambda x: 20 * x), "success")],
        "Total": [(put("utilities.0.weight.0", lambda x: -x), "must be at least 0"),
                  (put("utilities.0.part.1.threshold", lambda x: x + 60), "convex|S-shaped"),
                  (head("utilities", 0, "parts", to=[]), "a sum has parts"),
                  (put("utilities.0.most", lambda x: 0.5 * x), "below its query's upper bound"),
                  (put("utilities.0.most", lambda x: x[1:]), "has shape"),
                  (head("utilities", 0, "parts", 0, "family", to="Total"), "no part of a sum")],
    }[name]  # fmt: skip
    for change, message in edits:
        path = edit(saved(tmp_path, of_family(name)), change)
        with pytest.raises(co.DeclarationError, match=message) as refused:
            co.load(path)
        assert kind in str(refused.value)


BAD_SOLUTIONS = [
    (head("solution", "status", to="great"), "status = 'great': must be one of"),
    (head("solution", "status", to="infeasible"), "goes without an allocation"),
    (head("solution", "objective", to=99.0), "objective = 99, but the allocation is worth"),
    (head("solution", "objective", to={"float": "nan"}), "but the allocation is worth"),
    (head("solution", "bound", to=0.5), "bound = 0.5 is no bound"),
    (head("solution", "bound", to={"float": "nan"}), "is no bound"),
    (head("solution", "bound", to={"float": "inf"}), "goes with a finite bound"),
    (head("solution", "arrays", to=[]), "goes with an allocation"),
    (head("solution", "statistics", to=[1]), "'statistics' is not a mapping"),
    (head("solution", "feasibility", to={}), "'violation' is missing"),
    (head("solution", "prices", 0, "shape", to="cube"), "shape = 'cube'"),
    (head("solution", "prices", 0, "shape", to="mapping"), "without its labels"),
    (head("solution", to=None), "expected an object"),
    (put("solution.allocation", lambda x: x + 40), "the allocation misses row 0 by"),
    (put("solution.allocation", lambda x: x - 500), "lower bound of query"),
    (put("solution.allocation", lambda x: 0 * x), "utilities\\[\\d\\] = "),
    (put("solution.allocation", lambda x: x * np.nan), "is not finite"),
    (put("solution.allocation", lambda x: x[1:]), "has shape"),
    (put("solution.utilities", lambda x: x + 0.1), "utilities\\[0\\] = "),
    (put("solution.funded", lambda x: ~x), "'funded' does not follow"),
    (put("solution.row_prices", lambda x: x[:0]), "has shape"),
    (put("solution.row_prices", lambda x: x * np.nan), "is not a number"),
    (put("solution.prices.0", lambda x: x * np.nan), "is not a number"),
    (put("solution.marginal_values.0", lambda x: x * np.nan), "is not a number"),
    (head("solution", "bound", to=8.0), "more than the tolerance of 1e-06"),
    (head("solution", "tolerance", to=-1), "tolerance = -1: must be at least 0"),
    (head("solution", "tolerance", to="wide"), "tolerance = 'wide': must be a finite number"),
    (put("solution.prices.0", lambda x: np.r_[x, x]), "has shape"),
    (put("utilities.0.scale", lambda x: 0.5 * x), "utilities\\[\\d\\] = "),
    (put("right_hand_side", lambda x: 0.5 * x), "the allocation misses row 0"),
]


@pytest.mark.parametrize(("change", "message"), BAD_SOLUTIONS, ids=[m for _, m in BAD_SOLUTIONS])
def test_an_edited_solution_is_contradicted_by_its_program(change, message, tmp_path):
    path = edit(saved(tmp_path, solved_simply()), change)
    with pytest.raises(co.DeclarationError, match=message) as refused:
        co.load(path)
    assert str(path) in str(refused.value)


def test_the_tolerance_of_a_proof_is_kept(tmp_path):
    solution = random_problem(3, "floor", whole=True).solve(tolerance=0.05)
    assert (solution.status, solution.tolerance) == ("optimal", 0.05)
    path = saved(tmp_path, solution)
    assert co.load(path).tolerance == 0.05

    def says_nothing(header, arrays):
        del header["solution"]["tolerance"]

    # A file of before: what it proves to the usual tolerance is believed, the rest downgraded.
    assert co.load(edit(saved(tmp_path, solved_simply()), says_nothing)).status == "optimal"
    wide = solved_simply()
    wide = dataclasses.replace(wide, bound=1.01 * wide.objective, tolerance=0.05)
    again = co.load(edit(saved(tmp_path, wide), says_nothing))
    assert again.status == "feasible"
    assert "without the tolerance" in again.message
    assert again.bound == wide.bound


def attempt(path):
    """What the file holds, or None where it is refused as it should be."""
    try:
        return co.load(path)
    except co.DeclarationError as error:
        if str(path) not in str(error):
            raise
        return None


@settings(ROUND_TRIPS, max_examples=100)
@given(data=st.data())
def test_no_edit_crashes(data, tmp_path):
    """Arrays exchanged, cut, filled with anything; entries of the header replaced."""
    path = tmp_path / "solved.npz"
    if not path.exists():
        co.save(random_problem(2, "floor", whole=True).solve(), path)
    bad = tmp_path / "bad.npz"
    bad.write_bytes(path.read_bytes())

    def mischief(header, arrays):
        name, other = (data.draw(st.sampled_from(sorted(arrays))) for _ in "ab")
        value = data.draw(st.sampled_from([0, -1, 2**62, 0.5, math.nan, math.inf, 1e300]))
        with np.errstate(all="ignore"):
            arrays[name] = data.draw(
                st.sampled_from([
                    arrays[other], arrays[name][:-1], np.full(arrays[name].shape, value),
                    np.full(arrays[name].shape, value).astype(arrays[name].dtype),
                    np.array(value), arrays[name][None], arrays[name].astype("S8"),
                ])
            )  # fmt: skip
        inner, key = header, data.draw(st.sampled_from(sorted(header)))
        while isinstance(inner[key], dict | list) and inner[key] and data.draw(st.booleans()):
            inner = inner[key]
            keys = sorted(inner) if isinstance(inner, dict) else range(len(inner))
            key = data.draw(st.sampled_from(list(keys)))
        if data.draw(st.booleans()):
            junk = [None, [], {}, "x", -1, 2**70, 1.5, True, {"tuple": [1]}, [[]], {"numpy": "x"}]
            inner[key] = data.draw(st.sampled_from(junk))

    edit(bad, mischief)
    attempt(bad)


@settings(ROUND_TRIPS, max_examples=100)
@given(data=st.data())
def test_no_damage_crashes(data, tmp_path):
    path = tmp_path / "whole.npz"
    if not path.exists():
        co.save(simple(), path)
    raw = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
    for _ in range(data.draw(st.integers(0, 3))):
        if raw:
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    bad = tmp_path / "bad.npz"
    bad.write_bytes(bytes(raw))
    loaded = attempt(bad)
    if loaded is not None:
        assert_same(loaded.program, simple().program)


# -------------------------------------------------------------------------------- other files
def test_files_that_are_none_of_ours(tmp_path):
    path = tmp_path / "x.npz"
    for content, message in (
        (b"", "not an .npz file"),
        (b"hello", "not an .npz file"),
        (pickle.dumps({"a": 1}), "not an .npz file"),
        (b"PK\x03\x04 and then nothing", "damaged or cut short"),
    ):
        path.write_bytes(content)
        with pytest.raises(co.DeclarationError, match=message):
            co.load(path)
    np.save(tmp_path / "y.npy", np.ones(2))
    (tmp_path / "y.npy").rename(path)
    with pytest.raises(co.DeclarationError, match=r"not an \.npz file"):
        co.load(path)
    for arrays in ({"a": np.ones(2)}, {"header": np.ones(2)}, {"header": np.array("clearopt")}):
        np.savez(path, **arrays)
        with pytest.raises(co.DeclarationError, match="not one of clearopt's"):
            co.load(path)
    for text, message in ((b"{", "not JSON"), (b"[1]", "expected an object"),
                          (b"[" * 10**6, "not JSON"), (b'{"format": "x"}', "not one of clearopt's"),
                          (b'{"format": NaN}', "not JSON")):  # fmt: skip
        np.savez(path, header=np.frombuffer(text, dtype=np.uint8))
        with pytest.raises(co.DeclarationError, match=message):
            co.load(path)


def test_a_newer_version_says_what_this_one_reads(tmp_path):
    path = edit(saved(tmp_path), head("version", to=2))
    with pytest.raises(
        co.DeclarationError, match="version 2 of the file format; this clearopt reads version 1"
    ):
        co.load(path)
    for version in (0, -1, "1", None, 1.0):
        with pytest.raises(co.DeclarationError, match="version"):
            co.load(edit(path, head("version", to=version)))


def test_pickles_are_never_opened(tmp_path):
    witness = tmp_path / "witness"

    class Trap:
        def __reduce__(self):
            return (witness.touch, ())

    path = saved(tmp_path)
    with np.load(path, allow_pickle=False) as found:
        arrays = dict(found)
    for name in ("weight", "header"):
        trapped = arrays | {name: np.array([Trap()] * arrays[name].size, dtype=object)}
        np.savez(path, **trapped)
        with pytest.raises(co.DeclarationError, match=f"'{name}' is damaged"):
            co.load(path)
    assert not witness.exists()
    np.load(path, allow_pickle=True)["header"]
    assert witness.exists()  # the trap would have worked


def test_an_array_that_claims_to_be_huge_is_refused(tmp_path):
    path = saved(tmp_path, simple())
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for shape in (b"(10000000000000,), }", b"(4611686018427387904, 16), }", b"(-1,), }"):
        header = b"{'descr': '<f8', 'fortran_order': False, 'shape': " + shape
        header = header.ljust(117) + b"\n"
        fake = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(40)
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in (members | {"weight.npy": fake}).items():
                archive.writestr(name, content)
        with pytest.raises(co.DeclarationError, match="'weight'"):
            co.load(path)


def test_what_cannot_be_saved(tmp_path):
    class Own(co.CumulativeSurge):
        pass

    tokens = co.Allocation(2, upper=9)
    problem = co.Problem(co.Maximize(co.sum(Own(0.5, 1, 1)(tokens))), [co.sum(tokens) <= 9])
    impostor = type("ShiftedSurge", (co.ShiftedSurge,), {})
    other = co.Problem(co.Maximize(co.sum(impostor(0.5, 1, 1)(tokens))), [co.sum(tokens) <= 9])
    for bad, message in (
        (problem, "Own is not one of clearopt's own families"),
        (other, "ShiftedSurge is not one of clearopt's own"),
        ({"a": 1}, "save\\(dict, ...\\): expected a Problem, a Program or a Solution"),
        (dataclasses.replace(simple().program, weight=-np.ones(5)), "'weight' is wrong at"),
        (dataclasses.replace(simple().program, senses=("<",)), "senses"),
    ):
        with pytest.raises(co.DeclarationError, match=message):
            co.save(bad, tmp_path / "p.npz")
    solution = dataclasses.replace(simple().solve(), objective=7.0)
    with pytest.raises(co.DeclarationError, match=r"cannot be saved.*objective = 7"):
        co.save(solution, tmp_path / "s.npz")
    with pytest.raises(co.DeclarationError, match="expected a Program"):
        save_program(simple(), tmp_path / "p.npz")
    with pytest.raises(co.DeclarationError, match="expected a Solution"):
        save_solution(simple(), tmp_path / "p.npz")
    assert list(tmp_path.iterdir()) == []


def test_a_function_cannot_be_saved(tmp_path):
    utilities = pytest.importorskip("clearopt.utilities")
    if not hasattr(utilities, "Sigmoidal"):
        pytest.skip("no Sigmoidal")
    import jax.numpy as jnp

    tokens = co.Allocation(2, upper=9)
    accuracy = utilities.Sigmoidal(lambda b: 1 - jnp.exp(-b), longest=9)(tokens)
    problem = co.Problem(co.Maximize(co.sum(accuracy)), [co.sum(tokens) <= 9])
    with pytest.raises(co.DeclarationError, match="Sigmoidal holds a Python function"):
        co.save(problem, tmp_path / "p.npz")


def test_content_and_reader_must_agree(tmp_path):
    problem, solution = tmp_path / "p.npz", tmp_path / "s.npz"
    co.save(simple(), problem)
    co.save(simple().solve(), solution)
    with pytest.raises(co.DeclarationError, match="holds a solution: use load_solution"):
        load_program(solution)
    with pytest.raises(co.DeclarationError, match="holds a problem"):
        load_solution(problem)


@pytest.mark.parametrize(
    ("name", "message"),
    [("p.pickle", "named \\*.npz"), ("p", "named \\*.npz"), ("no/p.npz", "cannot write there"),
     ("folder.npz", "could not be written")],
)  # fmt: skip
def test_paths_that_do_not_do(name, message, tmp_path):
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(co.DeclarationError, match=message):
        co.save(simple(), tmp_path / name)
    with pytest.raises(co.DeclarationError, match=r"named|cannot be read"):
        co.load(tmp_path / name)
    with pytest.raises(co.DeclarationError, match="must be a file name"):
        co.load(None)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.npz"]


# -------------------------------------------------------------------------------- atomically
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = saved(tmp_path, simple())
    before = path.read_bytes()

    def full(file, **arrays):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(co.DeclarationError, match=r"could not be written .No space left"):
        co.save(everything(), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_replaced_through_its_link_and_with_the_users_rights(tmp_path):
    path, link = tmp_path / "real.npz", tmp_path / "link.npz"
    path.write_bytes(b"old")
    link.symlink_to(path)
    co.save(simple(), str(link))
    assert link.is_symlink()
    assert_same(co.load(path).program, simple().program)
    before = os.umask(0o027)
    try:
        co.save(simple(), tmp_path / "new.npz")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new.npz").stat().st_mode) == 0o640
