"""`clearopt run` and `clearopt serve`: answer the queries of a table within a budget of tokens.

Only what the command line itself needs is imported here; the rest waits until it runs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearopt.arguments import check_writable, named
from clearopt.errors import DeclarationError

if TYPE_CHECKING:
    from clearopt.runs import Settings, Workload
    from clearopt.runs.abandonment import Abandonment
    from clearopt.runs.verifiers import Verifier
    from clearopt.serving import Server
    from clearopt.serving.endpoint import Endpoint
    from clearopt.serving.reasoning import Reasoning

_DESCRIPTION = """\
Shares a budget of generated tokens out among the queries of a table, has them answered by vLLM in
this process or behind a URL, shares out again what early finishers leave, and reports what became
of every query. The table has a row a query, with the columns prompt and, where known, id and
answer; the parameters of each query's utility stand in columns as for `clearopt solve`. Without
them the tokens are shared evenly.
"""
_EPILOG = """\
examples:
  clearopt serve reasoner --port 8000
  clearopt run queries.csv --budget 20000 --server http://localhost:8000 --verify numeric
  clearopt run queries.jsonl --budget 4e6 --reserve 4e5 --server https://gpu:8000/v1 --chat \\
      --reasoning 512 --verify math --unfunded fallback:64
  clearopt run queries.csv --budget 20000 --model reasoner --unfunded queue:later.jsonl

