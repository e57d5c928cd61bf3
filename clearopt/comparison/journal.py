"""A file that every run is written to as it ends, so that an interrupted comparison is taken up.

JSON lines: a heading, then a run each. A run is known by a digest of its program, solver, options,
repeat and the versions installed: where any of these changes, it is made again.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from clearopt.comparison.rows import PLAIN, ComparisonRow
from clearopt.errors import DeclarationError

_HEADING = {"format": "clearopt comparison journal", "version": 1}


class Journal:
    """The runs in a file, read once; `write` adds one.

    Raises:
        DeclarationError: there is a file already that is no journal, or nothing can be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.known: dict[str, ComparisonRow] = {}
        try:
            if self.path.exists() and self.path.stat().st_size:
                self._read(self.path.read_text(encoding="utf-8"))
            else:
                self._append(_HEADING)
        except (OSError, UnicodeDecodeError) as error:
            raise DeclarationError(f"out = {self.path}: cannot be used ({error})") from error

    def _read(self, text: str) -> None:
        lines = text.splitlines()
        if _parsed(lines[0]) != _HEADING:
            raise DeclarationError(
                f"out = {self.path}: exists, and is no journal of a comparison; name another file"
            )
        for line in lines[1:]:
            entry = _parsed(line)  # the last may be half written: that run is made again
            if isinstance(entry, dict) and isinstance(entry.get("row"), dict):
                row = _row(entry["row"])
                if row is not None:
                    self.known[str(entry.get("key"))] = row
        if not text.endswith("\n"):
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n")

    def write(self, key: str, row: ComparisonRow) -> None:
        """Add a run."""
        kept = {name: getattr(row, name) for name in PLAIN}
        kept["curve"] = [list(point) for point in row.curve]
        self._append({"key": key, "row": _written(kept)})

    def _append(self, entry: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, allow_nan=False) + "\n")


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _row(kept: dict[str, Any]) -> ComparisonRow | None:
    values = _numbers(kept)
    try:
        curve = tuple((float(s), float(o), float(b)) for s, o, b in values.pop("curve"))
        row = ComparisonRow(solution=None, curve=curve, **values)
        float(row.seconds + row.objective + row.bound)
    except (KeyError, TypeError, ValueError):
        return None
    return row


def _written(value: Any) -> Any:
    """JSON has no infinities."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, dict):
        return {name: _written(each) for name, each in value.items()}
    return [_written(each) for each in value] if isinstance(value, list) else value


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"float"}:
            return float(value["float"])
        return {name: _numbers(each) for name, each in value.items()}
    return [_numbers(each) for each in value] if isinstance(value, list) else value
