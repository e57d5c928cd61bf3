"""`co.compare`: the same programs through several solvers, side by side.

`run` makes the runs, `lanes` and `worker` are the two ends of a process that solves, `transport`
brings programs there, `rows` is what comes of it; `text`, `export` and `html` show it.
"""

from clearopt.comparison.rows import Comparison, ComparisonRow
from clearopt.comparison.run import DEFAULT_SOLVERS, compare

__all__ = ["DEFAULT_SOLVERS", "Comparison", "ComparisonRow", "compare"]
