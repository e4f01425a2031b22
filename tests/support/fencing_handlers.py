"""Handlers for an agent in the test's process, and what became of each task there."""

import asyncio
import time
from collections import Counter

from maniple import TaskContext, TaskHandle, task
from maniple.messages import Envelope

started: Counter[str] = Counter()
stopped: Counter[str] = Counter()
stopped_at: dict[str, float] = {}
"""In seconds of the steady clock."""
together: Counter[str] = Counter()
most_together: Counter[str] = Counter()
held: set[str] = set()
"""Tasks that run until the test releases them."""
POLL = 0.02


def release(*tasks: TaskHandle | Envelope) -> None:
    """Release the held tasks."""
    held.difference_update(one.id for one in tasks)


async def _run(seconds: float, task_id: str) -> float:
    started[task_id] += 1
    together[task_id] += 1
    most_together[task_id] = max(most_together[task_id], together[task_id])
    try:
        await asyncio.sleep(seconds)
        while task_id in held:  # noqa: ASYNC110 - set by the test, on another loop
            await asyncio.sleep(POLL)
    except asyncio.CancelledError:
        stopped_at[task_id] = time.monotonic()
        stopped[task_id] += 1
        raise
    finally:
        together[task_id] -= 1
    return seconds


@task("fencing.plain")
async def plain(payload: float, context: TaskContext) -> float:
    return await _run(payload, context.task_id)


@task("fencing.exclusive", exclusive=True)
async def exclusive(payload: float, context: TaskContext) -> float:
    return await _run(payload, context.task_id)


@task("fencing.affine", affinity=True)
async def affine(payload: float, context: TaskContext) -> float:
    return await _run(payload, context.task_id)
