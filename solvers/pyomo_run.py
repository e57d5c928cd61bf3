"""Running one solver behind Pyomo: in this process, or in one of its own that a limit can end.

Solvers differ in whether they keep a time limit: Gurobi and SCIP do, an executable is ended by
Pyomo, MindtPy and GDPopt look at the clock between sub-problems that may take for ever. So with a
limit the solve runs in a process of its own, which is ended, with all it started, soon after it.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from clearopt.errors import UnsupportedProblemError
from clearopt.program import Program
from clearopt.solvers.base import SolveOptions
from clearopt.solvers.pyomo_model import build_model, set_point
from clearopt.validation import FloatArray

_GRACE = 2.0  # seconds past the limit before a solver is ended
_IMPORTS = 300.0  # seconds for importing Pyomo and the solver, which no limit pays for
_FEASIBILITY = 1e-8

_LINEAR = {
    "gurobi": ("TimeLimit", "MIPGap", "Threads", "Seed"),
    "gurobi_direct_minlp": ("TimeLimit", "MIPGap", "Threads", "Seed"),
    "appsi_highs": ("time_limit", "mip_rel_gap", "threads", "random_seed"),
}


@dataclass(eq=False)
class Job:
    """One solve: `program` in the solver's units, and what to do with it."""

    program: Program
    which: str
    kind: str
    thresholds: Literal["binary", "gdp", "smooth"]
    smoothing: float
    start: FloatArray
    tolerance: float
    time_limit: float | None
    seed: int
    threads: int
    verbose: bool
    extra: dict[str, Any] = field(default_factory=dict)
    subsolver: str | None = None
    algorithm: str | None = None


@dataclass(eq=False)
class Outcome:
    """What a solver says: tokens (n,) in its units, bound, its word, and why it failed if it did.

    `refusal` is an error of ours for the caller to raise.
    """

    tokens: FloatArray | None = None
    bound: float | None = None
    objective: float | None = None
    termination: str = ""
    infeasible: bool = False
    failure: str = ""
    refusal: str = ""


# -------------------------------------------------------------------------------- in this process
def run(job: Job) -> Outcome:
    """Solve in this process."""
    outcome = _run(job)
    if outcome.refusal:
        raise UnsupportedProblemError(outcome.refusal)
    return outcome


def _run(job: Job) -> Outcome:
    import pyomo.environ as pyo

    _import_plugin(job.which)
    if job.subsolver is not None:
        _import_plugin(job.subsolver)
    try:
        model = build_model(job.program, thresholds=job.thresholds, smoothing=job.smoothing)
    except UnsupportedProblemError as error:
        return Outcome(refusal=str(error))
    set_point(model, job.program, job.start)
    if job.thresholds == "gdp" and job.kind != "disjunctive":
        pyo.TransformationFactory("gdp.hull").apply_to(model)
    if job.kind == "linear" and (curved := _curved(model, pyo)) is not None:
        return Outcome(
            refusal=f"'pyomo:{job.which}' takes linear models, and {curved} is not linear; take "
            "'highs' (pieces and lines), or 'pyomo:scip_direct' or 'pyomo:gurobi_direct_minlp'"
        )
    try:
        if job.which == "scip_direct":
            return _run_scip(job, model)
        return _run_any(job, model, pyo)
    except Exception as error:  # whatever a solver or its licence may say
        return Outcome(failure=f"{job.which} failed: {type(error).__name__}: {_first_line(error)}")


def _import_plugin(which: str) -> None:
    """Plugins that register themselves with Pyomo when they are imported."""
    if which in ("pounce", "ripopt"):
        __import__(f"pyomo_{which}")
    elif which == "gdpopt":
        import pyomo_pounce  # noqa: F401


def _curved(model: Any, pyo: Any) -> str | None:
    """The name of a constraint that is not linear."""
    for row in model.component_data_objects(pyo.Constraint, active=True):
        if row.body.polynomial_degree() not in (0, 1):
            return str(row.name)
    return None


def _run_scip(job: Job, model: Any) -> Outcome:
    from clearopt.solvers.scip import released_interface, run_scip

    options = SolveOptions(
        tolerance=job.tolerance, time_limit=job.time_limit, seed=job.seed, threads=job.threads,
        verbose=job.verbose,
    )  # fmt: skip
    results = run_scip(released_interface(), model, options, more=job.extra)
    outcome = Outcome(
        bound=results.objective_bound,
        objective=results.incumbent_objective,
        termination=_SCIP_WORDS.get(
            results.termination_condition.name, results.termination_condition.name
        ),
        infeasible=results.termination_condition.name
        in ("provenInfeasible", "infeasibleOrUnbounded"),
    )
    if results.incumbent_objective is not None:
        values = results.solution_loader.get_vars()
        outcome.tokens = np.array(
            [values.get(v, job.program.least[i]) for i, v in model.tokens.items()]
        )
    return outcome


_SCIP_WORDS = {"convergenceCriteriaSatisfied": "optimal"}