The server's key is read from the environment variable VLLM_API_KEY (see --key-variable). A run that
was killed is taken up again by the same command. Exit codes: 0 every query came to its end; 1 it
stopped before, and the same command goes on from there; 2 a bad argument or a bad table; 130
interrupted.
"""


def add_run_command(commands: Any) -> None:
    """Add the subcommands to the parsers in `commands`."""
    parser = commands.add_parser(
        "run",
        help="answer the queries of a table within a budget, through vLLM or a server",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("table", type=Path, metavar="QUERIES",
        help=".csv, .tsv, .jsonl or .parquet")  # fmt: skip

    add = parser.add_argument_group("engine").add_argument
    add("--server", metavar="URL", action="append", dest="servers",
        help="OpenAI-compatible, such as `clearopt serve`; several are replicas")  # fmt: skip
    add("--model", metavar="MODEL", help="with --server its name there (the only one); else what "
        "vLLM loads in this process: reasoner, smollm2, a folder, a name on the hub")  # fmt: skip
    add("--key-variable", default="VLLM_API_KEY", metavar="NAME", dest="key_variable",
        help="environment variable with the server's key (VLLM_API_KEY)")  # fmt: skip
    add("--concurrency", type=int, default=256, metavar="N",
        help="requests at once, of each server (256)")  # fmt: skip
    add("--idle-timeout", type=float, default=120.0, metavar="SECONDS", dest="idle_timeout",
        help="without a sign of life, until an answer is given up (120)")  # fmt: skip
    add("--request-timeout", type=float, metavar="SECONDS", dest="request_timeout",
        help="for one attempt (none)")  # fmt: skip
    add("--patience", type=float, default=600.0, metavar="SECONDS",
        help="with a server overloaded or out of reach, until the run stops (600)")  # fmt: skip

    add = parser.add_argument_group("budget").add_argument
    add("--budget", type=_whole, required=True, metavar="TOKENS", help="generated, of all queries")
    add("--reserve", type=_whole, default=0, metavar="TOKENS",
        help="of it, kept to ask again with where an answer is lost on the way (0)")  # fmt: skip
    add("--lost", choices=("charge", "ignore"), default="charge",
        help="whether attempts whose answers never came count at their caps (charge)")  # fmt: skip
    add("--rounds", type=int, default=3, help="times that left-over tokens are shared again (3)")
    add("--unfunded", default="skip", metavar="WHAT",
        help="skip, fallback:TOKENS (short answers), queue:PATH, cheaper:TOKENS")  # fmt: skip
    add("--cheaper-server", metavar="URL", dest="cheaper_server", help="for cheaper:TOKENS")
    add("--cheaper-model", metavar="MODEL", dest="cheaper_model", help="its name there")
    add("--time-limit", type=float, metavar="SECONDS", dest="time_limit", help="for the whole run")

    add = parser.add_argument_group("utilities, as for `clearopt solve`").add_argument
    add("--family", default="CumulativeSurge", metavar="NAME", help="(CumulativeSurge)")
    add("--column", type=named, action="append", default=[], metavar="NAME=COLUMN",
        help="the column that has a parameter, upper, weight, id, prompt or answer")  # fmt: skip
    add("--set", type=named, action="append", default=[], metavar="NAME=NUMBER", dest="constants",
        help="one number for all rows")  # fmt: skip
    add("--upper", type=_whole, default=4096, metavar="TOKENS", help="most of a query (4096)")
    add("--cap-by", type=named, action="append", default=[], metavar="COLUMN=CAPS", dest="caps",
        help="tokens of each group of rows")  # fmt: skip
    add("--floor-by", type=named, action="append", default=[], metavar="COLUMN=FLOORS",
        dest="floors", help="mean accuracy of each group, at least")  # fmt: skip

    add = parser.add_argument_group("generation").add_argument
    add("--seed", type=int, default=0, help="of the sampling (0)")
    add("--temperature", type=float, default=1.0, help="of the sampling (1)")
    add("--stop", action="append", default=[], metavar="TEXT", help="that ends an answer")
    add("--chat", action="store_true", help="put prompts into the model's chat template")
    _add_reasoning(add)

    add = parser.add_argument_group("verifier").add_argument
    add("--verify", metavar="NAME", help="exact, numeric, choice, math, or FILE.py:FUNCTION, "
        "which gets a query and a text and returns a score from 0 to 1")  # fmt: skip
    add("--mark", metavar="TEXT", help="the answer stands after its last occurrence, e.g. '####'")
    add("--tolerance", type=float, default=1e-9, help="relative, for numeric (1e-9)")
    add("--score-cut", action="store_true", dest="score_cut",
        help="an answer that was cut at its cap may be right too")  # fmt: skip
    add("--verify-seconds", type=float, default=10.0, metavar="SECONDS", dest="verify_seconds",
        help="for one answer (10)")  # fmt: skip

    add = parser.add_argument_group("output").add_argument
    add("--out", type=Path, metavar="DIR",
        help="for journal, report and answers (beside the table, as STEM.run)")  # fmt: skip
    add("--quiet", action="store_true", help="print nothing but errors")


def add_serve_command(commands: Any) -> None:
    """Add the subcommand to the parsers in `commands`."""
    parser = commands.add_parser(
        "serve",
        help="start vLLM's OpenAI-compatible server, with settings that work here",
        description="Starts vLLM's own server in this terminal; Ctrl-C ends it. On a machine "
        "without a GPU it chooses settings that work there. What follows -- is handed on to vLLM.",
    )
    parser.set_defaults(run=serve)
    add = parser.add_argument
    add("model", metavar="MODEL", help="reasoner, smollm2, a folder, or a name on the hub")
    add("--host", default="127.0.0.1", help="(127.0.0.1)")
    add("--port", type=int, default=8000, help="(8000)")
    _add_reasoning(add)
    add("options", nargs="*", metavar="-- OPTIONS", help="of vLLM's server")


def _add_reasoning(add: Any) -> None:
    add("--reasoning", type=int, metavar="TOKENS",
        help="the model thinks first: of each cap, so many are kept for its answer")  # fmt: skip
    add("--think-start", default="<think>", metavar="TEXT", dest="think_start")
    add("--think-end", default="</think>", metavar="TEXT", dest="think_end")


# -------------------------------------------------------------------------------- serve
def serve(options: argparse.Namespace) -> int:
    """Start the server and wait for its end; returns its exit code."""
    from clearopt.serving.launch import server_command

    command, environment = server_command(
        options.model,
        host=options.host,
        port=options.port,
        reasoning=_reasoning(options),
        options=options.options,
    )
    print(" ".join(command), file=sys.stderr, flush=True)
    if os.name == "posix":
        os.execve(command[0], command, environment)
    return subprocess.call(command, env=environment)


# -------------------------------------------------------------------------------- run
def run(options: argparse.Namespace) -> int:
    """Read, plan, generate, report; returns the exit code."""
    out: Path = options.out or options.table.with_name(f"{options.table.stem}.run")
    settings = _settings(options)
    verifier = _verifier(options)
    work = _workload(options)
    endpoint = _endpoint(options)
    abandonment = _abandonment(options)
    check_writable(out)

    from clearopt.runs.progress import Bar, Silent
    from clearopt.runs.running import run as run_workload

    report = run_workload(
        work,
        endpoint,
        settings,
        verifier=verifier,
        abandonment=abandonment,
        out=out,
        watcher=Silent() if options.quiet else Bar(),
    )
    written = report.write(out)
    if not options.quiet:
        print(report.summary())
        for path in written:
            print(f"Written: {path}")
    if report.complete:
        return 0
    return 130 if "interrupted" in report.notes else 1


def _settings(options: argparse.Namespace) -> Settings:
    from clearopt.runs import Retries, Settings

    return Settings(
        budget=options.budget,
        reserve=options.reserve,
        rounds=options.rounds,
        seed=options.seed,
        temperature=options.temperature,
        stop=tuple(options.stop),
        chat=options.chat,
        reasoning=_reasoning(options),
        charge_lost=options.lost == "charge",
        request_timeout=options.request_timeout,
        time_limit=options.time_limit,
        retries=Retries(patience=options.patience),
        score_cut=options.score_cut,
        verify_seconds=options.verify_seconds,
    )


def _reasoning(options: argparse.Namespace) -> Reasoning | None:
    from clearopt.serving.reasoning import Reasoning

    if options.reasoning is None:
        return None
    return Reasoning(options.reasoning, options.think_start, options.think_end)


def _workload(options: argparse.Namespace) -> Workload:
    from clearopt.runs import Query, Workload
    from clearopt.solve_table import Request, curves, has_curves
    from clearopt.tables import read_table

    table = read_table(options.table)
    columns = dict(options.column)
    names = {name: columns.pop(name, name) for name in ("id", "prompt", "answer")}
    table.require_column(names["prompt"], "the prompts")
    prompts = table.labels(names["prompt"])
    if names["id"] in table.columns:
        table.require_distinct(names["id"])
        keys = table.labels(names["id"])
    else:
        keys = [str(row) for row in range(table.rows)]
    known = names["answer"] in table.columns
    answers = table.labels(names["answer"]) if known else [None] * table.rows
    rest = table.frame.drop(set(names.values()) & set(table.columns)).to_dicts()
    queries = [Query(*found) for found in zip(keys, prompts, answers, rest, strict=True)]
    request = Request(
        family=options.family,
        columns=columns,
        constants={name: _number(name, text) for name, text in options.constants},
        upper=options.upper,
        budget=options.budget,
        caps=options.caps,
        floors=options.floors,
    )
    if not has_curves(table, request):
        if options.caps or options.floors:
            raise DeclarationError("--cap-by and --floor-by need utilities")
        if not options.quiet:
            print(
                f"clearopt: note: no parameters of {options.family} in {options.table}: tokens are "
                "shared evenly; `clearopt fit` makes them from sampled answers", file=sys.stderr,
            )  # fmt: skip
        return Workload(queries, options.upper)
    found = curves(table, request)
    if not options.quiet:
        for note in found.notes:
            print(f"clearopt: note: {note}", file=sys.stderr)
    limited = options.caps or options.floors
    return Workload(
        queries,
        found.upper,
        found.utilities,
        found.weight,
        found.constraints if limited else None,
    )


def _endpoint(options: argparse.Namespace) -> Endpoint:
    from clearopt.serving import Engine, Replicas

    if not options.servers:
        if options.model is None:
            raise DeclarationError("who is to answer? give --server URL or --model MODEL")
        engine = Engine(options.model, seed=options.seed, **_told_marks(options))
        engine.concurrency = options.concurrency
        return engine
    servers = [_server(options, url, options.model) for url in options.servers]
    return servers[0] if len(servers) == 1 else Replicas(servers)


def _server(options: argparse.Namespace, url: str, model: str | None) -> Server:
    from clearopt.serving import Server

    return Server(
        url,
        model,
        key_variable=options.key_variable,
        concurrency=options.concurrency,
        idle_timeout=options.idle_timeout,
    )


def _told_marks(options: argparse.Namespace) -> dict[str, Any]:
    """What vLLM in this process needs to limit the thinking."""
    reasoning = _reasoning(options)
    if reasoning is None:
        return {}
    marks = {"reasoning_start_str": reasoning.start, "reasoning_end_str": reasoning.end}
    return {"reasoning_config": marks}


def _abandonment(options: argparse.Namespace) -> Abandonment:
    from clearopt.runs import Cheaper, Fallback, Queue, Skip

    kind, _, detail = options.unfunded.partition(":")
    if kind == "skip" and not detail:
        return Skip()
    if kind == "queue" and detail:
        path = Path(detail)
        if not path.parent.is_dir():
            raise DeclarationError(f"--unfunded {options.unfunded}: there is no folder for it")
        return Queue(path)
    if kind in ("fallback", "cheaper") and detail.isdigit():
        if kind == "fallback":
            return Fallback(int(detail))
        if options.cheaper_server is None:
            raise DeclarationError("--unfunded cheaper:TOKENS needs --cheaper-server URL")
        server = _server(options, options.cheaper_server, options.cheaper_model)
        return Cheaper(server, int(detail))
    raise DeclarationError(
        f"--unfunded {options.unfunded}: write skip, fallback:TOKENS, queue:PATH or cheaper:TOKENS"
    )


def _verifier(options: argparse.Namespace) -> Verifier | None:
    from clearopt.runs import verifiers

    name: str | None = options.verify
    if name is None:
        return None
    if name == "exact":
        return verifiers.ExactMatch(options.mark)
    if name == "numeric":
        return verifiers.Numeric(options.mark, relative=options.tolerance)
    if name == "choice":
        return verifiers.MultipleChoice(mark=options.mark)
    if name == "math":
        return verifiers.Mathematics()
    path, colon, function = name.rpartition(":")
    if colon and path.endswith(".py"):
        return verifiers.FromFile(str(Path(path).resolve()), function)
    raise DeclarationError(
        f"--verify {name}: known are exact, numeric, choice, math, and FILE.py:FUNCTION"
    )


# -------------------------------------------------------------------------------- arguments
def _whole(text: str) -> int:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value < 2**53 or value != int(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of tokens")
    return int(value)


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise DeclarationError(f"--set {name}={text}: not a number") from None
