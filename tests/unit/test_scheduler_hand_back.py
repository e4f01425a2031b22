"""What an agent gives back that it did not start."""

import asyncio
from types import SimpleNamespace

import pytest

from maniple.errors import ErrorCode
from maniple_agent import scheduler
from waiting import wait_until
from work_with_fakes import Agent, Delivery, envelope


@pytest.fixture
def clock() -> SimpleNamespace:
    return SimpleNamespace(now=0.0)


async def test_what_has_not_started_within_a_second_goes_back_alone(
    clock: SimpleNamespace,
) -> None:
    agent = Agent(capacity=1, monotonic=lambda: clock.now)
    delivery = Delivery(envelope("1"), envelope("2"), envelope("3"))
    await agent.take(delivery)
    clock.now = 0.9
    agent.work.dissolve()
    clock.now = 1.1
    await agent.take(Delivery(envelope("young")))
    agent.work.dissolve()
    await agent.settle()
    assert [(key, [e.id for e in bundle]) for key, bundle in agent.moved()] == [
        ("a.task", ["2"]),
        ("a.task", ["3"]),
    ]
    assert [bundle[0].lost for _, bundle in agent.moved()] == [0, 0]
    await agent.finish("1")
    assert (delivery.acked, agent.executor.ids) == (1, ["young"])


async def test_draining_hands_back_what_waits_and_lets_the_rest_end() -> None:
    agent = Agent(capacity=1)
    first, second = Delivery(envelope("1"), envelope("2")), Delivery(envelope("3"))
    await agent.take(first)
    await agent.take(second)
    draining = asyncio.create_task(agent.work.drain_jobs(5))
    await wait_until(lambda: second.acked == 1)
    assert [bundle[0].id for _, bundle in agent.moved()] == ["2", "3"]
    late = Delivery(envelope("4"))
    await agent.take(late)
    await wait_until(lambda: late.acked == 1)
    assert not draining.done()
    await agent.finish("1")
    async with asyncio.timeout(1):
        await draining
    assert first.acked == 1
    assert agent.executor.jobs == []
    assert all((e.attempt, e.lost) == (1, 0) for _, bundle in agent.moved() for e in bundle)


async def test_what_still_runs_at_the_end_of_draining_is_stopped_and_handed_on() -> None:
    agent, delivery = Agent(), Delivery(envelope("1"), envelope("2", lost=1), envelope("3"))
    suspect = Delivery(envelope("4", lost=2, suspected=1))
    await agent.take(delivery)
    await agent.take(suspect, suspect=True)
    await agent.finish("3")
    async with asyncio.timeout(1):
        await agent.work.drain_jobs(0.05)
    assert sorted(agent.executor.cancelled) == ["1", "2", "4"]
    handed = {e.id: (key, e.attempt, e.lost, e.suspected) for key, (e,) in agent.moved()}
    assert handed == {
        "1": ("a.task", 1, 0, 0),
        "2": ("a.task", 1, 1, 0),
        "4": ("a.task.suspect", 1, 2, 1),
    }
    assert [result.id for result in agent.results()] == ["3"]
    assert (delivery.acked, suspect.acked) == (1, 1)  # so "3" does not come again


async def test_what_is_stopped_by_draining_and_finds_its_lane_full_waits_in_the_broker() -> None:
    agent, delivery = Agent(), Delivery(envelope("1"))
    agent.publisher.full = {"a.task"}
    await agent.take(delivery)
    await agent.work.drain_jobs(0.01)
    assert [e.id for _, (e,) in agent.moved("maniple.delay")] == ["1"]
    assert delivery.acked == 1


async def test_what_may_run_once_and_is_stopped_by_draining_ends() -> None:
    agent, delivery = Agent(), Delivery(envelope("1", capability="a.once", lane="a.once"))
    await agent.take(delivery)
    await agent.work.drain_jobs(0.01)
    (result,) = agent.results()
    assert result.error is not None
    assert (result.error.code, result.lost) == (ErrorCode.AGENT_LOST, 1)
    assert (agent.moved(), delivery.acked) == ([], 1)


async def test_what_is_stopped_by_draining_and_went_to_others_is_not_handed_on() -> None:
    agent, delivery = Agent(), Delivery(envelope("1"))
    await agent.take(delivery)
    await agent.lose(delivery)
    await agent.work.drain_jobs(0.01)
    assert (agent.executor.cancelled, agent.publisher.sent, delivery.acked) == (["1"], [], 0)


