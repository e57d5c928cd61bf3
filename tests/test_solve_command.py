"""`clearopt solve`: the command gives what the same problem written in Python gives."""

import subprocess
import sys

import numpy as np
import polars as pl
import pytest

import clearopt as co
from clearopt.cli import main
from clearopt.solve_table import families
from clearopt.tables import read_table

N = 30
RNG = np.random.default_rng(4)
COLUMNS = {
    "id": [f"q{i}" for i in range(N)],
    "scale": RNG.uniform(0.4, 1.0, N).round(3).tolist(),
    "threshold": RNG.uniform(5, 60, N).round(1).tolist(),
    "rate": RNG.uniform(0.05, 0.2, N).round(4).tolist(),
    "tenant": [("acme", "globex", "initech")[i % 3] for i in range(N)],
    "kv_bytes": RNG.uniform(1, 3, N).round(2).tolist(),
    "prompt": [f'say "{i}",\nplease' for i in range(N)],
}
KINDS = ["csv", "tsv", "jsonl", "parquet"]


@pytest.fixture
def table(tmp_path):
    return write(tmp_path / "queries.csv")


def write(path, **changed):
    """The example table, some of its columns changed, or left out where None."""
    columns = {k: v for k, v in (COLUMNS | changed).items() if v is not None}
    frame = pl.DataFrame(columns, strict=False)
    {
        ".csv": frame.write_csv,
        ".tsv": lambda p: frame.write_csv(p, separator="\t"),
        ".jsonl": frame.write_ndjson,
        ".parquet": frame.write_parquet,
    }[path.suffix](path)
    return path


def solve(*arguments):
    return main(["solve", *map(str, arguments)])


def result(path):
    return read_table(path.with_name(f"{path.stem}.allocation{path.suffix}"))


