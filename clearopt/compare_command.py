"""`clearopt compare`: saved problems, or the test set, through several solvers, one table.

Only what the command line itself needs is imported here; the rest waits until it runs.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearopt.arguments import check_folder_of, check_free, names
from clearopt.errors import DeclarationError

if TYPE_CHECKING:
    from clearopt.comparison import Comparison
    from clearopt.comparison.run import OnRun
    from clearopt.program import Program
    from clearopt.testset import Instance

_DESCRIPTION = """\
Solves every problem that clearopt.save wrote, or every instance of the public test set that is
named, with every solver, each run in a process of its own that is ended when it is past its time: a
solver that hangs or crashes is a row of the table.
"""
_EPILOG = """\
examples:
  clearopt compare problem.npz
  clearopt compare problems/*.npz --solvers dual,scip,highs --time-limit 60 --html report.html
  clearopt compare testset:small --solvers dual,scip --summary
  clearopt compare problems/*.npz --repeats 5 --processes 1 --out runs.jsonl --csv table.csv

exit codes: 0 done; 1 an allocation lies past another solver's bound, so that one of the two is
wrong; 2 a bad argument or a bad file; 130 interrupted (the table has the runs that had ended)
"""


def add_compare_command(commands: Any) -> None:
    """Add the subcommand to the parsers in `commands`."""
    parser = commands.add_parser(
        "compare",
        help="saved problems through several solvers, side by side",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("instances", nargs="+", metavar="INSTANCE",
        help="a problem or solution in FILE.npz, an instance in FILE.json, all of the test set as "
        "testset, or testset:NAME, a name, a pattern (surge-*) or a tag (small)")  # fmt: skip

    add = parser.add_argument_group("runs").add_argument
    add("--solvers", type=names, default=None, metavar="S,S,...",
        help="as in `clearopt solvers` (dual,scip,highs,cvxpy,uniform)")  # fmt: skip
    add("--time-limit", type=float, default=60.0, metavar="SECONDS", dest="time_limit",
        help="for each run (60)")  # fmt: skip
    add("--tolerance", type=float, default=1e-6, metavar="GAP", help="relative gap (1e-6)")
    add("--repeats", type=int, default=1, metavar="N",
        help="runs of each; the table has the one whose time is the median (1)")  # fmt: skip
    add("--seed", type=int, default=0, help="for solvers that draw at random (0)")
    add("--threads", type=int, default=1, metavar="N", help="for each solver (1)")
    add("--processes", type=int, default=None, metavar="N",
        help="runs at a time (half the cores); 1 for times that nothing disturbs")  # fmt: skip
    add("--memory-limit", type=float, default=None, metavar="GIB", dest="memory_limit",
        help="a run that takes more is ended (its share of the machine's)")  # fmt: skip

    add = parser.add_argument_group("output").add_argument
    add("--summary", action="store_true", help="print one line a solver, over all instances")
    add("--html", type=Path, metavar="PATH", help="a report with plots, in one file")
    add("--csv", type=Path, metavar="PATH", help="the rows")
    add("--json", type=Path, metavar="PATH", help="everything: runs, curves, versions, machine")
    add("--out", type=Path, metavar="PATH",
        help="a journal of the runs; an interrupted comparison is taken up")  # fmt: skip
    add("--force", action="store_true", help="replace files that exist")
    add("--quiet", action="store_true", help="print nothing but errors and contradictions")


def run(options: argparse.Namespace) -> int:
    """Load, compare, print, write; returns the exit code."""
    wanted = {kind: getattr(options, kind) for kind in ("html", "csv", "json")}
    targets = {kind: path for kind, path in wanted.items() if path is not None}
    for target in targets.values():
        check_free(target, options.force)
        check_folder_of(target)

    from clearopt.comparison import compare
    from clearopt.comparison.text import totals

    instances = _instances(options.instances)
    with _progress(options.quiet) as on_run:
        comparison = compare(
            instances,
            options.solvers,
            time_limit=options.time_limit,
            tolerance=options.tolerance,
            repeats=options.repeats,
            seed=options.seed,
            threads=options.threads,
            processes=options.processes,
            memory_limit=options.memory_limit,
            out=options.out,
            on_run=on_run,
        )
    if not options.quiet:
        print(totals(comparison) if options.summary else comparison)
    for kind, target in targets.items():
        written = getattr(comparison, f"to_{kind}")(target)
        if not options.quiet:
            print(f"Written: {written}")
    return _exit_code(comparison, options.quiet)


def _exit_code(comparison: Comparison, quiet: bool) -> int:
    found = comparison.contradictions
    if quiet:
        for sentence in found:
            print(f"clearopt: contradiction: {sentence}", file=sys.stderr)
    if found:
        return 1
    return 0 if comparison.complete else 130


def _instances(given: list[str]) -> dict[str, Program | Instance]:
    """Instances of the test set by their names; files by theirs, with as many of their folders as
    tell them apart."""
    from clearopt import testset
    from clearopt.files import load

    found: dict[str, Program | Instance] = {}
    for which in given:
        if which == "testset" or which.startswith("testset:"):
            pattern = which.partition(":")[2] or "*"
            found |= {name: testset.load(name) for name in testset.names(pattern)}
    files = [Path(which) for which in given if which.partition(":")[0] != "testset"]
    for file, name in zip(files, _told_apart(files), strict=True):
        if name in found:
            raise DeclarationError(f"{file}: the test set has an instance of that name too")
        known = file.name.endswith((".json", ".json.gz"))
        found[name] = testset.load(file) if known else load(file).program
    return found


def _told_apart(files: list[Path]) -> list[str]:
    whole = [file.with_suffix("") for file in files]
    for depth in range(1, max((len(path.parts) for path in whole), default=0) + 1):
        names = ["/".join(path.parts[-depth:]) for path in whole]
        if len(set(names)) == len(names):
            return names
    if not files:
        return []
    twice = next(file for file in files if files.count(file) > 1 or whole.count(file) > 1)
    raise DeclarationError(f"{twice}: is given twice")


@contextmanager
def _progress(quiet: bool) -> Iterator[OnRun | None]:
    """A bar on a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if quiet or not console.is_terminal or os.environ.get("TERM") == "dumb":
        yield None
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
               TimeElapsedColumn())  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("comparing", total=None)

        def on_run(row: Any, ended: int, total: int) -> None:
            seconds = f" {row.seconds:.3g} s" if math.isfinite(row.seconds) else ""
            said = f"{row.instance}, {row.solver}: {row.status or row.outcome}{seconds}"
            bar.update(task, completed=ended, total=total, description=said)

        yield on_run
