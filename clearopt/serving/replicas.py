"""`Replicas`: several engines with the same model as one; the least busy gets the request."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Self

from clearopt.errors import DeclarationError
from clearopt.serving.endpoint import Endpoint
from clearopt.serving.failures import BusyError, LostError
from clearopt.serving.requests import Generation, Request

_COOLING = 5.0  # seconds that a replica is passed over after it failed, where another is there


class Replicas:
    """Data-parallel replicas: servers on several GPUs or machines that serve one model.

    A replica that fails is passed over for some seconds, so that one that is down does not draw
    every request by failing fastest.

    Args:
        endpoints: at least one.
        cooling: seconds.

    Raises:
        DeclarationError: there is none, or one stands twice.
    """

    def __init__(self, endpoints: Sequence[Endpoint], *, cooling: float = _COOLING) -> None:
        if not endpoints or len({id(endpoint) for endpoint in endpoints}) < len(endpoints):
            raise DeclarationError("Replicas: give at least one endpoint, and none twice")
        self.endpoints = tuple(endpoints)
        self.concurrency = sum(endpoint.concurrency for endpoint in endpoints)
        self._cooling = cooling
        self._busy = [0] * len(endpoints)
        self._not_before = [0.0] * len(endpoints)
        self._stack: AsyncExitStack | None = None

    @property
    def name(self) -> str:
        """The model of the first."""
        return self.endpoints[0].name

    async def __aenter__(self) -> Self:
        self._busy = [0] * len(self.endpoints)
        self._not_before = [0.0] * len(self.endpoints)
        async with AsyncExitStack() as stack:
            for endpoint in self.endpoints:
                await stack.enter_async_context(endpoint)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._stack is not None:
            stack, self._stack = self._stack, None
            await stack.aclose()

    async def answer(self, request: Request) -> Generation:
        """Answer one request, by the replica that has the fewest under way.

        Raises:
            BusyError, LostError, RefusedError, EngineError: that replica's.
        """
        clock = asyncio.get_running_loop().time
        now = clock()
        chosen = min(
            range(len(self.endpoints)),
            key=lambda i: (max(self._not_before[i] - now, 0.0), self._share(i)),
        )
        self._busy[chosen] += 1
        try:
            return await self.endpoints[chosen].answer(request)
        except (BusyError, LostError):
            self._not_before[chosen] = clock() + self._cooling
            raise
        finally:
            self._busy[chosen] -= 1

    async def encode(self, text: str, *, special: bool = False) -> tuple[int, ...] | None:
        """As the first replica tells."""
        return await self.endpoints[0].encode(text, special=special)

    async def chat(self, message: str) -> tuple[int, ...]:
        """As the first replica tells."""
        return await self.endpoints[0].chat(message)

    def _share(self, i: int) -> float:
        return self._busy[i] / self.endpoints[i].concurrency

    def __repr__(self) -> str:
        return f"Replicas({list(self.endpoints)!r})"