def refusal(capsys, *arguments):
    """The one line that the command says before it exits with 2."""
    assert solve(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("clearopt: error: ")
    assert len(captured.err.splitlines()) == 1
    return captured.err.removeprefix("clearopt: error: ").rstrip("\n")


def by_hand(integer=True, **bounds):
    """The table's allocation and accuracies, in Python."""
    tokens = co.Allocation(N, integer=integer, **bounds)
    accuracy = co.CumulativeSurge(*(COLUMNS[k] for k in ("scale", "threshold", "rate")))(tokens)
    return tokens, accuracy


def assert_allocates(path, problem):
    solution = problem.solve()
    found = result(path)
    np.testing.assert_array_equal(found.numbers("tokens"), solution.allocation)
    np.testing.assert_array_equal(found.numbers("expected_accuracy"), solution.utilities)
    assert found.labels("funded") == ["true" if f else "false" for f in solution.funded]
    return solution


# -------------------------------------------------------------------------------- what it does
@pytest.mark.parametrize("kind", KINDS)
def test_a_budget(kind, tmp_path, capsys):
    path = write(tmp_path / f"queries.{kind}")
    assert solve(path, "--budget", "900", "--upper", 300) == 0
    tokens, accuracy = by_hand(upper=300)
    problem = co.Problem(co.Maximize(co.sum(accuracy)), [(co.sum(tokens) <= 900).named("budget")])
    solution = assert_allocates(path, problem)
    told = capsys.readouterr()
    assert told.err == ""
    lines, expected = told.out.splitlines(), solution.summary().splitlines()
    assert lines[1:-1] == expected[1:]  # the first has the seconds
    assert lines[-1] == f"Written: {tmp_path / f'queries.allocation.{kind}'}"
    found = result(path)
    assert found.columns == [*COLUMNS, "tokens", "expected_accuracy", "funded"]
    for name, values in COLUMNS.items():
        if isinstance(values[0], str):
            assert found.labels(name) == values
        else:
            np.testing.assert_array_equal(found.numbers(name), values)


def test_every_limit_at_once(table):
    arguments = ["--budget", "900", "--upper", "300", "--budget-of", "kv_bytes=1700",
                 "--cap-by", "tenant=acme:40%,globex:250,initech:inf", "--floor", "0.05",
                 "--floor-by", "tenant=acme:0.02,globex:3%,initech:0"]  # fmt: skip
    assert solve(table, *arguments, "--quiet", "--save-solution", table.with_name("s.npz")) == 0
    tokens, accuracy = by_hand(upper=300)
    tenant = COLUMNS["tenant"]
    caps = {"acme": 360, "globex": 250, "initech": np.inf}
    problem = co.Problem(
        co.Maximize(co.sum(accuracy)),
        [
            (co.sum(tokens) <= 900).named("budget"),
            (np.array(COLUMNS["kv_bytes"]) @ tokens <= 1700).named("kv_bytes budget"),
            (co.sum(tokens, by=tenant) <= caps).named("tenant cap"),
            (co.mean(accuracy) >= 0.05).named("floor"),
            (co.mean(accuracy, by=tenant) >= {"acme": 0.02, "globex": 0.03, "initech": 0}).named(
                "tenant floor"
            ),
        ],
    )
    solution = assert_allocates(table, problem)
    loaded = co.load(table.with_name("s.npz"))
    np.testing.assert_array_equal(loaded.allocation, solution.allocation)
    assert loaded.prices == solution.prices
    assert list(loaded.prices) == [
        "budget", "kv_bytes budget", "tenant cap", "floor", "tenant floor",
    ]  # fmt: skip


def test_bounds_weights_and_names_of_columns(tmp_path):
    lower = [5 if i % 4 == 0 else 0 for i in range(N)]
    upper = [None if i % 5 == 0 else 100 + i for i in range(N)]
    weight = [1 + i % 3 for i in range(N)]
    path = write(
        tmp_path / "q.csv", lower=lower, most=upper, weight=weight, scale=None,
        maximum=COLUMNS["scale"], id=None, name=COLUMNS["id"],
    )  # fmt: skip
    assert solve(path, "--budget", 700, "--column", "scale=maximum", "--column", "upper=most",
                 "--upper", 200, "--column", "id=name", "--continuous") == 0  # fmt: skip
    tokens, accuracy = by_hand(
        integer=False, lower=lower, upper=[200.0 if u is None else u for u in upper]
    )
    problem = co.Problem(
        co.Maximize(np.array(weight) @ accuracy), [(co.sum(tokens) <= 700).named("budget")]
    )
    assert_allocates(path, problem)


def test_constants(tmp_path, capsys):
    path = write(tmp_path / "q.csv", rate=None)
    assert solve(path, "--set", "rate=0.1", "--set", "upper=250", "--set", "scale=0.5",
                 "--budget", 600) == 0  # fmt: skip
    assert "scale = 0.5 for every row; the column 'scale' is not used" in capsys.readouterr().err
    tokens = co.Allocation(N, upper=250, integer=True)
    accuracy = co.CumulativeSurge(0.5, COLUMNS["threshold"], 0.1)(tokens)
    assert_allocates(
        path, co.Problem(co.Maximize(co.sum(accuracy)), [(co.sum(tokens) <= 600).named("budget")])
    )


def test_one_cap_for_every_group_replaces_a_budget(table):
    assert solve(table, "--cap-by", "tenant=200", "--upper", "300") == 0
    spent = result(table).numbers("tokens").reshape(-1, 3).sum(axis=0)
    assert (spent <= 200).all()
    assert (spent > 150).all()


def test_caps_from_files(table, tmp_path):
    caps = tmp_path / "caps.csv"
    caps.write_text("tenant,who,cap\nglobex,b,150\nacme,a,20%\ninitech,c,inf\n")
    floors = tmp_path / "floors.json"
    floors.write_text('{"acme": 0.01, "globex": 0.02, "initech": 0}')
    assert solve(table, "--budget", 800, "--upper", 300, "--cap-by", f"tenant={caps}",
                 "--floor-by", f"tenant={floors}") == 0  # fmt: skip
    spent = result(table).numbers("tokens").reshape(-1, 3).sum(axis=0)
    assert spent[0] <= 160
    assert spent[1] <= 150
    assert spent[2] > 400


def test_groups_that_are_numbers_or_booleans(tmp_path):
    path = write(
        tmp_path / "q.parquet", level=[i % 2 for i in range(N)], vip=[i % 5 == 0 for i in range(N)]
    )
    assert solve(path, "--cap-by", "level=0:300,1:200", "--cap-by", "vip=true:120,false:inf",
                 "--upper", 200) == 0  # fmt: skip
    tokens = result(path).numbers("tokens")
    assert tokens[::2].sum() <= 300
    assert tokens[1::2].sum() <= 200
    assert tokens[::5].sum() <= 120


@pytest.mark.parametrize("family", ["ShiftedSurge", "Logistic", "Hill", "Lognormal", "BestOfN"])
def test_other_families(family, tmp_path):
    assert family in families()
    parameters = {
        "ShiftedSurge": ["scale", "threshold", "rate"], "Logistic": ["scale", "midpoint", "rate"],
        "Hill": ["scale", "half", "power"], "Lognormal": ["scale", "median", "spread"],
        "BestOfN": ["success", "tokens_per_sample"],
    }[family]  # fmt: skip
    values = {
        "scale": COLUMNS["scale"], "threshold": COLUMNS["threshold"], "rate": COLUMNS["rate"],
        "midpoint": COLUMNS["threshold"], "half": COLUMNS["threshold"],
        "median": COLUMNS["threshold"], "spread": [0.2 + 0.1 * (i % 5) for i in range(N)],
        "power": [2 + i % 3 for i in range(N)], "success": RNG.uniform(0.1, 0.9, N).tolist(),
        "tokens_per_sample": [10 + i for i in range(N)],
    }  # fmt: skip
    columns = {name: values[name] for name in parameters}
    path = tmp_path / "q.parquet"
    pl.DataFrame(columns, strict=False).write_parquet(path)
    assert solve(path, "--family", family, "--budget", 600, "--upper", 300) == 0
    import clearopt.utilities as utilities

    tokens = co.Allocation(N, upper=300, integer=True)
    accuracy = getattr(utilities, family)(**columns)(tokens)
    assert_allocates(
        path, co.Problem(co.Maximize(co.sum(accuracy)), [(co.sum(tokens) <= 600).named("budget")])
    )


def test_the_solver_and_its_options(table, capsys):
    arguments = ["--solver", "uniform", "--tolerance", "0.01", "--time-limit", "5", "--seed", "1"]
    assert solve(table, "--budget", 900, "--upper", 300, *arguments) == 0
    assert capsys.readouterr().out.startswith("feasible (uniform")
    assert len(set(result(table).numbers("tokens"))) <= 2


def test_infeasible_is_exit_code_1_and_writes_no_table(table, capsys):
    arguments = [table, "--budget", 300, "--upper", 300, "--floor-by", "tenant=0.3"]
    assert solve(*arguments) == 1
    told = capsys.readouterr().out
    assert told.startswith("infeasible")
    assert "no table was written" in told
    assert [path.name for path in table.parent.iterdir()] == ["queries.csv"]
    assert solve(*arguments, "--quiet", "--save-solution", table.with_name("s.npz")) == 1
    assert capsys.readouterr().out == ""
    assert co.load(table.with_name("s.npz")).status == "infeasible"


def test_out_in_another_format_has_numbers(table, tmp_path):
    out = tmp_path / "elsewhere.parquet"
    assert solve(table, "--budget", 900, "--upper", 300, "--out", out, "--quiet") == 0
    schema = pl.read_parquet(out).schema
    assert schema["rate"] == schema["expected_accuracy"] == pl.Float64
    assert schema["tokens"] == pl.Int64
    assert schema["funded"] == pl.Boolean
    assert schema["id"] == pl.String
    assert not table.with_name("queries.allocation.csv").exists()


def test_existing_files_are_kept_without_force(table, tmp_path, capsys):
    out, kept = tmp_path / "queries.allocation.csv", tmp_path / "s.npz"
    for path in (out, kept):
        path.write_text("mine")
        told = refusal(capsys, table, "--budget", 900, "--save-solution", kept)
        assert told == f"{path}: exists already; --force replaces it"
        assert path.read_text() == "mine"
        path.unlink()
    out.write_text("mine")
    assert solve(table, "--budget", 900, "--upper", 300, "--force", "--quiet") == 0
    assert result(table).rows == N


def test_a_file_that_appears_meanwhile_is_kept(table, monkeypatch, capsys):
    out = table.with_name("queries.allocation.csv")
    honest = co.Problem.solve

    def slow(self, *arguments, **options):
        out.write_text("mine")
        return honest(self, *arguments, **options)

    monkeypatch.setattr(co.Problem, "solve", slow)
    assert "exists already" in refusal(capsys, table, "--budget", 900, "--upper", 300)
    assert out.read_text() == "mine"


def test_its_own_output_is_no_input(table, capsys):
    assert solve(table, "--budget", 900, "--upper", 300, "--quiet") == 0
    told = refusal(capsys, table.with_name("queries.allocation.csv"), "--budget", 900)
    assert "it has a column 'tokens' already" in told


# -------------------------------------------------------------------------------- what it refuses
def changed(name, row, value):
    cells = list(COLUMNS[name])
    cells[row] = value
    return {name: cells}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (changed("rate", 3, -0.1), [], "column 'rate': rate = -0.1: must be positive (1/tokens"),
        (changed("scale", 3, -2), [], "column 'scale': scale = -2.0: must be at least 0"),
        (changed("rate", 3, None), [], "column 'rate': missing"),
        (changed("tenant", 3, None), ["--cap-by", "tenant=40%"], "'tenant': the label is missing"),
        (changed("id", 3, "q0"), [], "column 'id': 'q0' stands already on "),
        (changed("id", 3, None), [], "column 'id': the label is missing"),
        (changed("kv_bytes", 3, -1), ["--budget-of", "kv_bytes=9"],
         "column 'kv_bytes': -1: a charge per token is at least 0"),
        ({"weight": [-1.0 if i == 3 else 1.0 for i in range(N)]}, [],
         "column 'weight': -1: a weight is at least 0"),
        ({"upper": [-5 if i == 3 else 90 for i in range(N)]}, [],
         "column 'upper': upper = -5.0: must be at least 0 tokens"),
        ({"upper": [None if i == 3 else 90 for i in range(N)]}, [], "column 'upper': missing"),
        ({"lower": [95 if i == 3 else 0 for i in range(N)]}, ["--upper", "90"],
         "upper = 90.0: lies below the lower bound of the same query"),
        ({"lower": [0.2] * 3 + [0.4] + [0.0] * 26, "upper": [1.0] * 3 + [0.6] + [5.0] * 26}, [],
         "upper = 0.6: leaves no whole number of tokens"),
    ],
)  # fmt: skip
def test_bad_cells_are_told_by_file_row_and_column(
    kind, change, arguments, message, tmp_path, capsys
):
    path = write(tmp_path / f"q.{kind}", prompt=["x"] * N, **change)
    told = refusal(capsys, path, "--budget", 900, *arguments)
    assert told.startswith(f"{path}: {'row 4' if kind == 'parquet' else 'line 5'}")
    assert message in told


