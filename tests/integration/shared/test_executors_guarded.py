"""What one task does to its executor costs no other: neither its slot nor its turn."""

import asyncio
import os
import threading
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import structlog

from executor_bench import Gate, Grace, Told, job, now, started, timers_held, workers
from maniple.errors import ErrorCode
from maniple_agent.executors import (
    Executor,
    LoopExecutor,
    ThreadExecutor,
    child,
    handler_loop,
    latest_progress,
    processes,
    threads,
)
from maniple_runtime.event_loop import new_event_loop
from needs import PROC, need
from waiting import wait_until

LOOPS = pytest.mark.parametrize(
    "loop_factory", [new_event_loop, asyncio.new_event_loop], ids=["ours", "asyncio"]
)


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate")


async def test_a_report_that_raises_costs_its_own_task_only() -> None:
    told = Told()
    told.raises = {"bad"}
    async with (
        started(LoopExecutor(3, "agent-1", told, new_event_loop, clock=monotonic)) as loop,
        started(ThreadExecutor(3, "agent-1", told, clock=monotonic)) as plain,
    ):
        loop.run([job("bad", "x.async", 1), job("1", "x.async", 1), job("2", "x.async", 1)])
        plain.run([job(name, "x.thread") for name in ("bad", "3", "4")])
        await wait_until(lambda: told.outcomes.keys() == {"1", "2", "3", "4"})
        await wait_until(lambda: (loop.free, plain.free) == (3, 3))


