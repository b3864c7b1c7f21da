"""What the client itself costs, by hand: requests per second and CPU per request against a server that only answers.

    python -m tests.benchmarks.client_overhead [NUM_REQUESTS]     # from the repository's root; half a minute

The server is a process of its own that thinks 300 words about anything at once, over kept connections on loopback.
Requests pass through all of a run: prompt, client, grading, one flushed line each.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import sys
import tempfile
import time
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path

from evaluate.benchmarks import Benchmark, load_benchmark
from evaluate.client import Client
from evaluate.runner import run_benchmarks
from evaluate.schema import Endpoint, Sampling

CONCURRENCIES = (1, 16, 64, 256)
_TEXT = f"<think>\n{'word ' * 300}\n</think>\n(A)"
_CHOICE = {"message": {"role": "assistant", "content": _TEXT}, "finish_reason": "stop"}
_BODY = json.dumps({"choices": [_CHOICE], "usage": {"completion_tokens": 301, "prompt_tokens": 90}}).encode()
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Reads requests off one connection and answers each."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            _, found, rest = head.lower().partition(b"content-length:")
            if found:
                await reader.readexactly(int(rest.split(b"\r\n")[0]))
            writer.write(_ANSWER)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


def serve(pipe: Connection) -> None:
    """Serves on a free loopback port, which it sends through the pipe, until it is terminated."""

    async def run() -> None:
        server = await asyncio.start_server(_answer, "127.0.0.1", 0, backlog=1024)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


async def ask_alone(endpoint: Endpoint, num_requests: int, concurrency: int) -> None:
    """The client alone: no grading, no file."""
    async with Client(endpoint, Sampling(512), concurrency=concurrency) as client:
        seeds = iter(range(num_requests))

        async def work() -> None:
            for seed in seeds:
                assert (await client.complete("How many?", seed)).error is None

        await asyncio.gather(*(work() for _ in range(concurrency)))


async def run_all(endpoint: Endpoint, num_requests: int, concurrency: int) -> None:
    """A whole run."""
    benchmark = _benchmark(num_requests)
    with tempfile.TemporaryDirectory() as folder:
        await run_benchmarks(endpoint, [benchmark], Sampling(512), Path(folder), concurrency=concurrency)


@lru_cache
def _benchmark(num_problems: int) -> Benchmark:
    return load_benchmark("temporal", num_problems=num_problems)


def main(num_requests: int) -> None:
    """Prints one row a concurrency."""
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(there,), daemon=True)
    server.start()
    endpoint = Endpoint(f"http://127.0.0.1:{here.recv()}/v1", "toy")
    _benchmark(num_requests)  # generated once, outside the clock
    print("| what | concurrency | requests/s | CPU ms a request |\n|---|---|---|---|")
    try:
        for what, work in (("client", ask_alone), ("run", run_all)):
            for concurrency in CONCURRENCIES:
                wall, cpu = time.perf_counter(), time.process_time()
                asyncio.run(work(endpoint, num_requests, concurrency))
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
                print(f"| {what} | {concurrency} | {num_requests / wall:.0f} | {1000 * cpu / num_requests:.2f} |")
    finally:
        server.terminate()
        server.join()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
