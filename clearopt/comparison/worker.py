"""The process that solves: `python -m clearopt.comparison.worker`, started by `lanes`.

A JSON object a line: what to solve on its standard input, what comes of it on its standard output.
It is a process of its own rather than one of `multiprocessing`, whose children run the user's
script again (unless it is guarded) or are forks, in which JAX's threads are missing.
"""

from __future__ import annotations

import faulthandler
import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue
from typing import Any

IDLE_SECONDS = 60.0  # without work for so long, it ends
_LAST_RESORT = 60.0  # past the hard limit: whoever should have ended it is gone


def main() -> None:
    """Serve until standard input ends."""
    # What solvers print is not for the pipe.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lines = os.fdopen(os.dup(0), encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    with suppress(OSError):  # short of memory, this process goes and not the one that waits for it
        Path("/proc/self/oom_score_adj").write_text("1000")
    say = _Speaker(out)
    jobs: Queue[str] = Queue()
    threading.Thread(target=_read, args=(lines, jobs), daemon=True).start()
    while True:
        try:
            line = jobs.get(timeout=IDLE_SECONDS)
        except Empty:
            return
        job = json.loads(line)
        say(heard=True)
        try:
            say(done=_solve(job, say))
        except BaseException as error:  # KeyboardInterrupt, SystemExit: what a back-end raises
            say(failed=str(error) or type(error).__name__)


def _read(lines: Any, jobs: Queue[str]) -> None:
    for line in lines:
        jobs.put(line)
    os._exit(0)  # nobody is left to answer


class _Speaker:
    """Writes one JSON object a line; safe from several threads."""

    def __init__(self, out: Any) -> None:
        self._out, self._lock = out, threading.Lock()

    def __call__(self, **message: Any) -> None:
        with self._lock:
            self._out.write(json.dumps(message) + "\n")
            self._out.flush()


def _solve(job: dict[str, Any], say: Callable[..., None]) -> dict[str, Any]:
    from clearopt.comparison.measure import measured, warm_up
    from clearopt.comparison.transport import Parcel, found
    from clearopt.files import save_answer

    backend = found(job["solver"])
    warm_up(backend)
    parcel = Parcel(Path(job["program"]), job["pickled"], "")
    options = job["options"] | {"on_progress": _thinned(say)}
    if job["hard_limit"] is not None:  # twice: a call may be made again
        wait = 2 * job["hard_limit"] + _LAST_RESORT
        faulthandler.dump_traceback_later(wait, exit=True, file=sys.stderr)
    ready = [parcel.program()]
    say(started=True)

    def load() -> Any:
        # Each call has a fresh one: none profits from what another has worked out.
        return ready.pop() if ready else parcel.program()

    try:
        result = measured(load, backend, options, again=lambda: say(again=True))
    finally:
        faulthandler.cancel_dump_traceback_later()
    say(solved=True)
    save_answer(result.solution, job["answer"])
    return {
        "seconds": result.seconds,
        "cpu_seconds": result.cpu_seconds,
        "compile_seconds": result.compile_seconds,
    }


def _thinned(say: Callable[..., None]) -> Callable[[float, float, float], None]:
    """Progress, at most once a hundredth of the time so far: a few hundred points at any length."""
    last = -math.inf

    def tell(seconds: float, objective: float, bound: float) -> None:
        nonlocal last
        now = time.perf_counter()
        if now - last < max(0.01 * seconds, 1e-3):
            return
        last = now
        say(progress=[seconds, objective, bound])

    return tell


if __name__ == "__main__":
    main()
