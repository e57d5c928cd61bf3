"""The console command `clearopt`. Heavy imports wait until a subcommand needs them."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clearopt import __version__
from clearopt.arguments import check_writable, fractions, names
from clearopt.compare_command import add_compare_command
from clearopt.errors import ClearoptError, DeclarationError, MissingExtraError
from clearopt.fit_command import add_fit_command
from clearopt.replay_command import add_replay_command
from clearopt.run_command import add_run_command, add_serve_command
from clearopt.solve_command import add_solve_command

if TYPE_CHECKING:
    from clearopt.confirmation.narrator import Narrator
    from clearopt.confirmation.report import Report

PICTURE_NAME = "accuracy.png"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code.

    0: done (also where vLLM is missing and only declare, solve and check could run). 1: something
    failed on the way. 2: bad arguments. 130: interrupted.
    """
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        code: int = options.run(options)
        return code
    except KeyboardInterrupt:
        print("clearopt: interrupted", file=sys.stderr)
        return 130
    except ClearoptError as error:
        print(f"clearopt: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, DeclarationError | LookupError) else 1


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="clearopt",
        description="Declare how scarce inference tokens are shared among queries, and get the "
        "provably best allocation.",
    )
    parser.add_argument("--version", action="version", version=f"clearopt {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    solvers = commands.add_parser("solvers", help="which solvers there are and what they can do")
    solvers.set_defaults(run=_solvers)
    add_solve_command(commands)
    add_compare_command(commands)
    add_fit_command(commands)
    add_replay_command(commands)
    add_run_command(commands)
    add_serve_command(commands)

    confirm = commands.add_parser(
        "confirm",
        help="declare, solve, check, and confirm on a real model through vLLM",
        description="Declares a batch of reasoning queries with a token budget, solves it exactly, "
        "checks the answer with other solvers, generates every policy's allocation through vLLM on "
        "a real model, and reports how many more answers are right than under a uniform cap. "
        "Without vLLM it stops before generating.",
    )
    confirm.set_defaults(run=_confirm)
    add = confirm.add_argument
    quiet = argparse.SUPPRESS  # as a default: not given, then the setting's own default holds
    add("--quick", action="store_true", help="fewer queries, for a first look (a minute or two)")
    add("--queries", type=int, default=quiet, help="evaluation queries (500; quick: 200)")
    add("--calibration", type=int, default=quiet, help="calibration queries (300; quick: 200)")
    add("--samples", type=int, default=quiet, help="rollouts a calibration query (4; quick: 3)")
    add("--fractions", type=fractions, default=quiet, metavar="F,F,...",
        help="budgets as shares of ample (0.1,0.2,0.4,0.8)")  # fmt: skip
    add("--policies", type=names, default=quiet, metavar="P,P,...",
        help="who shares the budget out (uniform,time-share,price,dual); uniform, the baseline, "
        "is always among them")  # fmt: skip
    add("--seed", type=int, default=quiet, help="of tasks, answers and intervals (0)")
    add("--model", default=quiet, metavar="MODEL",
        help="reasoner (shipped), smollm2, a folder, or a name on the hub (reasoner)")  # fmt: skip
    add("--longest", type=int, default=quiet, metavar="TOKENS",
        help="most tokens one answer may have (400)")  # fmt: skip
    add("--time-limit", type=float, default=quiet, metavar="SECONDS", dest="time_limit",
        help="for each allocation a solver computes (20)")  # fmt: skip
    add("--check-queries", type=int, default=quiet, metavar="N", dest="check_queries",
        help="size of the sub-problem other solvers check; 0 leaves it out (12)")  # fmt: skip
    add("--check-seconds", type=float, default=quiet, metavar="SECONDS", dest="check_seconds",
        help="for each solver in the check (10; quick: 5)")  # fmt: skip
    add("--out", type=Path, default=None, metavar="DIR",
        help="for report.json and the picture; an interrupted run is taken up again")  # fmt: skip
    add("--no-plot", action="store_true", dest="no_plot", help="draw no picture")
    add("--plan-only", action="store_true", dest="plan_only",
        help="declare, solve and check, generate nothing")  # fmt: skip
    return parser


def _confirm(options: argparse.Namespace) -> int:
    from clearopt.confirmation.settings import QUICK, Settings

    given = {
        name: getattr(options, name)
        for name in Settings.__dataclass_fields__
        if hasattr(options, name)
    }
    settings = Settings(**{**(QUICK if options.quick else {}), **given})
    out: Path | None = options.out
    if out is not None:
        check_writable(out)
    # Libraries below warn about each other's plans; none of it is for who runs this command.
    warnings.simplefilter("ignore", FutureWarning)
    warnings.simplefilter("ignore", DeprecationWarning)

    from clearopt.confirmation.experiment import rehearse, run_confirmation
    from clearopt.confirmation.narrator import Narrator
    from clearopt.serving.environment import INSTALL_HINT, vllm_installed

    narrator = Narrator()
    missing = not vllm_installed()
    if missing:
        narrator.note(
            "vLLM is not installed, so nothing will be generated: declare, solve and check run on "
            f"utilities calibrated beforehand. To confirm them: {INSTALL_HINT}"
        )
    if missing or options.plan_only:
        report = rehearse(settings, narrator=narrator)
    else:
        report = run_confirmation(settings, out=out, narrator=narrator)
    narrator.result(report)
    if not report.confirmed:
        narrator.note(
            "The confirmation was not run: these are plans, and 'expected' is what the utilities "
            "promise." + (f" Install vLLM to run it: {INSTALL_HINT}" if missing else "")
        )
    if out is not None:
        _write(report, out, narrator, picture=not options.no_plot)
    elif report.confirmed:
        narrator.note("Give --out DIR for report.json and a picture.")
    return 0 if report.complete else 130


def _write(report: Report, out: Path, narrator: Narrator, *, picture: bool) -> None:
    narrator.note(f"Written: {report.write(out)}")
    if not picture or not any(row.accuracy is not None for row in report.rows):
        return
    from clearopt.plots import plot_accuracy

    try:
        narrator.note(f"Written: {plot_accuracy(report, out / PICTURE_NAME)}")
    except MissingExtraError as error:  # the numbers are there: no reason to fail
        narrator.note(f"No picture: {error}")


def _solvers(_: argparse.Namespace) -> int:
    import clearopt as co

    print(co.solvers())
    return 0


if __name__ == "__main__":
    sys.exit(main())
