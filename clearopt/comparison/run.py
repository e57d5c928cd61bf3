"""`co.compare`: solvers and instances, each run in a process of its own."""

from __future__ import annotations

import hashlib
import json
import math
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from clearopt.comparison import lanes
from clearopt.comparison.journal import Journal
from clearopt.comparison.machine import machine, memory_bytes, usable_cores, versions_of
from clearopt.comparison.measure import measured, warm_up
from clearopt.comparison.rows import (
    Comparison,
    ComparisonRow,
    Known,
    Point,
    answered,
    not_run,
    together,
)
from clearopt.comparison.transport import NotPortableError, Parcel, named, packed
from clearopt.errors import (
    ClearoptError,
    DeclarationError,
    SolverNotInstalledError,
    UnsupportedProblemError,
)
from clearopt.files import load_answer
from clearopt.problem import Problem
from clearopt.program import Program
from clearopt.solvers import Backend, SolveOptions, get_solver, refuse_unsupported
from clearopt.testset import Instance

DEFAULT_SOLVERS = ("dual", "scip", "highs", "cvxpy", "uniform")
_SHARE_OF_MEMORY = 0.9  # of the machine's, for all processes together

Given = Problem | Program | Instance
OnRun = Callable[[ComparisonRow, int, int], None]


@dataclass(frozen=True, eq=False)
class _Solver:
    """A solver asked for: how it was named, and the back-end, or why there is none."""

    name: str
    given: str | Backend
    backend: Backend | None
    reason: str = ""


@dataclass(frozen=True, eq=False)
class _Job:
    """One run: what is known of its row beforehand, and how another process finds its parts."""

    instance: str
    program: Program
    solver: _Solver
    repeat: int
    options: dict[str, Any]
    parcel: Parcel | None
    description: dict[str, str] | None
    key: str

    @property
    def isolated(self) -> bool:
        return self.parcel is not None and self.description is not None

    @property
    def known(self) -> dict[str, Any]:
        return {
            "solver": self.solver.name, "instance": self.instance, "queries": self.program.n,
            "minimize": self.program.minimize, "repeat": self.repeat,
        }  # fmt: skip


