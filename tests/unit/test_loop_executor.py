"""The loop of async handlers while one of them blocks it, and after; calls left in its threads.

The loop and its thread are real, the seconds are the test's.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest

from executor_bench import Gate, Told, job
from maniple.errors import ErrorCode
from maniple.loops import new_event_loop
from maniple_agent.domain.blocking import BLOCKED_AFTER, LOST_AFTER
from maniple_agent.executors import Job, pool
from maniple_agent.executors.on_loop import HandlerLoopLost, LoopExecutor
from waiting import wait_until

SLOTS = 20
SECOND = 1.0


class Watched(LoopExecutor):
    """An executor that looks when the test says so, by the test's clock."""

    def __init__(self, told: Told, loop_factory: Any = new_event_loop) -> None:
        super().__init__(SLOTS, "agent-1", told, loop_factory, clock=lambda: self.now)
        self.now = 1000.0
        self.told = told

    async def begin(self) -> None:
        await self.start(_never)

    def looks_after(self, seconds: float) -> None:
        """Look, and again after so many seconds: a loop that is silent has not answered.

        Twice then, as the first look after a standstill is passed over.
        """
        self.look()
        self.now += seconds
        self.look()
        self.look()

    def is_free(self, slots: int = SLOTS) -> bool:
        self.look()
        return self.free == slots

    async def is_blocked_by(self, blocker: Job) -> None:
        self.run([blocker])
        await wait_until(lambda: self.told.values == ["begun"])
        self.looks_after(BLOCKED_AFTER + SECOND)


def _never(work: Coroutine[Any, Any, None], name: str) -> "asyncio.Task[None]":
    work.close()
    return asyncio.create_task(asyncio.sleep(0), name=name)


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate")


@pytest.fixture(params=[new_event_loop, asyncio.new_event_loop], ids=["ours", "asyncio"])
async def loop(request: pytest.FixtureRequest, gate: Gate) -> AsyncIterator[Watched]:
    executor = Watched(Told(), request.param)
    await executor.begin()
    yield executor
    gate.open()
    await executor.stop()


async def test_what_handlers_keep_of_their_loop_goes_on_after_a_block(
    loop: Watched, gate: Gate
) -> None:
    lock = str(gate)
    loop.run([job(f"before {n}", "x.contended", lock) for n in range(4)])
    await wait_until(loop.is_free)
    await loop.is_blocked_by(job("blocker", "x.block", str(gate)))
    gate.open()
    await wait_until(loop.is_free)
    loop.run([job(f"after {n}", "x.contended", lock) for n in range(SLOTS)])
    await wait_until(loop.is_free)
    told = loop.told.outcomes
    assert [name for name, outcome in told.items() if outcome.failure] == []
    assert len(told) == 5 + SLOTS


async def test_a_blocked_loop_takes_nothing_and_says_who_blocks_it(
    loop: Watched, gate: Gate
) -> None:
    blocker = job("blocker", "x.block", str(gate), timeout=30.0)
    await loop.is_blocked_by(blocker)
    assert loop.free == 0
    assert list(loop.stuck) == ["the event loop is blocked by x.block"] * SLOTS
    loop.looks_after(blocker.timeout)
    assert await loop.told.code("blocker") is ErrorCode.TIMEOUT
    freed = loop.told.freed
    gate.open()
    await wait_until(loop.is_free)
    assert loop.told.freed > freed
    assert list(loop.stuck) == []


async def test_what_a_blocked_loop_has_not_begun_is_given_back_and_runs_once(
    loop: Watched, gate: Gate
) -> None:
    others = [job(str(n), "x.async", n) for n in range(10)]
    loop.run([job("blocker", "x.block", str(gate)), *others[:5]])  # in one turn of the loop
    await wait_until(lambda: loop.told.values == ["begun"])
    loop.run(others[5:])
    loop.looks_after(BLOCKED_AFTER + SECOND)
    assert loop.told.back == others
    assert not any(map(loop.holds, others))
    gate.open()
    await wait_until(loop.is_free)
    assert list(loop.told.outcomes) == ["blocker"]
    loop.run(others)  # the same jobs again; `Told` refuses one that is told twice
    await wait_until(loop.is_free)
    assert len(loop.told.outcomes) == 11
    assert loop.told.outcomes["7"].output == b"14"


async def test_what_was_given_back_runs_once_though_it_comes_again_before_the_loop_answers(
    loop: Watched, gate: Gate
) -> None:
    other = job("other", "x.async", 2)
    loop.run([job("blocker", "x.block", str(gate)), other])
    await wait_until(lambda: loop.told.values == ["begun"])
    loop.looks_after(BLOCKED_AFTER + SECOND)
    loop.run([other])
    gate.open()
    assert (await loop.told.of("other")).output == b"4"
    await wait_until(loop.is_free)


async def test_what_a_loop_has_not_begun_within_its_timeout_is_given_back_and_not_ended(
    loop: Watched, gate: Gate
) -> None:
    victim = job("victim", "x.async", 2, timeout=1.0)
    loop.run([job("blocker", "x.block", str(gate), timeout=30.0)])
    await wait_until(lambda: loop.told.values == ["begun"])
    loop.run([victim])
    loop.looks_after(1.6)  # sooner than the loop counts as blocked
    assert (loop.told.outcomes, loop.told.back) == ({}, [victim])
    assert (loop.free, loop.holds(victim)) == (0, False)  # or it would be back there at once
    gate.open()
    await wait_until(loop.is_free)
    loop.run([victim])
    assert (await loop.told.of("victim")).output == b"4"


