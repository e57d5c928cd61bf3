"""`Windows`: queries that can wait a little are solved together, window by window."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import numpy as np

from clearopt.allocation import Allocation
from clearopt.errors import DeclarationError, InfeasibleError
from clearopt.grouping import mean, sum_
from clearopt.online.market import members_of
from clearopt.problem import Maximize, Problem
from clearopt.solution import Solution
from clearopt.utilities import Utility
from clearopt.validation import FloatArray, broadcast_to_length


class Windows:
    """Exact allocations of windows of queries, each with its part of a stream's budget.

    A window gets what is left, by its share of the queries still to come; what it does not spend
    goes to those after it. Within a window nothing is left on the table; between windows the price
    jumps with their luck, by less the larger they are.

    Args:
        budget: tokens for the whole stream.
        horizon: how many queries will come; more share what is left.
        floor: promised mean accuracy of every window, or None. A window that cannot reach it within
            its part is solved without, and counted in `missed`.
        whole: caps are whole tokens.
        options: of `Problem.solve`: `tolerance`, `time_limit`, ...

    Raises:
        DeclarationError: an argument is out of range.
    """

    def __init__(
        self,
        *,
        budget: float,
        horizon: int,
        floor: float | None = None,
        whole: bool = True,
        **options: Any,
    ) -> None:
        for name, value in (("budget", budget), ("horizon", horizon)):
            if not 0 < value < math.inf:
                raise DeclarationError(f"Windows: {name} = {value!r}: must be positive")
        if floor is not None and not 0 < floor < 1:
            raise DeclarationError(f"Windows: floor = {floor!r}: must lie between 0 and 1")
        self.budget, self.horizon, self.floor = float(budget), int(horizon), floor
        self.seen, self.missed = 0, 0
        self.left = float(budget)
        self._whole, self._options = bool(whole), options

    def allocate(self, utility: Utility, upper: float | FloatArray) -> Solution:
        """Caps of the window's queries; the tokens are spent until `refund` says otherwise.

        Args:
            utility: of its m queries, one member each.
            upper: the most each may have, one or (m,).
        """
        m = members_of(utility)
        most = broadcast_to_length(np.asarray(upper, dtype=np.float64), m, "upper")
        share = min(m / max(self.horizon - self.seen, m), 1.0)
        tokens = Allocation(m, upper=most, integer=self._whole, name="tokens")
        accuracy = utility(tokens)
        budget = (sum_(tokens) <= share * self.left).named("budget")
        found: Solution | None = None
        if self.floor is not None:
            floor = (mean(accuracy) >= self.floor).named("floor")
            with suppress(InfeasibleError):  # no window may have so many tokens as that takes
                found = Problem(Maximize(sum_(accuracy)), [budget, floor]).solve(**self._options)
            if found is None or found.allocation is None:
                self.missed += 1
                found = None
        if found is None:
            found = Problem(Maximize(sum_(accuracy)), [budget]).solve(**self._options)
        self.seen += m
        if found.allocation is not None:
            self.left = max(self.left - math.fsum(found.allocation.tolist()), 0.0)
        return found

    def refund(self, tokens: float) -> None:
        """Tokens that answers of past windows did not need.

        Raises:
            DeclarationError: there are more of them than were spent.
        """
        if not 0 <= tokens <= self.budget - self.left:
            raise DeclarationError(
                f"refund: {tokens!r} tokens: {self.budget - self.left:g} were given out"
            )
        self.left += float(tokens)
