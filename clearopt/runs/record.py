"""`Record`: what a run's journal says has happened, and the lines that say it.

A request is noted before it is sent, with its cap. If the process dies before an outcome is noted,
the engine may have generated anything up to that cap, so the request is *charged* at it: the tokens
count against the budget. Then it is asked again, with the same seed. That way the budget holds
whatever happened unseen, and the answer is the one that an undisturbed run gets.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from clearopt.errors import DeclarationError
from clearopt.runs.journal import Journal
from clearopt.serving.requests import Generation

_VERSION = 1

CHEAPER = "cheaper"
"""The purse of another engine's tokens, which are not the budget's."""

End = Literal["answered", "refused", "failed", "no tokens"]


@dataclass(frozen=True)
class Outcome:
    """What became of a job in the end.

    Attributes:
        end: "answered"; "refused" by the engine; "failed", after several attempts; "no tokens":
            not sent, or not again, because lost attempts had used the tokens up.
        generation: where it was answered.
        why: where it was not.
    """

    end: End
    generation: Generation | None = None
    why: str = ""


class Record:
    """The state of a run, from its journal and kept up with it.

    Args:
        journal: open.
        about: everything that the answers depend on, as JSON values.
        charge_lost: whether attempts that were under way when the process died are charged.

    Attributes:
        outcomes: by job.
        attempts: by job, how often it was sent.
        plans: by round, what was noted of it; verdicts: by what was looked at.
        spent, lost: by purse, tokens received; and tokens charged for attempts whose answers never
            came. A job's purse is "main" unless its name begins with that of another.
        unseen: how many such attempts there were.
        resumed: whether the journal held anything of this run.

    Raises:
        DeclarationError: the journal is of another run.
    """

    def __init__(
        self, journal: Journal, about: dict[str, Any], *, charge_lost: bool = True
    ) -> None:
        self.journal = journal
        self.run = fingerprint(about)
        self.about = json.loads(json.dumps(about))
        self.outcomes: dict[str, Outcome] = {}
        self.attempts: dict[str, int] = {}
        self.plans: dict[str, dict[str, Any]] = {}
        self.verdicts: dict[str, dict[str, Any]] = {}
        self.spent: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.unseen = 0
        self.resumed = bool(journal.entries)
        self._open: dict[tuple[str, int], int] = {}
        self._begun = False
        for entry in journal.entries:
            self._take(entry)
        for (job, _), cap in self._open.items():
            self._charge(job, cap if charge_lost else 0)
        self._open.clear()

    # ------------------------------------------------------------------ lines
    async def begin(self) -> None:
        """Note which run this is, where that is not noted yet."""
        if not self._begun:
            await self._note({"what": "run", "version": _VERSION, "run": self.run, **self.about})

    async def plan(self, name: str, caps: Sequence[int], **about: Any) -> None:
        """Note what a round allows each query, (n,) tokens, and what else is known of it."""
        whole = [int(cap) for cap in caps]
        await self._note({"what": "plan", "name": name, "caps": whole, **about})

    async def sent(self, job: str, cap: int) -> int:
        """Note that a request is about to be sent; returns the number of the attempt."""
        attempt = self.attempts.get(job, 0) + 1
        await self._note({"what": "sent", "job": job, "attempt": attempt, "cap": cap})
        return attempt

    async def failed(self, job: str, attempt: int, charged: int | None, why: str) -> None:
        """Note that an attempt brought nothing, and what it is charged.

        None: it certainly generated nothing.
        """
        await self._note(
            {"what": "attempt failed", "job": job, "attempt": attempt, "charged": charged,
             "why": why}
        )  # fmt: skip

    async def ended(self, job: str, attempt: int, outcome: Outcome) -> None:
        """Note a job's outcome; nothing is asked for it any more."""
        entry: dict[str, Any] = {
            "what": "end", "job": job, "attempt": attempt, "end": outcome.end, "why": outcome.why
        }  # fmt: skip
        if outcome.generation is not None:
            answer = outcome.generation
            entry["answer"] = {
                "text": answer.text,
                "tokens": answer.tokens,
                "reason": answer.finish_reason,
                "ids": list(answer.token_ids),
                "overrun": answer.overrun,
            }
        await self._note(entry)

    async def verdict(self, key: str, verdict: dict[str, Any]) -> None:
        """Note what a verifier said."""
        await self._note({"what": "verdict", "key": key, "verdict": verdict})

    async def _note(self, entry: dict[str, Any]) -> None:
        await self.journal.append(entry)
        self._take(entry)

    # ------------------------------------------------------------------ state
    def _take(self, entry: dict[str, Any]) -> None:
        try:
            match entry["what"]:
                case "run":
                    self._check(entry)
                    self._begun = True
                case "plan":
                    self.plans[entry["name"]] = entry | {"caps": list(entry["caps"])}
                case "sent":
                    job, attempt = entry["job"], entry["attempt"]
                    self.attempts[job] = attempt
                    self._open[job, attempt] = entry["cap"]
                case "attempt failed":
                    self._open.pop((entry["job"], entry["attempt"]), None)
                    if entry["charged"] is not None:
                        self._charge(entry["job"], entry["charged"])
                case "end":
                    self._open.pop((entry["job"], entry["attempt"]), None)
                    self._end(entry)
                case "verdict":
                    self.verdicts[entry["key"]] = entry["verdict"]
        except (KeyError, TypeError) as error:
            raise DeclarationError(
                f"{self.journal.path}: not a journal of `clearopt run`: {str(entry)[:80]}"
            ) from error

    def _end(self, entry: dict[str, Any]) -> None:
        if entry["job"] in self.outcomes:
            return  # never counted twice
        generation = None
        if found := entry.get("answer"):
            generation = Generation(
                found["text"], found["tokens"], found["reason"], tuple(found["ids"]),
                found["overrun"],
            )  # fmt: skip
            self.spent[purse_of(entry["job"])] += generation.tokens + generation.overrun
        self.outcomes[entry["job"]] = Outcome(entry["end"], generation, entry["why"])

    def _charge(self, job: str, tokens: int) -> None:
        self.lost[purse_of(job)] += tokens
        self.unseen += 1

    def _check(self, entry: dict[str, Any]) -> None:
        if entry["run"] == self.run and entry["version"] == _VERSION:
            return
        other = [name for name in self.about if entry.get(name) != self.about[name]]
        raise DeclarationError(
            f"{self.journal.path}: the journal of another run"
            + (f" (another {', '.join(other)})" if other else "")
            + ": name another folder, or remove it"
        )


def purse_of(job: str) -> str:
    """Whose tokens a job spends."""
    return CHEAPER if job.startswith(f"{CHEAPER}:") else "main"


def fingerprint(value: Any) -> str:
    """A short digest of a JSON value; equal values have equal ones, on every machine."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
