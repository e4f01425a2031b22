"""A neighbour's short tasks and a dispatcher's memory, while it is quiet and during a flood."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median, quantiles
from time import monotonic
from typing import Any
from uuid import uuid4

import aio_pika

from full_lanes import one_dispatcher
from maniple_cli.dev_cluster.cluster import Cluster, ServiceProcess
from process_memory import resident
from system.floods.kinds import Kind, publish
from waiting import hold_within

PERIOD = 0.05  # seconds between the neighbour's tasks, and between looks at the memory
GIVEN_UP = 120.0  # seconds after which an answer is
WARM = 3.0


@dataclass
class Seen:
    """Latencies in seconds, MiB, and shares of a processor."""

    quiet: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    lost: int = 0
    before: float = 0.0
    most: float = 0.0
    processor: float = 0.0

    @property
    def growth(self) -> float:
        """By how many MiB the dispatcher grew at most."""
        return self.most - self.before

    @property
    def figures(self) -> dict[str, float]:
        """What is printed as JSON."""
        return {
            "quiet_p50_ms": round(1000 * median(self.quiet), 1),
            "quiet_p99_ms": round(1000 * _p99(self.quiet), 1),
            "p50_ratio": round(median(self.beside) / median(self.quiet), 2),
            "p99_ratio": round(_p99(self.beside) / _p99(self.quiet), 2),
            "worst_ms": round(1000 * max(self.beside), 1),
            "lost": self.lost,
            "growth_mib": round(self.growth, 1),
            "processor": round(self.processor, 2),
        }

    def __str__(self) -> str:
        """One line for a reader."""
        return ", ".join(f"{name} {value:g}" for name, value in self.figures.items())


def _p99(latencies: list[float]) -> float:
    return quantiles(latencies, n=100, method="inclusive")[98]


class Neighbour:
    """A plain AMQP program that has a short task run now and then, whatever became of the last."""

    def __init__(self, channel: Any, queue: Any, capability: str) -> None:
        self._channel = channel
        self._capability = capability
        self._queue = queue
        self._begun: dict[str, float] = {}
        self._took: list[float] = []

    @classmethod
    @asynccontextmanager
    async def connected(cls, url: str, capability: str) -> AsyncIterator["Neighbour"]:
        """Have one with a queue of its own, that asks for this."""
        async with await aio_pika.connect(url) as connection:
            channel = await connection.channel(publisher_confirms=False)
            queue = await channel.declare_queue(exclusive=True)
            neighbour = cls(channel, queue, capability)
            await queue.consume(neighbour._heard, no_ack=True)
            yield neighbour

    async def _heard(self, message: Any) -> None:
        begun = self._begun.pop(message.correlation_id, None)
        if begun is not None:
            self._took.append(monotonic() - begun)

    async def answers(self, seconds: float) -> tuple[list[float], int]:
        """Return how long each answer took, and how many never came."""
        self._took = []
        exchange = await self._channel.get_exchange("maniple.tasks", ensure=False)
        until = monotonic() + seconds
        while monotonic() < until:
            number = str(uuid4())
            self._begun[number] = monotonic()
            message = aio_pika.Message(
                b'{"payload":1}', reply_to=self._queue.name, correlation_id=number
            )
            await exchange.publish(message, self._capability)
            await asyncio.sleep(PERIOD)
        with contextlib.suppress(AssertionError):
            await hold_within(lambda: not self._begun, GIVEN_UP)
        lost = len(self._begun)
        self._begun = {}
        return self._took, lost


async def measured(kind: Kind, seconds: float) -> Seen:
    """Measure one kind of flood in a cluster of one dispatcher."""
    options = replace(one_dispatcher(), handlers=("system.floods.handlers",))
    async with Cluster(options) as cluster:
        (dispatcher,) = cluster.of_service("dispatcher")
        url, seen = cluster.ready_info()["broker_url"], Seen()
        async with Neighbour.connected(url, kind.neighbour) as neighbour:
            await neighbour.answers(WARM)
            seen.quiet, _ = await neighbour.answers(seconds)
            seen.before = seen.most = resident(dispatcher.pid)
            watching = asyncio.create_task(_watch(dispatcher, seen))
            began, used = monotonic(), _processor(dispatcher.pid)
            flooding = asyncio.create_task(asyncio.to_thread(publish, url, kind))
            seen.beside, seen.lost = await neighbour.answers(seconds)
            await flooding
            seen.processor = (_processor(dispatcher.pid) - used) / (monotonic() - began)
            watching.cancel()
    return seen


async def _watch(dispatcher: ServiceProcess, seen: Seen) -> None:
    while True:
        seen.most = max(seen.most, resident(dispatcher.pid))
        await asyncio.sleep(PERIOD)


def _processor(pid: int) -> float:
    """Return the seconds of processor time that a process has used."""
    used = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(used[11]) + int(used[12])) / os.sysconf("SC_CLK_TCK")
