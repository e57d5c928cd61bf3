"""Whether the unpacked wheel given as argument is the whole package, and solves."""

import sys
from importlib.resources import files
from pathlib import Path

import clearopt as co

wheel = Path(sys.argv[1]).resolve()
for module in (co, co.solvers, co.formulations):
    assert wheel in Path(module.__file__).resolve().parents, f"{module} is not the wheel's"
for name in ("py.typed", "confirmation/reasoner/config.json"):
    assert (files("clearopt") / name).is_file(), f"{name} is missing from the wheel"

utility = co.CumulativeSurge(scale=0.9, threshold=[5.0, 10.0, 20.0], rate=0.2)
solution = co.formulations.token_budget(utility, 3, 60, upper=60).solve()
assert solution.status == "optimal", solution.summary()

instance = co.testset.load("surge-5-b10")
assert len(co.testset.names()) >= 60, "the test set is missing from the wheel"
assert instance.problem.solve().objective <= instance.best_bound * (1 + 1e-9)
print(f"the wheel's package solves: {solution.summary().splitlines()[0]}")
