"""`Journal`: an append-only file of JSON lines, each on disk before the run goes on.

Lines that are waiting at the same time are written together and synchronised once, so that
thousands of answers a second cost a few dozen synchronisations.
"""

from __future__ import annotations

import asyncio
import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from clearopt.errors import ClearoptError, DeclarationError

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # not on Windows: there nothing keeps a second process away
    fcntl = None

FILE_NAME = "journal.jsonl"


class JournalError(ClearoptError, RuntimeError):
    """The journal cannot be written any more; what it holds is whole."""


class Journal:
    """A run's lines, read when it is opened and appended to from then on.

    Only one process has it open at a time. A last line that a crash has cut is taken away; a
    damaged line further up is passed over, and told in `damaged`.

    Args:
        path: of the file; made with its folder where it is not there. None keeps nothing.

    Attributes:
        entries: what the file held when it was opened.
        damaged: numbers of the lines that could not be read, from 1.

    Raises:
        DeclarationError: it cannot be opened, or another process has it open.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.entries: list[dict[str, Any]] = []
        self.damaged: list[int] = []
        self._file: int | None = None
        self._end = 0
        self._pending: list[tuple[bytes, asyncio.Future[None]]] = []
        self._flusher: asyncio.Task[None] | None = None
        self._broken: JournalError | None = None
        self._writer = ThreadPoolExecutor(1)  # its own: others may be busy for long
        if path is not None:
            self._open(path)

    def _open(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            _synchronise_folder(path.parent)
        except OSError as error:
            raise DeclarationError(f"{path}: cannot be written ({error.strerror})") from error
        if fcntl is not None:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                self.close()
                raise DeclarationError(
                    f"{path}: another process is writing it; wait for that run to end"
                ) from error
        data = path.read_bytes()
        self._end = data.rfind(b"\n") + 1
        if self._end < len(data):  # half a line: the crash came before it was on disk
            os.ftruncate(self._file, self._end)
        for number, line in enumerate(data[: self._end].split(b"\n")[:-1], 1):
            try:
                entry = json.loads(line)
            except ValueError:
                entry = None
            if isinstance(entry, dict):
                self.entries.append(entry)
            else:
                self.damaged.append(number)

    async def append(self, *entries: dict[str, Any]) -> None:
        """Write lines; they are on disk when this returns.

        Raises:
            JournalError: they are not, and none will be from now on.
        """
        if self._broken is not None:
            raise self._broken
        if self._file is None:
            return
        data = b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)
        written = asyncio.get_running_loop().create_future()
        self._pending.append((data, written))
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush())
        await written

    async def drain(self) -> None:
        """Wait until everything appended is on disk, or has failed to get there."""
        if self._flusher is not None:
            await asyncio.wait([self._flusher])

    def close(self) -> None:
        """Let another process have it."""
        self._writer.shutdown()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    async def _flush(self) -> None:
        while self._pending:
            waiting, self._pending = self._pending, []
            try:
                if self._broken is not None:
                    raise self._broken
                lines = b"".join(data for data, _ in waiting)
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self._writer, self._write, lines)
            except JournalError as error:
                self._broken = error
                for _, written in waiting:
                    if not written.done():
                        written.set_exception(error)
            else:
                for _, written in waiting:
                    if not written.done():
                        written.set_result(None)

    def _write(self, data: bytes) -> None:
        assert self._file is not None
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
        except OSError as error:
            with suppress(OSError):  # no half lines, where that much still works
                os.ftruncate(self._file, self._end)
            raise JournalError(
                f"{self.path}: cannot be written ({error.strerror}): the run stops here. What "
                "was answered is kept: make room, and give the same command again"
            ) from error
        self._end += len(data)


def _synchronise_folder(folder: Path) -> None:
    """Make a new file's name last."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
