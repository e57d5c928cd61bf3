"""`Stepper`: vLLM's engine in this process, one step after the other between an event loop's turns.

Each answer is handed over as it is ready, and requests may come at any time: they join the batch
at the next step.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from clearopt.serving.failures import EngineError, RefusedError


class Stepper:
    """Runs vLLM's `LLMEngine` while there is anything to generate.

    Args:
        engine: the `LLMEngine`.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._numbers = itertools.count()
        self._waiting: dict[str, asyncio.Future[Any]] = {}
        self._pump: asyncio.Task[None] | None = None

    async def run(self, prompt_ids: list[int], parameters: Any) -> Any:
        """The `RequestOutput` of one request, whole.

        Raises:
            RefusedError: vLLM does not take the request.
            EngineError: vLLM failed.
        """
        number = f"clearopt-{next(self._numbers)}"
        try:
            self._engine.add_request(number, {"prompt_token_ids": prompt_ids}, parameters)
        except Exception as error:  # whatever vLLM raises before it takes a request
            raise RefusedError(f"vLLM refuses the request: {error}") from error
        future = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._step_on())
        try:
            return await future
        except asyncio.CancelledError:
            self._engine.abort_request([number])
            raise
        finally:
            self._waiting.pop(number, None)

    async def _step_on(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(0)  # others' turn: to add requests, to take answers
                for output in self._engine.step():
                    future = self._waiting.get(output.request_id)
                    if output.finished and future is not None and not future.done():
                        future.set_result(output)
        except Exception as error:  # vLLM raises whatever the layer below raised
            failure = EngineError(f"vLLM failed while generating: {type(error).__name__}: {error}")
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(failure)