def _run_any(job: Job, model: Any, pyo: Any) -> Outcome:
    solver = pyo.SolverFactory(job.which)
    keywords: dict[str, Any] = {"tee": job.verbose}
    settings: dict[str, Any] = {}
    if job.which in _LINEAR:
        limit, gap, threads, seed = _LINEAR[job.which]
        settings = {gap: job.tolerance, threads: job.threads, seed: job.seed % 2**31}
        if job.which.startswith("gurobi"):
            settings |= {"FeasibilityTol": _FEASIBILITY, "IntFeasTol": _FEASIBILITY}
        if job.time_limit is not None:
            settings[limit] = job.time_limit
        if job.which == "appsi_highs":
            import highspy

            # HiGHS refuses a number of threads other than that of its last run in this process.
            highspy.Highs.resetGlobalScheduler(True)
        keywords["load_solutions"] = False
    elif job.kind in ("disjunctive", "decomposition") and job.which in ("gdpopt", "mindtpy"):
        keywords |= _decomposition(job)
    elif job.time_limit is not None:
        keywords["timelimit"] = job.time_limit
    if job.kind == "local":
        settings["max_iter"] = 3000
        keywords["load_solutions"] = False
    settings |= job.extra
    results = solver.solve(model, **keywords, **({"options": settings} if settings else {}))
    word = str(results.solver.termination_condition)
    if keywords.get("load_solutions") is False and len(results.solution):
        model.solutions.load_from(results)
    loaded = keywords.get("load_solutions") is not False or len(results.solution) > 0
    values = [variable.value for variable in model.tokens.values()]
    outcome = Outcome(
        termination=word,
        bound=_number(results.problem.upper_bound),
        objective=_number(results.problem.lower_bound),
        infeasible=word == "infeasible",
    )
    if loaded and word not in ("infeasible", "error") and None not in values:
        outcome.tokens = np.array(values, dtype=np.float64)
    return outcome


def _decomposition(job: Job) -> dict[str, Any]:
    """Keywords of GDPopt and MindtPy, which have their own names for everything."""
    keywords: dict[str, Any] = {"mip_solver": "appsi_highs"}
    if job.which == "gdpopt":
        keywords |= {"algorithm": job.algorithm or "RIC", "nlp_solver": job.subsolver or "pounce"}
        if job.algorithm == "LBB":
            keywords = {"algorithm": "LBB", "minlp_solver": job.subsolver or "scip_direct"}
    else:
        keywords |= {"strategy": job.algorithm or "OA", "nlp_solver": job.subsolver or "ipopt"}
    if job.time_limit is not None:
        keywords["time_limit"] = max(round(job.time_limit), 1)
    return keywords


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else ""


# -------------------------------------------------------------------------------- in its own
def run_apart(job: Job) -> Outcome:
    """Solve in a process of its own, ended shortly after the job's time limit."""
    assert job.time_limit is not None
    try:
        packed = pickle.dumps(job)
    except Exception:  # a function of the user's own that cannot travel: no more than its own limit
        return run(job)
    with tempfile.TemporaryDirectory(prefix="clearopt-") as folder:
        given, ready, answer = (Path(folder) / name for name in ("job", "ready", "answer"))
        given.write_bytes(packed)
        command = [sys.executable, "-m", "clearopt.solvers.pyomo_run", folder]
        # Found wherever this process found it, whatever the folder it was started in.
        places = os.pathsep.join(place for place in sys.path if place)
        process = subprocess.Popen(
            command,
            env=os.environ | {"PYTHONPATH": places},
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=None if job.verbose else subprocess.DEVNULL,
            stderr=None if job.verbose else subprocess.DEVNULL,
        )
        try:
            ended = _waited(process, _IMPORTS, ready)
            ended = _waited(process, job.time_limit + _GRACE) or ended
        finally:
            _end(process)
        if answer.exists():
            outcome: Outcome = pickle.loads(answer.read_bytes())
        elif ended:
            # It could not read the job (a family of the user's own script), or was killed.
            outcome = Outcome(failure=f"{job.which}: its process ended without an answer")
            if process.returncode == _UNREADABLE:
                return run(job)
        else:
            outcome = Outcome(
                termination="time limit",
                failure=f"{job.which} went past its time limit and was ended",
            )
    if outcome.refusal:
        raise UnsupportedProblemError(outcome.refusal)
    return outcome


_UNREADABLE = 3  # exit code of the process that could not unpack its job


def _waited(process: subprocess.Popen[bytes], seconds: float, sign: Path | None = None) -> bool:
    """Wait for the process to end, or for a file to appear; True if it ended."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if process.poll() is not None:
            return True
        if sign is not None and sign.exists():
            return False
        time.sleep(0.02)
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and what it started."""
    if process.poll() is None:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def serve(folder: Path) -> int:
    """What the process does: read the job, say that it is ready, solve, write the answer."""
    try:
        job: Job = pickle.loads((folder / "job").read_bytes())
    except Exception:
        return _UNREADABLE
    import pyomo.environ  # noqa: F401

    _import_plugin(job.which)
    if job.which == "scip_direct":
        import pyscipopt  # noqa: F401
    (folder / "ready").touch()
    outcome = _run(job)
    unfinished = folder / "answer.part"
    unfinished.write_bytes(pickle.dumps(outcome))
    unfinished.rename(folder / "answer")
    return 0


if __name__ == "__main__":
    # By its own name: what `__main__` defines cannot be unpacked by anybody else.
    from clearopt.solvers import pyomo_run

    sys.exit(pyomo_run.serve(Path(sys.argv[1])))
