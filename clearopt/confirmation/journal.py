"""A run's journal: a JSON line for every finished batch, so that a run can be taken up again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE_NAME = "journal.jsonl"


class Journal:
    """Finished batches of one configuration, kept in `folder/journal.jsonl` (or not at all).

    Lines of other configurations, and a last line that was cut by a crash, are passed over.

    Args:
        folder: where the file lies; None keeps nothing.
        configuration: everything that the results depend on, as JSON values.
    """

    def __init__(self, folder: Path | None, configuration: Mapping[str, Any]) -> None:
        self.run = fingerprint(configuration)
        self._path = folder / FILE_NAME if folder is not None else None
        self._entries: dict[str, dict[str, Any]] = {}
        if self._path is None or not self._path.is_file():
            return
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
                if entry["run"] == self.run:
                    self._entries[entry["key"]] = entry["result"]
            except (json.JSONDecodeError, KeyError, TypeError):
                continue

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> dict[str, Any] | None:
        """The result recorded under `key`, if there is one."""
        return self._entries.get(key)

    def record(self, key: str, result: dict[str, Any]) -> None:
        """Append a result; it is on disk when this returns."""
        self._entries[key] = result
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"run": self.run, "key": key, "result": result})
        with self._path.open("a+b") as file:
            # After a crash the file may end in half a line: start a new one.
            torn = False
            if file.tell():
                file.seek(-1, os.SEEK_END)
                torn = file.read(1) != b"\n"
            file.write((b"\n" if torn else b"") + line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def fingerprint(value: Any) -> str:
    """A short digest of a JSON value; equal values have equal ones, on every machine."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def model_fingerprint(folder: str) -> str:
    """What tells two models apart: a folder's file names, sizes and small files; else its name."""
    path = Path(folder)
    if not path.is_dir():
        return folder
    digest = hashlib.sha256()
    for file in sorted(p for p in path.iterdir() if p.is_file()):
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}\n".encode())
        if size <= 16_000_000:
            digest.update(file.read_bytes())
        else:  # reading gigabytes would cost more than it tells
            digest.update(str(file.stat().st_mtime_ns).encode())
    return digest.hexdigest()[:16]
