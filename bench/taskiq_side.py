"""Taskiq on the same broker. It keeps no results in RabbitMQ, so what ran is counted."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bench.peers import Workers, running
from bench.tally import (
    PREFETCH_VARIABLE,
    TALLY_VARIABLE,
    URL_VARIABLE,
    Action,
    Tally,
)
from taskiq_aio_pika import AioPikaBroker, Queue, QueueType

WINDOW = 500  # publishes under way
SETTINGS = "classic queues, confirms awaited in a sliding window of 500, no results"


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
async def workers(
    environ: Mapping[str, str], size: Workers, folder: Path
) -> AsyncIterator[list[int]]:
    """Run its workers."""
    held = {PREFETCH_VARIABLE: str(size.held)}
    given = ("--workers", str(size.processes), "--max-async-tasks", str(size.held))
    command = ["taskiq", "worker", "bench.taskiq_app:broker", *given, "--log-level", "WARNING"]
    async with running({"taskiq": command}, {**environ, **held}, folder) as ids:
        yield ids


@asynccontextmanager
async def client(environ: Mapping[str, str]) -> AsyncIterator[dict[str, Action]]:
    """Give what submits: up to a window of publishes at a time, each as soon as there is room."""
    tally = Tally(Path(environ[TALLY_VARIABLE]))
    broker, noop = make_task(environ[URL_VARIABLE], tally, prefetch=1)

    async def flat(command: Mapping[str, Any]) -> dict[str, Any]:
        numbers = iter(range(command["count"]))
        before = tally.count
        started = time.perf_counter()

        async def lane() -> None:
            for number in numbers:
                await noop.kiq(number)

        async with asyncio.TaskGroup() as group:
            for _ in range(WINDOW):
                group.create_task(lane())
        await asyncio.to_thread(tally.wait, before + command["count"])
        return {"seconds": time.perf_counter() - started}

    await broker.startup()
    try:
        yield {"flat": flat}
    finally:
        await broker.shutdown()
