"""`Report` of a run: a row a query, what it cost, and what re-allocation gained."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from clearopt.atomic import written_whole

REPORT_NAME = "report.json"
ANSWERS_NAME = "answers.jsonl"

Status = Literal[
    "answered", "cut", "fallback", "cheaper", "queued", "skipped", "refused", "failed",
    "no tokens", "interrupted",
]  # fmt: skip

MEANING: Mapping[Status, str] = {
    "answered": "ended by itself",
    "cut": "cut at its cap",
    "fallback": "unfunded; a short answer instead",
    "cheaper": "unfunded; answered by the other engine",
    "queued": "unfunded; written down for later",
    "skipped": "unfunded; left out",
    "refused": "not taken by the engine",
    "failed": "no answer after several attempts",
    "no tokens": "funded, but attempts that were lost used its tokens up",
    "interrupted": "the run ended before it was its turn",
}


@dataclass(frozen=True)
class Row:
    """One query.

    Attributes:
        key: its label.
        status: one of `MEANING`.
        planned: tokens it was allowed in all.
        spent: tokens received.
        rounds: in how many rounds it was sent.
        finish_reason: of its last request, or None.
        score: what the verifier gave its answer, from 0 to 1; None without a verifier.
        verdict: how the verifier came to it: "scored", "raised", "timed out", "died", "cut" (not
            asked), or None.
        first_score: the score it would have without re-allocation.
        text: the answer.
        why: what went wrong, where something did.
    """

    key: str
    status: Status
    planned: int
    spent: int
    rounds: int
    finish_reason: str | None
    score: float | None
    verdict: str | None
    first_score: float | None
    text: str
    why: str = ""


@dataclass(frozen=True)
class Round:
    """One sharing-out of tokens.

    Attributes:
        number: 0 for the first.
        available: tokens that could be shared out.
        planned, spent: tokens shared out, and received.
        sent, ended: requests, and answers among theirs that ended by themselves.
        expected: right answers the curves promise of these tokens, or None.
        price: shadow price (right answers per token), or None.
    """

    number: int
    available: int
    planned: int
    spent: int
    sent: int
    ended: int
    expected: float | None
    price: float | None


@dataclass(frozen=True)
class Spending:
    """Tokens of the budget.

    Attributes:
        budget: given.
        spent: received in answers.
        lost: charged for attempts whose answers never came.
        unspent: what is left.
        attempts_lost: how many such attempts there were.
        asked_again: requests that were sent more than once.
        cheaper: tokens of the other engine, not the budget's.
    """

    budget: int
    spent: int
    lost: int
    unspent: int
    attempts_lost: int
    asked_again: int
    cheaper: int = 0


@dataclass(frozen=True)
class Report:
    """The whole result of a run.

    `rows` and `rounds` are the same however often a run was killed and taken up again; `spending`
    shows what that cost, and `seconds` how long it took since it was last taken up.

    Attributes:
        rows: in the order of the queries.
        rounds: in their order.
        spending: of the budget.
        complete: whether every query came to its end.
        engine: who answered.
        abandonment: what was chosen for unfunded queries.
        notes: sentences that a person should read.
        settings: of the run.
        seconds: of wall time.
        resumed: requests that an earlier process had answered.
        audits: each answered request, planned and spent (`clearopt.runs.audit.Audited`).
    """

    rows: tuple[Row, ...]
    rounds: tuple[Round, ...]
    spending: Spending
    complete: bool
    engine: str
    abandonment: Mapping[str, Any]
    notes: tuple[str, ...]
    settings: Mapping[str, Any]
    seconds: float = 0.0
    resumed: int = 0
    audits: Sequence[Mapping[str, Any]] = field(default=(), repr=False)

    @property
    def statuses(self) -> dict[str, int]:
        """How many queries came to which end."""
        counts = Counter(row.status for row in self.rows)
        return {status: counts[status] for status in MEANING if counts[status]}

    @property
    def right(self) -> float | None:
        """The sum of the scores that are known; None without a verifier."""
        return _total([row.score for row in self.rows])

    @property
    def right_at_first(self) -> float | None:
        """What it would have been without re-allocation."""
        return _total([row.first_score for row in self.rows])

    @property
    def gain(self) -> float | None:
        """Right answers gained by re-allocation, as measured."""
        if self.right is None or self.right_at_first is None:
            return None
        return self.right - self.right_at_first

    def summary(self) -> str:
        """A few lines for a person."""
        n, money = len(self.rows), self.spending
        lines = []
        if self.right is not None:
            lines.append(f"right      {self.right:g} of {n} ({self.right / n:.1%})")
        kinds = ", ".join(f"{count} {status}" for status, count in self.statuses.items())
        lines.append(f"queries    {kinds}")
        lines.append(
            f"tokens     {money.spent:,} of {money.budget:,} spent, {money.unspent:,} left"
            + (f", {money.lost:,} lost in {money.attempts_lost} attempts" if money.lost else "")
            + (f"; {money.cheaper:,} of the other engine" if money.cheaper else "")
        )
        further = self.rounds[1:]
        if further:
            gained = "" if self.gain is None else f": {self.gain:+g} right answers"
            lines.append(
                f"again      {sum(r.planned for r in further):,} tokens left over were shared out "
                f"again in {len(further)} round{'s' if len(further) > 1 else ''}{gained}"
            )
        if self.resumed:
            lines.append(f"taken up   {self.resumed} requests had been answered before")
        if not self.complete:
            lines.append("incomplete: give the same command again to go on from here")
        lines += [f"note       {note}" for note in self.notes]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; the answers' texts are left to their own file."""
        plain = asdict(self)
        for row in plain["rows"]:
            del row["text"]
        plain["statuses"] = self.statuses
        plain |= {"right": self.right, "right_at_first": self.right_at_first, "gain": self.gain}
        return plain

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write `report.json` and `answers.jsonl` into a folder, each all or nothing."""
        folder.mkdir(parents=True, exist_ok=True)
        report, answers = folder / REPORT_NAME, folder / ANSWERS_NAME
        with written_whole(report) as file:
            file.write(json.dumps(self.to_dict(), indent=1, allow_nan=False).encode() + b"\n")
        with written_whole(answers) as file:
            for row in self.rows:
                file.write(json.dumps(asdict(row)).encode() + b"\n")
        return report, answers


def _total(scores: Sequence[float | None]) -> float | None:
    known = [score for score in scores if score is not None]
    return sum(known) if known else None
