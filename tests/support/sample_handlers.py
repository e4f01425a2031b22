"""Handlers that behave, and handlers that do not."""

import asyncio
import contextlib
import os
import socket
import time
from pathlib import Path
from typing import Any

from maniple import ErrorCode, TaskContext, TaskError, task

GIVEN_UP_AFTER = 90.0  # of a test that failed


@task("test.double")
async def double(payload: int) -> int:
    return payload * 2


@task("test.threaded")
def threaded(payload: list[int]) -> int:
    return sum(payload)


@task("test.connections")
def connections(port: int) -> list[int]:
    """Return how many connections to a port this process has, and a child that it forks."""
    read, write = os.pipe()
    with os.fdopen(read, "rb") as told:
        pid = os.fork()
        if pid == 0:
            os.write(write, bytes([_connections_to(port)]))
            os._exit(0)
        os.close(write)
        counted = told.read()
        os.waitpid(pid, 0)
    return [_connections_to(port), *counted]


def _connections_to(port: int) -> int:
    count = 0
    for link in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(OSError):
            found = socket.socket(fileno=int(link.name))
            try:
                count += found.getpeername()[1:2] == (port,)
            finally:
                found.detach()
    return count


@task("test.process", executor="process")
def process(payload: Any, context: TaskContext) -> dict[str, Any]:
    return {"pid": os.getpid(), "payload": payload, "attempt": context.attempt}


@task("test.slow")
async def slow(payload: float) -> float:
    await asyncio.sleep(payload)
    return payload


@task("test.progress")
async def progress(payload: int, context: TaskContext) -> int:
    for step in range(payload):
        await context.progress(step)
        await asyncio.sleep(0.12)
    return payload


@task("test.raise")
async def raises(payload: Any) -> Any:
    raise ValueError(f"cannot use {payload!r}")


@task("test.nan")
async def nan(_payload: Any) -> Any:
    return float("nan")


@task("test.object")
def an_object(_payload: Any) -> Any:
    return object()


@task("test.block", timeout=0.5)
async def block(_payload: Any) -> Any:
    time.sleep(2.0)  # noqa: ASYNC251 - it blocks the loop on purpose


@task("test.hold")
def hold(folder: str, context: TaskContext) -> None:
    """Write to `folder` that this has started, and wait until there is a file `over`."""
    Path(folder, context.task_id).touch()
    over, until = Path(folder, "over"), time.monotonic() + GIVEN_UP_AFTER
    while not over.exists() and time.monotonic() < until:
        time.sleep(0.05)


@task("test.block_until")
async def block_until(folder: str, context: TaskContext) -> int:
    return _burn(folder, context)


@task("test.burn_threaded")
def burn_threaded(folder: str, context: TaskContext) -> int:
    return _burn(folder, context)


@task("test.burn_process", executor="process")
def burn_process(folder: str, context: TaskContext) -> int:
    return _burn(folder, context)


def _burn(folder: str, context: TaskContext) -> int:
    """Write to `folder` that this has started, and run until there is a file `over`."""
    Path(folder, context.task_id).touch()
    over, until, turns = Path(folder, "over"), time.monotonic() + GIVEN_UP_AFTER, 0
    while not over.exists() and time.monotonic() < until:
        turns += sum(range(10_000)) > 0
    return turns


@task("test.block_thread", timeout=0.5)
def block_thread(_payload: Any) -> Any:
    time.sleep(2.0)


@task("test.hang", timeout=0.5)
async def hang(_payload: Any) -> Any:
    await asyncio.sleep(60)


@task("test.hang_process", executor="process", timeout=0.5)
def hang_process(_payload: Any) -> Any:
    time.sleep(60)


@task("test.exit", executor="process")
def exits(_payload: Any) -> Any:
    os._exit(3)


@task("test.allocate", executor="process", memory=512 * 1024**2)
def allocates(_payload: Any) -> int:
    kept = []
    while True:
        kept.append(bytearray(32 * 1024**2))


@task("test.flaky", max_attempts=3)
async def flaky(payload: int, context: TaskContext) -> int:
    if context.attempt < payload:
        raise RuntimeError("not yet")
    return context.attempt


@task("test.later", max_attempts=2)
async def later(_payload: Any, context: TaskContext) -> str:
    if context.attempt == 1:
        raise TaskError(ErrorCode.HANDLER_ERROR, "not before then", retry_after=2.6)
    return "then"
