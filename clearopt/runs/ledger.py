"""`Ledger`: the budget while it is being spent."""

from __future__ import annotations

from clearopt.errors import DeclarationError


class Ledger:
    """Every token of the budget: spent, lost, committed, or free.

    A request's cap is committed before it is sent and settled at what was received. An attempt
    whose answer never came is lost at its cap, and asking again needs the cap once more. While
    the three together exceed the budget nothing may be sent: some request has to give way.

    Args:
        budget: tokens.
        reserve: of them, kept out of plans, for attempts that are lost.
        spent, lost: so far.

    Raises:
        DeclarationError: the reserve does not fit the budget.
    """

    def __init__(self, budget: int, reserve: int = 0, *, spent: int = 0, lost: int = 0) -> None:
        if not 0 <= reserve <= budget:
            raise DeclarationError(
                f"reserve = {reserve!r}: must lie between 0 and the budget, {budget!r} tokens"
            )
        self.budget, self.reserve = budget, reserve
        self.spent, self.lost, self.committed = spent, lost, 0

    @property
    def free(self) -> int:
        """Tokens that are neither spent, lost nor committed; negative where too many are."""
        return self.budget - self.spent - self.lost - self.committed

    @property
    def plannable(self) -> int:
        """Tokens that a new plan may share out: what is left of the reserve stays."""
        kept = max(self.reserve, self.lost)
        return max(self.budget - kept - self.spent - self.committed, 0)

    def commit(self, cap: int) -> None:
        """Set a request's cap aside."""
        self.committed += cap

    def release(self, cap: int) -> None:
        """A committed request is not to be sent after all."""
        self.committed -= cap

    def settle(self, cap: int, received: int) -> None:
        """A committed request was answered with `received` tokens."""
        self.committed -= cap
        self.spent += received

    def lose(self, cap: int) -> None:
        """An attempt of a committed request may have generated its cap, and nobody saw it."""
        self.lost += cap

    def __repr__(self) -> str:
        return (
            f"Ledger(budget={self.budget}, spent={self.spent}, lost={self.lost}, "
            f"committed={self.committed}, free={self.free})"
        )
