"""`import clearopt` is light, and leaves the process as it found it."""

import importlib.util
import json
import subprocess
import sys

import pytest

HEAVY = [
    "vllm",
    "torch",
    "transformers",
    "pyomo",
    "pyscipopt",
    "cvxpy",
    "highspy",
    "matplotlib",
    "jax",
]


def in_a_fresh_process(code):
    report = f"import json, sys\n{code}\nprint(json.dumps(found))"
    done = subprocess.run(
        [sys.executable, "-c", report], capture_output=True, text=True, check=True, timeout=300
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_pulls_in_nothing_heavy():
    found = in_a_fresh_process(
        f"import clearopt as co\nfound = [m for m in {HEAVY} if m in sys.modules]"
    )
    assert found == []


def test_the_whole_language_pulls_in_nothing_heavy():
    found = in_a_fresh_process(
        "import clearopt as co\n"
        "tokens = co.Allocation(3, upper=9)\n"
        "accuracy = co.CumulativeSurge(0.5, 1.0, 0.5)(tokens)\n"
        "problem = co.Problem(co.Maximize(co.sum(accuracy)), [co.sum(tokens) <= 9])\n"
        "problem.solve('uniform').summary()\n"
        f"found = [m for m in {HEAVY} if m in sys.modules]"
    )
    assert found == []


def test_listing_the_solvers_imports_none_of_them():
    found = in_a_fresh_process(
        "import clearopt as co\n"
        "repr(co.solvers())\n"
        f"found = [m for m in {HEAVY[:-1]} if m in sys.modules]"
    )
    assert found == []


def test_solving_leaves_jaxs_global_precision_alone():
    found = in_a_fresh_process(
        "import clearopt as co, numpy as np, jax, jax.numpy as jnp\n"
        "tokens = co.Allocation(5000, upper=900)\n"
        "accuracy = co.CumulativeSurge(0.5, np.linspace(1, 300, 5000), 0.05)(tokens)\n"
        "problem = co.Problem(co.Maximize(co.sum(accuracy)), [co.sum(tokens) <= 2e5])\n"
        "solution = problem.solve()\n"
        "found = [solution.status, bool(jax.config.jax_enable_x64), str(jnp.ones(1).dtype)]"
    )
    assert found == ["optimal", False, "float32"]


def test_every_public_name_is_there():
    import clearopt as co

    for name in co.__all__:
        assert getattr(co, name) is not None
    assert set(co.__all__) <= set(dir(co))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        co.nonsense


def test_a_star_import_works():
    assert in_a_fresh_process("from clearopt import *\nfound = Allocation.__name__") == "Allocation"


def test_nothing_called_solvers_lands_at_the_top_level():
    found = in_a_fresh_process(
        "import os\n"
        "os.chdir('/')\nsys.path[:] = [p for p in sys.path if p]\n"
        "import clearopt.solvers, clearopt.formulations, importlib.util\n"
        "found = [n for n in ('solvers', 'formulations') if importlib.util.find_spec(n)]"
    )
    assert found == []
    assert importlib.util.find_spec("clearopt.solvers") is not None
