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
    "tests.solvers.test_cvxpy",
    "tests.solvers.test_conformance",
    "tests.serving.test_engine",
    "tests.test_docs",
    "tests.test_testset",
)

passed: Counter[str] = Counter()
skipped = []
for case in ElementTree.parse(sys.argv[1]).iter("testcase"):
    module = case.get("classname", "")
    if case.find("skipped") is not None:
        skipped.append(f"{module}::{case.get('name')}")
    elif case.find("failure") is None and case.find("error") is None:
        passed[module] += 1

problems = [f"skipped: {name}" for name in skipped]
problems += [f"no test passed in {module}" for module in MUST_RUN if not passed[module]]
if problems:
    sys.exit("\n".join(problems))
