"""The checks: optima that are known, and conduct that is expected of every back-end."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

import clearopt as co
from clearopt.errors import DeclarationError, UnsupportedProblemError
from clearopt.program import Program
from clearopt.solution import Solution
from clearopt.solvers import ALL_FEATURES, SolveOptions, solve_program
from clearopt.solvers.base import Backend
from clearopt.solvers.capabilities import missing_features
from clearopt.testing.instances import INSTANCES, Instance, named
from clearopt.testing.process import fingerprint, process_state, unprinted
from clearopt.testing.report import Check, NotApplicable, Trial

_COMMON = ("tolerance", "time_limit", "seed", "threads", "verbose", "warm_start")


def require(holds: bool, text: str) -> None:
    """An assertion that no `python -O` leaves out."""
    if not holds:
        raise AssertionError(text)


def checks() -> tuple[Check, ...]:
    """All of them, in the order in which they run."""
    return tuple(Check(name, body) for name, body in _all())


def _all() -> Iterator[tuple[str, Callable[[Trial], None]]]:
    yield "class data", _class_data
    for instance in INSTANCES:
        yield instance.name, _of(instance)
    yield "unsupported features are refused first", _refused
    yield "options", _options
    yield "an unknown option is refused", _unknown_option
    yield "a tolerance is kept to", _tolerance
    yield "a time limit leaves incumbent and bound", _time_limit
    yield "hardly any time", _hardly_any_time
    yield "the same seed, the same allocation", _seed
    yield "a warm start never hurts", _warm_start
    yield "a useless warm start", _useless_warm_start
    yield "the program is left alone", _left_alone
    yield "solutions share nothing", _share_nothing
    yield "no global state is changed", _global_state
    yield "nothing is printed unless asked for", _silent


# ------------------------------------------------------------------------- known optima
def _of(instance: Instance) -> Callable[[Trial], None]:
    def body(trial: Trial) -> None:
        program = instance.declare()
        trial.takes(program)
        _as_known(trial, instance, program, trial.solve(program))

    return body


def _as_known(trial: Trial, instance: Instance, program: Program, solution: Solution) -> None:
    """What a back-end may say of a problem whose truth is known, by what it certifies."""
    certifies, status, best = trial.backend.certifies, solution.status, instance.best
    if instance.outcome != "optimum":
        allowed: set[str] = {instance.outcome}
        if certifies != "optimum":
            allowed.add("unknown")
        if certifies != "optimum" and instance.outcome == "unbounded":
            allowed.add("feasible")  # some allocation, and no bound
            require(math.isinf(solution.bound), f"is unbounded, but the bound is {solution.bound}")
        require(status in allowed, f"is {instance.outcome}, but {status!r}: {solution.message}")
        return
    value, bound = program.sign * solution.objective, program.sign * solution.bound
    size = max(abs(best), 1e-300)
    off = trial.config.accuracy * max(size, abs(program.offset))
    if solution.allocation is not None:
        require(value <= best + off, f"objective {value:.10g} beats the optimum {best:.10g}")
    if certifies != "nothing" or math.isfinite(bound):
        require(bound >= best - off, f"bound {bound:.10g} below the optimum {best:.10g}")
    if certifies == "optimum":
        require(status == "optimal", f"{status!r}, not optimal: {solution.message}")
        short = best - value
        require(
            short <= trial.config.tolerance * size + off,
            f"'optimal' at {value:.10g}; the optimum is {best:.10g}",
        )
    elif certifies == "bound":
        require(status in ("optimal", "feasible", "unknown"), f"feasible, but {status!r}")
        require(math.isfinite(bound), f"no bound: {solution.message}")
    else:
        require(status in ("feasible", "unknown"), f"certifies nothing, but says {status!r}")


# ------------------------------------------------------------------------- what it declares
def _class_data(trial: Trial) -> None:
    backend = trial.backend
    require(bool(backend.name and backend.summary), "name and summary must be words")
    unknown = sorted(set(backend.supports) - ALL_FEATURES)
    require(not unknown, f"supports {unknown}, which are no features")
    require(
        backend.certifies in ("optimum", "bound", "nothing"),
        f"certifies = {backend.certifies!r}: 'optimum', 'bound' or 'nothing'",
    )
    taken = sorted(set(backend.own_options) & set(_COMMON))
    require(not taken, f"own_options {taken} are options that all back-ends have")
    require(isinstance(backend.is_available(), bool), "is_available() must be a bool")


class _Untouchable(Backend):
    """Has the capabilities of another back-end, and must not be asked to solve."""

    name, summary = "untouchable", "never solves"

    def __init__(self, backend: Backend) -> None:
        self.asked = False
        for key in ("name", "summary", "supports", "certifies", "own_options"):
            setattr(self, key, getattr(backend, key))

    def solve(self, program: Program, options: SolveOptions) -> Solution:
        self.asked = True
        raise AssertionError("asked to solve")


def _refused(trial: Trial) -> None:
    refused = 0
    for instance in INSTANCES:
        program = instance.declare()
        missing = sorted(missing_features(program, trial.backend.supports))
        if not missing:
            continue
        refused += 1
        stand_in = _Untouchable(trial.backend)
        for backend in (stand_in, trial.backend):
            try:
                solve_program(program, backend, time_limit=trial.config.time_limit)
            except UnsupportedProblemError as error:
                for feature in missing:
                    require(feature in str(error), f"{feature!r} is not named: {error}")
            else:
                raise AssertionError(f"took {instance.name!r}, which needs {missing}")
        require(not stand_in.asked, "refused only after work")
    if not refused:
        raise NotApplicable("takes all of them")


# ------------------------------------------------------------------------- options
def _taken(trial: Trial, name: str) -> Program:
    """The instance of that name, of whole tokens where the back-end takes no others."""
    return _as_taken(trial, named(name).declare())


def _as_taken(trial: Trial, program: Program) -> Program:
    if "fractional tokens" in trial.backend.supports:
        return program
    whole = np.ones(program.n, dtype=np.bool_)
    lower, upper = np.ceil(program.lower), np.floor(program.upper)
    return replace(program, integer=whole, lower=lower, upper=upper)


def _options(trial: Trial) -> None:
    program = _taken(trial, "one budget")
    earlier = trial.solve(program)
    solution = trial.solve(
        program, tolerance=1e-4, time_limit=trial.config.time_limit, seed=7, threads=2,
        verbose=False, warm_start=earlier,
    )  # fmt: skip
    require(solution.tolerance == 1e-4, f"tolerance {solution.tolerance} is not the one given")
    for wrong in ({"tolerance": -1.0}, {"time_limit": 0.0}, {"seed": -1}, {"threads": 0}):
        try:
            solve_program(program, trial.backend, **wrong)
        except DeclarationError:
            continue
        raise AssertionError(f"takes {wrong}")


def _unknown_option(trial: Trial) -> None:
    program = _taken(trial, "one budget")
    try:
        solve_program(program, trial.backend, no_such_option=1)
    except UnsupportedProblemError as error:
        require("no_such_option" in str(error), f"does not name the option: {error}")
    else:
        raise AssertionError("takes an option that does not exist")


def _tolerance(trial: Trial) -> None:
    fractional = "fractional tokens" in trial.backend.supports
    instance = named("one budget" if fractional else "one budget, whole tokens")
    program = instance.declare()
    for tolerance in (0.05, 0.0):
        solution = trial.solve(program, tolerance=tolerance, time_limit=min(
            trial.config.time_limit, 5.0))  # fmt: skip
        if trial.backend.certifies == "optimum" and tolerance:
            require(solution.status == "optimal", f"{solution.status!r} at tolerance {tolerance}")
        if solution.allocation is not None:
            require(solution.objective <= instance.best * (1 + 1e-8), "beats the optimum")
            require(solution.bound >= instance.best * (1 - 1e-8), "bound below the optimum")


def _crowd(n: int = 40) -> Program:
    """Steep curves much alike: hard to prove to the last digit."""
    rng = np.random.default_rng(5)
    tokens = co.Allocation(n, upper=60.0)
    scale, threshold = rng.uniform(0.6, 0.9, n), rng.uniform(5.0, 20.0, n)
    accuracy = co.CumulativeSurge(scale, threshold, rng.uniform(0.2, 0.9, n))(tokens)
    budget = (co.sum(tokens) <= 8.3 * n).named("budget")
    return co.Problem(co.Maximize(co.sum(accuracy)), [budget]).program


def _timed(trial: Trial, program: Program, limit: float) -> Solution:
    started = time.perf_counter()
    solution = trial.solve(program, tolerance=0.0, time_limit=limit)
    spent = time.perf_counter() - started
    require(spent <= limit + trial.config.grace, f"ran {spent:.1f} s of {limit} s allowed")
    require(
        solution.status in ("optimal", "feasible", "unknown"),
        f"feasible, but {solution.status!r} at the limit",
    )
    return solution


def _time_limit(trial: Trial) -> None:
    solution = _timed(trial, _as_taken(trial, _crowd()), 2.0)
    require(solution.allocation is not None, f"no incumbent: {solution.message}")
    if trial.backend.certifies != "nothing":
        require(math.isfinite(solution.bound), f"no bound: {solution.message}")
    if solution.status == "feasible" and trial.backend.certifies == "optimum":
        require(bool(solution.message), "stopped early without a word")


def _hardly_any_time(trial: Trial) -> None:
    _timed(trial, _as_taken(trial, _crowd()), 1e-3)


def _seed(trial: Trial) -> None:
    for name in ("one budget", "one query"):
        program = _taken(trial, name)
        first, second = (trial.solve(program, seed=11) for _ in range(2))
        same = np.array_equal(first.allocation, second.allocation)  # type: ignore[arg-type]
        require(same, f"{first.allocation} and {second.allocation}")
        require(first.status == second.status, f"{first.status} and {second.status}")


def _warm_start(trial: Trial) -> None:
    program = _taken(trial, "one budget")
    cold = trial.solve(program)
    near = replace(program, right_hand_side=0.9 * program.right_hand_side)
    for earlier in (cold, trial.solve(near)):
        warm = trial.solve(program, warm_start=earlier)
        off = trial.config.tolerance * max(abs(cold.objective), 1e-300)
        if cold.allocation is not None:
            require(warm.objective >= cold.objective - off, "a worse allocation")
        require(warm.bound <= cold.bound + off, "a worse bound")
        require(warm.status == cold.status, f"{warm.status!r}, cold {cold.status!r}")


def _useless_warm_start(trial: Trial) -> None:
    """Of another length, too large to fit, or without an allocation."""
    program, other = _taken(trial, "one budget"), _taken(trial, "one query")
    cold, alien = trial.solve(program), trial.solve(other)
    none = replace(
        cold, status="unknown", allocation=None, objective=math.nan, utilities=None, funded=None
    )
    ample = _taken(trial, "an ample budget")
    for earlier in (alien, none, trial.solve(ample)):
        warm = trial.solve(program, warm_start=earlier)
        require(warm.status == cold.status, f"{warm.status!r}, cold {cold.status!r}")


# ------------------------------------------------------------------------- manners
def _left_alone(trial: Trial) -> None:
    for name in ("one budget", "two rows", "everything at once"):
        program = named(name).declare()
        if missing_features(program, trial.backend.supports):
            continue
        before = fingerprint(program)
        solution = trial.solve(program)
        require(fingerprint(program) == before, f"the program of {name!r} was written to")
        require(solution.program is program, "solution.program is another program")


def _share_nothing(trial: Trial) -> None:
    program = _taken(trial, "one budget")
    first = trial.solve(program)
    kept = copy.deepcopy(first.allocation)
    second = trial.solve(program, warm_start=first)
    if first.allocation is None or second.allocation is None:
        return
    shared = np.shares_memory(first.allocation, second.allocation)
    require(not shared, "two solutions share their allocation")
    second.allocation[:] = 0
    require(np.array_equal(first.allocation, kept), "writing to one solution changes another")  # type: ignore[arg-type]


def _global_state(trial: Trial) -> None:
    program = _taken(trial, "one budget")
    trial.solve(program)  # what is imported the first time may set itself up
    before = process_state()
    trial.solve(program)
    after = process_state()
    changed: list[Any] = [key for key in before if before[key] != after[key]]
    require(not changed, f"changed: {', '.join(changed)}")


def _silent(trial: Trial) -> None:
    program = _taken(trial, "one budget")
    trial.solve(program)
    with unprinted() as printed:
        trial.solve(program, verbose=False)
    require(not printed.text, f"printed {printed.text[:200]!r}")
