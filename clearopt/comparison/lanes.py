"""Worker processes as their parent sees them: started, given work, and ended without asking."""

from __future__ import annotations

import atexit
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from clearopt.comparison.rows import Outcome, Point

_TICK = 0.1  # seconds between looks at the clock and at the memory
_STARTING = 180.0  # seconds for importing, before the solver's own time begins
_ANSWERING = 120.0  # seconds for writing the answer, after it


@dataclass
class Answer:
    """What came of one piece of work; `done` is what the worker measured, or None."""

    done: dict[str, float] | None
    outcome: Outcome
    message: str
    seconds: float
    curve: list[Point] = field(default_factory=list)


class Worker:
    """One process, used for one piece of work of the same solver after another.

    Of the same: what solvers leave behind in a process (settings, threads, memory) changes others.
    """

    def __init__(self, solver: str, threads: int, verbose: bool) -> None:
        self.key = _key(solver, threads, verbose)
        environment = dict(os.environ)
        environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            environment[name] = str(threads)
        self.process = subprocess.Popen(
            # -P: the folder one happens to stand in is no place to import from.
            [sys.executable, "-P", "-m", "clearopt.comparison.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if verbose else subprocess.DEVNULL,
            env=environment,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )
        self._lines: Queue[str | None] = Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def alive(self) -> bool:
        """Whether it can be given work."""
        return self.process.poll() is None

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with suppress(ValueError, OSError):
            for line in self.process.stdout:
                self._lines.put(line)
        self._lines.put(None)

    def kill(self) -> None:
        """End it, and whatever it has started."""
        with suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def run(
        self, job: dict[str, Any], *, memory: float | None, stop: threading.Event
    ) -> Answer | None:
        """Have it solve; None where it was stopped, or had ended before it heard of the work."""
        assert self.process.stdin is not None
        limit: float | None = job["hard_limit"]
        try:
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()
        except OSError:
            return None
        began = started = time.perf_counter()
        deadline, phase, heard = began + _STARTING, "starting", False
        curve: list[Point] = []
        while True:
            try:
                line = self._lines.get(timeout=_TICK)
            except Empty:
                line = ""
            now = time.perf_counter()
            if stop.is_set():
                self.kill()
                return None
            if line is None:
                code = self.process.wait()
                if not heard and code == 0:
                    return None
                return Answer(None, "crashed", _ended(code), now - started, curve)
            try:
                message = json.loads(line) if line else {}
            except ValueError:  # a back-end wrote to a stream that is not its own
                message = {}
            heard = heard or "heard" in message
            if "started" in message or "again" in message:
                phase, started, curve = "solving", now, []
                deadline = math.inf if limit is None else now + limit
            elif "progress" in message:
                seconds, objective, bound = message["progress"]
                curve.append((seconds, objective, bound))
            elif "solved" in message:
                phase, deadline = "answering", now + _ANSWERING
            elif "done" in message:
                return Answer(message["done"], "ran", "", now - began, curve)
            elif "failed" in message:
                seconds = now - started if phase != "starting" else 0.0
                return Answer(None, "not run", message["failed"], seconds, curve)
            if now > deadline:
                self.kill()
                return Answer(None, "killed", _overdue(phase, job, now - started, curve),
                              now - started, curve)  # fmt: skip
            if memory is not None and self._resident() > memory:
                self.kill()
                said = f"killed: it took more than {memory / 2**30:.3g} GiB of memory"
                return Answer(None, "out of memory", said, now - started, curve)

    def _resident(self) -> float:
        """Bytes of memory it holds; 0 where that cannot be known."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return 0.0
        for line in status.splitlines():
            if line.startswith("VmRSS:"):
                return 1024.0 * float(line.split()[1])
        return 0.0


def _ended(code: int) -> str:
    if code >= 0:
        return f"crashed: its process ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"crashed: its process was ended by {name}"


def _overdue(phase: str, job: dict[str, Any], seconds: float, curve: list[Point]) -> str:
    if phase == "starting":
        return f"killed: it had not begun after {_STARTING:g} s of importing"
    if phase == "answering":
        return f"killed: its answer was not there {_ANSWERING:g} s after it ended"
    said = f"killed after {seconds:.1f} s: its time limit was {job['options']['time_limit']:g} s"
    if curve:
        said += f"; it had come to objective {curve[-1][1]:.9g} and bound {curve[-1][2]:.9g}"
    return said


# ---------------------------------------------------------------------- kept for the next time
_MOST_IDLE = 8
_idle: list[Worker] = []
_lock = threading.Lock()


def _key(solver: str, threads: int, verbose: bool) -> tuple[Any, ...]:
    return (solver, threads, verbose, tuple(sys.path))


def borrow(solver: str, threads: int, verbose: bool) -> Worker:
    """The solver's worker that has nothing to do, or a new one."""
    key = _key(solver, threads, verbose)
    with _lock:
        for worker in [worker for worker in _idle if worker.key == key or not worker.alive]:
            _idle.remove(worker)
            if worker.alive:
                return worker
            worker.kill()
    return Worker(solver, threads, verbose)


def give_back(worker: Worker) -> None:
    """It has answered: kept for a minute, as importing anew takes seconds."""
    with _lock:
        if worker.alive:
            _idle.append(worker)
            if len(_idle) > _MOST_IDLE:
                _idle.pop(0).kill()
        else:
            worker.kill()


@atexit.register
def _end_all() -> None:
    with _lock:
        while _idle:
            _idle.pop().kill()
