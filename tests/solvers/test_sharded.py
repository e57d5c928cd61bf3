"""The same price, bound and allocation on one device, on several, and in several processes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sharded_worker import declare

from clearopt.deadline import NEVER
from clearopt.solvers.dual.large_program import solve_large

WORKER = Path(__file__).with_name("sharded_worker.py")
CASES = ("plain", "whole", "families", "identical", "nothing", "ample")
TIME = 240  # seconds for all of a subprocess; compiling takes nearly all of it


def alone(case, *, exact):
    program = declare(case, None).program
    found = solve_large(program, deadline=NEVER, start=None, tell=lambda what: None, exact=exact)
    return program, found


def environment(devices):
    flags = f"--xla_force_host_platform_device_count={devices}"
    return {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def agree(case, program, found, allocation, numbers):
    objective, bound, price, spent, queries = numbers.tolist()
    assert queries == program.n
    assert bound == pytest.approx(found["bound"], rel=1e-12, abs=1e-12)
    if case != "nothing":  # where every price above all break-even prices is as good
        assert price == pytest.approx(found["row_prices"][0], rel=1e-9)
    assert objective == pytest.approx(program.objective(allocation), rel=1e-12, abs=1e-12)
    assert spent == pytest.approx(allocation.sum(), rel=1e-12, abs=1e-12)
    assert spent <= program.right_hand_side[0] * (1 + 1e-12)
    assert bound >= objective
    best = program.objective(found["allocation"])
    assert objective == pytest.approx(best, rel=1e-6, abs=1e-12)
    if case in ("plain", "families"):
        assert np.abs(allocation - found["allocation"]).max() <= 1e-9 * allocation.max()


_DEVICES = """
import sys, numpy as np, jax
sys.path.insert(0, {folder!r})
from sharded_worker import declare
from clearopt.solvers.dual.sharding import ShardedSource
found = {{}}
for case in {cases!r}:
    problem = declare(case, None)
    source = ShardedSource(problem.program, np.ones(()))
    block = next(source.blocks())
    assert len(block.columns.weight.sharding.device_set) == 2, block.columns.weight.sharding
    solution = problem.solve(engine="sharded")
    assert solution.statistics["engine"] == "sharded"
    found |= {{f"{{case}}.allocation": solution.allocation, f"{{case}}.numbers": np.array(
        [solution.objective, solution.bound, solution.prices["budget"],
         solution.allocation.sum(), source.size])}}
np.savez({out!r}, **found)
"""


@pytest.mark.slow
def test_two_devices_of_one_process(tmp_path):
    out = str(tmp_path / "found.npz")
    cases = ("plain", "whole", "families")
    script = _DEVICES.format(folder=str(WORKER.parent), cases=cases, out=out)
    subprocess.run([sys.executable, "-c", script], env=environment(2), check=True, timeout=TIME)
    found = np.load(out)
    for case in cases:
        agree(
            case, *alone(case, exact=False), found[f"{case}.allocation"], found[f"{case}.numbers"]
        )


@pytest.mark.slow
def test_two_processes_solve_one_problem(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    outs = [tmp_path / f"{rank}.npz" for rank in range(2)]
    workers = [
        subprocess.Popen(
            [sys.executable, str(WORKER), ",".join(CASES), str(rank), "2", str(port), str(out)],
            env=environment(1), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank, out in enumerate(outs)
    ]  # fmt: skip
    try:
        for worker in workers:
            output, _ = worker.communicate(timeout=TIME)
            assert worker.returncode == 0, output[-4000:]
    finally:
        for worker in workers:
            worker.kill()
    parts = [np.load(out) for out in outs]
    assert parts[0]["devices"] == 2
    for case in CASES:
        first, second = (part[f"{case}.numbers"] for part in parts)
        assert (first == second).all(), case  # both know the same
        assert {str(part[f"{case}.status"]) for part in parts} <= {"optimal", "feasible"}
        allocation = np.concatenate([part[f"{case}.allocation"] for part in parts])
        agree(case, *alone(case, exact=True), allocation, first)
    assert str(parts[0]["plain.status"]) == "optimal"