async def test_what_was_stopped_before_and_went_to_others_since_is_not_handed_on() -> None:
    agent = Agent()
    delivery = Delivery(envelope("1", capability="an.exclusive", lane="an.exclusive"))
    await agent.take(delivery)
    agent.work.stop_exclusive()
    await agent.lose(delivery)
    await agent.work.drain_jobs(0.01)
    assert (agent.executor.cancelled, agent.publisher.sent) == (["1"], [])


async def test_what_is_exclusive_is_handed_on_when_it_has_really_ended() -> None:
    agent = Agent()
    await agent.take(Delivery(envelope("1", capability="an.exclusive", lane="an.exclusive")))
    (job,) = agent.executor.jobs
    agent.executor.slow = [job]
    draining = asyncio.create_task(agent.work.drain_jobs(0.01))
    await wait_until(lambda: agent.executor.cancelled == ["1"])
    await asyncio.sleep(0.05)
    assert agent.moved() == []
    agent.executor.slow = []
    await draining
    assert [key for key, _ in agent.moved()] == ["an.exclusive"]


async def test_an_executor_that_stays_full_hands_back_ever_more_slowly(
    clock: SimpleNamespace,
) -> None:
    agent = Agent(capacity=1, monotonic=lambda: clock.now)
    await agent.take(Delivery(envelope("busy")))
    assert [await held_for(agent, clock) for _ in range(6)] == [1, 2, 4, 8, 16, 16]
    await agent.finish("busy")  # there is room, and nothing waits: all begins anew
    await agent.take(Delivery(envelope("busy")))
    assert await held_for(agent, clock) == 1


async def test_when_nothing_has_come_again_for_a_second_hands_back_at_once_again(
    clock: SimpleNamespace,
) -> None:
    agent = Agent(capacity=1, monotonic=lambda: clock.now)
    await agent.take(Delivery(envelope("busy")))
    assert [await held_for(agent, clock) for _ in range(2)] == [1, 2]
    clock.now += 0.75
    agent.work.dissolve()
    assert await held_for(agent, clock) == 4
    for _ in range(5):
        clock.now += 0.25
        agent.work.dissolve()
    assert await held_for(agent, clock) == 1


async def held_for(agent: Agent, clock: SimpleNamespace) -> float:
    """Return for how many seconds an agent that is full holds what it takes now."""
    delivery, began = Delivery(envelope("waits")), clock.now
    await agent.take(delivery)
    while not delivery.acked:
        clock.now += 0.25
        agent.work.dissolve()
        await agent.settle()
    return float(clock.now - began)


async def test_draining_without_a_broker_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "DEPARTURE_SECONDS", 0.05)
    agent, delivery = Agent(capacity=1), Delivery(envelope("1"), envelope("2"))
    await agent.take(delivery)
    agent.publisher.up.clear()
    await agent.finish("1")
    async with asyncio.timeout(1):
        await agent.work.drain_jobs(0.05)
    assert delivery.acked == 0
    agent.publisher.up.set()


async def test_what_others_get_is_not_handed_back(clock: SimpleNamespace) -> None:
    agent = Agent(capacity=1, monotonic=lambda: clock.now)
    gone, here = Delivery(envelope("1"), envelope("2")), Delivery(envelope("3"))
    await agent.take(gone)
    await agent.take(here)
    gone.alive = False
    clock.now = 1.1
    agent.work.dissolve()
    await agent.settle()
    assert [bundle[0].id for _, bundle in agent.moved()] == ["3"]
    assert (gone.acked, here.acked) == (0, 1)


async def test_what_is_handed_back_and_comes_at_once_is_a_new_one(clock: SimpleNamespace) -> None:
    agent = Agent(capacity=1, monotonic=lambda: clock.now)
    await agent.take(Delivery(envelope("1")))
    handed = Delivery(envelope("2", lost=1))
    await agent.take(handed)
    agent.publisher.up.clear()
    clock.now = 1.1
    agent.work.dissolve()
    again = Delivery(envelope("2", lost=1))
    await agent.take(again)
    agent.publisher.up.set()
    await agent.settle()
    assert (handed.acked, again.acked) == (1, 0)
    await agent.finish("1")
    assert agent.executor.ids == ["2"]


async def test_what_is_handed_back_is_what_came() -> None:
    agent = Agent(capacity=1)
    came = envelope("2", attempt=2, lost=1, waits=3, tenant="acme", policies={"p": 1})
    await agent.take(Delivery(envelope("1"), came))
    await agent.work.drain_jobs(0.01)
    assert [bundle for _, bundle in agent.moved() if bundle[0].id == "2"] == [[came]]
