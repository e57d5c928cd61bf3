"""Tables are read as they stand, and what is wrong with one is told by line and column."""

import datetime
import gzip
import json
import math
import sys

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import clearopt as co
from clearopt.tables import FORMATS, read_table

PROPERTIES = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
KINDS = ["csv", "tsv", "jsonl", "parquet"]


def write(path, columns):
    """A table in the format of the path, by polars."""
    frame = pl.DataFrame(columns, strict=False)
    if path.suffix == ".parquet":
        frame.write_parquet(path)
    elif path.suffix == ".jsonl":
        frame.write_ndjson(path)
    else:
        frame.write_csv(path, separator="\t" if path.suffix == ".tsv" else ",")
    return path


def refused(path, column="a", **options):
    with pytest.raises(co.DeclarationError) as error:
        read_table(path).numbers(column, **options)
    return str(error.value)


# -------------------------------------------------------------------------------- what is read
@pytest.mark.parametrize("kind", KINDS)
def test_numbers_and_labels_come_out_as_they_went_in(kind, tmp_path):
    path = write(
        tmp_path / f"t.{kind}",
        {"a": [1.5, 0.1, 1e-300], "n": [1, -2, 2**53], "who": ["acme", "b, c", 'd "e"'],
         "when": [datetime.date(2025, 1, day) for day in (1, 2, 3)]},
    )  # fmt: skip
    table = read_table(path)
    assert (table.rows, table.columns) == (3, ["a", "n", "who", "when"])
    np.testing.assert_array_equal(table.numbers("a"), [1.5, 0.1, 1e-300])
    np.testing.assert_array_equal(table.numbers("n"), [1, -2, 2**53])
    assert table.numbers("n").dtype == np.float64
    assert table.labels("who") == ["acme", "b, c", 'd "e"']
    assert table.labels("when") == ["2025-01-01", "2025-01-02", "2025-01-03"]
    assert table.labels("n") == ["1", "-2", "9007199254740992"]


@PROPERTIES
@given(values=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=8))
@pytest.mark.parametrize("kind", KINDS)
def test_every_finite_number_is_read_exactly(kind, values, tmp_path):
    table = read_table(write(tmp_path / f"t.{kind}", {"a": values, "b": values}))
    np.testing.assert_array_equal(table.numbers("a"), values)


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_written_as_text_are_numbers(kind, tmp_path):
    path = write(tmp_path / f"t.{kind}", {"a": ["12", " 1.5 ", "+3e2"]})
    np.testing.assert_array_equal(read_table(path).numbers("a"), [12, 1.5, 300])


def test_decimals_and_categories_of_parquet(tmp_path):
    path = tmp_path / "t.parquet"
    pl.DataFrame({
        "a": pl.Series(["1.25", "3"]).cast(pl.Decimal(10, 2)),
        "c": pl.Series(["x", "y"], dtype=pl.Categorical),
        "f": pl.Series([0.5, 2.0], dtype=pl.Float32),
    }).write_parquet(path)  # fmt: skip
    table = read_table(path)
    np.testing.assert_array_equal(table.numbers("a"), [1.25, 3])
    np.testing.assert_array_equal(table.numbers("f"), [0.5, 2])
    assert table.labels("c") == ["x", "y"]


