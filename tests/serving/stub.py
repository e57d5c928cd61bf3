"""A stub of the OpenAI protocol, with faults on order. It stands in for a server that fails, not
for a model: what it generates is worked out from the prompt.

A prompt reads `need=40 say=17` and a line end. Its answer has 40 tokens, the last ones `#### 17`
and one that ends it. A token is a byte; what follows the line end in the prompt was generated
before, and is continued. The filler is a letter that the seed chooses. With `think=N` the first N
tokens are thinking, ended by `|`.

Faults are told by the number of the request, counted from 0 as they arrive: `429:0-9`, `500:3`,
`hang:5`, `truncate:7`, `overrun:*`, `garbage:2`, `reset:4`, several separated by commas.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import threading

from aiohttp import web

END = 256


class Faults:
    """Which request fails, and how."""

    def __init__(self, text=""):
        self.rules = []
        for part in filter(None, text.split(",")):
            kind, _, numbers = part.partition(":")
            first, _, last = numbers.partition("-")
            span = (0, 10**9) if numbers == "*" else (int(first), int(last or first))
            self.rules.append((kind, *span))

    def of(self, number):
        return next((k for k, first, last in self.rules if first <= number <= last), None)


def answer_ids(prompt, seed):
    """The tokens from here on, the end included, of the prompt's answer."""
    head, _, done = prompt.partition("\n")
    numbers = dict(re.findall(r"(\w+)=(\d+)", head))
    tail = f"#### {numbers.get('say', '0')}".encode()
    filler = bytes([ord("a") + seed % 26])
    think = int(numbers.get("think", 0))
    fill = max(int(numbers.get("need", 10)) - 1 - len(tail), think + 1)
    body = filler * think + (b"|" if think else b"") + filler * (fill - think - bool(think)) + tail
    return [*body[len(done.encode()) :], END]


class Stub:
    """The server. `log` has one entry for each completion asked for, `generated` their tokens."""

    def __init__(self, faults="", *, delay=0.0, interval=1, ids=True, key=None, log=None,
                 models=("stub",), ignores_thinking=False):  # fmt: skip
        self.faults, self.delay, self.interval, self.ids = Faults(faults), delay, interval, ids
        self.key, self.models, self.ignores_thinking = key, models, ignores_thinking
        self.log, self._file = [], open(log, "ab", buffering=0) if log else None  # noqa: SIM115
        self.running = self.most_running = 0
        self.retry_after = None

    @property
    def generated(self):
        return sum(entry["generated"] for entry in self.log)

    def app(self):
        app = web.Application(client_max_size=10**9)
        app.add_routes([
            web.post("/v1/completions", self.completions),
            web.get("/v1/models", self.list_models),
            web.post("/tokenize", self.tokenize),
        ])  # fmt: skip
        return app

    async def list_models(self, request):
        self.check_key(request)
        return web.json_response({"data": [{"id": name} for name in self.models]})

    async def tokenize(self, request):
        if not self.ids:
            raise web.HTTPNotFound
        body = await request.json()
        if "messages" in body:  # the chat template: a message, and a line end before the answer
            body["prompt"] = body["messages"][0]["content"] + "\n"
        return web.json_response({"tokens": [*body["prompt"].encode()]})

    def check_key(self, request):
        given = request.headers.get("Authorization")
        if self.key and given != f"Bearer {self.key}":
            raise web.HTTPUnauthorized(
                text=json.dumps({"error": {"message": f"bad key: {given}"}}),
                content_type="application/json",
            )

    async def completions(self, request):
        self.check_key(request)
        body = await request.json()
        number = len(self.log)
        entry = {"number": number, "generated": 0, "body": body}
        self.log.append(entry)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            return await self.answer(request, body, entry, self.faults.of(number))
        finally:
            self.running -= 1
            if self._file:
                kept = {"generated": entry["generated"], "seed": body["seed"]}
                self._file.write(json.dumps(kept).encode() + b"\n")

    async def answer(self, request, body, entry, fault):
        if fault and fault.isdigit():
            headers = {"Retry-After": self.retry_after} if self.retry_after else {}
            error = {"error": {"message": "on order", "code": int(fault)}}
            return web.json_response(error, status=int(fault), headers=headers)
        prompt = body["prompt"]
        if not isinstance(prompt, str):
            prompt = bytes(prompt).decode()
        ids, cap = answer_ids(prompt, body["seed"]), body["max_tokens"]
        limit = body.get("thinking_token_budget")
        if limit is not None and not self.ignores_thinking and 124 in ids[limit + 1 :]:
            ids = [*ids[:limit], *ids[ids.index(124) :]]
        kept = 2 * cap if fault == "overrun" else cap
        ids = (ids + [ord("z")] * (kept - cap))[:kept]
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for start in range(0, len(ids), self.interval):
            if fault == "hang" and start >= len(ids) // 2:
                await asyncio.sleep(3600)
            if fault in ("truncate", "reset") and start >= len(ids) // 2:
                if fault == "reset":
                    request.transport.abort()
                return response
            if fault == "garbage" and start >= len(ids) // 2:
                await response.write(b"data: {half a li\n\n")
                return response
            piece = ids[start : start + self.interval]
            last = start + self.interval >= len(ids)
            choice = {"index": 0, "text": bytes(i for i in piece if i != END).decode()}
            if self.ids:
                choice["token_ids"] = piece
            choice["finish_reason"] = None if not last else "stop" if ids[-1] == END else "length"
            aborted = fault == "abort" and start >= len(ids) // 2
            if aborted:
                choice["finish_reason"] = "abort"
            entry["generated"] += len(piece)
            await response.write(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
            if aborted:
                break
            await asyncio.sleep(self.delay * len(piece))
        usage = {"choices": [], "usage": {"completion_tokens": len(ids)}}
        await response.write(b": alive\n\ndata: " + json.dumps(usage).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response


class Running:
    """A stub in a thread of its own: `with Running(Stub()) as url:`."""

    def __init__(self, stub, port=0):
        self.stub, self.port = stub, port

    def __enter__(self):
        started = threading.Event()
        self.loop = asyncio.new_event_loop()

        async def serve():
            self.done = asyncio.Event()
            runner = web.AppRunner(self.stub.app(), handler_cancellation=True, shutdown_timeout=0)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", self.port)
            await site.start()
            self.port = site._server.sockets[0].getsockname()[1]
            started.set()
            await self.done.wait()
            await runner.cleanup()

        self.thread = threading.Thread(target=self.loop.run_until_complete, args=(serve(),))
        self.thread.start()
        assert started.wait(30)
        return f"http://127.0.0.1:{self.port}"

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.done.set)
        self.thread.join()
        self.loop.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--faults", default="")
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--interval", type=int, default=1)
    parser.add_argument("--log")
    options = parser.parse_args()
    stub = Stub(options.faults, delay=options.delay, interval=options.interval, log=options.log)
    web.run_app(
        stub.app(), host="127.0.0.1", port=options.port, print=None, handler_cancellation=True,
        shutdown_timeout=0, backlog=4096,
    )  # fmt: skip


if __name__ == "__main__":
    main()
