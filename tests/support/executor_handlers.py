"""Handlers for the executors' tests: well-behaved, slow, stuck, crashing.

A `gate` is the path of a file: the handler runs until the test has created it.
"""

import asyncio
import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import structlog

from maniple import TaskContext, task

POLL = 0.005
GIVEN_UP_AFTER = 60.0  # of a test that failed and opened nothing
LOCKS: dict[str, asyncio.Lock] = {}
POLLERS: list[asyncio.Future[None]] = []
KEPT: list[bytes] = []
LOADED_IN = Path("/proc/self/cgroup").read_text() if Path("/proc/self/cgroup").exists() else ""
TENANT: ContextVar[str] = ContextVar("tenant", default="nobody")


@task("x.async")
async def doubled(payload: int) -> int:
    await asyncio.sleep(0)
    return payload * 2


@task("x.hang")
async def hang(_payload: Any) -> Any:
    await asyncio.sleep(60)


@task("x.stubborn")
async def stubborn(gate: str, context: TaskContext) -> None:
    context.progress("begun")
    while not Path(gate).exists():  # noqa: ASYNC240 - as users may
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(POLL)


@task("x.block")
async def block(gate: str, context: TaskContext) -> None:
    context.progress("begun")
    _wait_for(gate)


def _wait_for(gate: str) -> None:
    until = time.monotonic() + GIVEN_UP_AFTER
    while not Path(gate).exists() and time.monotonic() < until:
        time.sleep(POLL)


@task("x.contended")
async def contended(name: str) -> None:
    """Take a lock that all of them share, as handlers share queues, sessions and pools."""
    async with LOCKS.setdefault(name, asyncio.Lock()):
        await asyncio.sleep(POLL)


@task("x.in_pool")
async def in_pool(gate: str, context: TaskContext) -> None:
    def call() -> None:
        context.progress("begun")
        _wait_for(gate)

    await asyncio.to_thread(call)


@task("x.shields")
async def shields(gate: str) -> None:
    """Abandon a call by no longer awaiting it; it is not cancelled."""
    async with asyncio.timeout(POLL):
        await asyncio.shield(asyncio.to_thread(_wait_for, gate))


@task("x.waits")
async def waits(gate: str) -> None:
    """Abandon a call as `shields` does, in another usual way."""
    call = asyncio.get_running_loop().run_in_executor(None, _wait_for, gate)
    done, _ = await asyncio.wait({call}, timeout=POLL)
    if not done:
        raise LookupError("too slow")


@task("x.stubborn_in_pool")
async def stubborn_in_pool(gate: str, context: TaskContext) -> None:
    """Await a call, ignoring cancellation."""
    call = asyncio.ensure_future(asyncio.to_thread(_wait_for, gate))
    context.progress("begun")
    while not call.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(call)


@task("x.polls")
async def polls(gate: str, context: TaskContext) -> None:
    """Start a thread that runs for good, as a library does for its first user."""
    poller = asyncio.get_running_loop().run_in_executor(None, _wait_for, gate)
    POLLERS.append(poller)
    context.progress("begun")
    await asyncio.sleep(0)


@task("x.shoots")
async def shoots(_payload: Any) -> None:
    """Cancel all other tasks of the loop."""
    for other in asyncio.all_tasks() - {asyncio.current_task()}:
        other.cancel()


@task("x.cancelled")
async def cancelled(_payload: Any) -> Any:
    other = asyncio.ensure_future(asyncio.sleep(60))
    other.cancel()
    await other


@task("x.suicide")
async def cancels_itself(_payload: Any) -> Any:
    current = asyncio.current_task()
    assert current is not None
    current.cancel()
    await asyncio.sleep(60)


@task("x.subtask_exits")
async def subtask_exits(payload: int) -> Any:
    async def leave() -> None:
        sys.exit(payload)

    asyncio.create_task(leave())  # noqa: RUF006 - as users may
    await asyncio.sleep(0.05)
    return payload


@task("x.stops_loop")
async def stops_loop(payload: int) -> int:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0.05)
    return payload


@task("x.flood")
async def floods(payload: float, context: TaskContext) -> int:
    return _flood(payload, context)


@task("x.thread_flood")
def floods_in_thread(payload: float, context: TaskContext) -> int:
    return _flood(payload, context)


@task("x.process_flood", executor="process")
def floods_in_process(payload: float, context: TaskContext) -> int:
    return _flood(payload, context)


def _flood(seconds: float, context: TaskContext) -> int:
    """Report ever larger numbers; return the last one."""
    number, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        number += 1
        context.progress(number)
    return number


@task("x.two_steps")
def two_steps(gates: list[str], context: TaskContext) -> None:
    _two_steps(gates, context)


@task("x.process_two_steps", executor="process")
def two_steps_in_process(gates: list[str], context: TaskContext) -> None:
    _two_steps(gates, context)


def _two_steps(gates: list[str], context: TaskContext) -> None:
    """Report a number before each gate."""
    for number, gate in enumerate(gates, 1):
        context.progress(number)
        _wait_for(gate)


def _left_by_others(name: str, context: TaskContext) -> list[Any]:
    """Return the current value, and set it."""
    context.progress("told")  # crosses to the agent's loop with whatever is set
    logged = structlog.contextvars.get_contextvars()
    before = [TENANT.get(), logged.get("tenant")]
    TENANT.set(name)
    structlog.contextvars.bind_contextvars(tenant=name)
    context.progress("told again")
    return before


