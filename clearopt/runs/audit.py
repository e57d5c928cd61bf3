"""What the engine did with each request, against what it was asked: a budget ignored is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from clearopt.serving.endpoint import Endpoint
from clearopt.serving.reasoning import Reasoning, last_mark, thought
from clearopt.serving.requests import Generation, Request


@dataclass(frozen=True)
class Audited:
    """One request, planned and spent.

    Attributes:
        job: its name in the journal.
        planned: its cap.
        spent: tokens received, those beyond the cap included.
        finish_reason: what the engine said.
        overran: whether it sent more than the cap.
        cut_early: whether it was cut before its cap: the engine has a limit of its own.
        thinking_planned, thinking_spent: where there is a limit, and where it can be told.
    """

    job: str
    planned: int
    spent: int
    finish_reason: str
    overran: bool
    cut_early: bool
    thinking_planned: int | None = None
    thinking_spent: int | None = None

    @property
    def thought_too_long(self) -> bool:
        """Whether it thought on beyond its limit."""
        return (
            self.thinking_planned is not None
            and self.thinking_spent is not None
            and self.thinking_spent > self.thinking_planned
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


class Auditor:
    """Compares answers with requests.

    Args:
        reasoning: of the model, or None.
        start, end: tokens of its marks, or None where the engine cannot tell.
        template: tokens of a chat, whose template may begin the thinking itself.
    """

    def __init__(
        self,
        reasoning: Reasoning | None = None,
        start: tuple[int, ...] | None = None,
        end: tuple[int, ...] | None = None,
        template: tuple[int, ...] = (),
    ) -> None:
        self._reasoning, self._start, self._end = reasoning, start or (), end
        self._template = template

    @classmethod
    async def asking(
        cls, endpoint: Endpoint, reasoning: Reasoning | None, *, chat: bool = False
    ) -> Auditor:
        """An auditor that knows how the engine writes the marks of thinking."""
        if reasoning is None:
            return cls()
        start, end = await endpoint.encode(reasoning.start), await endpoint.encode(reasoning.end)
        return cls(reasoning, start, end, await endpoint.chat("?") if chat else ())

    def audit(self, job: str, request: Request, answer: Generation) -> Audited:
        """One request and its answer."""
        spent = answer.tokens + answer.overrun
        return Audited(
            job=job,
            planned=request.max_tokens,
            spent=spent,
            finish_reason=answer.finish_reason,
            overran=answer.overrun > 0,
            cut_early=answer.finish_reason == "length" and spent < request.max_tokens,
            thinking_planned=request.thinking_tokens,
            thinking_spent=self._thought(request, answer),
        )

    def _thought(self, request: Request, answer: Generation) -> int | None:
        if request.thinking_tokens is None or self._reasoning is None or not self._end:
            return None
        ids = request.prefix.then(answer).token_ids
        if not ids:
            return None
        prompt: Any = self._template if request.chat else request.prompt
        if isinstance(prompt, str):
            begun = prompt.rfind(self._reasoning.start) > prompt.rfind(self._reasoning.end)
        else:
            begun = last_mark(prompt, self._start) > last_mark(prompt, self._end)
        return thought(ids, self._end, self._start, begun=begun)


def findings(audits: Sequence[Audited]) -> list[str]:
    """What a person should know of them: sentences, none where all is as planned."""
    told = []
    n = len(audits)
    over = [a for a in audits if a.overran]
    if over:
        most = max(a.spent - a.planned for a in over)
        told.append(
            f"max_tokens was ignored in {len(over)} of {n} requests: up to {most} tokens more "
            "arrived before they were hung up on, and the engine may have generated further ones"
        )
    early = sum(a.cut_early for a in audits)
    if early:
        told.append(
            f"{early} of {n} answers were cut before their caps: the engine has a limit of its own "
            "(max_model_len, or a default of the server)"
        )
    limited = [a for a in audits if a.thinking_planned is not None]
    long = [a for a in limited if a.thought_too_long]
    if long:
        told.append(
            f"the limit of the thinking was ignored in {len(long)} of {len(limited)} requests: is "
            "the server started with --reasoning-parser or --reasoning-config?"
        )
    unknown = sum(a.thinking_spent is None for a in limited)
    if limited and unknown == len(limited):
        told.append(
            "the limit of the thinking cannot be checked: no answer shows the marks of thinking, "
            "or the server does not tell its tokens"
        )
    return told
