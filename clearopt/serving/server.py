"""`Server`: any OpenAI-compatible server, such as `vllm serve`, with a cap and a seed a request."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from numpy.typing import ArrayLike

from clearopt.errors import DeclarationError, MissingExtraError
from clearopt.serving.endpoint import answer_all
from clearopt.serving.events import Arriving, events
from clearopt.serving.failures import BusyError, EngineError, LostError, RefusedError
from clearopt.serving.requests import ABANDONED, Generation, Request, whole_numbers
from clearopt.serving.responses import failure_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import aiohttp

KEY_VARIABLE = "VLLM_API_KEY"
"""The environment variable that vLLM's own server reads its key from."""

_AT_ONCE = 256
_KEPT_ALIVE = 4.0  # seconds; servers drop idle connections after 5, some in mid-request


class Server:
    """An OpenAI-compatible server's completions, streamed.

    Answers are streamed, so that a server that ignores a cap is hung up on, and one that hangs is
    told from one that is slow. The key is read from the environment for every request, and is
    neither kept nor shown.

    Args:
        base_url: such as "http://localhost:8000/v1"; "/v1" is added where there is no path.
        model: its name on the server; None: the one model that the server has.
        key_variable: environment variable that holds the key; a server without one needs none.
        concurrency: requests under way at once.
        connect_timeout: seconds to reach the server.
        idle_timeout: seconds without a sign of life before an answer is given up.
        extra: further fields of every request's body, such as {"top_p": 0.9}.

    Raises:
        DeclarationError: the URL is none, or holds a password.
        MissingExtraError: aiohttp is not installed; says what to install.
    """

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        *,
        key_variable: str = KEY_VARIABLE,
        concurrency: int = _AT_ONCE,
        connect_timeout: float = 10.0,
        idle_timeout: float = 120.0,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self.base_url = _checked_url(base_url)
        self.model = self._asked_for = model
        self.key_variable = key_variable
        self.concurrency = concurrency
        self.connect_timeout, self.idle_timeout = connect_timeout, idle_timeout
        self.extra = dict(extra or {})
        for name, value in (
            ("concurrency", concurrency),
            ("connect_timeout", connect_timeout),
            ("idle_timeout", idle_timeout),
        ):
            if not value > 0:
                raise DeclarationError(f"Server: {name} = {value!r}: must be above 0")
        taken = {"prompt", "max_tokens", "seed", "stream", "n"} & set(self.extra)
        if taken:
            raise DeclarationError(f"Server: extra: {sorted(taken)[0]!r} is set for each request")
        self._aiohttp = _import_aiohttp()
        self._session: aiohttp.ClientSession | None = None
        self._entered = 0

    # ------------------------------------------------------------------ one face of all engines
    @property
    def name(self) -> str:
        """The model, as it was asked for; a server may move without becoming another."""
        return self._asked_for or f"the model at {self.base_url}"

    @property
    def location(self) -> str:
        """As `Engine.location`: where the model is."""
        return f"{self.model} at {self.base_url}"

    async def __aenter__(self) -> Self:
        self._entered += 1
        if self._session is not None:
            return self
        aiohttp = self._aiohttp
        self._asking = asyncio.Lock()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT_ALIVE),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=self.connect_timeout, sock_read=self.idle_timeout
            ),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._entered -= 1
        if not self._entered and self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def answer(self, request: Request) -> Generation:
        """Answer one request.

        Raises:
            BusyError, LostError, RefusedError: this attempt failed.
            EngineError: no request will succeed: the key, the model's name or the address is wrong.
        """
        body = await self._body(request)
        arriving = Arriving(request.max_tokens)
        async with self._posted("completions", body) as response:
            if response.content_type == "application/json":  # a server that does not stream
                arriving.add(await _json(response))
            else:
                async for event in events(response.content.iter_any()):
                    arriving.add(event)
                    if arriving.overrunning:
                        response.close()  # hang up: the server then stops generating
                        break
        return arriving.whole()

    async def encode(self, text: str, *, special: bool = False) -> tuple[int, ...] | None:
        body = {"prompt": text, "add_special_tokens": special, "model": await self.model_name()}
        try:
            async with self._posted("/tokenize", body) as response:
                return tuple(int(token) for token in (await _json(response))["tokens"])
        except (RefusedError, EngineError, KeyError, TypeError, ValueError):
            return None  # not vLLM: other servers have no such address

    async def chat(self, message: str) -> tuple[int, ...]:
        """The tokens of a user's message in the model's chat template, up to the answer.

        Raises:
            RefusedError: the server, or its model, has no chat template to apply.
        """
        body = {
            "messages": [{"role": "user", "content": message}],
            "add_generation_prompt": True,
            "model": await self.model_name(),
        }
        try:
            async with self._posted("/tokenize", body) as response:
                return tuple(int(token) for token in (await _json(response))["tokens"])
        except (EngineError, KeyError, TypeError, ValueError) as error:
            raise RefusedError(f"the chat template cannot be applied: {error}") from error

    async def model_name(self) -> str:
        """The model's name on the server, asked for where it was not given.

        Raises:
            EngineError: the server has several models, or cannot say.
        """
        async with self._asking:
            if self.model is not None:
                return self.model
            async with self._requested("GET", "models", None) as response:
                try:
                    names = [str(model["id"]) for model in (await _json(response))["data"]]
                except (KeyError, TypeError, ValueError) as error:
                    raise EngineError(f"{self.base_url}/models is no list of models") from error
            if len(names) != 1:
                raise EngineError(
                    f"{self.base_url} serves {len(names)} models; name one of them: "
                    f"{', '.join(names)}"
                )
            self.model = names[0]
            return self.model

    # ------------------------------------------------------------------ as `Engine.generate`
    def generate(
        self,
        prompts: Sequence[str],
        max_tokens: ArrayLike,
        seeds: ArrayLike,
        temperature: float = 1.0,
        *,
        stop: Sequence[str] = (),
    ) -> list[Generation]:
        """Answer n prompts, each under its own cap and seed, in their order; see `Engine.generate`.

        There are no retries: for a batch that is to survive failures see `clearopt.runs`.
        """
        caps = whole_numbers(max_tokens, len(prompts), "max_tokens")
        own_seeds = whole_numbers(seeds, len(prompts), "seeds")
        sent = [i for i, cap in enumerate(caps) if cap >= 1]
        answered = answer_all(
            self,
            [
                Request(prompts[i], int(caps[i]), int(own_seeds[i]), temperature, tuple(stop))
                for i in sent
            ],
        )
        answers = [ABANDONED] * len(prompts)
        for i, answer in zip(sent, answered, strict=True):
            answers[i] = answer
        return answers

    # ------------------------------------------------------------------ HTTP
    async def _body(self, request: Request) -> dict[str, Any]:
        prompt: str | list[int]
        if request.prefix.tokens:
            prompt = await self._continued(request)
        elif request.chat and isinstance(request.prompt, str):
            prompt = [*await self.chat(request.prompt)]
        else:
            prompt = request.prompt if isinstance(request.prompt, str) else [*request.prompt]
        body: dict[str, Any] = {
            **self.extra,
            "model": await self.model_name(),
            "prompt": prompt,
            "max_tokens": request.max_tokens,
            "seed": request.seed,
            "temperature": float(request.temperature),
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,  # vLLM's; others pass it over, then tokens are counted only
        }
        if request.stop:
            body["stop"] = list(request.stop)
        if request.thinking_tokens is not None:
            body["thinking_token_budget"] = request.thinking_tokens
        return body

    async def _continued(self, request: Request) -> str | list[int]:
        prompt, prefix = request.prompt, request.prefix
        ids: tuple[int, ...] | None
        if not isinstance(prompt, str):
            ids = prompt
        elif request.chat:
            ids = await self.chat(prompt)
        else:
            ids = await self.encode(prompt, special=True)
        if ids is not None and len(prefix.token_ids) == prefix.tokens:
            return [*ids, *prefix.token_ids]
        if isinstance(prompt, str) and not request.chat:
            return prompt + prefix.text
        raise RefusedError("the tokens of the prefix are not known, so it cannot be continued")

    def _posted(self, path: str, body: dict[str, Any]) -> Any:
        return self._requested("POST", path, body)

    @asynccontextmanager
    async def _requested(
        self, method: str, path: str, body: dict[str, Any] | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response of status 200; whatever else happens is one of our failures."""
        aiohttp, session = self._aiohttp, self._session
        if session is None:
            raise EngineError("this server is used outside `async with server:`")
        root = self.base_url if not path.startswith("/") else self.base_url.removesuffix("/v1")
        url = f"{root}/{path.lstrip('/')}"
        key = os.environ.get(self.key_variable, "").strip()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            async with session.request(
                method, url, json=body, headers=headers, allow_redirects=False
            ) as response:
                if response.status != 200:
                    text = (await response.text(errors="replace"))[:2000]
                    raise failure_of(response.status, response.headers, text, url, key, self)
                yield response
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise BusyError(f"{url} cannot be reached: {error}") from error
        except TimeoutError as error:
            raise LostError(f"{url} gave no sign of life for {self.idle_timeout:g} s") from error
        except (aiohttp.InvalidURL, UnicodeError) as error:
            raise EngineError(f"{url}: {error}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise LostError(f"the connection to {url} broke: {type(error).__name__}") from error

    def __repr__(self) -> str:
        return f"Server({self.base_url!r}, {self.model!r})"


async def _json(response: aiohttp.ClientResponse) -> Any:
    try:
        return await response.json(content_type=None)
    except ValueError as error:
        raise LostError(f"{response.url.path}: the server sent what is not JSON") from error


def _checked_url(base_url: str) -> str:
    parts = urlsplit(base_url) if isinstance(base_url, str) else urlsplit("")
    if parts.username is not None or parts.password is not None:  # not shown: it would be a secret
        raise DeclarationError(
            "base_url holds a user name or password; put the key into the environment variable "
            f"{KEY_VARIABLE} instead"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
        raise DeclarationError(
            f"base_url = {base_url!r}: expected something like 'http://localhost:8000/v1'"
        )
    url = base_url.rstrip("/")
    return url if parts.path.strip("/") else f"{url}/v1"


def _import_aiohttp() -> Any:
    try:
        import aiohttp
    except ImportError as error:
        raise MissingExtraError(
            "talking to a server needs aiohttp, which is not installed: "
            "pip install 'clearopt[server]'"
        ) from error
    return aiohttp
