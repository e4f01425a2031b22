"""What an agent does while the broker does not confirm its heartbeats."""

import asyncio
from typing import Any

from msgspec import Raw

from waiting import wait_until
from work_with_fakes import Agent, Delivery, envelope


def exclusive(name: str, **changes: Any) -> Any:
    return envelope(name, capability="an.exclusive", lane="an.exclusive", **changes)


async def test_a_fenced_agent_starts_nothing_and_finishes_what_runs() -> None:
    agent = Agent()
    running, late = Delivery(envelope("1")), Delivery(envelope("2"))
    await agent.take(running)
    agent.fenced = True
    await agent.take(late)
    await agent.finish("1")
    assert (agent.executor.jobs, running.acked, agent.moved()) == ([], 1, [])
    agent.fenced = False
    await agent.work.resume()
    await agent.settle()
    assert agent.executor.ids == ["2"]


async def test_a_fenced_agent_hands_nothing_back() -> None:
    agent = Agent()
    agent.fenced = True
    await agent.take(Delivery(envelope("1")))
    next(iter(agent.work.waiting)).bundle.opened_at -= 100
    agent.work.dissolve()
    await agent.settle()
    assert agent.moved() == []
    agent.fenced = False
    agent.work.dissolve()
    await agent.settle()
    assert [bundle[0].id for _, bundle in agent.moved()] == ["1"]


async def test_what_is_exclusive_is_stopped_with_its_connection_and_others_go_on() -> None:
    agent, delivery = Agent(), Delivery(exclusive("1"), envelope("2"))
    await agent.take(delivery)
    await agent.lose(delivery)
    assert (agent.executor.cancelled, agent.executor.ids) == (["1"], ["2"])
    again = Delivery(exclusive("1"), redelivered=True)
    await agent.take(again)
    assert [(key, bundle[0].lost) for key, bundle in agent.moved()] == [("an.exclusive", 1)]
    assert (agent.results(), again.acked) == ([], 1)


async def test_what_was_stopped_and_is_still_ours_is_sent_on_alone() -> None:
    agent, delivery = Agent(), Delivery(exclusive("1"), envelope("2"))
    await agent.take(delivery)
    agent.fenced = True
    agent.work.stop_exclusive()
    await agent.settle()
    assert (agent.executor.cancelled, agent.publisher.sent) == (["1"], [])
    agent.fenced = False
    await agent.work.resume()
    await agent.settle()
    assert [(key, bundle[0].lost) for key, bundle in agent.moved()] == [("an.exclusive", 1)]
    await agent.finish("2")
    assert delivery.acked == 1


async def test_what_was_stopped_is_not_sent_on_before_it_has_ended() -> None:
    agent = Agent()
    await agent.take(Delivery(exclusive("1")))
    agent.executor.slow += agent.executor.jobs
    agent.work.stop_exclusive()
    resuming = asyncio.create_task(agent.work.resume())
    await agent.settle()
    assert agent.moved() == []
    agent.executor.slow.clear()
    await resuming
    await agent.settle()
    assert [(key, bundle[0].lost) for key, bundle in agent.moved()] == [("an.exclusive", 1)]


async def test_what_was_stopped_and_went_to_others_is_not_sent_on() -> None:
    agent, delivery = Agent(), Delivery(exclusive("1"))
    await agent.take(delivery)
    agent.work.stop_exclusive()
    await agent.lose(delivery)
    await agent.work.resume()
    await agent.settle()
    assert (agent.publisher.sent, delivery.acked) == ([], 0)


async def test_a_suspect_that_is_stopped_lets_the_next_one_run() -> None:
    agent = Agent()
    await agent.take(Delivery(exclusive("1", lost=2)), suspect=True)
    await agent.take(Delivery(exclusive("2", lost=2)), suspect=True)
    agent.work.stop_exclusive()
    await agent.work.resume()
    await wait_until(lambda: agent.executor.ids == ["2"])  # once the first is safe elsewhere
    assert agent.executor.cancelled == ["1"]
    assert [(key, b[0].suspected) for key, b in agent.moved()] == [("an.exclusive.suspect", 1)]


async def test_a_lost_connection_stops_only_what_it_had_brought() -> None:
    agent = Agent()
    gone, here = Delivery(exclusive("1")), Delivery(exclusive("2"))
    await agent.take(gone)
    await agent.take(here)
    await agent.lose(gone)
    assert (agent.executor.cancelled, agent.executor.ids) == (["1"], ["2"])


async def test_progress_is_told_unless_the_agent_is_fenced_or_the_task_has_ended() -> None:
    agent = Agent()
    await agent.take(Delivery(envelope("1")))
    (job,) = agent.executor.jobs
    for number, (fenced, settled) in enumerate([(False, False), (True, False), (False, True)]):
        agent.fenced, job.settled = fenced, settled
        agent.work.progress(job, Raw(b"%d" % number))
    await agent.settle()
    (told,) = agent.publisher.to("maniple.events")
    assert [b'"value":%d' % number in told.body for number in range(3)] == [True, False, False]


async def test_what_is_fenced_or_draining_takes_nothing() -> None:
    fenced, draining = Agent(), Agent()
    assert fenced.work.takes
    assert draining.work.takes
    fenced.fenced = True
    await draining.work.drain_jobs(0)
    assert [agent.work.takes for agent in (fenced, draining)] == [False, False]