def test_a_line_is_the_line_of_the_file(tmp_path, capsys):
    path = write(tmp_path / "q.csv", **changed("rate", 3, "fast"))  # prompts take two lines each
    told = refusal(capsys, path, "--budget", 900)
    assert told == f"{path}: line 8, column 'rate': 'fast' is text, not a number"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing limits the tokens: give --budget TOKENS, --budget-of COLUMN=LIMIT"),
        (["--budget", "-1"], "budget"),
        (["--budget", "9", "--column", "scale=best"], "no column 'best' for --column scale=best"),
        (["--budget", "9", "--column", "slope=rate"], "--column slope=...: CumulativeSurge is"),
        (["--budget", "9", "--set", "id=3"], "--set id=...: CumulativeSurge is declared with"),
        (["--budget", "9", "--set", "rate=1", "--column", "rate=rate"], "rate: give --column or"),
        (["--budget", "9", "--set", "rate=1", "--set", "rate=2"], "--set rate=...: given twice"),
        (["--budget", "9", "--set", "rate=-1"], "rate = -1.0: must be positive"),
        (["--budget", "9", "--set", "weight=-1"], "--set weight=-1: a weight is at least 0"),
        (["--budget", "9", "--set", "upper=1", "--upper", "2"], "--upper or --set upper"),
        (["--budget", "9", "--family", "Hill"], "no column 'half' for Hill"),
        (["--budget", "9", "--family", "Tabulated"], "known are CumulativeSurge, ShiftedSurge"),
        (["--budget", "9", "--family", "os.system"], "--family os.system: known are"),
        (["--budget", "9", "--column", "upper=prompt"], "column 'prompt': 'say"),
        (["--budget-of", "bytes=9"], "there is no column 'bytes' for --budget-of"),
        (["--cap-by", "who=9"], "there is no column 'who' for --cap-by"),
        (["--cap-by", "tenant=0.4"], "a share of the budget is written 40%"),
        (["--cap-by", "tenant=40%"], "of which budget? Give --budget"),
        (["--budget", "9", "--cap-by", "tenant=140%"], "between 0 % and 100 %"),
        (["--cap-by", "tenant=many"], "--cap-by tenant=many: 'many' is not a number"),
        (["--cap-by", "tenant=-5"], "a cap is at least 0 tokens"),
        (["--cap-by", "tenant=nan"], "must be finite"),
        (["--cap-by", "tenant=acme:9"], "nothing for 'globex', 'initech' ("),
        (["--cap-by", "tenant=acme:9,acme:8"], "'acme' stands there twice"),
        (["--cap-by", "tenant=acme:9,globex:x,initech:1"], "'globex': 'x' is not a number"),
        (["--cap-by", "tenant=acme:9,globex"], "'globex' is not label:number"),
        (["--cap-by", "tenant=acme:9,globex:9,initech:9,umbrella:9"], "has no 'umbrella'; it has"),
        (["--cap-by", "tenant=no.csv"], "no.csv: cannot be read"),
        (["--cap-by", "tenant=no.json"], "no.json: cannot be read"),
        (["--cap-by", "tenant=5", "--cap-by", "tenant=6"], "--cap-by tenant=...: given twice"),
        (["--budget", "9", "--floor", "30"], "30: a mean accuracy lies between 0 and 1"),
        (["--budget", "9", "--floor-by", "tenant=-0.1"], "a mean accuracy lies between 0 and 1"),
        (["--budget", "900", "--floor-by", "tenant=0.99"], "out of reach"),
        (["--budget", "9", "--solver", "magic"], "unknown solver 'magic'"),
        (["--budget", "9", "--tolerance", "-1"], "tolerance = -1.0"),
        (["--budget", "9", "--time-limit", "0"], "time_limit = 0.0"),
        (["--budget", "9", "--seed", "-1"], "seed = -1"),
        (["--budget", "9", "--out", "/no/such/folder/x.csv"], "cannot write there"),
        (["--budget", "9", "--out", "/"], "is a folder"),
        (["--budget", "9", "--out", "x.xlsx"], "what kind of table is this?"),
        (["--budget", "9", "--save-solution", "x.pickle"], "must end in .npz"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)  # fmt: skip
