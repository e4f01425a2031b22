"""The loop of async handlers while one of them blocks it, and after."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from executor_bench import Gate, job
from maniple.errors import ErrorCode
from maniple_agent.domain.blocking import BLOCKED_AFTER, LOST_AFTER
from maniple_agent.executors import pool
from maniple_agent.executors.loop_watch import HandlerLoopLost
from maniple_runtime.event_loop import new_event_loop
from waiting import wait_until
from watched_loop import SECOND, SLOTS, Watched, watched


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate")


@pytest.fixture(params=[new_event_loop, asyncio.new_event_loop], ids=["ours", "asyncio"])
async def loop(request: pytest.FixtureRequest, gate: Gate) -> AsyncIterator[Watched]:
    async with watched(gate, request.param) as executor:
        yield executor


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
    loop.check_overdue()
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
    loop.check_overdue()
    loop.now += BLOCKED_AFTER * 10
    loop.check_overdue()  # the loop has not had its turn, either
    assert (loop.free, list(loop.stuck)) == (SLOTS - 1, [])


async def test_a_loop_is_seen_to_be_blocked_also_by_who_is_late_at_every_look(
    loop: Watched, gate: Gate
) -> None:
    loop.run([job("blocker", "x.block", str(gate))])
    await wait_until(lambda: loop.told.values == ["begun"])
    for _ in range(4):
        loop.now += BLOCKED_AFTER + SECOND
        loop.check_overdue()
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