async def test_a_handler_has_its_timeout_from_when_it_begins(loop: Watched, gate: Gate) -> None:
    late = job("late", "x.in_pool", str(gate), timeout=120.0)
    loop.look()
    loop.run([late])
    since = loop.now
    await wait_until(lambda: loop.told.values == ["begun"])
    loop._running[late] = since - 120.0  # it waited for its turn
    loop.looks_after(1.0)
    assert loop.told.outcomes == {}
    loop.looks_after(120.0)
    assert await loop.told.code("late") is ErrorCode.TIMEOUT


async def test_what_is_cancelled_before_it_begins_is_given_back(loop: Watched) -> None:
    victims = [job(str(n), "x.async", n) for n in range(3)]
    loop.run([job("shot", "x.shoots"), *victims])  # in one turn of the loop
    await wait_until(loop.is_free)
    assert loop.told.back == victims
    assert list(loop.told.outcomes) == ["shot"]
    loop.run(victims)
    await wait_until(loop.is_free)
    assert len(loop.told.outcomes) == 4


async def test_a_process_that_stood_still_accuses_nobody(loop: Watched, gate: Gate) -> None:
    loop.run([job("blocker", "x.block", str(gate))])
    await wait_until(lambda: loop.told.values == ["begun"])
    loop.look()
    loop.now += BLOCKED_AFTER * 10
    loop.look()  # the loop has not had its turn, either
    assert (loop.free, list(loop.stuck)) == (SLOTS - 1, [])


async def test_a_loop_is_seen_to_be_blocked_also_by_who_is_late_at_every_look(
    loop: Watched, gate: Gate
) -> None:
    loop.run([job("blocker", "x.block", str(gate))])
    await wait_until(lambda: loop.told.values == ["begun"])
    for _ in range(4):
        loop.now += BLOCKED_AFTER + SECOND
        loop.look()
    assert loop.free == 0


async def test_a_loop_that_stays_blocked_after_its_blocker_was_given_up_ends_the_agent(
    loop: Watched, gate: Gate
) -> None:
    blocker = job("blocker", "x.block", str(gate), timeout=3600.0)
    await loop.is_blocked_by(blocker)
    loop.looks_after(3500.0)  # somebody still waits for it
    loop.looks_after(200.0)
    assert await loop.told.code("blocker") is ErrorCode.TIMEOUT
    loop.looks_after(LOST_AFTER - SECOND)
    with pytest.raises(HandlerLoopLost, match=r"blocked by x\.block"):
        loop.looks_after(2 * SECOND)
    assert loop.free == 0


async def test_a_process_that_stood_still_does_not_take_its_loop_for_lost(loop: Watched) -> None:
    loop.run([job("it", "x.async", 1)])
    loop.looks_after(LOST_AFTER * 10)  # what was asked before is answered only now
    await wait_until(loop.is_free)


async def test_calls_left_in_threads_keep_slots_and_others_have_threads(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "THREADS", 2)
    loop = Watched(Told())
    await loop.begin()
    try:
        left = [job(str(n), "x.in_pool", str(gate)) for n in range(SLOTS)]
        for count in range(2, SLOTS + 1, 2):
            pair = left[count - 2 : count]
            loop.run(pair)
            await wait_until(lambda: len(loop.told.values) == count)  # noqa: B023 - in this turn
            for each in pair:
                loop.cancel(each)
            await wait_until(lambda: not any(map(loop.holds, pair)))  # noqa: B023 - the same
            loop.looks_after(pool.LEFT_AFTER)
            assert list(loop.stuck) == ["x.in_pool (its call in a thread)"] * count
            assert loop.free == SLOTS - count
        freed = loop.told.freed
        gate.open()
        await wait_until(loop.is_free)
        assert loop.told.freed > freed
        assert list(loop.stuck) == []
    finally:
        gate.open()
        await loop.stop()


async def test_what_a_library_keeps_in_a_thread_for_good_keeps_no_slot_and_others_have_threads(
    gate: Gate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pool, "THREADS", 1)
    loop, open_gate = Watched(Told()), Gate(tmp_path / "open")
    open_gate.open()
    await loop.begin()
    try:
        loop.run([job("first", "x.polls", str(gate))])
        await wait_until(loop.is_free)
        loop.looks_after(pool.LEFT_AFTER)  # sooner than the loop counts as blocked
        assert (loop.free, list(loop.stuck)) == (SLOTS, [])
        loop.run([job("other", "x.in_pool", str(open_gate))])
        await wait_until(loop.is_free)
    finally:
        gate.open()
        await loop.stop()


async def test_a_call_of_a_handler_that_goes_on_keeps_no_slot_of_its_own(
    loop: Watched, gate: Gate
) -> None:
    loop.run([job("it", "x.in_pool", str(gate))])
    await wait_until(lambda: loop.told.values == ["begun"])
    loop.looks_after(pool.LEFT_AFTER * 10)
    await wait_until(lambda: loop.is_free(SLOTS - 1))
    assert list(loop.stuck) == []
    gate.open()
    await wait_until(loop.is_free)
    assert loop.told.outcomes["it"].failure is None
