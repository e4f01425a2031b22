"""What an agent that lost its connection does with what it had, and with what comes again."""

from typing import Any

import pytest

from maniple.errors import ErrorCode
from maniple.execution import failed
from maniple.timings import Holding
from work_with_fakes import Agent, Delivery, envelope


async def test_a_task_that_still_runs_is_not_started_twice() -> None:
    agent, first = Agent(), Delivery(envelope("1"))
    await agent.take(first)
    await agent.lose(first)
    again = Delivery(envelope("1"), redelivered=True)
    await agent.take(again)
    assert (agent.executor.ids, agent.moved(), again.acked) == (["1"], [], 0)
    await agent.finish("1")
    assert [(result.id, result.lost) for result in agent.results()] == [("1", 0)]
    assert (first.acked, again.acked) == (0, 1)


@pytest.mark.parametrize(
    ("failure", "goes_to"),
    [(None, "maniple.results"), (failed(ErrorCode.HANDLER_ERROR, "no"), "maniple.delay")],
)
async def test_what_is_published_and_not_confirmed_settles_what_comes_again(
    failure: Any, goes_to: str
) -> None:
    agent, first = Agent(), Delivery(envelope("1", max_attempts=2))
    await agent.take(first)
    agent.publisher.up.clear()
    await agent.finish("1", *([failure] if failure else []))
    await agent.lose(first)
    again = Delivery(envelope("1", max_attempts=2), redelivered=True)
    await agent.take(again)
    assert again.acked == 0
    agent.publisher.up.set()
    await agent.settle()
    assert [message.exchange for message in agent.publisher.sent] == [goes_to]
    assert (agent.executor.jobs, again.acked) == ([], 1)


async def test_what_waits_is_not_started_once_its_connection_is_gone() -> None:
    agent = Agent(capacity=1)
    gone, here = Delivery(envelope("1"), envelope("2")), Delivery(envelope("3"))
    await agent.take(gone)
    await agent.lose(gone)
    await agent.take(here)
    await agent.finish("1")
    assert agent.executor.ids == ["3"]
    assert (agent.moved(), gone.acked) == ([], 0)


async def test_what_waits_is_not_started_if_its_connection_has_just_gone() -> None:
    agent = Agent(capacity=1)
    delivery = Delivery(envelope("1"), envelope("2"))
    await agent.take(delivery)
    delivery.alive = False  # and nobody has said so yet
    await agent.finish("1")
    assert agent.executor.ids == []
    again = Delivery(envelope("2"), redelivered=True)
    await agent.take(again)
    assert (agent.executor.ids, agent.moved()) == (["2"], [])


async def test_what_waited_and_comes_again_goes_on_waiting() -> None:
    agent = Agent(capacity=1)
    gone = Delivery(envelope("1"), envelope("2"))
    await agent.take(gone)
    await agent.lose(gone)
    again = Delivery(envelope("1"), envelope("2"), redelivered=True)
    await agent.take(again)
    assert (agent.executor.ids, agent.moved()) == (["1"], [])
    await agent.finish("1")
    await agent.finish("2")
    assert [(result.id, result.lost) for result in agent.results()] == [("1", 0), ("2", 0)]
    assert (gone.acked, again.acked) == (0, 1)


async def test_what_does_not_come_again_soon_is_forgotten() -> None:
    agent = Agent(capacity=1, times=Holding(orphaned=-1.0))
    gone = Delivery(envelope("1"), envelope("2"))
    await agent.take(gone)
    await agent.lose(gone)
    agent.work.dissolve()
    again = Delivery(envelope("2"), redelivered=True)
    await agent.take(again)
    assert [(key, bundle[0].lost) for key, bundle in agent.moved()] == [("a.task", 1)]
    assert again.acked == 1


async def test_of_a_bundle_that_comes_again_only_what_is_here_is_adopted() -> None:
    agent, first = Agent(), Delivery(envelope("1"), envelope("2"))
    await agent.take(first)
    await agent.finish("2")
    await agent.lose(first)
    again = Delivery(envelope("1"), envelope("2"), redelivered=True)
    await agent.take(again)
    assert [bundle[0].id for _, bundle in agent.moved()] == ["2"]
    await agent.finish("1")
    assert again.acked == 1


async def test_a_copy_that_somebody_else_split_off_is_adopted_too() -> None:
    agent, first = Agent(), Delivery(envelope("1"))
    await agent.take(first)
    copy = Delivery(envelope("1", lost=1))
    await agent.take(copy)
    assert agent.executor.ids == ["1"]
    await agent.finish("1")
    assert (len(agent.results()), first.acked, copy.acked) == (1, 1, 1)


@pytest.mark.parametrize("other", [{"attempt": 2}, {"tenant": "acme"}, {"reply_to": "theirs"}])
async def test_what_is_not_the_same_attempt_is_not_adopted(other: dict[str, Any]) -> None:
    agent = Agent()
    await agent.take(Delivery(envelope("1")))
    await agent.take(Delivery(envelope("1", lost=1, **other)))
    assert agent.executor.ids == ["1", "1"]


async def test_what_another_capability_has_under_the_same_id_is_not_adopted() -> None:
    agent = Agent()
    await agent.take(Delivery(envelope("1")))
    other = Delivery(envelope("1", lost=1, capability="a.once"))
    await agent.take(other)
    await agent.settle()
    assert [result.capability for result in agent.results()] == ["a.once"]
    assert (agent.executor.ids, other.acked) == (["1"], 1)


async def test_of_what_is_done_with_nothing_is_remembered() -> None:
    agent = Agent(capacity=1)
    gone = Delivery(*[envelope(str(number)) for number in range(5)])
    await agent.take(gone)
    await agent.finish("0")
    await agent.finish("1", failed(ErrorCode.HANDLER_ERROR, "no"))
    await agent.work.drain_jobs(0.01)
    assert len(agent.work.attempts) == 0


async def test_what_comes_again_by_the_suspects_lane_waits_among_the_suspects() -> None:
    agent = Agent(capacity=1)
    gone = Delivery(envelope("1"), envelope("2"))
    await agent.take(gone)
    await agent.lose(gone)
    again = Delivery(envelope("2"), redelivered=True)
    await agent.take(again, suspect=True)
    (job,) = agent.work.waiting
    assert (job.suspect, job.lane_key) == (True, "a.task.suspect")
    assert agent.work.waiting.next(job.definition.executor, 100, suspects=False) is None
