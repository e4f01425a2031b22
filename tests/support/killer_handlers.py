"""Handlers that kill their agent, and handlers that belong to one."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

from maniple import TaskContext, task

KILL = "kill"


def _die(note: str) -> None:
    with Path(note).open("a") as file:  # one line for each run that began
        file.write("ran\n")
    os.kill(os.getpid(), signal.SIGKILL)


@task("test.perhaps")
async def perhaps(payload: dict[str, Any]) -> Any:
    if KILL in payload:
        _die(payload[KILL])
    return payload


@task("test.once", on_lost="fail")
async def once(payload: dict[str, Any]) -> None:
    _die(payload[KILL])


@task("test.once_at_home", on_lost="fail", affinity=True)
async def once_at_home(payload: dict[str, Any]) -> None:
    _die(payload[KILL])


@task("test.home", affinity=True)
async def home(payload: float, context: TaskContext) -> str:
    await asyncio.sleep(payload)
    return context.agent
