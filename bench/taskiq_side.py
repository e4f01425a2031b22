"""Taskiq on the same broker. It keeps no results in RabbitMQ, so what ran is counted."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bench.peers import (
    PREFETCH_VARIABLE,
    TALLY_VARIABLE,
    URL_VARIABLE,
    Submit,
    Tally,
    Workers,
    running,
)
from taskiq_aio_pika import AioPikaBroker, Queue, QueueType

AT_ONCE = 500


def make_task(url: str, tally: Tally, *, prefetch: int) -> tuple[AioPikaBroker, Any]:
    """Return its broker and the task as the comparison has it.

    Its queues are classic ones, as those of Celery and Dramatiq are: the faster kind.
    """
    broker = AioPikaBroker(
        url,
        qos=prefetch,
        task_queues=[Queue(name="taskiq", type=QueueType.CLASSIC)],
        dead_letter_queue=Queue(name="taskiq.dead_letter", type=QueueType.CLASSIC),
    )

    async def noop(payload: Any) -> None:  # noqa: ARG001 - as large a task as the others'
        tally.add()

    return broker, broker.register_task(noop, task_name="noop")


@asynccontextmanager
async def side(url: str, workers: Workers, folder: Path) -> AsyncIterator[Submit]:
    """Run its workers, and give what submits."""
    tally = Tally(folder / "taskiq.tally")
    broker, noop = make_task(url, tally, prefetch=workers.held)
    environ = {
        URL_VARIABLE: url,
        TALLY_VARIABLE: str(tally.file),
        PREFETCH_VARIABLE: str(workers.held),
    }
    size = ("--workers", str(workers.processes), "--max-async-tasks", str(workers.held))
    command = ["taskiq", "worker", "bench.taskiq_app:broker", *size, "--log-level", "WARNING"]
    await broker.startup()
    try:
        async with running({"taskiq": command}, environ, folder):
            yield lambda count: _submit(noop, tally, count)
    finally:
        await broker.shutdown()


async def _submit(noop: Any, tally: Tally, count: int) -> float:
    """Submit tasks, some at a time, and return tasks per second until the last has run."""
    before = tally.count
    started = time.perf_counter()
    for first in range(0, count, AT_ONCE):
        numbers = range(first, min(first + AT_ONCE, count))
        await asyncio.gather(*(noop.kiq(number) for number in numbers))
    await asyncio.to_thread(tally.wait, before + count)
    return count / (time.perf_counter() - started)
