"""What a server's refusals mean: the failure for each HTTP status."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

from clearopt.serving.failures import AttemptError, BusyError, EngineError, LostError, RefusedError

_BUSY = (408, 425, 429, 503)  # nothing was begun
_DENIED = (401, 403, 404, 405)  # the key, the model's name or the address
_LONGEST_WAIT = 3600.0  # seconds: no server is believed that asks for more


class _Addressed(Protocol):
    key_variable: str
    model: str | None


def failure_of(
    status: int, headers: Mapping[str, str], text: str, url: str, key: str, server: _Addressed
) -> AttemptError | EngineError:
    """The failure that an HTTP status other than 200 stands for; the key is in no message."""
    said = _message(text)
    if key:
        said = said.replace(key, "***")
    about = f"{url} answers {status}" + (f": {said}" if said else "")
    if status in _BUSY:
        return BusyError(about, retry_after(headers.get("Retry-After")))
    if status in _DENIED:
        hint = {
            401: f"is the key in {server.key_variable} right?",
            403: f"is the key in {server.key_variable} right?",
        }.get(status, f"is the model {server.model!r} served there, and the address right?")
        return EngineError(f"{about} ({hint})")
    if 300 <= status < 400:
        return EngineError(f"{about}: it moved elsewhere; give the new address as base_url")
    if 400 <= status < 500:
        return RefusedError(about)
    return LostError(about)  # whether tokens were generated before it failed, nobody knows


def retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks to wait: a number, or a date."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            return None
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        seconds = (date - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), _LONGEST_WAIT) if seconds == seconds else None


def _message(text: str) -> str:
    """The sentence in an error's body, short."""
    try:
        found: Any = json.loads(text)
    except ValueError:
        found = text
    for name in ("error", "message", "detail"):
        if isinstance(found, dict) and name in found:
            found = found[name]
    return " ".join(str(found).split())[:300]
