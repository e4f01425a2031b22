"""Handlers whose results show what policies decided."""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from maniple import TaskContext, task

BROKEN_VARIABLE = "MANIPLE_TEST_BROKEN"
"""Names a file: while it is there, `work.fragile` fails and `work.held` runs."""
POLL = 0.02


@task("work.echo")
async def echo(payload: Any, context: TaskContext) -> Any:
    if context.task_id.endswith("~mirror"):
        raise RuntimeError("a mirror that is broken")
    return payload


@task("work.wait")
async def wait(payload: float) -> float:
    await asyncio.sleep(payload)
    return payload


@task("work.held")
def held(payload: Any) -> Any:
    while Path(os.environ[BROKEN_VARIABLE]).exists():
        time.sleep(POLL)
    return payload


@task("work.fragile", max_attempts=1)
def fragile(payload: Any) -> Any:
    if Path(os.environ[BROKEN_VARIABLE]).exists():
        raise RuntimeError("broken")
    return payload


@task("work.plain")
async def plain(payload: Any) -> list[Any]:
    return ["plain", payload]
