"""Verifiers in processes of their own, under a time limit: one that hangs costs one query."""

from __future__ import annotations

import asyncio
import math
import multiprocessing
import pickle
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal

from clearopt.errors import DeclarationError
from clearopt.runs.queries import Query
from clearopt.runs.verifiers import Verifier

_START = 120.0  # seconds that a process may take to start and import the verifier

Status = Literal["scored", "raised", "timed out", "died"]


@dataclass(frozen=True)
class Verdict:
    """What a verifier said of an answer.

    Attributes:
        score: from 0 to 1; 0 where it did not say.
        status: "scored"; "raised" an error; "timed out"; or its process "died".
        message: of the error.
    """

    score: float
    status: Status = "scored"
    message: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


class Verifying:
    """Asks a verifier about answers, each in at most `seconds`.

    A user's function runs in other processes, so it has to be defined in a module that can be
    imported, and a script that starts a run needs its `if __name__ == "__main__":`.

    Args:
        verifier: what to ask.
        seconds: for one answer.
        processes: how many answers are looked at at a time.

    Raises:
        DeclarationError: the verifier cannot be handed to another process.
    """

    def __init__(self, verifier: Verifier, *, seconds: float = 10.0, processes: int = 1) -> None:
        if not seconds > 0 or processes < 1:
            raise DeclarationError(
                f"seconds = {seconds!r} must be above 0, processes = {processes!r} at least 1"
            )
        try:
            pickle.dumps(verifier)
        except Exception as error:  # pickle raises several kinds
            raise DeclarationError(
                f"the verifier {verifier!r} cannot be handed to another process ({error}): define "
                "it by name in a module"
            ) from error
        self._workers = [_Worker(verifier, seconds) for _ in range(processes)]
        self._waiting = ThreadPoolExecutor(processes)
        self._idle: asyncio.Queue[_Worker] = asyncio.Queue()
        for worker in self._workers:
            self._idle.put_nowait(worker)

    async def verdict(self, query: Query, text: str) -> Verdict:
        """What the verifier says; never raises for what happens inside it."""
        worker = await self._idle.get()
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._waiting, worker.ask, query, text)
        finally:
            self._idle.put_nowait(worker)

    def close(self) -> None:
        """End the processes."""
        self._waiting.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.stop()


class _Worker:
    """One process, started when it is first needed and again after one had to be killed."""

    def __init__(self, verifier: Verifier, seconds: float) -> None:
        self._verifier, self._seconds = verifier, seconds
        self._process: Any = None
        self._pipe: Connection | None = None

    def ask(self, query: Query, text: str) -> Verdict:
        try:
            pipe = self._started()
            pipe.send((query, text))
            if not pipe.poll(self._seconds):
                self.stop()
                return Verdict(0.0, "timed out", f"no verdict within {self._seconds:g} s")
            score, message = pipe.recv()
        except (EOFError, OSError) as error:
            self.stop()
            return Verdict(0.0, "died", f"the verifier's process ended ({error})".strip())
        return Verdict(0.0, "raised", message) if score is None else Verdict(score)

    def _started(self) -> Connection:
        if self._pipe is None:
            context = multiprocessing.get_context("spawn")  # JAX does not survive a fork
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(
                target=_verify_on, args=(theirs, self._verifier), daemon=True
            )
            self._process.start()
            theirs.close()
            if not self._pipe.poll(_START):
                raise EOFError(f"not started within {_START:g} s")
            self._pipe.recv()
        return self._pipe

    def stop(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None


def _verify_on(pipe: Connection, verifier: Verifier) -> None:
    """Answer one question after the other; runs in the verifier's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent answers for us
    pipe.send("ready")
    while True:
        try:
            query, text = pipe.recv()
        except EOFError:
            return
        try:
            score = float(verifier(query, text))
            if not (math.isfinite(score) and 0 <= score <= 1):
                raise ValueError(f"the score {score!r} does not lie between 0 and 1")
            pipe.send((score, ""))
        except Exception as error:  # whatever a user's function raises
            pipe.send((None, f"{type(error).__name__}: {error}"[:500]))
