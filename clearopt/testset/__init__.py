"""The public test set: instances with the best known values, and who proved them.

    from clearopt import testset

    testset.names("small")                  # by tag, or by pattern as in "surge-*"
    instance = testset.load("surge-20-b10") # or the path of a file of your own
    instance.problem.solve().objective, instance.best_value, instance.best_bound

docs/testset.md has the format and the list.
"""

from __future__ import annotations

from clearopt.testset.instance import Evidence, Instance
from clearopt.testset.store import load, names, write

__all__ = ["Evidence", "Instance", "load", "names", "write"]