def test_bad_arguments(arguments, message, table, capsys, monkeypatch):
    monkeypatch.chdir(table.parent)
    assert message in refusal(capsys, table, *arguments)
    assert [path.name for path in table.parent.iterdir()] == ["queries.csv"]


def test_the_table_itself_is_never_replaced(table, capsys):
    before = table.read_bytes()
    told = refusal(capsys, table, "--budget", 9, "--out", table, "--force")
    assert "this is the table itself" in told
    assert table.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ("scale,threshold,rate\n", "the table has no rows"),
        ("scale,threshold,rate,rate\n1,2,3,4\n", "line 1: two columns are named 'rate'"),
        ("scale,threshold,rate \n1,2,3\n", "'rate ' has a space too many: rename it to 'rate'"),
        ("scale,threshold,rate,upper \n1,2,3,4\n", "'upper ' has a space too many"),
        ("scale,threshold,Rate\n1,2,3\n", "no column 'rate' for CumulativeSurge; there is 'Rate'"),
        ("scale;threshold;rate\n1;2;3\n", "is not separated by ','"),
        ('scale,threshold,rate\n0.5,"1,000",0.1\n', "line 2, column 'threshold': '1,000' is not"),
    ],
)
def test_bad_tables(content, message, tmp_path, capsys):
    path = tmp_path / "q.csv"
    path.write_text(content)
    told = refusal(capsys, path, "--budget", 900)
    assert told.startswith(str(path))
    assert message in told