def compare(
    problem: Given | Sequence[Given] | Mapping[str, Given],
    solvers: str | Backend | Iterable[str | Backend] | None = None,
    *,
    time_limit: float | None = 60.0,
    tolerance: float = 1e-6,
    repeats: int = 1,
    seed: int = 0,
    threads: int = 1,
    processes: int | None = None,
    isolated: bool = True,
    grace: float = 10.0,
    memory_limit: float | None = None,
    out: str | Path | None = None,
    verbose: bool = False,
    on_run: OnRun | None = None,
) -> Comparison:
    """Solve every instance with every solver and put what they say side by side.

    Each run has a process of its own, which is ended when it is past its time or takes too much
    memory: a solver that hangs or crashes is a row with its message, as is one that is not
    installed, cannot take an instance, or raises an error. What a process answers is checked again
    in this one. Ctrl-C ends the runs under way and returns the rows so far.

    Args:
        problem: a `Problem`, a compiled `Program` or an `Instance` of the test set, whose best
            known value and bound are then compared too; or several, as a list or a dict by name.
        solvers: names of `co.solvers()`, or back-ends of your own; by default the dual, SCIP,
            HiGHS, CVXPY and the uniform cap, as far as they are installed.
        time_limit: seconds for each run; None for no limit, hard or otherwise.
        tolerance: the relative gap each is asked for.
        repeats: runs of each; a row has the run whose time is the median. Repeat k has seed + k.
        seed: for solvers that draw at random.
        threads: for each solver. JAX, in the dual from some thousand queries on, takes all cores
            whatever is said here: a row's `cpu_seconds` show it.
        processes: runs at a time; by default as many as leave two cores to each. Runs beside one
            another disturb one another's times: take 1 for figures that are published.
        isolated: False runs one after the other in this process, without hard limits; what cannot
            be sent to another process (a class or function of the running script) does so anyway,
            and a note says it.
        grace: seconds past its time limit after which a run is ended.
        memory_limit: GiB a run may take; by default its share of nine tenths of the machine's.
        out: a file that every run is written to as it ends. Where it has runs of the same program,
            solver, options and versions, they are taken from it (without allocations).
        verbose: let the solvers print their own logs.
        on_run: called with each run's row as it ends, how many have, and how many there are.

    Raises:
        UnknownSolverError: a name is not registered.
        DeclarationError: what is given is no problem, no solver is named, one is named twice, or
            an option is out of range.
    """
    instances, known = _instances(problem)
    listed, notes = _solvers(solvers)
    shared: dict[str, Any] = {"time_limit": time_limit, "tolerance": tolerance,
                              "threads": threads, "verbose": verbose}  # fmt: skip
    SolveOptions(**shared, seed=seed)  # a wrong option is the caller's mistake, not each solver's
    _check(repeats=repeats, processes=processes, grace=grace, memory_limit=memory_limit)
    if isolated and not sys.executable:
        isolated = False
        notes.append("this Python cannot start another, so all runs were made in its process")
    at_once = processes or max(usable_cores() // 2, 1)
    memory = memory_bytes()
    share = None if memory is None else _SHARE_OF_MEMORY * memory / at_once
    modules = [m for each in listed if each.backend is not None for m in each.backend.modules]
    versions = versions_of(modules)
    run = _Run(
        threads=threads,
        verbose=verbose,
        hard_limit=None if time_limit is None else time_limit + grace,
        memory=share if memory_limit is None else memory_limit * 2**30,
        journal=None if out is None else Journal(out),
        on_run=on_run,
        total=len(instances) * len(listed) * repeats,
    )
    with tempfile.TemporaryDirectory(prefix="clearopt-", ignore_cleanup_errors=True) as folder:
        jobs = []
        try:
            jobs = _jobs(instances, listed, repeats, seed, shared, versions,
                         Path(folder) if isolated else None, run, notes)  # fmt: skip
            run.all(jobs, at_once, Path(folder))
        except KeyboardInterrupt:
            run.complete = False
    return Comparison(
        rows=_rows(instances, listed, run.rows),
        tolerance=tolerance,
        minimize=next(iter(instances.values())).minimize,
        notes=tuple(dict.fromkeys(notes)),
        complete=run.complete,
        settings={
            "time_limit": time_limit,
            "tolerance": tolerance,
            "repeats": repeats,
            "seed": seed,
            "threads": threads,
            "processes": at_once if isolated else 0,
            "grace": grace,
        },
        versions=versions,
        machine=machine(),
        known=known,
    )


# ---------------------------------------------------------------------- what is asked for
def _instances(given: Any) -> tuple[dict[str, Program], dict[str, Known]]:
    """Programs by name, and what is known of those that the test set has."""
    if isinstance(given, Problem | Program):
        return {"": _program(given)}, {}
    if isinstance(given, Instance):
        given = {given.name: given}
    if isinstance(given, Mapping):
        found = {str(name): each for name, each in given.items()}
        if len(found) < len(given) or "" in found:
            raise DeclarationError(
                "compare({...}): names of instances must differ and not be empty"
            )
    elif isinstance(given, Iterable) and not isinstance(given, str | bytes):
        found = {
            each.name if isinstance(each, Instance) else f"instance {k}": each
            for k, each in enumerate(given, start=1)
        }
    else:
        _program(given)
    if not found:
        raise DeclarationError("compare: no problem is given")
    known = {
        name: Known(each.best_value, each.best_bound)
        for name, each in found.items()
        if isinstance(each, Instance)
    }
    return {name: _program(each) for name, each in found.items()}, known


def _program(given: Any) -> Program:
    if isinstance(given, Problem | Instance):
        return given.program
    if isinstance(given, Program):
        return given
    raise DeclarationError(
        f"compare({type(given).__name__}, ...): expected a co.Problem, a co.Program or an instance "
        "of the test set, or several in a list or a dict by name"
    )


def _solvers(asked: Any) -> tuple[list[_Solver], list[str]]:
    """The solvers in order, all looked up before any runs: a misspelt name should not cost minutes.

    Of the default ones, those that are not installed are left out with a note.
    """
    if isinstance(asked, str | Backend):
        asked = (asked,)
    if asked is not None and not isinstance(asked, Iterable):
        raise DeclarationError(
            f"compare: solvers = {asked!r}: give names or back-ends, e.g. ('dual', 'scip')"
        )
    wanted = DEFAULT_SOLVERS if asked is None else tuple(asked)
    if not wanted:
        raise DeclarationError(
            "compare: solvers is empty; name at least one, e.g. ('dual', 'scip')"
        )
    names = [solver if isinstance(solver, str) else solver.name for solver in wanted]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DeclarationError(f"compare: solver {twice!r} is named twice")
    found, notes = [], []
    for name, solver in zip(names, wanted, strict=True):
        try:
            found.append(_Solver(name, solver, get_solver(solver)))
        except SolverNotInstalledError as error:
            if asked is None:
                notes.append(f"{error}; it was left out")
            else:
                found.append(_Solver(name, solver, None, str(error)))
    return found, notes


def _check(**numbers: Any) -> None:
    for name, value in numbers.items():
        whole = name in ("repeats", "processes")
        if value is None and name in ("processes", "memory_limit"):
            continue
        kind = Integral if whole else Real
        least = 0 if name == "grace" else 1 if whole else 1e-3
        number = math.nan if isinstance(value, bool) or not isinstance(value, kind) else value
        if not least <= float(number) < math.inf:
            what = "a whole number" if whole else "a number"
            raise DeclarationError(f"{name} = {value!r}: must be {what} of at least {least:g}")


def _jobs(
    instances: Mapping[str, Program],
    solvers: Sequence[_Solver],
    repeats: int,
    seed: int,
    shared: dict[str, Any],
    versions: dict[str, str],
    folder: Path | None,
    run: _Run,
    notes: list[str],
) -> list[_Job]:
    """The runs to be made; those that cannot be are rows at once, as are those already known."""
    parcels: dict[str, Parcel | None] = {}
    for number, (instance, program) in enumerate(instances.items()):
        parcels[instance] = None
        if folder is not None:
            try:
                parcels[instance] = packed(program, folder / str(number))
            except NotPortableError as reason:
                named_so = f"instance {instance!r}" if instance else "the problem"
                notes.append(f"{named_so} ran in this process, without a hard limit: {reason}")
    descriptions: dict[str, dict[str, str] | None] = {}
    for solver in solvers:
        descriptions[solver.name] = None
        if folder is not None and solver.backend is not None:
            try:
                descriptions[solver.name] = named(solver.given)
            except NotPortableError as reason:
                notes.append(f"{solver.name} ran in this process, without a hard limit: {reason}")
    jobs = []
    for repeat in range(repeats):
        for solver in solvers:  # outside: a process is of one solver
            for instance, program in instances.items():
                parcel, description = parcels[instance], descriptions[solver.name]
                options = shared | {"seed": seed + repeat}
                key = _key(parcel, description, options, repeat, versions)
                job = _Job(instance, program, solver, repeat, options, parcel, description, key)
                refusal = _refusal(job)
                if refusal is not None:
                    run.ended(job, not_run(message=refusal, **job.known), keep=False)
                elif not run.known(job):
                    jobs.append(job)
    return jobs


def _refusal(job: _Job) -> str | None:
    """Why the run cannot be made at all."""
    if job.solver.backend is None:
        return job.solver.reason
    try:
        refuse_unsupported(job.program, job.solver.backend)
    except UnsupportedProblemError as error:
        return str(error)
    return None


def _key(
    parcel: Parcel | None,
    description: dict[str, str] | None,
    options: dict[str, Any],
    repeat: int,
    versions: dict[str, str],
) -> str:
    """What a run is known by in a journal; "" where it cannot be told from others."""
    if parcel is None or description is None:
        return ""
    told = {name: value for name, value in options.items() if name != "verbose"}
    text = json.dumps([parcel.digest, description, told, repeat, versions], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _rows(
    instances: Iterable[str],
    solvers: Sequence[_Solver],
    rows: Mapping[tuple[str, str], list[ComparisonRow]],
) -> list[ComparisonRow]:
    found = []
    for instance in instances:
        for solver in solvers:
            runs = rows.get((instance, solver.name), [])
            if runs:
                found.append(together(sorted(runs, key=lambda run: run.repeat)))
    return found


# ---------------------------------------------------------------------- running
class _Run:
    """The runs of one comparison."""

    def __init__(
        self,
        *,
        threads: int,
        verbose: bool,
        hard_limit: float | None,
        memory: float | None,
        journal: Journal | None,
        on_run: OnRun | None,
        total: int,
    ) -> None:
        self.threads, self.verbose = threads, verbose
        self.hard_limit, self.memory = hard_limit, memory
        self.journal, self.on_run, self.total = journal, on_run, total
        self.rows: dict[tuple[str, str], list[ComparisonRow]] = {}
        self.complete = True
        self._count = 0
        self._stop = threading.Event()

    def known(self, job: _Job) -> bool:
        """Whether the journal has the run; then it is taken from there."""
        row = self.journal.known.get(job.key) if self.journal is not None and job.key else None
        if row is None:
            return False
        self.ended(job, replace(row, **job.known), keep=False)
        return True

    def ended(self, job: _Job, row: ComparisonRow, *, keep: bool = True) -> None:
        """Take a run's row, in the main thread."""
        self.rows.setdefault((job.instance, job.solver.name), []).append(row)
        self._count += 1
        if keep and self.journal is not None and job.key:
            self.journal.write(job.key, row)
        if self.on_run is not None:
            self.on_run(row, self._count, self.total)

    def all(self, jobs: Sequence[_Job], at_once: int, folder: Path) -> None:
        """Make them: those with processes of their own, then the others alone in this one."""
        apart = [job for job in jobs if job.isolated]
        if apart:
            self._apart(apart, min(at_once, len(apart)), folder)
        for job in jobs:
            if not job.isolated:
                self.ended(job, self._here(job))

    def _apart(self, jobs: Sequence[_Job], at_once: int, folder: Path) -> None:
        waiting: Queue[_Job] = Queue()
        for job in jobs:
            waiting.put(job)
        results: Queue[tuple[_Job, ComparisonRow] | BaseException] = Queue()
        threads = [
            threading.Thread(target=self._lane, args=(waiting, results, folder), daemon=True)
            for _ in range(at_once)
        ]
        for thread in threads:
            thread.start()
        try:
            for _ in jobs:
                result = results.get()
                if isinstance(result, BaseException):
                    raise result
                self.ended(*result)
        finally:
            self._stop.set()
            with suppress(Empty):
                while True:
                    waiting.get_nowait()
            for thread in threads:
                thread.join()
            self._stop.clear()

    def _lane(self, waiting: Queue[_Job], results: Queue[Any], folder: Path) -> None:
        worker: lanes.Worker | None = None
        name = ""
        try:
            while not self._stop.is_set():
                try:
                    job = waiting.get_nowait()
                except Empty:
                    return
                began = time.perf_counter()
                request = self._request(job, folder)
                answer = None
                if worker is not None and name != job.solver.name:
                    lanes.give_back(worker)
                    worker = None
                name = job.solver.name
                while answer is None and not self._stop.is_set():
                    if worker is None or not worker.alive:
                        worker = lanes.borrow(json.dumps(job.description), self.threads,
                                              self.verbose)  # fmt: skip
                    answer = worker.run(request, memory=self.memory, stop=self._stop)
                    if answer is None:  # stopped, or it had ended of having nothing to do
                        worker.kill()
                if answer is not None:
                    results.put((job, self._row(job, request, answer, began)))
        except BaseException as error:  # the main thread is to hear of it, whatever it is
            results.put(error)
        finally:
            if worker is not None:
                lanes.give_back(worker)

    def _request(self, job: _Job, folder: Path) -> dict[str, Any]:
        assert job.parcel is not None
        return {
            "program": str(job.parcel.path),
            "pickled": job.parcel.pickled,
            "solver": job.description,
            "options": job.options,
            "hard_limit": self.hard_limit,
            "answer": str(folder / f"answer-{id(job)}.npz"),
        }

    def _row(
        self, job: _Job, request: dict[str, Any], answer: lanes.Answer, began: float
    ) -> ComparisonRow:
        known, curve = job.known | {"isolated": True}, tuple(answer.curve)
        wall = time.perf_counter() - began
        if answer.done is None:
            return not_run(message=answer.message, outcome=answer.outcome, seconds=answer.seconds,
                           curve=curve, wall_seconds=wall, **known)  # fmt: skip
        try:
            solution = load_answer(request["answer"], job.program)
        except ClearoptError as error:
            reason = str(error).replace(request["answer"], "its answer")
            return not_run(message=f"its answer was refused: {reason}",
                           seconds=answer.done["seconds"], curve=curve, wall_seconds=wall,
                           **known)  # fmt: skip
        finally:
            Path(request["answer"]).unlink(missing_ok=True)
        assert job.solver.backend is not None
        last = (answer.done["seconds"], solution.objective, solution.bound)
        return answered(
            solution, certifies=job.solver.backend.certifies != "nothing",
            curve=_closed(curve, last), wall_seconds=time.perf_counter() - began,
            **answer.done, **known,
        )  # fmt: skip

    def _here(self, job: _Job) -> ComparisonRow:
        backend = job.solver.backend
        assert backend is not None
        curve: list[Point] = []
        options = job.options | {"on_progress": lambda *point: curve.append(point)}
        warm_up(backend)
        began = time.perf_counter()
        try:
            found = measured(lambda: job.program, backend, options, again=curve.clear)
        except Exception as error:  # whatever one solver raises, the others still run
            seconds = time.perf_counter() - began
            return not_run(message=str(error) or type(error).__name__, seconds=seconds, **job.known)
        last = (found.seconds, found.solution.objective, found.solution.bound)
        return answered(
            found.solution, certifies=backend.certifies != "nothing", seconds=found.seconds,
            cpu_seconds=found.cpu_seconds, compile_seconds=found.compile_seconds,
            wall_seconds=time.perf_counter() - began, curve=_closed(tuple(curve), last),
            **job.known,
        )  # fmt: skip


def _closed(curve: tuple[Point, ...], last: Point) -> tuple[Point, ...]:
    return (*(point for point in curve if point[0] <= last[0]), last)
