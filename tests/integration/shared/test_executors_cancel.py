"""Jobs that nobody wants any more: stopped where that can be done, and never heard of again."""

import os
from pathlib import Path
from time import monotonic

import pytest
import structlog

from executor_bench import TOLD_WITHIN, Gate, Told, job, runs, started, workers
from maniple_agent.domain import blocking
from maniple_agent.executors import LoopExecutor, ThreadExecutor, loop_watch
from maniple_runtime.event_loop import new_event_loop
from waiting import wait_until


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate")


async def test_a_cancelled_handler_on_the_loop_ends_and_frees_its_slot() -> None:
    told = Told()
    async with started(LoopExecutor(2, "agent-1", told, new_event_loop, clock=monotonic)) as loop:
        endless, other = job("endless", "x.hang"), job("other", "x.async", 2)
        loop.run([endless])
        loop.cancel(endless)
        await wait_until(lambda: loop.free == 2)
        loop.run([other])
        assert (await told.of("other")).output == b"4"
        assert list(told.outcomes) == ["other"]


async def test_a_cancelled_thread_keeps_its_slot_and_its_outcome_is_dropped(gate: Gate) -> None:
    told = Told()
    async with started(ThreadExecutor(1, "agent-1", told, clock=monotonic)) as threads:
        slow = job("slow", "x.thread", str(gate))
        threads.run([slow])
        await wait_until(lambda: told.values == ["begun"])
        threads.cancel(slow)
        assert threads.free == 0
        gate.open()
        await wait_until(lambda: threads.free == 1)
        assert told.outcomes == {}


async def test_a_cancelled_worker_is_killed_with_what_it_started_and_replaced() -> None:
    told = Told()
    async with started(workers(told)) as processes:
        endless = job("endless", "x.child")
        processes.run([endless])
        await wait_until(lambda: len(told.values) == 1, TOLD_WITHIN)
        child = told.values[0]
        assert runs(child)
        processes.cancel(endless)
        await wait_until(lambda: not runs(child))
        processes.run([job("next", "x.process", 1)])
        assert (await told.of("next")).failure is None
        assert list(told.outcomes) == ["next"]


async def test_a_job_that_is_cancelled_before_a_worker_takes_it_does_not_run(
    tmp_path: Path,
) -> None:
    told, touched = Told(), tmp_path / "touched"
    async with started(workers(told)) as processes:
        first, second = job("first", "x.pid"), job("second", "x.touch", str(touched))
        processes.run([first, second, job("third", "x.pid")])
        processes.cancel(second)
        await told.of("third")
        assert list(told.outcomes) == ["first", "third"]
        assert not touched.exists()


async def test_worker_processes_leave_room_for_the_agent() -> None:
    told = Told()
    async with started(workers(told)) as processes:
        processes.run([job("it", "x.pid")])
        pid = int((await told.of("it")).output)
        assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, 0) + 5


async def test_the_handler_that_blocks_the_loop_is_named(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_watch, "WATCH_PERIOD", 0.02)
    monkeypatch.setattr(blocking, "BLOCKED_AFTER", 0.3)
    told = Told()
    with structlog.testing.capture_logs() as lines:
        async with started(
            LoopExecutor(3, "agent-1", told, new_event_loop, clock=monotonic)
        ) as loop:
            patient = job("patient", "x.hang")
            loop.run([patient, job("blocker", "x.block", str(gate))])
            await wait_until(lambda: ["x.block"] in [line.get("handlers") for line in lines])
            gate.open()
            await told.of("blocker")
            loop.cancel(patient)
            await wait_until(lambda: loop.free == 3)