def test_byte_order_mark_windows_lines_and_blank_lines(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("\ufeffa,b\r\n1,x\r\n\r\n,\r\nbad,y\r\n\r\n".encode())
    table = read_table(path)
    assert (table.columns, table.rows) == (["a", "b"], 2)
    assert "t.csv: line 5, column 'a': 'bad' is text" in refused(path)
    path.write_bytes(b'a\n1\n""\n2\n\n')  # one column: an empty cell is a blank line
    np.testing.assert_array_equal(read_table(path).numbers("a"), [1, 2])


def test_lines_are_counted_across_quoted_line_breaks(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('note,a\n"one\ntwo\n\nthree",1\n"x ""y""\n",2\n' + "n" * 200_000 + ",oops\n")
    assert "line 8, column 'a': 'oops'" in refused(path)
    path.write_text('note,"a\nb"\nx,1\ny,\n')
    assert "line 4, column 'a\\nb': missing" in refused(path, "a\nb")


def test_json_lines_count_blank_lines_too(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('\ufeff{"a": 1}\n\n{"b": 2}\n{"a": 3, "b": "\\u2028"}\n', encoding="utf-8")
    assert "t.jsonl: line 3, column 'a': missing" in refused(path)


def test_parquet_counts_rows(tmp_path):
    path = write(tmp_path / "t.parquet", {"a": [1.0, None, None]})
    assert refused(path).endswith("t.parquet: row 2, column 'a': missing (and in 1 more rows)")


# -------------------------------------------------------------------------------- what is refused
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["1", "many"], "'many' is text, not a number"),
        (["1", "1,000"], "'1,000' is not a plain number: no separators, and a point for decimals"),
        (["1", "0,5"], "'0,5' is not a plain number"),
        (["1", "1 000"], "'1 000' is not a plain number"),
        (["1", "1_000"], "'1_000' is not a plain number"),
        (["1", "0x10"], "'0x10' is text"),
        (["1", "true"], "'true' is text"),
        (["1", None], "missing"),
        (["1", "nan"], "NaN is no number"),
        (["1", "inf"], "must be finite"),
        (["1", "1e999"], "must be finite"),
        (["1", "__import__('os')"], "is text, not a number"),
    ],
)
def test_cells_that_are_no_numbers(kind, cells, message, tmp_path):
    path = write(tmp_path / f"t.{kind}", {"a": cells, "b": ["x", "y"]})
    told = refused(path)
    where = "row 2" if kind == "parquet" else "line 2" if kind == "jsonl" else "line 3"
    assert told.startswith(f"{path}: {where}, column 'a': ")
    assert message in told


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_columns_of_another_type(kind, tmp_path):
    for cells, held in (([True, False], "booleans"), ([[1], [2]], "List"),
                        ([{"x": 1}, {"x": 2}], "Struct")):  # fmt: skip
        path = write(tmp_path / f"t.{kind}", {"a": cells, "b": [1, 2]})
        assert f"the column holds {held}" in refused(path)
    path = write(tmp_path / f"t.{kind}", {"a": [None, None], "b": [1, 2]})
    assert "column 'a': missing (and in 1 more rows)" in refused(path)
    np.testing.assert_array_equal(read_table(path).numbers("a", missing=3.0), [3, 3])


def test_nan_in_parquet_and_infinity_where_allowed(tmp_path):
    path = write(tmp_path / "t.parquet", {"a": [1.0, math.nan], "u": [1.0, math.inf]})
    assert "row 2, column 'a': NaN is no number" in refused(path)
    assert "row 2, column 'u': must be finite" in refused(path, "u")
    np.testing.assert_array_equal(read_table(path).numbers("u", allow_infinite=True), [1, math.inf])


