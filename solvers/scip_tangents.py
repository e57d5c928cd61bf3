"""A constraint handler for SCIP: the concave part of every curve, by the hull's own tangents.

SCIP sees (1 + y) e^-y as a product and branches on y, thousands of times, where one tangent does:
it does not find out that the expression is convex from y = 1 on. Here the family says so. A tangent
is added, in its perspective form (`parts`), wherever a relaxation's solution lies above the hull,
and no solution that claims more than the curve is accepted.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from clearopt.solvers.parts import Parts
from clearopt.validation import FloatArray

# A solution may claim so much more than its curve, relative to the peak: several times SCIP's
# feasibility tolerance, or a tangent through the very point would not satisfy it.
CLAIM = 5e-8


def tangent_handler(parts: Parts, upper: list[Any], worth: list[Any], funded: list[Any]) -> Any:
    """The handler, a `pyscipopt.Conshdlr`.

    Args:
        parts: the queries, m of them.
        upper, worth, funded: their SCIP variables d, v and funded, m each.
    """
    from pyscipopt import SCIP_RESULT, Conshdlr

    class Tangents(Conshdlr):  # type: ignore[misc]  # pyscipopt carries no types
        """`failure` holds what a callback raised: SCIP would drop it."""

        failure: Exception | None = None
        cuts = 0

        def _values(self, solution: Any, variables: list[Any]) -> FloatArray:
            ask = self.model.getSolVal
            return np.array([ask(solution, variable) for variable in variables])

        def _above(self, solution: Any) -> bool:
            """Whether a solution claims more than its curves."""
            d = np.clip(self._values(solution, upper), 0.0, parts.width)
            return bool((self._values(solution, worth) > parts.curve(d)[0] + CLAIM).any())

        def _separate(self, solution: Any, otherwise: Any) -> dict[str, Any]:
            z, d = self._values(solution, funded), self._values(solution, upper)
            v = self._values(solution, worth)
            height, slope = parts.tangent(np.maximum(d, 0.0) / np.maximum(z, 1e-9))
            above = v - height * z - slope * d > 0.5 * CLAIM
            above &= np.isfinite(height) & np.isfinite(slope) & (z > 1e-6)
            result = otherwise
            for k in np.flatnonzero(above).tolist():
                row = self.model.createEmptyRowUnspec(
                    "tangent", lhs=None, rhs=0.0, local=False, removable=True
                )
                self.model.cacheRowExtensions(row)
                self.model.addVarToRow(row, worth[k], 1.0)
                self.model.addVarToRow(row, funded[k], -float(height[k]))
                self.model.addVarToRow(row, upper[k], -float(slope[k]))
                self.model.flushRowExtensions(row)
                infeasible = self.model.addCut(row)
                self.model.releaseRow(row)
                self.cuts += 1
                result = SCIP_RESULT.CUTOFF if infeasible else SCIP_RESULT.SEPARATED
                if infeasible:
                    break
            return {"result": result}

        def _guarded(self, action: Any, otherwise: Any) -> dict[str, Any]:
            try:
                return action()
            except Exception as error:
                self.failure = error
                self.model.interruptSolve()
                return {"result": otherwise}

        # ------------------------------------------------------------ what SCIP calls
        def conssepalp(self, constraints: Any, nusefulconss: int) -> dict[str, Any]:
            nothing = SCIP_RESULT.DIDNOTFIND
            return self._guarded(lambda: self._separate(None, nothing), nothing)

        def conssepasol(self, constraints: Any, nusefulconss: int, solution: Any) -> dict[str, Any]:
            nothing = SCIP_RESULT.DIDNOTFIND
            return self._guarded(lambda: self._separate(solution, nothing), nothing)

        def consenfolp(
            self, constraints: Any, nusefulconss: int, solinfeasible: bool
        ) -> dict[str, Any]:
            def enforce() -> dict[str, Any]:
                wrong = SCIP_RESULT.INFEASIBLE if self._above(None) else SCIP_RESULT.FEASIBLE
                return self._separate(None, wrong)

            return self._guarded(enforce, SCIP_RESULT.INFEASIBLE)

        def consenfops(
            self, constraints: Any, nusefulconss: int, solinfeasible: bool, objinfeasible: bool
        ) -> dict[str, Any]:
            def enforce() -> dict[str, Any]:
                above = self._above(None)
                return {"result": SCIP_RESULT.SOLVELP if above else SCIP_RESULT.FEASIBLE}

            return self._guarded(enforce, SCIP_RESULT.SOLVELP)

        def conscheck(
            self, constraints: Any, solution: Any, checkintegrality: bool, checklprows: bool,
            printreason: bool, completely: bool,
        ) -> dict[str, Any]:  # fmt: skip
            def check() -> dict[str, Any]:
                above = self._above(solution)
                return {"result": SCIP_RESULT.INFEASIBLE if above else SCIP_RESULT.FEASIBLE}

            return self._guarded(check, SCIP_RESULT.INFEASIBLE)

        def conslock(self, constraint: Any, locktype: Any, nlockspos: int, nlocksneg: int) -> None:
            # More of `worth`, or less of `upper` and `funded`, may break it; where the curve falls
            # at its end, more of `upper` too.
            both = nlockspos + nlocksneg
            for variable in worth:
                self.model.addVarLocksType(variable, locktype, nlocksneg, nlockspos)
            for variable in upper:
                self.model.addVarLocksType(variable, locktype, both, both)
            for variable in funded:
                self.model.addVarLocksType(variable, locktype, nlockspos, nlocksneg)

    return Tangents()


def include(model: Any, handler: Any) -> None:
    """Put the handler into a pyscipopt model: before SCIP's own nonlinear one, without copies."""
    model.includeConshdlr(
        handler, "tangents", "tangents of the concave parts",
        sepapriority=100, enfopriority=-10, chckpriority=-10_000_000, sepafreq=1, eagerfreq=-1,
        needscons=False,
    )  # fmt: skip
