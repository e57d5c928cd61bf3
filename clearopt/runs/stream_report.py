"""`StreamReport`: what became of every query of a stream."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clearopt.atomic import written_whole
from clearopt.validation import FloatArray


@dataclass(frozen=True)
class StreamRow:
    """One query.

    Attributes:
        key: its label.
        status: "answered", "cut" at its cap, "abandoned" at the price, "refused", "failed",
            "no tokens" (lost attempts had used them up) or "interrupted".
        cap, spent: tokens.
        price: at which it bought, accuracy per token.
        expected: accuracy, by its curve.
        score: of the verifier; None where there is none.
        text: of the answer.
        why: where it has none.
    """

    key: str
    status: str
    cap: int
    spent: int
    price: float
    expected: float
    score: float | None
    text: str
    why: str = ""


@dataclass(frozen=True)
class StreamReport:
    """A stream, query by query in its order.

    Attributes:
        budget: tokens given by its end.
        spent: tokens received; lost: charged for attempts whose answers never came.
        complete: whether it came to its end.
        engine: who answered.
        notes: why it did not, in sentences.
        seconds: it took.
    """

    rows: tuple[StreamRow, ...]
    budget: float
    spent: int
    lost: int
    complete: bool
    engine: str
    notes: tuple[str, ...]
    seconds: float

    @property
    def prices(self) -> FloatArray:
        """(n,) accuracy per token."""
        return np.array([row.price for row in self.rows])

    @property
    def expected(self) -> FloatArray:
        """(n,) accuracy expected of each query."""
        return np.array([row.expected for row in self.rows])

    @property
    def scores(self) -> FloatArray:
        """(n,) verified scores; NaN where there is none."""
        return np.array([np.nan if row.score is None else row.score for row in self.rows])

    @property
    def accuracy(self) -> float | None:
        """Mean score of all queries, abandoned ones included; None without a verifier."""
        known = self.scores[~np.isnan(self.scores)]
        return float(known.mean()) if known.size else None

    def summary(self) -> str:
        """A few lines for a person."""
        counts = Counter(row.status for row in self.rows)
        ends = ", ".join(f"{count} {status}" for status, count in counts.most_common())
        lines = [
            f"{len(self.rows)} queries through {self.engine} in {self.seconds:.1f} s"
            + ("" if self.complete else " (incomplete)"),
            f"  {ends}",
            f"  {self.spent + self.lost:.0f} of {self.budget:.0f} tokens"
            + (f", {self.lost} of them lost" if self.lost else ""),
        ]
        if self.accuracy is not None:
            expected = float(self.expected.mean())
            lines.append(f"  {self.accuracy:.1%} right, {expected:.1%} expected")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])

    def write(self, folder: Path) -> Path:
        """`stream.json` in the folder, all or nothing: all of this; returns its path."""
        folder.mkdir(parents=True, exist_ok=True)
        plain: dict[str, Any] = asdict(self) | {"accuracy": self.accuracy}
        path = folder / "stream.json"
        with written_whole(path) as file:
            file.write(json.dumps(plain, indent=1).encode())
        return path
