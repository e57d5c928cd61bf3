"""What happens to queries that get no tokens: the user's choice, and always reported."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clearopt.atomic import written_whole
from clearopt.errors import DeclarationError
from clearopt.runs.queries import Query
from clearopt.serving.endpoint import Endpoint


@dataclass(frozen=True)
class Skip:
    """They are left out."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {"choice": "skip"}


@dataclass(frozen=True)
class Fallback:
    """They get a short answer, from the same engine and the same budget.

    The tokens are set aside before the others are shared out.

    Attributes:
        tokens: of each.
        instruction: what follows the prompt, such as "\\nThe answer in one word:".
    """

    tokens: int
    instruction: str = ""

    def __post_init__(self) -> None:
        _require_tokens("Fallback", self.tokens)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {"choice": "fallback", "tokens": self.tokens, "instruction": self.instruction}


@dataclass(frozen=True)
class Cheaper:
    """They are put to another engine, whose tokens are not the budget's.

    Attributes:
        endpoint: the other engine.
        tokens: of each, at most.
        budget: of all of them, or None; the first queries in order are served.
    """

    endpoint: Endpoint
    tokens: int
    budget: int | None = None

    def __post_init__(self) -> None:
        _require_tokens("Cheaper", self.tokens)
        if self.budget is not None and self.budget < 0:
            raise DeclarationError(f"Cheaper: budget = {self.budget!r}: must be at least 0")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "choice": "cheaper",
            "engine": self.endpoint.name,
            "tokens": self.tokens,
            "budget": self.budget,
        }


@dataclass(frozen=True)
class Queue:
    """They are written to a file of JSON lines, with all their data, for a later run.

    Attributes:
        path: of the file; what stands there is replaced when the run ends.
    """

    path: Path

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {"choice": "queue", "path": str(self.path)}

    def write(self, queries: Sequence[Query]) -> None:
        """Write the queries, all or nothing."""
        with written_whole(self.path) as file:
            for query in queries:
                line = {**query.data, "id": query.key, "prompt": query.prompt}
                if query.answer is not None:
                    line["answer"] = query.answer
                file.write(json.dumps(line, default=str).encode() + b"\n")


Abandonment = Skip | Fallback | Cheaper | Queue


def _require_tokens(name: str, tokens: int) -> None:
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
        raise DeclarationError(f"{name}: tokens = {tokens!r}: must be a whole number above 0")
