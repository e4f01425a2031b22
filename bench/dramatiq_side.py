"""Dramatiq on the same broker. It keeps no results in RabbitMQ, so what ran is counted."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bench.peers import TALLY_VARIABLE, URL_VARIABLE, Submit, Tally, Workers, running
from dramatiq import actor, set_broker
from dramatiq.brokers.rabbitmq import RabbitmqBroker


def make_actor(url: str, tally: Tally) -> Any:
    """Return the actor as the comparison has it: what makes it fastest, without confirms."""
    broker = RabbitmqBroker(url=url, middleware=[])
    set_broker(broker)

    def noop(payload: Any) -> None:  # noqa: ARG001 - as large a task as the others'
        tally.add()

    return actor(actor_name="noop", queue_name="dramatiq", broker=broker)(noop)


@asynccontextmanager
async def side(url: str, workers: Workers, folder: Path) -> AsyncIterator[Submit]:
    """Run its workers, and give what submits."""
    tally = Tally(folder / "dramatiq.tally")
    noop = make_actor(url, tally)
    environ = {
        URL_VARIABLE: url,
        TALLY_VARIABLE: str(tally.file),
        "dramatiq_queue_prefetch": str(workers.held),
    }
    size = ("--processes", str(workers.processes), "--threads", str(workers.threads))
    command = ["dramatiq", "bench.dramatiq_app", *size]
    async with running({"dramatiq": command}, environ, folder):
        yield lambda count: asyncio.to_thread(_submit, noop, tally, count)


def _submit(noop: Any, tally: Tally, count: int) -> float:
    """Submit tasks one by one, and return tasks per second until the last has run."""
    before = tally.count
    started = time.perf_counter()
    for number in range(count):
        noop.send(number)
    tally.wait(before + count)
    return count / (time.perf_counter() - started)
