"""A client that can be killed: reads orders, a JSON line each, and runs each in a fork of its own.

    {"url": ..., "out": ..., "budget": ..., "reserve": ..., "limit": bytes of a file or null}

It answers each order with the child's process id, and later with the child's exit code. The child
writes its report into `out`. Nothing is imported anew, so a child starts at once.
"""

import json
import os
import resource
import signal
import sys
from pathlib import Path

import aiohttp  # noqa: F401  # once here, not in every child

from clearopt.runs import ExactMatch, Query, Workload, run
from clearopt.runs.progress import Bar
from clearopt.serving import Server
from tests.runs.workloads import settings

CONCURRENCY = 4


def work(n=60):
    """Queries without curves: nothing has to be compiled."""
    return Workload([Query(f"q{i}", f"need={12 + i % 30} say={i}\n", str(i)) for i in range(n)], 60)


def chosen(**options):
    """Settings that share a budget out in several rounds."""
    return settings(**{"budget": 1200, "rounds": 4, "verify_processes": 1, **options})


def answer(order):
    if order.get("limit"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["limit"], order["limit"]))
    out = Path(order["out"])
    report = run(
        work(),
        Server(order["url"], "stub", concurrency=CONCURRENCY),
        chosen(budget=order["budget"], reserve=order["reserve"]),
        verifier=ExactMatch("####") if order.get("verify") else None,
        out=out,
        watcher=Bar(),  # tells on the standard error that it heard a Ctrl-C
    )
    if not order.get("limit"):
        report.write(out)
    else:  # the disk is full: it is told on the standard output
        print(json.dumps(report.to_dict()["notes"]), file=sys.stderr, flush=True)
    return 0 if report.complete else 4


def main():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            code = 9
            try:
                code = answer(json.loads(line))
            finally:
                os._exit(code)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
