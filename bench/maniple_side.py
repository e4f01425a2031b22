"""Maniple through its SDK: as many clients as are wanted, flat out and at fixed rates."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from bench.arrivals import Arrivals
from bench.figures import from_due, spread
from bench.handlers import CAPABILITY
from bench.tally import URL_VARIABLE, Action

from maniple.client import Client, connect

CLIENTS_VARIABLE = "BENCH_CLIENTS"
# Beyond this many tasks under way the cluster has lost; the arrivals then wait.
WINDOW = 100_000


async def map_all(client: Client, count: int) -> float:
    """Submit tasks with `client.map`, check every result, and return tasks per second."""
    started = time.perf_counter()
    await _map(client, CAPABILITY, range(count), count)
    return count / (time.perf_counter() - started)


async def _map(client: Client, capability: str, payloads: Any, count: int) -> None:
    expected = iter(payloads)
    done = 0
    async for output in client.map(capability, payloads):
        if output != next(expected):
            raise RuntimeError(f"Maniple returned {output!r:.100} as number {done}")
        done += 1
    if done != count:
        raise RuntimeError(f"Maniple returned {done} of {count} results")


class Payloads:
    """So many payloads of the same size: numbers, or texts that are `size` bytes of JSON."""

    def __init__(self, count: int, size: int = 0) -> None:
        self._count = count
        self._width = size - 2  # the quotation marks

    def __iter__(self) -> Iterator[Any]:
        """Iterate over them."""
        numbers = range(self._count)
        return iter(numbers) if self._width < 0 else (f"{n:0{self._width}d}" for n in numbers)


@asynccontextmanager
async def client(environ: Mapping[str, str]) -> AsyncIterator[dict[str, Action]]:
    """Give what submits: `flat` with `client.map` of every client, `open` at a fixed rate."""
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(connect(environ[URL_VARIABLE]))
            for _ in range(int(environ.get(CLIENTS_VARIABLE, "1")))
        ]

        async def flat(command: Mapping[str, Any]) -> dict[str, Any]:
            started = time.perf_counter()
            each = -(-command["count"] // len(clients))
            names = command.get("capabilities", [CAPABILITY])
            async with asyncio.TaskGroup() as group:
                for one in clients:
                    for name in names:
                        count = -(-each // len(names))
                        payloads = Payloads(count, command.get("payload_bytes", 0))
                        group.create_task(_map(one, name, payloads, count))
            return {"seconds": time.perf_counter() - started}

        async def same(command: Mapping[str, Any]) -> dict[str, Any]:
            payloads = [command["payload"]] * command["count"]
            started = time.perf_counter()
            given = {"window": command["window"], "ordered": False}
            done = [out async for out in clients[0].map(command["capability"], payloads, **given)]
            return {"seconds": time.perf_counter() - started, "outputs": sum(done)}

        async def open_loop(command: Mapping[str, Any]) -> dict[str, Any]:
            return await at_rate(clients[0], command["rate"], command["seconds"])

        yield {"flat": flat, "same": same, "open": open_loop}


async def at_rate(client: Client, rate: float, seconds: float) -> dict[str, Any]:
    """Submit at a fixed rate; return tasks, the rate of the results, and latencies in ms."""
    arrivals = Arrivals(rate, seconds)
    due, ended = [], []
    async for number in client.map(CAPABILITY, arrivals, window=WINDOW, ordered=False):
        ended.append(time.perf_counter())
        due.append(arrivals.due(number))
    achieved = len(ended) / (ended[-1] - due[0] if len(ended) > 1 else 1.0)
    return {
        "tasks": len(ended),
        "rate": rate,
        "achieved": round(achieved, 1),
        **spread(from_due(due, ended)),
    }