@pytest.mark.parametrize("kind", KINDS)
def test_labels_that_are_missing_or_twice(kind, tmp_path):
    path = write(tmp_path / f"t.{kind}", {"a": ["x", "y", "x"], "b": ["p", None, "q"]})
    table = read_table(path)
    first = {"parquet": 1, "jsonl": 1}.get(kind, 2)
    with pytest.raises(co.DeclarationError, match=f" {first + 1}, column 'b': the label is miss"):
        table.labels("b")
    with pytest.raises(co.DeclarationError, match=f" {first + 2}, column 'a': 'x' stands already"):
        table.require_distinct("a")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "the file is empty"),
        ("t.csv", b"\n\n", "the file is empty"),
        ("t.csv", b"a,b\n", "the table has no rows"),
        ("t.csv", b"a,b\n,\n\n", "the table has no rows"),
        ("t.csv", b"a,b,a\n1,2,3\n", "line 1: two columns are named 'a'"),
        ("t.csv", b"a,b\n1,2\n\n3,4,5\n", "line 4 has 3 fields, the header has 2"),
        ("t.csv", b"a,b\n1,2\n3\n", "line 3 has 1 field, the header has 2"),
        ("t.csv", b"a,b\n1,2\n3,\xff\n", "line 3: not UTF-8 text"),
        ("t.csv", "a,b\n1,2\n".encode("utf-16"), "not UTF-8 text"),
        ("t.csv", b'a,b\n1,"x\n', "could not parse"),
        ("t.tsv", b"a\tb\n1\n", "line 2 has 1 field"),
        ("t.jsonl", b"", "the file is empty"),
        ("t.jsonl", b'{"a": 1}\n{"a": }\n', "line 2: not JSON"),
        ("t.jsonl", b'{"a": 1}\n[1]\n', "line 2: one JSON object a line is expected, got list"),
        ("t.json", b'[\n{"a": 1}]', "line 1: not JSON"),
        ("t.json", b'[{"a": 1}]', "line 1: one JSON object a line is expected, got list"),
        ("t.jsonl", b'{"a": 1}\n{"a": true}\n', "bool"),
        ("t.jsonl", b"\xff\n", "line 1: not UTF-8"),
        ("t.parquet", b"PAR1 and no more", "parquet"),
        ("t.parquet", b"a,b\n1,2\n", "parquet"),
        ("t.xlsx", b"PK", "what kind of table is this"),
        ("t", b"a\n1\n", "what kind of table is this"),
    ],
)
def test_files_that_are_no_tables(name, content, message, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(co.DeclarationError) as error:
        read_table(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_are_not_there(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    for name in ("no.csv", "folder.csv", "*.csv"):
        with pytest.raises(co.DeclarationError, match="cannot be read"):
            read_table(tmp_path / name)


@PROPERTIES
@given(
    content=st.binary(max_size=60) | st.text(alphabet='a1,"\n\t {}:', max_size=40).map(str.encode)
)
@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_no_content_crashes(ending, content, tmp_path):
    path = tmp_path / f"t{ending}"
    path.write_bytes(content)
    try:
        table = read_table(path)
        for column in table.columns:
            table.numbers(column)
    except co.DeclarationError:
        pass


def test_columns_are_looked_for_by_name(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("scale ,Rate,x\n1,2,3\n")
    table = read_table(path)
    for column, message in (
        ("scale", "there is 'scale ', with a space too many: rename it"),
        ("rate", "there is 'Rate', spelled differently"),
        ("tau", "the columns are 'scale ', 'Rate', 'x'"),
    ):
        with pytest.raises(co.DeclarationError, match=message):
            table.require_column(column, "this")
    path.write_text("scale;rate\n1;2\n")
    with pytest.raises(co.DeclarationError, match="is not separated by ','"):
        read_table(path).require_column("scale", "this")


def test_without_polars_the_extra_is_named(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    path.write_text("a\n1\n")
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(co.MissingExtraError, match=r"clearopt\[tables\]"):
        read_table(path)


# -------------------------------------------------------------------------------- what is written
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", KINDS)
def test_the_same_columns_and_the_results(kind, target, tmp_path):
    columns = {"id": ["007", "b, c", "ü\n"], "a": [1.5, 0.1, 3.0], "note": ["x", None, "y"]}
    table = read_table(write(tmp_path / f"t.{kind}", columns))
    results = {
        "tokens": np.array([3, 0, 2**40]),
        "expected_accuracy": np.array([0.1, 0.0, 1 / 3]),
        "funded": np.array([True, False, True]),
    }
    out = tmp_path / f"out.{target}"
    table.write(out, results, ["a"])
    again = read_table(out)
    assert again.columns == ["id", "a", "note", "tokens", "expected_accuracy", "funded"]
    assert again.labels("id") == columns["id"]
    for name in ("tokens", "expected_accuracy"):
        np.testing.assert_array_equal(again.numbers(name), results[name])
    np.testing.assert_array_equal(again.numbers("a"), columns["a"])
    assert again.labels("funded") == ["true", "false", "true"]
    assert again.frame["note"].to_list() == columns["note"]
    if target in ("jsonl", "parquet"):
        assert again.frame.schema["a"] == pl.Float64
        assert again.frame.schema["tokens"] == pl.Int64
        assert again.frame.schema["funded"] == pl.Boolean
    assert {path.name for path in tmp_path.iterdir()} == {f"t.{kind}", f"out.{target}"}


def test_csv_cells_are_written_as_they_were_read(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('id,a,b\n007,1.10,"x, ""y"""\n1e3,.5,\n')
    read_table(path).write(tmp_path / "out.csv", {"tokens": np.array([1, 2])}, ["a"])
    assert (tmp_path / "out.csv").read_text() == (
        'id,a,b,tokens\n007,1.10,"x, ""y""",1\n1e3,.5,,2\n'
    )


def test_what_the_target_cannot_hold_is_an_error(tmp_path):
    path = write(tmp_path / "t.jsonl", {"a": [[1, 2]]})
    with pytest.raises(co.DeclarationError, match=r"out\.csv: .*nested"):
        read_table(path).write(tmp_path / "out.csv", {}, [])
    assert not (tmp_path / "out.csv").exists()
    with pytest.raises(co.DeclarationError, match="cannot write there"):
        read_table(path).write(tmp_path / "no" / "out.jsonl", {}, [])


def test_every_ending_is_read(tmp_path):
    for ending, kind in FORMATS.items():
        path = tmp_path / f"t{ending.upper()}"
        if kind == "parquet":
            pl.DataFrame({"a": [1]}).write_parquet(path)
        else:
            path.write_text(json.dumps({"a": 1}) if kind == "jsonl" else "a\n1\n")
        np.testing.assert_array_equal(read_table(path).numbers("a"), [1])


# -------------------------------------------------------------------------------- flags, gzip
@pytest.mark.parametrize("kind", KINDS)
def test_flags_come_out_as_they_went_in(kind, tmp_path):
    path = write(
        tmp_path / f"t.{kind}",
        {"a": [True, False, True], "n": [1, 0, 1], "w": ["Yes", "no", " TRUE "]},
    )
    table = read_table(path)
    for column in ("a", "n", "w"):
        np.testing.assert_array_equal(table.flags(column), [True, False, True])


def test_a_gzipped_table_is_read_and_its_lines_are_counted(tmp_path):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"a\n1\n\n2\nx\n"))
    assert "t.csv.gz: line 5, column 'a': 'x' is text" in refused(path)
