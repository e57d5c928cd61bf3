"""Fails if a test was skipped, or if a part that needs an optional package did not run at all.

A suite in which every SCIP test was skipped has not passed.
"""

import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter

# Test files that prove nothing unless they really ran.
MUST_RUN = (
    "tests.solvers.test_dual",
    "tests.solvers.test_scip",
    "tests.solvers.test_highs",
    "tests.solvers.test_cvxpy",
    "tests.solvers.test_pyomo",
    "tests.solvers.test_conformance",
    "tests.serving.test_engine",
    "tests.test_docs",
    "tests.test_testset",
)

# Solvers that must have solved something, each with its own package.
MUST_SOLVE = (
    "dual", "scip", "highs", "ortools", "dp", "cvxpy", "scipy", "price", "greedy", "proportional",
    "uniform", "time-share", "pyomo:scip_direct", "pyomo:gurobi_direct_minlp", "pyomo:gurobi",
    "pyomo:appsi_highs", "pyomo:pounce", "pyomo:gdpopt",
)  # fmt: skip

passed: Counter[str] = Counter()
names = set()
skipped = []
for case in ElementTree.parse(sys.argv[1]).iter("testcase"):
    module = case.get("classname", "")
    if case.find("skipped") is not None:
        skipped.append(f"{module}::{case.get('name')}")
    elif case.find("failure") is None and case.find("error") is None:
        passed[module] += 1
        names.add(f"{module}::{case.get('name')}")

problems = [f"skipped: {name}" for name in skipped]
problems += [f"no test passed in {module}" for module in MUST_RUN if not passed[module]]
solves = "tests.solvers.test_conformance::test_it_really_solves[{}]"
problems += [f"{s} has solved nothing" for s in MUST_SOLVE if solves.format(s) not in names]
if problems:
    sys.exit("\n".join(problems))
