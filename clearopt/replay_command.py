"""`clearopt replay`: every policy over a range of budgets, on rollouts recorded before.

Only what the command line itself needs is imported here; the rest waits until it runs.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearopt.arguments import check_writable, fractions, named, names
from clearopt.errors import MissingExtraError

if TYPE_CHECKING:
    from clearopt.confirmation.narrator import Narrator
    from clearopt.replay.report import Report

PAGE_NAME = "replay.html"

_DESCRIPTION = """\
Replays recorded rollouts: what would each policy have answered right under a smaller budget?
A file has one row for each sampled answer: query_id, tokens and correct, and where known
benchmark, model, sample_id and finished. Curves are fitted on samples that are not scored, or
predicted for queries that are not looked at; the two are kept apart.
"""
_EPILOG = """\
examples:
  clearopt replay rollouts.parquet
  clearopt replay rollouts.csv --column tokens=completion_tokens --out report
  clearopt replay rollouts.parquet --split query --predict-from others
  clearopt replay rollouts.parquet --model my-model --stream drifting

exit codes: 0 done; 1 no run could be evaluated; 2 a bad argument or a bad file; 130 interrupted
(what was finished is shown, and with --out taken up by the same command)
"""


def add_replay_command(commands: Any) -> None:
    """Add the subcommand to the parsers in `commands`."""
    parser = commands.add_parser(
        "replay",
        help="recorded rollouts: what each policy would have answered under a budget",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("file", type=Path, metavar="FILE",
        help="rollouts: .csv, .tsv, .jsonl (these may end in .gz) or .parquet")  # fmt: skip

    quiet = argparse.SUPPRESS  # as a default: not given, then the setting's own default holds
    add = parser.add_argument_group("rollouts").add_argument
    add("--column", action="append", type=named, default=[], metavar="OURS=THEIRS", dest="columns",
        help="a column of another name, such as tokens=completion_tokens; repeatable")  # fmt: skip
    add("--benchmark", default=quiet, metavar="NAME", help="this one alone")
    add("--model", default=quiet, metavar="NAME", help="this one alone")

    add = parser.add_argument_group("evaluation").add_argument
    add("--budgets", type=fractions, dest="fractions", default=quiet, metavar="F,F,...",
        help="shares of ample (0.05,0.1,0.2,0.4,0.6)")  # fmt: skip
    add("--policies", type=names, default=quiet, metavar="P,P,...",
        help="uniform and time-share are always there "
        "(proportional,price,dual,dual-unpooled,oracle)")  # fmt: skip
    add("--ablations", action="store_true",
        help="also dual on other curves: both surges, triangular, quadratic")  # fmt: skip
    add("--accounting", choices=("planned", "realised", "both"), default="both",
        help="what budgets are counted in: caps, or tokens really used (both)")  # fmt: skip
    add("--split", choices=("sample", "query", "both"), default="both",
        help="fit each query on half of its samples, or predict it from others; the latter needs "
        "one of the next two (both)")  # fmt: skip
    add("--features", default=quiet, metavar="FILE",
        help="a table by query_id, whose numbers curves are predicted from")  # fmt: skip
    add("--predict-from", dest="predict_from", default=quiet, metavar="MODEL",
        help="predict curves from this model's rollouts on the same queries; 'others' for all of "
        "the others together")  # fmt: skip
    add("--predictor", default=quiet, metavar="NAME",
        help="design, ridge or boosting (design)")  # fmt: skip
    add("--estimates", default=quiet, metavar="FILE",
        help="a table by query_id of the tokens that the model itself thinks it needs, column "
        "'estimate', for the policy tale-ep")  # fmt: skip
    add("--stream", default=quiet, metavar="MIX",
        help="draw streams of queries: balanced, easy-heavy, hard-heavy or drifting")  # fmt: skip
    add("--length", type=int, default=quiet, metavar="N", help="queries in a stream (500)")
    add("--repeats", type=int, default=quiet, metavar="N", help="draws of each split (2)")
    add("--seed", type=int, default=quiet, help="of splits, streams and intervals (0)")
    add("--time-limit", type=float, default=quiet, metavar="SECONDS", dest="time_limit",
        help="for each allocation (60)")  # fmt: skip
    add("--processes", type=int, default=None, metavar="N",
        help="runs at a time (as many as there are cores)")  # fmt: skip

    add = parser.add_argument_group("output").add_argument
    add("--out", type=Path, metavar="DIR",
        help="for report.json, a page and pictures; an interrupted replay is taken up")  # fmt: skip
    add("--no-plot", action="store_true", dest="no_plot", help="draw no pictures")
    add("--quiet", action="store_true", help="print nothing but errors")


def run(options: argparse.Namespace) -> int:
    """Read, replay, print, write; returns the exit code."""
    from clearopt.replay.settings import Settings

    settings = Settings(**_settings(options))
    out: Path | None = options.out
    if out is not None:
        check_writable(out)

    from clearopt.calibration import read_rollouts
    from clearopt.confirmation.narrator import Narrator
    from clearopt.replay import replay
    from clearopt.replay.text import show

    processes = options.processes or (os.cpu_count() or 1)
    narrator = Narrator.silent() if options.quiet else Narrator()
    traces = read_rollouts(options.file, columns=dict(options.columns))
    report = replay(traces, settings, out=out, narrator=narrator, processes=processes)
    show(report, narrator.console)
    if out is not None:
        _write(report, out, narrator, pictures=not options.no_plot)
    elif not options.quiet:
        narrator.note("Give --out DIR for report.json, a page and pictures.")
    if not report.complete:
        return 130
    return 0 if report.rows else 1


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    from clearopt.replay.policies import ABLATIONS, DEFAULT_POLICIES
    from clearopt.replay.settings import Settings

    given = {
        name: getattr(options, name)
        for name in Settings.__dataclass_fields__
        if hasattr(options, name)
    }
    if options.ablations:
        given["policies"] = (*given.get("policies", DEFAULT_POLICIES), *ABLATIONS)
    if options.accounting != "both":
        given["accountings"] = (options.accounting,)
    if options.split != "both":
        given["splits"] = (options.split,)
    return given


def _write(report: Report, out: Path, narrator: Narrator, *, pictures: bool) -> None:
    from clearopt.replay.html import to_html
    from clearopt.replay.pictures import plot_replay

    narrator.note(f"Written: {report.write(out)}")
    narrator.note(f"Written: {to_html(report, out / PAGE_NAME)}")
    if not pictures or not report.rows:
        return
    try:
        for path in plot_replay(report, out):
            narrator.note(f"Written: {path}")
    except MissingExtraError as error:  # the numbers are there: no reason to fail
        narrator.note(f"No picture: {error}")
