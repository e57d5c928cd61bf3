"""`clearopt fit`: from a file of rollouts to a table of curves, or of budgets, by query.

Only what the command line itself needs is imported here; the rest waits until it runs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearopt.arguments import check_folder_of, check_free, named
from clearopt.errors import DeclarationError

if TYPE_CHECKING:
    from clearopt.calibration import FittedCurves, Run
    from clearopt.solution import Solution

_FAMILIES = {
    "lognormal": "Lognormal",
    "cumulative-surge": "CumulativeSurge",
    "shifted-surge": "ShiftedSurge",
}
"""What is fitted -> the family of `clearopt solve`."""

_PICTURES = (".png", ".svg", ".pdf")

_DESCRIPTION = """\
Fits each query's accuracy by cap to a model's own answers, shrunk towards what the other queries'
curves look like, and writes one row a query. With a budget the tokens are shared out as well.
"""
_EPILOG = """\
examples:
  clearopt fit rollouts.parquet --model my-model --budget 400000 --out budgets.csv
  clearopt fit rollouts.csv --out curves.csv
  clearopt solve curves.csv --family Lognormal --budget 400000 --floor 0.3 --out budgets.csv

exit codes: 0 done; 1 no allocation was found; 2 a bad argument, a bad file, or nothing right in it
"""


def add_fit_command(commands: Any) -> None:
    """Add the subcommand to the parsers in `commands`."""
    parser = commands.add_parser(
        "fit",
        help="from a file of rollouts to curves, or budgets, by query",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("file", type=Path, metavar="FILE",
        help="rollouts: .csv, .tsv, .jsonl (these may end in .gz) or .parquet")  # fmt: skip

    add = parser.add_argument_group("rollouts").add_argument
    add("--column", action="append", type=named, default=[], metavar="OURS=THEIRS", dest="columns",
        help="a column of another name, such as tokens=completion_tokens; repeatable")  # fmt: skip
    add("--benchmark", default=None, metavar="NAME", help="where the file has several")
    add("--model", default=None, metavar="NAME", help="where the file has several")

    add = parser.add_argument_group("curves").add_argument
    add("--family", choices=tuple(_FAMILIES), default="lognormal", help="(lognormal)")
    add("--pooling", choices=("partial", "none", "complete"), default="partial",
        help="shrink towards the other queries' curves, fit each alone, or one for all "
        "(partial)")  # fmt: skip

    add = parser.add_argument_group("budget").add_argument
    add("--budget", type=float, default=None, metavar="TOKENS",
        help="share this many out, as the sum of the caps")  # fmt: skip
    add("--realised", action="store_true",
        help="the budget is for the tokens expected to be used, not for the caps")  # fmt: skip
    add("--upper", type=int, default=None, metavar="TOKENS",
        help="largest cap (half as much again as the longest answer)")  # fmt: skip
    add("--time-limit", type=float, default=60.0, metavar="SECONDS", dest="time_limit",
        help="for the allocation (60)")  # fmt: skip

    add = parser.add_argument_group("output").add_argument
    add("--out", type=Path, required=True, metavar="PATH",
        help="a table by query: .csv, .tsv, .jsonl or .parquet")  # fmt: skip
    add("--plot", type=Path, default=None, metavar="PATH",
        help="a picture of how well the curves are calibrated: .png, .svg or .pdf")  # fmt: skip
    add("--force", action="store_true", help="replace a file that exists")
    add("--quiet", action="store_true", help="print nothing but errors")


def run(options: argparse.Namespace) -> int:
    """Read, fit, share out, write; returns the exit code."""
    from clearopt.calibration import fit_curves, read_rollouts
    from clearopt.tables import format_of, write_table

    out: Path = options.out
    format_of(out)
    check_free(out, options.force)
    check_folder_of(out)
    if options.plot is not None:
        _check_picture(options.plot, options.force)
    if options.budget is None and options.realised:
        raise DeclarationError("--realised: is about a budget; give --budget TOKENS")
    traces = read_rollouts(options.file, columns=dict(options.columns))
    selected = traces.select(options.benchmark, options.model)
    fitted = fit_curves(
        selected.rollouts, selected.n, family=options.family, pooling=options.pooling
    )
    if not options.quiet:
        for said in (*traces.notes, *fitted.warnings):
            print(f"clearopt: note: {said}", file=sys.stderr)
        print(f"{selected.name}: {selected.n} curves from {len(selected.rollouts)} rollouts.")
    upper = options.upper or _longest(selected)
    columns = _curves(selected, fitted, upper)
    if options.budget is not None:
        solution = _shared(fitted, selected, options, upper)
        if not options.quiet:
            print(solution.summary())
        if solution.allocation is None:
            return 1
        columns |= {
            "tokens": solution.allocation.round().astype("int64"),
            "expected_accuracy": solution.utilities,
            "funded": solution.funded,
        }
    write_table(columns, out)
    written = [out] if options.plot is None else [out, fitted.plot(options.plot)]
    if not options.quiet:
        for path in written:
            print(f"Written: {path}")
        if options.budget is None:
            family = _FAMILIES[options.family]
            print(f"Budgets: clearopt solve {out} --family {family} --budget TOKENS")
    return 0


def _check_picture(path: Path, force: bool) -> None:
    """Raise before anything is fitted, rather than after it."""
    from clearopt.plots import require_matplotlib

    if path.suffix.lower() not in _PICTURES:
        raise DeclarationError(f"--plot {path}: must end in {', '.join(_PICTURES)}")
    check_free(path, force)
    check_folder_of(path)
    require_matplotlib()


def _curves(selected: Run, fitted: FittedCurves, upper: int) -> dict[str, Any]:
    """What `clearopt solve` takes: the utility's parameters by name, and a largest cap."""
    utilities = fitted.utilities.broadcast(selected.n)
    return {
        "query_id": list(selected.queries),
        "samples": selected.samples,
        **dict(zip(utilities.parameter_names, utilities.parameters, strict=True)),
        "upper": [upper] * selected.n,
    }


def _shared(
    fitted: FittedCurves, selected: Run, options: argparse.Namespace, upper: int
) -> Solution:
    import clearopt as co

    tokens = co.Allocation(selected.n, upper=upper, integer=True, name="tokens")
    spent = co.sum(fitted.cost_curves(tokens)) if options.realised else co.sum(tokens)
    problem = co.Problem(
        co.Maximize(co.sum(fitted.utilities(tokens))), [(spent <= options.budget).named("budget")]
    )
    return problem.solve(time_limit=options.time_limit)


def _longest(selected: Run) -> int:
    return max(1, int(1.5 * float(selected.rollouts.tokens.max())))
