"""A task takes room in its bulkhead at its agent as long as the broker would bring it again."""

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from maniple.errors import ErrorCode
from maniple.execution import failed
from work_with_fakes import NOW, Agent, Delivery, envelope

KEY = "bulkhead/x"


def task(name: str, **fields: Any) -> Any:
    return envelope(name, bulkhead=KEY, **fields)


def here(agent: Agent) -> int:
    return agent.work.ingress.rooms.here()[KEY]


def ended(agent: Agent) -> int:
    return agent.work.ingress.rooms.take_ended()[KEY]


async def test_what_has_ended_leaves_with_the_acknowledgement_of_its_bundle() -> None:
    agent = Agent()
    await agent.take(Delivery(task("1"), task("2"), envelope("3")))
    await agent.finish("1")
    await agent.finish("3")
    assert (here(agent), ended(agent)) == (2, 0)
    await agent.finish("2")
    assert (here(agent), ended(agent)) == (0, 2)
    assert agent.work.ingress.rooms.freed.is_set()


async def test_what_has_ended_and_comes_again_leaves_once() -> None:
    agent, lost = Agent(), Delivery(task("1"), task("2"))
    await agent.take(lost)
    await agent.finish("1")
    await agent.lose(lost)
    assert (here(agent), ended(agent)) == (0, 0)  # the broker gives it to others
    await agent.take(Delivery(task("1"), task("2"), redelivered=True))
    await agent.finish("2")  # the other one has gone to its lane again, alone
    assert (here(agent), ended(agent)) == (0, 1)


async def test_what_goes_back_to_its_lane_keeps_its_room() -> None:
    agent = Agent(capacity=0)
    await agent.take(Delivery(task("1")))
    await agent.work.drain_jobs(0.0)
    await agent.settle()
    assert [envelope.bulkhead for _, (envelope,) in agent.moved()] == [KEY]
    assert (here(agent), ended(agent)) == (0, 0)


async def test_what_its_lane_refuses_waits_without_room() -> None:
    agent = Agent(capacity=0)
    agent.publisher.full.add("a.task")
    await agent.take(Delivery(task("1")))
    await agent.work.drain_jobs(0.0)
    await agent.settle()
    assert [envelope.bulkhead for _, (envelope,) in agent.moved("maniple.delay")] == [None]
    assert (here(agent), ended(agent)) == (0, 1)


async def test_what_was_lost_keeps_its_room_in_its_lane() -> None:
    agent = Agent()
    await agent.take(Delivery(task("1"), redelivered=True))
    assert [envelope.bulkhead for _, (envelope,) in agent.moved()] == [KEY]
    assert (here(agent), ended(agent)) == (0, 0)


async def test_another_attempt_waits_without_room() -> None:
    agent = Agent()
    await agent.take(Delivery(task("1", max_attempts=3)))
    await agent.finish("1", failed(ErrorCode.HANDLER_ERROR, "no"))
    assert [envelope.bulkhead for _, (envelope,) in agent.moved("maniple.delay")] == [None]
    assert (here(agent), ended(agent)) == (0, 1)


async def test_what_is_over_when_it_comes_leaves() -> None:
    agent = Agent()
    await agent.take(Delivery(task("1", deadline=NOW - timedelta(seconds=1))))
    assert (here(agent), ended(agent)) == (0, 1)


@pytest.mark.parametrize("number", [1, 3])
async def test_each_bulkhead_is_told_apart(number: int) -> None:
    agent = Agent()
    names = [str(one) for one in range(number)]
    await agent.take(Delivery(*[envelope(name, bulkhead=f"b{name}") for name in names]))
    assert agent.work.ingress.rooms.here() == Counter({f"b{name}": 1 for name in names})
