"""Back-ends that misbehave, in a module that another process can import."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

import numpy as np

import clearopt as co
from clearopt.assemble import make_solution
from clearopt.solvers import ALL_FEATURES, SolveOptions


class Hostile(co.Backend):
    """Takes everything; what it does with it is its subclasses' business."""

    name = "hostile"
    summary = "misbehaves"
    supports = ALL_FEATURES
    certifies = "optimum"


class Leaves(Hostile):
    name = "leaves"

    def solve(self, program: co.Program, options: SolveOptions) -> co.Solution:
        os._exit(7)


class Shot(Hostile):
    name = "shot"

    def solve(self, program: co.Program, options: SolveOptions) -> co.Solution:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("still alive")


class Segfaults(Hostile):
    name = "segfaults"

    def solve(self, program: co.Program, options: SolveOptions) -> co.Solution:
        ctypes.string_at(0)
        raise AssertionError("still alive")


class Exits(Hostile):
    name = "exits"

    def solve(self, program: co.Program, options: SolveOptions) -> co.Solution:
        sys.exit("no more")


class Hangs(Hostile):
    """Tells how far it has come, then never ends."""

    name = "hangs"

    def solve(self, program: co.Program, options: SolveOptions) -> co.Solution:
        if options.on_progress is not None:
            options.on_progress(0.0, 0.25, 2.5)
        while True:
            time.sleep(0.01)


class HoldsTheLock(Hostile):
    """Never ends either, inside C code that lets no other Python thread run."""

    name = "holds the lock"

    def solve(self, program: co.Program, options: SolveOptions) -> co.Solution:
        ctypes.PyDLL(None).sleep(600)
        raise AssertionError("woken up")


class Hoards(Hostile):
    name = "hoards"

    def solve(self, program: co.Program, options: SolveOptions) -> co.Solution:
        kept = []
        while len(kept) < 400:  # 4 GB, if nobody ends it
            kept.append(np.ones(10_000_000 // 8))
            time.sleep(0.02)
        raise MemoryError


class Prints(Hostile):
    """Fills standard output with what looks like an answer."""

    name = "prints"

    def solve(self, program: co.Program, options: SolveOptions) -> co.Solution:
        for _ in range(10_000):
            print('{"done": {"seconds": 0.0}}')
        os.write(1, b'{"failed": "it did not"}\n')
        return make_solution(
            program, solver=self.name, seconds=0.0, allocation=program.least, certifies=False
        )


class Lies(Hostile):
    """Returns a solution that its own program contradicts."""

    name = "lies"

    def solve(self, program: co.Program, options: SolveOptions) -> co.Solution:
        honest = make_solution(program, solver=self.name, seconds=0.0, allocation=program.least)
        return type(honest)(**{**vars(honest), "objective": honest.objective + 1.0})


class Settable(Hostile):
    """Has a state of its own, which goes along."""

    name = "settable"

    def __init__(self, message: str) -> None:
        self.message = message

    def solve(self, program: co.Program, options: SolveOptions) -> co.Solution:
        return make_solution(
            program, solver=self.name, seconds=0.0, allocation=program.least, certifies=False,
            message=f"{self.message}, in process {os.getpid()}",
        )  # fmt: skip


class Flaky(Hostile):
    """Crashes at odd seeds."""

    name = "flaky"

    def solve(self, program: co.Program, options: SolveOptions) -> co.Solution:
        if options.seed % 2:
            os._exit(3)
        return make_solution(
            program, solver=self.name, seconds=0.0, allocation=program.least, certifies=False
        )


def concave(tokens):
    """A utility that no file can hold, and another process can import."""
    return tokens / (tokens + 10.0)
