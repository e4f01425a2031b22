"""Executors for real: loops, threads and processes that are slow, stuck or dead."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic

import pytest
import pytest_asyncio

from ending import launched
from executor_bench import Gate, Grace, Told, job, runs, started, timers_held, workers
from maniple.codec import decode_value
from maniple.errors import ErrorCode
from maniple_agent.executors import (
    Executor,
    LoopExecutor,
    ProcessExecutor,
    ThreadExecutor,
)
from maniple_runtime.event_loop import new_event_loop
from paths import PYTHONPATH
from waiting import wait_until

MEGABYTE = 1024**2


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate")


@pytest.fixture
async def loop(told: Told) -> AsyncIterator[Executor]:
    async with started(
        LoopExecutor(20, "agent-1", told, new_event_loop, clock=monotonic)
    ) as executor:
        yield executor


@pytest.fixture
async def threads(told: Told) -> AsyncIterator[Executor]:
    async with started(ThreadExecutor(2, "agent-1", told, clock=monotonic)) as executor:
        yield executor


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def pool() -> AsyncIterator[ProcessExecutor]:
    """One worker process for all tests, and another whenever it has ended."""
    executor = workers(Told())
    async with started(executor):
        yield executor


@pytest.fixture
def process(told: Told, pool: ProcessExecutor) -> Executor:
    pool._report = told
    return pool


async def test_a_loop_runs_many_handlers_at_once(told: Told, loop: Executor) -> None:
    loop.run([job(str(n), "x.async", n) for n in range(20)])
    assert loop.free == 0
    await wait_until(lambda: loop.free == 20)
    assert {name: out.output for name, out in told.outcomes.items()} == {
        str(n): str(2 * n).encode() for n in range(20)
    }
    assert told.freed >= 1


async def test_a_handler_on_the_loop_is_ended_at_its_own_timeout(
    told: Told, loop: Executor
) -> None:
    patient = job("patient", "x.hang")
    loop.run([job("slow", "x.hang", timeout=0.1), patient, job("fast", "x.async", 1)])
    assert await told.code("slow") is ErrorCode.TIMEOUT
    assert told.seconds["slow"] > 0.09  # its time to live begins just before what is measured
    assert (await told.of("fast")).failure is None
    await wait_until(lambda: loop.free == 19)
    assert loop.holds(patient)


async def test_a_handler_that_does_not_end_keeps_its_slot(
    told: Told, loop: Executor, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    grace = Grace(monkeypatch)
    loop.run([job("it", "x.stubborn", str(gate), timeout=0.1)])
    await wait_until(lambda: told.values == ["begun"])
    grace.is_over()
    assert await told.code("it") is ErrorCode.TIMEOUT
    assert loop.free == 19
    gate.open()
    await wait_until(lambda: loop.free == 20)


async def test_a_handler_that_is_cancelled_from_within_gives_its_slot_back(
    told: Told, loop: Executor
) -> None:
    loop.run([job("it", "x.cancelled")])
    assert await told.code("it") is ErrorCode.HANDLER_ERROR
    await wait_until(lambda: loop.free == 20)


async def test_progress_comes_back_from_the_loop(told: Told, loop: Executor) -> None:
    loop.run([job("it", "x.progress", 3)])
    assert (await told.of("it")).output == b"3"
    assert told.values[-1] == 2


async def test_a_thread_that_outlives_its_timeout_keeps_its_slot(
    told: Told, threads: Executor, gate: Gate
) -> None:
    with timers_held() as timers:
        threads.run([job("slow", "x.thread", str(gate), timeout=7.0), job("fast", "x.thread")])
    assert threads.free == 0
    assert (await told.of("fast")).failure is None
    await wait_until(lambda: told.values == ["begun", "begun"])
    seconds, overdue = timers[0]
    overdue()
    assert (seconds, await told.code("slow")) == (7.0, ErrorCode.TIMEOUT)
    await wait_until(lambda: threads.free == 1)
    gate.open()
    await wait_until(lambda: threads.free == 2)
    threads.run([job("next", "x.thread")])
    assert (await told.of("next")).failure is None


async def test_a_process_runs_a_handler_and_tells_its_progress(
    told: Told, process: Executor
) -> None:
    process.run([job("it", "x.process", [1])])
    output = decode_value((await told.of("it")).output)
    assert output["payload"] == [1]
    assert output["pid"] != os.getpid()
    assert told.values == [{"payload": [1]}]
    assert process.free == 1


@pytest.mark.parametrize(
    ("capability", "payload", "said"),
    [
        ("x.exit", 3, "exit code 3"),
        ("x.killed", int(signal.SIGKILL), "killed by signal 9"),
        ("x.killed", int(signal.SIGSEGV), "killed by signal 11"),
    ],
)
async def test_a_process_that_ends_fails_its_task_only(
    told: Told, process: Executor, capability: str, payload: int, said: str
) -> None:
    process.run([job("it", capability, payload)])
    outcome = await told.of("it")
    assert outcome.failure is not None
    assert outcome.failure.code is ErrorCode.HANDLER_CRASHED
    assert said in outcome.failure.message
    process.run([job("next", "x.process", 1)])
    assert (await told.of("next")).failure is None


async def test_a_process_is_ended_at_its_timeout_with_what_it_started(
    told: Told, process: Executor, gate: Gate
) -> None:
    process.run([job("first", "x.leave_child"), job("it", "x.pid", str(gate), timeout=0.1)])
    child = int((await told.of("first")).output)
    assert await told.code("it") is ErrorCode.TIMEOUT
    await wait_until(lambda: not runs(child))


async def test_memory_beyond_the_limit_fails_the_task_and_not_the_next(
    told: Told, process: Executor
) -> None:
    process.run([job("big", "x.allocate", 1024 * MEGABYTE)])
    assert await told.code("big") is ErrorCode.HANDLER_ERROR
    process.run([job("small", "x.allocate", MEGABYTE)])
    assert (await told.of("small")).output == str(MEGABYTE).encode()


async def test_a_process_that_died_idle_costs_no_task(told: Told, process: Executor) -> None:
    process.run([job("first", "x.pid")])
    pid = int((await told.of("first")).output)
    os.kill(pid, signal.SIGKILL)
    await wait_until(lambda: not runs(pid))
    process.run([job("second", "x.pid")])
    outcome = await told.of("second")
    assert outcome.failure is None
    assert int(outcome.output) != pid


async def test_a_process_handler_that_raises_tells_what(told: Told, process: Executor) -> None:
    process.run([job("it", "x.raise", "\ud7ff")])
    outcome = await told.of("it")
    assert outcome.failure is not None
    assert outcome.failure.message == "ValueError: \ud7ff"


OWNER = """
import asyncio, sys
sys.path[:0] = {path!r}
from executor_bench import TOLD_WITHIN, Told, job, started, workers
from waiting import wait_until
async def main():
    told = Told()
    async with started(workers(told, 2)) as it:
        await wait_until(lambda: it.free == 2, TOLD_WITHIN)
        it.run([job("1", "x.pid"), job("2", "x.pid")])
        print(*[int((await told.of(name)).output) for name in "12"], flush=True)
        it.run([job("3", "x.child")])
        await wait_until(lambda: told.values)
        print(*told.values, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_workers_end_with_an_agent_that_was_killed() -> None:
    program = OWNER.format(path=PYTHONPATH.split(os.pathsep))
    async with launched(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE) as owner:
        assert owner.stdout is not None
        told = await owner.stdout.readline() + await owner.stdout.readline()
        pids = {*map(int, told.split())}
        assert len(pids) == 3
        assert all(map(runs, pids))
        owner.kill()
        await wait_until(lambda: not any(map(runs, pids)))