@pytest.mark.parametrize("kind", ["loop", "threads"])
async def test_whatever_fails_around_a_handler_its_slot_comes_back(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise LookupError("around the handler")

    monkeypatch.setattr(handler_loop, "run_async", fails)
    monkeypatch.setattr(threads, "run_sync", fails)
    told = Told()
    on_a_loop = kind == "loop"
    made = (
        LoopExecutor(1, "agent-1", told, new_event_loop, clock=monotonic)
        if on_a_loop
        else ThreadExecutor(1, "agent-1", told, clock=monotonic)
    )
    async with started(made) as executor:
        for name in ("1", "2"):
            executor.run([job(name, "x.async" if on_a_loop else "x.thread")])
            assert await told.code(name) is ErrorCode.HANDLER_ERROR
            await wait_until(lambda: executor.free == 1)


async def test_a_handler_that_cancels_its_own_task_gives_its_slot_back() -> None:
    told = Told()
    async with started(LoopExecutor(1, "agent-1", told, new_event_loop, clock=monotonic)) as loop:
        loop.run([job("it", "x.suicide")])
        assert await told.code("it") is ErrorCode.HANDLER_ERROR
        await wait_until(lambda: loop.free == 1)


@LOOPS
@pytest.mark.parametrize("capability", ["x.subtask_exits", "x.stops_loop"])
async def test_a_handler_that_ends_the_loop_does_not_end_its_neighbours(
    capability: str, loop_factory: Any
) -> None:
    told = Told()
    with structlog.testing.capture_logs() as lines:
        async with started(LoopExecutor(3, "agent-1", told, loop_factory, clock=monotonic)) as loop:
            loop.run([job("neighbour", "x.progress", 2), job("it", capability, 3)])
            assert (await told.of("neighbour")).output == b"2"
            assert (await told.of("it")).output == b"3"
            loop.run([job("later", "x.async", 2)])
            assert (await told.of("later")).output == b"4"
            await wait_until(lambda: loop.free == 3)
    ended = [line for line in lines if line["event"] == handler_loop.LOOP_ENDED]
    assert len(ended) == (capability == "x.subtask_exits")


@pytest.mark.parametrize("kind", ["loop", "threads", "process"])
async def test_a_flood_of_progress_stays_where_it_is_made(kind: str) -> None:
    told = Told()
    made: dict[str, tuple[str, Executor]] = {
        "loop": ("x.flood", LoopExecutor(1, "agent-1", told, new_event_loop, clock=monotonic)),
        "threads": ("x.thread_flood", ThreadExecutor(8, "agent-1", told, clock=monotonic)),
        "process": ("x.process_flood", workers(told)),
    }
    capability, flooded = made[kind]
    async with started(flooded) as executor:
        names = [str(number) for number in range(executor.capacity)]
        executor.run([job(name, capability, 0.35) for name in names])
        last = [int((await told.of(name)).output) for name in names]
    # One at once, one in each period that the handler ran for, and the last one at its end.
    for name in names:
        assert told.reports[name] <= told.seconds[name] / latest_progress.PERIOD + 2
    assert set(last) <= set(told.values)


@pytest.mark.parametrize("capability", ["x.two_steps", "x.process_two_steps"])
async def test_the_latest_value_arrives_while_the_handler_goes_on(
    capability: str, tmp_path: Path
) -> None:
    told, gates = Told(), [Gate(tmp_path / name) for name in ("first", "second")]
    made = (
        ThreadExecutor(1, "agent-1", told, clock=monotonic)
        if capability == "x.two_steps"
        else workers(told)
    )
    async with started(made) as executor:
        executor.run([job("it", capability, [str(gate) for gate in gates])])
        await wait_until(lambda: told.values == [1])
        gates[0].open()
        await wait_until(lambda: told.values == [1, 2])
        assert told.outcomes == {}
        gates[1].open()
        await told.of("it")
        assert told.values == [1, 2]


async def test_a_worker_that_is_not_there_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    may_start = asyncio.Event()
    start = child.Worker.start_process

    async def later(*arguments: Any) -> child.Worker:
        await may_start.wait()
        return await start(*arguments)

    monkeypatch.setattr(child.Worker, "start_process", later)
    told = Told()
    async with started(workers(told)) as executor:
        assert executor.free == 0
        may_start.set()
        await wait_until(lambda: executor.free == 1)
        assert told.freed == 1
        executor.run([job("it", "x.pid")])
        assert executor.free == 0
        may_start.clear()
        os.kill(int((await told.of("it")).output), 9)
        await wait_until(lambda: executor.free == 0)  # noticed before a job is lost to it
        may_start.set()
        await wait_until(lambda: executor.free == 1)


async def test_a_job_that_waited_for_a_worker_does_not_run_beyond_its_deadline(
    gate: Gate, tmp_path: Path
) -> None:
    told, touched, times = Told(), tmp_path / "touched", [now()]
    async with started(workers(told, known=lambda: times[-1])) as executor:
        first, late = job("first", "x.pid", str(gate)), job("late", "x.touch", str(touched))
        cut = job("cut", "x.pid", str(tmp_path / "never"), expires_in=400.0)
        executor.run([first, late, cut])
        await wait_until(lambda: executor.holds(first))
        assert late.envelope.deadline < cut.envelope.deadline
        times.append(cut.envelope.deadline - timedelta(seconds=0.1))
        gate.open()
        assert (await told.failure("late")).code is ErrorCode.TIMEOUT
        assert "its 0.1 s" in (await told.failure("cut")).message
    assert not touched.exists()


def open_files() -> int:
    need(PROC)
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_a_worker_that_cannot_be_started_leaves_no_file_open_and_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries = 0

    async def refused(*_: Any) -> Any:
        nonlocal tries
        tries += 1
        raise OSError("no process")

    told = Told()
    with monkeypatch.context() as patch:
        patch.setattr(child, "_spawned", refused)
        patch.setattr(processes, "RESTART_PAUSE", 0.01)
        async with started(workers(told)) as executor:
            await wait_until(lambda: tries > 0)
            before = open_files()
            await wait_until(lambda: tries > 20)
            assert open_files() <= before + 4
            assert (executor.free, list(executor.stuck)) == (0, ["a worker process does not start"])
            patch.undo()
            await wait_until(lambda: executor.free == 1)
            assert executor.stuck == []


async def test_a_job_whose_thread_cannot_be_started_ends_and_those_after_it_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told, clock = Told(), [0.0]
    async with started(ThreadExecutor(2, "agent-1", told, clock=lambda: clock[0])) as executor:
        executor.run([job("first", "x.thread")])
        await told.of("first")
        with monkeypatch.context() as patch, timers_held() as timers:
            patch.setattr(threading.Thread, "start", refuses)
            executor.run([job("second", "x.thread"), job("third", "x.thread")])
        assert await told.code("third") is ErrorCode.HANDLER_CRASHED
        assert (await told.of("second")).failure is None
        assert executor.free == 1  # the one thread that there is
        again = [call for seconds, call in timers if seconds == threads.START_PAUSE]
        clock[0] += threads.START_PAUSE
        assert executor.free == 2
        freed = told.freed
        again[0]()
        assert (len(again), told.freed) == (1, freed + 1)
        executor.run([job("4", "x.thread"), job("5", "x.thread")])
        assert [(await told.of(name)).failure for name in ("4", "5")] == [None, None]


def refuses(_thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


async def test_a_handler_that_does_not_return_is_named_while_it_keeps_its_slot(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, grace = Told(), Grace(monkeypatch)
    async with (
        started(LoopExecutor(2, "agent-1", told, new_event_loop, clock=monotonic)) as loop,
        started(ThreadExecutor(2, "agent-1", told, clock=monotonic)) as plain,
    ):
        loop.run([job("1", "x.stubborn", str(gate), timeout=0.1), job("2", "x.hang")])
        with timers_held() as timers:
            plain.run([job(name, "x.thread", str(gate)) for name in ("3", "4")])
        await wait_until(lambda: told.values == ["begun"] * 3)
        assert (loop.stuck, plain.stuck) == ([], [])
        grace.is_over()
        timers[0][1]()
        await wait_until(lambda: loop.stuck == ["x.stubborn"])
        assert plain.stuck == ["x.thread"]
        gate.open()
        await wait_until(lambda: (loop.stuck, plain.stuck) == ([], []))
