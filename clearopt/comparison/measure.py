"""One solve, measured: what is the solver's own time, and what is importing and compiling."""

from __future__ import annotations

import importlib
import math
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from clearopt.program import Program, UtilityBlock
from clearopt.solution import Solution
from clearopt.solvers import Backend, solve_program
from clearopt.utilities import CumulativeSurge

# Compiling for more than this share of a call: it is made again, and measured without.
_MUCH = 0.05
_COMPILING = "/jax/core/compile/backend_compile_duration"
_warm: set[str] = set()
_compiled = 0.0
_listening = False


@dataclass(frozen=True, eq=False)
class Measured:
    """A solution and the seconds of the call: wall, processor, and of these JAX compiling."""

    solution: Solution
    seconds: float
    cpu_seconds: float
    compile_seconds: float


def warm_up(backend: Backend) -> None:
    """Import what the back-end needs; one of clearopt's own solves three queries, too."""
    if backend.name in _warm:
        return
    _warm.add(backend.name)
    for module in backend.modules:
        with suppress(Exception):  # it will say so itself when it solves
            importlib.import_module(module)
    if type(backend).__module__.startswith("clearopt."):
        small = _small_program()
        with suppress(Exception):
            solve_program(small, backend, time_limit=5.0)


def measured(
    load: Callable[[], Program],
    backend: Backend,
    options: dict[str, Any],
    again: Callable[[], None] = lambda: None,
) -> Measured:
    """Solve the program that `load` gives; once more if much of the time went into compiling.

    `again` is called before the second solve. Whatever the back-end raises is raised.
    """
    first = _once(load(), backend, options)
    limit = options.get("time_limit") or math.inf
    if first.compile_seconds > _MUCH * first.seconds and 2 * first.seconds < limit:
        again()
        return _once(load(), backend, options)
    return first


def _once(program: Program, backend: Backend, options: dict[str, Any]) -> Measured:
    _listen()
    compiled, used, started = _compiled, _cpu_seconds(), time.perf_counter()
    solution = solve_program(program, backend, **options)
    seconds = time.perf_counter() - started
    return Measured(solution, seconds, _cpu_seconds() - used, min(_compiled - compiled, seconds))


def _cpu_seconds() -> float:
    """Of this process and the children it has waited for."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def _listen() -> None:
    """Have JAX tell how long it compiles, if it is there."""
    global _listening
    if _listening or "jax" not in sys.modules:
        return
    _listening = True
    import jax.monitoring

    def heard(event: str, duration_secs: float, **_: str | int) -> None:
        global _compiled
        if event == _COMPILING:
            _compiled += duration_secs

    jax.monitoring.register_event_duration_secs_listener(heard)


def _small_program() -> Program:
    n = 3
    surge = CumulativeSurge(np.full(n, 0.9), np.array([5.0, 9.0, 14.0]), np.full(n, 0.2))
    return Program(
        weight=np.ones(n),
        cost=np.zeros(n),
        lower=np.zeros(n),
        upper=np.full(n, 60.0),
        integer=np.zeros(n, dtype=bool),
        utilities=(UtilityBlock(surge, np.arange(n)),),
        rows=sparse.csr_array(np.ones((1, n))),
        senses=("<=",),
        right_hand_side=np.array([50.0]),
        floors=sparse.csr_array((0, n)),
        floor_levels=np.zeros(0),
    )