def test_notes_tell_what_is_not_used_and_what_is_odd(tmp_path, capsys):
    path = write(tmp_path / "q.csv", Weight=[1] * N, prompt=["x"] * N, **changed("scale", 3, 1.5))
    assert solve(path, "--budget", 900, "--upper", 300) == 0
    told = capsys.readouterr().err
    assert "note: the column 'Weight' is not used; if it is meant, --column weight=Weight" in told
    assert f"note: {path}: line 5, column 'scale': scale = 1.5 is above 1" in told
    assert solve(path, "--budget", 900, "--upper", 300, "--quiet", "--force") == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "arguments",
    [["--budget", "many"], ["--budget", "nan"], ["--set", "rate"], ["--cap-by", "tenant"],
     ["--budget-of", "kv=x"], ["--integer", "--continuous"]],
)  # fmt: skip
def test_what_argparse_refuses_exits_2(arguments, table, capsys):
    with pytest.raises(SystemExit) as stopped:
        solve(table, *arguments)
    assert stopped.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_without_polars_the_extra_is_named(table, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "polars", None)
    assert solve(table, "--budget", 900) == 1
    assert "pip install 'clearopt[tables]'" in capsys.readouterr().err


def test_help_loads_nothing_heavy():
    script = (
        "import sys, atexit\n"
        "atexit.register(lambda: print([m for m in ('jax', 'scipy', 'numpy', 'polars') "
        "if m in sys.modules]))\n"
        "from clearopt.cli import main\nmain(['solve', '--help'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "--cap-by COLUMN=CAPS" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
