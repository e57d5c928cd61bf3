"""`Markets`: tenants that share nothing, each with a budget and a price of its own."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from clearopt.errors import DeclarationError
from clearopt.online.market import PostedPrice, Quote
from clearopt.utilities import Utility


@dataclass(frozen=True)
class MarketState:
    """One market, as it stands.

    Attributes:
        queries, funded: how many came, and how many got tokens.
        price: accuracy per token.
        accuracy: mean expected, abandoned queries included.
        spent, reserved, budget: tokens.
    """

    label: str
    queries: int
    funded: int
    price: float
    accuracy: float
    spent: float
    reserved: float
    budget: float


class Markets:
    """Separate markets, told apart by a label. None can spend what is another's.

    Args:
        markets: label -> market.
    """

    def __init__(self, markets: Mapping[str, PostedPrice]) -> None:
        if not markets:
            raise DeclarationError("Markets: there are none; give at least one")
        self._markets = dict(markets)
        self._funded = dict.fromkeys(self._markets, 0)

    @classmethod
    def shared(
        cls,
        budget: float,
        shares: Mapping[str, float],
        horizons: Mapping[str, int],
        **options: Any,
    ) -> Markets:
        """One budget cut into fixed shares, one a market.

        Args:
            budget: tokens of all together.
            shares: label -> share of the budget, together at most 1.
            horizons: label -> how many queries will come.
            options: of every `PostedPrice`.

        Raises:
            DeclarationError: shares are negative or exceed 1, or labels differ.
        """
        stray = [label for label in horizons if label not in shares]
        if stray:
            raise DeclarationError(f"Markets: horizons: {stray[0]!r} has no share of the budget")
        for label, share in shares.items():
            if not share > 0:
                raise DeclarationError(f"Markets: shares[{label!r}] = {share!r}: must be positive")
            if label not in horizons:
                raise DeclarationError(f"Markets: horizons: {label!r} is missing")
        whole = math.fsum(shares.values())
        if whole > 1 + 1e-9:
            raise DeclarationError(f"Markets: shares sum to {whole:g}: they cut up one budget")
        return cls(
            {
                label: PostedPrice(budget=share * budget, horizon=horizons[label], **options)
                for label, share in shares.items()
            }
        )

    def __getitem__(self, label: str) -> PostedPrice:
        try:
            return self._markets[label]
        except KeyError:
            known = ", ".join(map(repr, self._markets))
            raise DeclarationError(f"Markets: no market {label!r}; there are {known}") from None

    def quote(
        self,
        label: str,
        utility: Utility,
        upper: float = math.inf,
        tier: Hashable | None = None,
    ) -> Quote:
        """What a query of this market may spend; see `PostedPrice.quote`."""
        found = self[label].quote(utility, upper, tier)
        self._funded[label] += found.funded
        return found

    def settle(self, label: str, quote: Quote | int, tokens: float) -> None:
        """What it really spent; see `PostedPrice.settle`."""
        self[label].settle(quote, tokens)

    def states(self) -> list[MarketState]:
        """Every market as it stands."""
        return [
            MarketState(
                label,
                m.seen,
                self._funded[label],
                m.price,
                m.accuracy,
                m.spent,
                m.reserved,
                m.budget,
            )
            for label, m in self._markets.items()
        ]

    def __str__(self) -> str:
        lines = [
            f"{'market':<12} {'queries':>8} {'funded':>7} {'accuracy':>8} "
            f"{'price':>10} {'spent':>12} {'budget':>12}"
        ]
        for s in self.states():
            lines.append(
                f"{s.label:<12} {s.queries:>8} {s.funded:>7} {s.accuracy:>8.3f} "
                f"{s.price:>10.3g} {s.spent:>12.0f} {s.budget:>12.0f}"
            )
        return "\n".join(lines)
