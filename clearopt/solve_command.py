"""`clearopt solve`: the budget of every row of a table, written beside it.

Only what the command line itself needs is imported here; the rest waits until it runs.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearopt.arguments import check_folder_of, check_free, named
from clearopt.errors import DeclarationError

if TYPE_CHECKING:
    from clearopt.solution import Solution
    from clearopt.tables import Table

_DESCRIPTION = """\
Reads one query a row, with the parameters of its utility in columns named after them (scale,
threshold and rate for the default family), shares the budget out, and writes the table with the
columns tokens, expected_accuracy and funded. The optional columns lower, upper, weight and id are
used where they exist.
"""
_EPILOG = """\
examples:
  clearopt solve queries.csv --budget 4e6 --upper 4096
  clearopt solve queries.parquet --family Logistic --column midpoint=half_way --budget 4e6
  clearopt solve queries.csv --budget 4e6 --cap-by tenant=acme:9e5,globex:40% --floor-by tenant=0.3
  clearopt solve queries.csv --set rate=0.05 --budget-of kv_bytes=8e9 --out caps.csv

exit codes: 0 an allocation was written; 1 there is none, or none was found; 2 a bad argument or a
bad table
"""


def add_solve_command(commands: Any) -> None:
    """Add the subcommand to the parsers in `commands`."""
    parser = commands.add_parser(
        "solve",
        help="share a budget among the rows of a table (CSV, TSV, JSON lines, Parquet)",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("table", type=Path, metavar="TABLE",
        help=".csv, .tsv, .parquet, or JSON lines (.jsonl, .ndjson, .json)")  # fmt: skip

    group = parser.add_argument_group("utilities and bounds")
    add = group.add_argument
    add("--family", default="CumulativeSurge", metavar="NAME",
        help="of the utility (CumulativeSurge); another name lists them")  # fmt: skip
    add("--column", type=named, action="append", default=[], metavar="NAME=COLUMN",
        help="the column that has a parameter, lower, upper, weight or id")  # fmt: skip
    add("--set", type=_named_number, action="append", default=[], metavar="NAME=NUMBER",
        dest="constants", help="one number for all rows")  # fmt: skip
    add("--upper", type=_number, metavar="TOKENS",
        help="most tokens of a query; with a column upper, for its empty cells")  # fmt: skip
    whole = group.add_mutually_exclusive_group()
    whole.add_argument("--integer", action="store_true", default=True, dest="integer",
        help="whole tokens (the default)")  # fmt: skip
    whole.add_argument("--continuous", action="store_false", dest="integer",
        help="fractions of tokens too")  # fmt: skip

    add = parser.add_argument_group("limits").add_argument
    add("--budget", type=_number, metavar="TOKENS", help="for all rows together")
    add("--budget-of", type=_named_number, action="append", default=[], metavar="COLUMN=LIMIT",
        dest="budgets_of", help="a limit on what tokens cost in another currency: the sum of "
        "COLUMN times tokens, e.g. kv_bytes=8e9")  # fmt: skip
    add("--cap-by", type=named, action="append", default=[], metavar="COLUMN=CAPS", dest="caps",
        help="tokens of each group of rows: one number for every group, 40%% for a share of the "
        "budget, label:number,label:number, or a file (a table with the columns COLUMN and cap, or "
        "a JSON object)")  # fmt: skip
    add("--floor", type=_number, metavar="ACCURACY", help="mean accuracy over all rows, at least")
    add("--floor-by", type=named, action="append", default=[], metavar="COLUMN=FLOORS",
        dest="floors", help="mean accuracy of each group, at least; written like caps")  # fmt: skip

    add = parser.add_argument_group("solving").add_argument
    add("--solver", default="dual", metavar="NAME", help="as in `clearopt solvers` (dual)")
    add("--tolerance", type=float, default=1e-6, metavar="GAP", help="relative gap (1e-6)")
    add("--time-limit", type=float, default=None, metavar="SECONDS", dest="time_limit",
        help="return the best allocation found by then")  # fmt: skip
    add("--seed", type=int, default=0, help="for solvers that draw at random (0)")

    add = parser.add_argument_group("output").add_argument
    add("--out", type=Path, metavar="PATH",
        help="where to write (beside the table, as STEM.allocation.SUFFIX)")  # fmt: skip
    add("--save-solution", type=Path, metavar="PATH.npz", dest="save_solution",
        help="also keep the solution, for clearopt.load")  # fmt: skip
    add("--force", action="store_true", help="replace files that exist")
    add("--quiet", action="store_true", help="print nothing but errors")


def run(options: argparse.Namespace) -> int:
    """Read, declare, solve, write; returns the exit code."""
    path: Path = options.table
    out = options.out or path.with_name(f"{path.stem}.allocation{path.suffix}")
    _check_targets(options, path, out)

    from clearopt.solve_table import Request, declare
    from clearopt.tables import read_table

    request = Request(
        family=options.family,
        columns=_once("--column", options.column),
        constants=_once("--set", options.constants),
        upper=options.upper,
        integer=options.integer,
        budget=options.budget,
        budgets_of=_once("--budget-of", options.budgets_of),
        caps=list(_once("--cap-by", options.caps).items()),
        floors=list(_once("--floor-by", options.floors).items()),
        floor=options.floor,
    )
    table = read_table(path)
    declared = declare(table, request)
    if not options.quiet:
        for note in declared.notes:
            print(f"clearopt: note: {note}", file=sys.stderr)
    solution = declared.problem.solve(
        options.solver,
        tolerance=options.tolerance,
        time_limit=options.time_limit,
        seed=options.seed,
    )
    written = _write(options, table, declared.numbers, solution, out)
    if not options.quiet:
        print(solution.summary())
        for target in written:
            print(f"Written: {target}")
        if solution.allocation is None:
            print("No allocation, so no table was written.")
    return 0 if solution.allocation is not None else 1


def _write(
    options: argparse.Namespace, table: Table, numbers: list[str], solution: Solution, out: Path
) -> list[Path]:
    written = []
    if solution.allocation is not None:
        assert solution.utilities is not None
        assert solution.funded is not None
        tokens = solution.allocation
        results = {
            "tokens": tokens.round().astype("int64") if options.integer else tokens,
            "expected_accuracy": solution.utilities,
            "funded": solution.funded,
        }
        check_free(out, options.force)  # it may have appeared meanwhile
        table.write(out, results, numbers)
        written.append(out)
    if options.save_solution is not None:
        from clearopt.files import save_solution

        check_free(options.save_solution, options.force)
        save_solution(solution, options.save_solution)
        written.append(options.save_solution)
    return written


# -------------------------------------------------------------------------------- before the work
def _check_targets(options: argparse.Namespace, table: Path, out: Path) -> None:
    """Fail before the work rather than after it."""
    targets = [out] if options.save_solution is None else [out, options.save_solution]
    for target in targets:
        if os.path.realpath(target) == os.path.realpath(table):
            raise DeclarationError(f"{target}: this is the table itself; write somewhere else")
        check_free(target, options.force)
        check_folder_of(target)
    if options.save_solution is not None and options.save_solution.suffix.lower() != ".npz":
        raise DeclarationError(f"--save-solution {options.save_solution}: must end in .npz")


def _once(option: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise DeclarationError(f"{option} {name}=...: given twice")
        found[name] = value
    return found


# -------------------------------------------------------------------------------- arguments
def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not -float("inf") < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return value


def _named_number(text: str) -> tuple[str, float]:
    name, value = named(text)
    return name, _number(value)
