"""What the campaign's tasks do: they take as long as their payload says, and leave a note of it.

The notes are lines of a file that `CAMPAIGN_JOURNAL` names, each written at once, so that they
survive whatever happens to the agent.
"""

import asyncio
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from maniple import TaskContext, task

JOURNAL_VARIABLE = "CAMPAIGN_JOURNAL"
OUTLIVES = 5.0  # seconds
_leaving = threading.Lock()


@contextmanager
def noted(context: TaskContext) -> Iterator[None]:
    """Note when an execution starts and, if it does, when it ends."""
    note = {"run": uuid4().hex, "task": context.task_id, "agent": context.agent}
    _append({**note, "started": time.time()})
    yield
    _append({**note, "finished": time.time()})


def _append(note: dict[str, object]) -> None:
    file = os.open(os.environ[JOURNAL_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, json.dumps(note).encode() + b"\n")
    finally:
        os.close(file)


def leave_a_child(agent: str) -> None:
    """Fork this agent a child, its first one, that lives for a while after it; note its id."""
    if not _leaving.acquire(blocking=False):
        return
    parent = os.getpid()
    if child := os.fork():
        children_of(Path(os.environ[JOURNAL_VARIABLE]), agent).write_text(str(child))
        return
    os.setsid()  # who ends the agent's group does not end it
    while os.getppid() == parent:
        time.sleep(0.1)
    time.sleep(OUTLIVES)
    os._exit(0)


def children_of(journal: Path, agent: str) -> Path:
    """Return the file that has the id of an agent's child."""
    return journal.with_name(f"child-of-{agent}")


@task("campaign.async")
async def sleep(payload: float, context: TaskContext) -> float:
    with noted(context):
        await asyncio.sleep(payload)
    return payload


@task("campaign.short")
async def sleep_shortly(payload: float, context: TaskContext) -> float:
    with noted(context):
        await asyncio.sleep(payload)
    return payload


@task("campaign.affine", affinity=True)
async def sleep_at_home(payload: float, context: TaskContext) -> float:
    with noted(context):
        await asyncio.sleep(payload)
    return payload


@task("campaign.thread")
def sleep_in_a_thread(payload: float, context: TaskContext) -> float:
    leave_a_child(context.agent)
    with noted(context):
        time.sleep(payload)
    return payload


@task("campaign.process", executor="process")
def compute(payload: float, context: TaskContext) -> float:
    with noted(context):
        until = time.process_time() + payload
        while time.process_time() < until:
            pass
    return payload
