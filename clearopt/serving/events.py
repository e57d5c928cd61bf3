"""Server-sent events as OpenAI-compatible servers write them, and what completions say in them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from clearopt.serving.failures import LostError, RefusedError
from clearopt.serving.requests import Generation

_DATA = b"data:"
_DONE = b"[DONE]"
_UNFINISHED = ("abort", "error")  # what vLLM says when it shuts down, or fails
_LONGEST = 64_000_000  # bytes of one event; no completion's has more


async def events(pieces: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    """The JSON objects of a stream, up to `[DONE]` or its end.

    Raises:
        LostError: an event is not JSON.
    """
    rest = b""
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if not line.startswith(_DATA):
                continue  # a comment to keep the connection alive, or an empty line
            data = line[len(_DATA) :].strip()
            if data == _DONE:
                return
            yield _parsed(data)
        if len(rest) > _LONGEST:
            raise LostError("the server sends something that is no event stream")


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except ValueError as error:
        raise LostError(f"the server sent what is not JSON: {data[:80]!r}") from error
    if not isinstance(event, dict):
        raise LostError(f"the server sent what is no completion: {data[:80]!r}")
    return event


@dataclass
class Arriving:
    """An answer as it arrives, piece by piece, under its cap.

    Attributes:
        cap: tokens asked for.
        overrunning: whether more than the cap has arrived: hang up.
    """

    cap: int
    _texts: list[str] = field(default_factory=list)
    _ids: list[int] = field(default_factory=list)
    _told: bool = True  # whether every piece of text came with its tokens
    _pieces: int = 0
    _reason: str | None = None
    _usage: int | None = None
    overrunning: bool = False

    def add(self, event: dict[str, Any]) -> None:
        """Take an event in.

        Raises:
            LostError: the server reports that it failed.
            RefusedError: it reports that the request is wrong.
        """
        if error := event.get("error"):
            code = error.get("code") if isinstance(error, dict) else None
            what = error.get("message") if isinstance(error, dict) else error
            refused = isinstance(code, int) and 400 <= code < 500
            raise (RefusedError if refused else LostError)(f"the server reports: {what}")
        usage = event.get("usage")
        if isinstance(usage, dict) and isinstance(usage.get("completion_tokens"), int):
            self._usage = usage["completion_tokens"]
        for choice in event.get("choices") or ():
            self._take(choice)

    def _take(self, choice: dict[str, Any]) -> None:
        text, ids = choice.get("text") or "", choice.get("token_ids")
        self._reason = choice.get("finish_reason") or self._reason
        if ids is None:
            self._told = self._told and not text
            self._pieces += bool(text)
            self._texts.append(text)
            return
        self._ids += [int(token) for token in ids]
        if len(self._ids) <= self.cap:
            self._texts.append(text)
        else:  # a piece of text cannot be cut, so one that crosses the cap is left out
            self.overrunning = True

    def whole(self) -> Generation:
        """The answer, now that the stream has ended.

        Raises:
            LostError: it ended before the answer did.
        """
        text = "".join(self._texts)
        if self._told and (self._ids or not text):
            ids = tuple(self._ids[: self.cap])
            count = max(len(self._ids), self._usage or 0)
        else:  # no token is told: the server's own count, else one token a piece
            ids, count = (), self._usage if self._usage is not None else self._pieces
        broken = self._reason is None and not self.overrunning
        if broken or self._reason in _UNFINISHED:
            raise LostError(f"the answer broke off after {count} of at most {self.cap} tokens")
        over = max(count - self.cap, 0)
        reason = "length" if over else str(self._reason)
        return Generation(text, min(count, self.cap), reason, ids, over)
