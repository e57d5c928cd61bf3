"""`Endpoint`: the one face of all engines, whether in this process or behind a URL."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol, Self

from clearopt.serving.requests import Generation, Request


class Endpoint(Protocol):
    """Answers requests, many at a time.

    Attributes:
        concurrency: how many requests it is good to have under way at once.
    """

    concurrency: int

    @property
    def name(self) -> str:
        """Which model this is, and where; without secrets. A run is known by it."""

    async def __aenter__(self) -> Self:
        """Make ready to answer, in the running event loop.

        Raises:
            EngineError: it cannot serve at all; says why.
        """

    async def __aexit__(self, *_: object) -> None:
        """Let go of what `__aenter__` took."""

    async def answer(self, request: Request) -> Generation:
        """Answer one request. A cancelled one is withdrawn from the engine.

        Raises:
            BusyError, LostError, RefusedError: this attempt failed.
            EngineError: no request will succeed.
        """

    async def encode(self, text: str, *, special: bool = False) -> tuple[int, ...] | None:
        """The tokens of a text, with `special` as those of a prompt; None where it cannot tell."""

    async def chat(self, message: str) -> tuple[int, ...]:
        """The tokens of a user's message in the model's chat template, up to the answer.

        Raises:
            RefusedError: the model has no chat template, or the engine cannot tell.
        """


def answer_all(endpoint: Endpoint, requests: Iterable[Request]) -> list[Generation]:
    """Answer requests in an event loop of its own, in their order, without retries.

    Raises:
        AttemptError, EngineError: the first that failed; the others are withdrawn.
    """

    async def answers() -> list[Generation]:
        slots = asyncio.Semaphore(endpoint.concurrency)

        async def one(request: Request) -> Generation:
            async with slots:
                return await endpoint.answer(request)

        async with endpoint:
            tasks = [asyncio.ensure_future(one(request)) for request in requests]
            try:
                return await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    return asyncio.run(answers())
