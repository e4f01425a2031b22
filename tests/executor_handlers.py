"""Handlers for the executors' tests: well-behaved, slow, stuck, crashing."""

import asyncio
import os
import subprocess
import time
from typing import Any

from maniple import TaskContext, task


@task("x.async")
async def doubled(payload: int) -> int:
    await asyncio.sleep(0)
    return payload * 2


@task("x.hang")
async def hang(_payload: Any) -> Any:
    await asyncio.sleep(60)


@task("x.stubborn")
async def stubborn(payload: float) -> None:
    for _ in range(2):
        try:
            await asyncio.sleep(payload)
        except asyncio.CancelledError:
            continue


@task("x.block")
async def block(payload: float) -> None:
    time.sleep(payload)  # noqa: ASYNC251 - it blocks the loop on purpose


@task("x.cancelled")
async def cancelled(_payload: Any) -> Any:
    other = asyncio.ensure_future(asyncio.sleep(60))
    other.cancel()
    await other


@task("x.progress")
async def progress(payload: int, context: TaskContext) -> int:
    for step in range(payload):
        await context.progress(step)
    return payload


@task("x.thread")
def in_thread(payload: float, context: TaskContext) -> float:
    context.progress("begun")
    time.sleep(payload)
    return payload


@task("x.process", executor="process")
def in_process(payload: Any, context: TaskContext) -> dict[str, Any]:
    context.progress({"payload": payload})
    context.progress(object())  # no JSON: dropped
    return {"pid": os.getpid(), "payload": payload}


@task("x.sleep", executor="process")
def sleeps(payload: float) -> int:
    time.sleep(payload)
    return os.getpid()


@task("x.child", executor="process")
def with_child(payload: str) -> None:
    child = subprocess.Popen(["sleep", "60"])
    with open(payload, "w", encoding="ascii") as told:  # noqa: PTH123 - a handler as users write it
        told.write(f"{child.pid}\n")
    child.wait()


@task("x.exit", executor="process")
def exits(payload: int) -> None:
    os._exit(payload)


@task("x.killed", executor="process")
def killed(payload: int) -> None:
    os.kill(os.getpid(), payload)
    time.sleep(10)


@task("x.allocate", executor="process", memory=512 * 1024**2)
def allocates(payload: int) -> int:
    return len(bytearray(payload))


@task("x.raise", executor="process")
def raises(payload: str) -> None:
    raise ValueError(payload)
