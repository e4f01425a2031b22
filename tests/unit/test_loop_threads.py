"""Calls that handlers leave in the threads of their loop: what keeps slots, and who has threads."""

from pathlib import Path

import pytest

from executor_bench import Gate, job
from maniple_agent.executors import pool
from waiting import wait_until
from watched_loop import SECOND, SLOTS, watched


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate")


@pytest.fixture
def open_gate(tmp_path: Path) -> Gate:
    gate = Gate(tmp_path / "open")
    gate.open()
    return gate


async def test_calls_left_in_threads_keep_slots_and_others_have_threads(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "THREADS", 2)
    async with watched(gate) as loop:
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


async def test_what_a_library_keeps_in_a_thread_for_good_keeps_no_slot_and_others_have_threads(
    gate: Gate, open_gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "THREADS", 1)
    async with watched(gate) as loop:
        loop.run([job("first", "x.polls", str(gate))])
        await wait_until(loop.is_free)
        loop.looks_after(pool.LEFT_AFTER)  # sooner than the loop counts as blocked
        assert (loop.free, list(loop.stuck)) == (SLOTS, [])
        loop.run([job("other", "x.in_pool", str(open_gate))])
        await wait_until(loop.is_free)


@pytest.mark.parametrize("leaves", ["x.shields", "x.waits"])
async def test_an_agent_whose_threads_are_kept_by_tasks_that_ended_takes_none_until_there_is_one(
    leaves: str, gate: Gate, open_gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "THREADS", 1)
    async with watched(gate) as loop:
        loop.run([job(str(n), leaves, str(gate)) for n in range(SLOTS + 1)])
        await wait_until(lambda: len(loop.told.outcomes) == SLOTS + 1)
        await wait_until(lambda: loop.keeps_later(SLOTS + 1))
        loop.run([victim := job("victim", "x.in_pool", str(open_gate))])
        await wait_until(lambda: loop.says_later([f"threads are kept by {leaves}"] * SLOTS))
        assert loop.free == 0
        loop.cancel(victim)  # nobody waits any more, but the next would
        await wait_until(lambda: not loop.holds(victim))
        assert await loop.is_free_at_each_look(0)
        freed = loop.told.freed
        gate.open()
        await wait_until(loop.is_free)
        assert (list(loop.stuck), loop.told.freed > freed) == ([], True)
        loop.run([job("later", "x.in_pool", str(open_gate))])
        assert (await loop.told.of("later")).failure is None


async def test_calls_that_wait_for_those_of_tasks_that_go_on_are_no_reason_to_take_none(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "THREADS", 2)
    async with watched(gate) as loop:
        loop.run([job("polls", "x.polls", str(gate))])
        await wait_until(loop.is_free)
        loop.run([job(str(n), "x.in_pool", str(gate)) for n in range(3)])
        await wait_until(lambda: loop.says_later([]) and loop.told.values.count("begun") == 3)
        assert await loop.is_free_at_each_look(SLOTS - 3)
        assert list(loop.stuck) == []


@pytest.mark.parametrize("by", ["timeout", "cancel"])
async def test_others_have_a_thread_for_one_of_a_task_that_is_over_though_its_handler_goes_on(
    by: str, gate: Gate, open_gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "THREADS", 1)
    async with watched(gate) as loop:
        stubborn = job("stubborn", "x.stubborn_in_pool", str(gate), timeout=SECOND)
        loop.run([stubborn])
        await wait_until(lambda: loop.told.values == ["begun"])
        if by == "cancel":
            loop.cancel(stubborn)
        await wait_until(lambda: loop.says_later(["x.stubborn_in_pool"]))
        loop.run([job("other", "x.in_pool", str(open_gate))])
        await wait_until(lambda: not loop.says_later([]) and "other" in loop.told.outcomes)
        assert (loop.free, list(loop.stuck)) == (SLOTS - 1, ["x.stubborn_in_pool"])
        assert loop.told.outcomes["other"].failure is None