@task("x.sets")
async def sets(name: str, context: TaskContext) -> list[Any]:
    return _left_by_others(name, context)


@task("x.thread_sets")
def sets_in_thread(name: str, context: TaskContext) -> list[Any]:
    return _left_by_others(name, context)


@task("x.process_sets", executor="process")
def sets_in_process(name: str, context: TaskContext) -> list[Any]:
    return _left_by_others(name, context)


@task("x.pool_sets")
async def sets_in_pool(name: str, context: TaskContext) -> list[Any]:
    """Do so in a thread of the loop, where the handler's context is not set."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, _left_by_others, name, context)


@task("x.group")
async def fails_in_group(payload: str) -> None:
    async def fails() -> None:
        raise LookupError(payload)

    async with asyncio.TaskGroup() as group:
        group.create_task(fails())


@task("x.thread_raises")
def raises_in_thread(payload: str) -> None:
    raise LookupError(payload)


@task("x.process_raises", executor="process")
def raises_in_process(payload: str) -> None:
    raise LookupError(payload)


@task("x.moves", executor="process")
def moves(folder: str | None) -> str:
    """Return the current folder, and change to another one; None ends the worker."""
    before = str(Path.cwd())
    if folder is None:
        os._exit(3)
    os.chdir(folder)
    return before


@task("x.touch", executor="process")
def touches(payload: str) -> None:
    Path(payload).touch()


@task("x.progress")
async def progress(payload: int, context: TaskContext) -> int:
    for step in range(payload):
        await context.progress(step)
    return payload


@task("x.thread")
def in_thread(gate: str | None, context: TaskContext) -> str | None:
    context.progress("begun")
    if gate is not None:
        _wait_for(gate)
    return gate


@task("x.process", executor="process")
def in_process(payload: Any, context: TaskContext) -> dict[str, Any]:
    context.progress({"payload": payload})
    context.progress(object())  # no JSON: dropped
    return {"pid": os.getpid(), "payload": payload}


@task("x.pid", executor="process")
def tells_pid(gate: str | None) -> int:
    if gate is not None:
        _wait_for(gate)
    return os.getpid()


@task("x.leave_child", executor="process")
def leaves_child(_payload: Any) -> int:
    return subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL).pid


@task("x.child", executor="process")
def with_child(_payload: Any, context: TaskContext) -> None:
    child = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL)
    context.progress(child.pid)
    child.wait()


@task("x.exit_with_child", executor="process")
def exits_beside_child(payload: dict[str, bool], context: TaskContext) -> None:
    """End the worker while a forked child of it runs on."""
    ready, say_ready = os.pipe()
    pid = ctypes.PyDLL(None).fork() if payload["in_c"] else os.fork()
    if pid == 0:
        if payload["apart"]:
            os.setsid()
        os.write(say_ready, b"!")
        signal.pause()
    os.read(ready, 1)
    context.progress(pid)
    os._exit(3)


@task("x.in_c", executor="process")
def in_c(_payload: Any, context: TaskContext) -> None:
    """Stay in C for good, holding the lock that other threads need."""
    child = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL)
    context.progress(child.pid)
    ctypes.PyDLL(None).sleep(60)


@task("x.terminates", executor="process")
def terminates(_payload: Any) -> int:
    child = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL)
    child.terminate()
    return child.wait()


@task("x.forks")
def forks(_payload: Any) -> int:
    pid = os.fork()
    if pid == 0:
        signal.pause()
    return pid


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


@task("x.use_memory", executor="process", memory=192 * 1024**2)
def uses_memory(payload: int) -> int:
    """Use memory; reserving it (`x.allocate`) is not enough for a cgroup."""
    return len(b"x" * payload)


@task("x.use_together", executor="process", memory=192 * 1024**2)
def uses_together(payload: dict[str, int]) -> list[int]:
    """Use memory in several programs at the same time."""
    code = f"import time; held = b'x' * {payload['each']}; print(flush=True); time.sleep(0.5)"
    programs = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(payload["programs"])]
    return [program.wait() for program in programs]


@task("x.keep", executor="process", memory=1024**3)
def keeps(payload: int) -> None:
    """Keep memory in the worker that later tasks do not need."""
    KEPT.append(b"x" * payload)


@task("x.reserve", executor="process", memory=192 * 1024**2)
def reserves(payload: int) -> int:
    """Start a program that reserves much more than it uses, as `java` does."""
    code = f"import mmap; mmap.mmap(-1, {payload}, flags=mmap.MAP_PRIVATE | 0x4000 | 0x20)"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode


@task("x.limits", executor="process", memory=512 * 1024**2)
def limits(_payload: Any) -> dict[str, Any]:
    """Tell where this process was when handlers were loaded, and what bounds it."""
    return {
        "loaded_in": LOADED_IN,
        "variable": os.environ.get("MANIPLE_WORKER_CGROUP"),
        "address_space": resource.getrlimit(resource.RLIMIT_AS)[0],
    }


@task("x.raise", executor="process")
def raises(payload: str) -> None:
    raise ValueError(payload)
