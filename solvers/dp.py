"""`dp`: exact dynamic programming over whole tokens, the oracle of small cases."""

from __future__ import annotations

import math
import time
from typing import ClassVar

from clearopt.assemble import make_solution
from clearopt.program import Program
from clearopt.solution import Solution
from clearopt.solvers.base import Backend, Feature, SolveOptions
from clearopt.solvers.dp_table import TAKES, Table


class DynamicProgramming(Backend):
    """Every amount of every query, every state of the rows; certifies the optimum."""

    name = "dp"
    summary = "exact dynamic programming over whole tokens, for small programs"
    supports: ClassVar[frozenset[Feature]] = TAKES
    certifies = "optimum"

    def solve(self, program: Program, options: SolveOptions) -> Solution:
        started = time.perf_counter()
        table = Table.of(program)
        limit = math.inf if options.time_limit is None else options.time_limit
        found = table.fill(lambda: time.perf_counter() > started + limit)
        tokens, bound, message = None, math.inf, "stopped at the time limit"
        if found is not None:
            bound = program.offset + table.bound(found)
            infeasible = not math.isfinite(found)
            tokens = None if infeasible else table.choice()
            message = "no whole amounts satisfy every row" if infeasible else ""
        return make_solution(
            program,
            solver=self.name,
            seconds=time.perf_counter() - started,
            allocation=tokens,
            bound=bound,
            tolerance=options.tolerance,
            infeasible=found is not None and not math.isfinite(found),
            message=message,
            statistics={"states": table.states, "steps": table.steps},
        )
