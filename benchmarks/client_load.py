"""How many requests a second a run's client carries, beside a bare HTTP client doing the same.

    python benchmarks/client_load.py [--streams 2000] [--requests 10000] [--tokens 40]

A stub of the server's protocol, in a process of its own, streams answers token by token. Three
clients put the same requests to it, all streams at once: a bare aiohttp session that reads the
bytes and throws them away; `Server.answer`, which parses them; and a run's `Wave`, with its ledger
and a journal on disk (two lines a request, each synchronised before the run goes on).

The stub is Python too and mostly what is waited for, so the CPU seconds of the client itself are
shown beside the rate: their inverse is what the client could carry if the server were infinitely
fast.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp

from clearopt.runs.journal import Journal
from clearopt.runs.ledger import Ledger
from clearopt.runs.record import Record
from clearopt.runs.retries import Retries
from clearopt.runs.wave import Job, Wave
from clearopt.serving import Request, Server

ROOT = Path(__file__).resolve().parents[1]


def requests(options, name):
    return [
        Job(f"{name}:{i}", Request(f"need={options.tokens} say={i}\n", options.tokens, seed=i))
        for i in range(options.requests)
    ]


async def bare(url, jobs, options):
    async with (
        Server(url, "stub") as server,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        bodies = [await server._body(job.request) for job in jobs]
        waiting = iter(bodies)

        async def worker():
            for body in waiting:
                async with session.post(f"{url}/v1/completions", json=body) as response:
                    await response.read()

        await asyncio.gather(*(worker() for _ in range(options.streams)))


async def parsed(url, jobs, options):
    async with Server(url, "stub", concurrency=options.streams) as server:
        waiting = iter(jobs)

        async def worker():
            for job in waiting:
                answer = await server.answer(job.request)
                assert answer.finished

        await asyncio.gather(*(worker() for _ in range(options.streams)))


async def journalled(url, jobs, options):
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        journal = Journal(Path(folder) / "journal.jsonl")
        record = Record(journal, {})
        async with Server(url, "stub", concurrency=options.streams) as server:
            ledger = Ledger(options.tokens * len(jobs))
            await Wave(server, record, ledger, Retries()).run(jobs)
        assert ledger.spent == options.tokens * len(jobs)
        assert ledger.lost == 0
        journal.close()


def measured(name, client, url, options):
    jobs = requests(options, name)
    wall, cpu = time.perf_counter(), time.process_time()
    asyncio.run(client(url, jobs, options))
    return time.perf_counter() - wall, time.process_time() - cpu


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--interval", type=int, default=1, help="tokens in one event")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", help="where the journal lies")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    stub = subprocess.Popen(
        [sys.executable, "-m", "tests.serving.stub", "--port", str(port), "--interval",
         str(options.interval)], cwd=ROOT,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        print(f"{options.streams} streams at once, {options.requests} requests of "
              f"{options.tokens} tokens, {options.interval} a piece")  # fmt: skip
        print(f"{'client':12} {'requests/s':>10} {'of bare':>8} {'CPU us/request':>15} "
              f"{'tokens/s':>10}")  # fmt: skip
        clients = {"bare": bare, "Server": parsed, "run": journalled}
        best = {name: (float("inf"), float("inf")) for name in clients}
        for _ in range(options.repeats):  # in turns: the machine is not always equally busy
            for name, client in clients.items():
                best[name] = min(best[name], measured(name, client, url, options))
        for name, (wall, cpu) in best.items():
            rate, of_bare = options.requests / wall, best["bare"][0] / wall
            print(f"{name:12} {rate:10.0f} {of_bare:8.2f} {1e6 * cpu / options.requests:15.0f} "
                  f"{rate * options.tokens:10.0f}")  # fmt: skip
    finally:
        stub.kill()
        stub.wait()


if __name__ == "__main__":
    main()
