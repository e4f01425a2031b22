"""What leaves an agent when one of the queues confirms nothing."""

import asyncio
from collections import Counter

import pytest

from maniple.amqp import Outgoing
from maniple.errors import ErrorCode, ManipleError
from maniple.execution import failed
from maniple.messages import RetryPlan
from maniple.timings import Holding, Queues
from maniple.topology import DELAY_TIERS, tier_name
from maniple_agent import publisher as module
from maniple_agent.leaving import Leaving
from maniple_runtime.publish import batch_publisher
from waiting import wait_until
from work_with_fakes import Agent, Delivery, FakePublisher, envelope

NOW_OVERDUE = Queues(patience=0.0, cancel=0.0)
LATER = Queues(patience=3600.0)


def stuck(*keys: str, queues: Queues = NOW_OVERDUE) -> Agent:
    agent = Agent(queues=queues)
    agent.publisher.silent = set(keys)
    return agent


async def look(agent: Agent, *, taking: bool = True) -> None:
    agent.agent_publisher.redirect_overdue(taking=taking)
    await agent.settle()


async def test_a_task_whose_lane_confirms_nothing_waits_elsewhere_and_its_bundle_is_done() -> None:
    agent, lost = stuck("a.task"), Delivery(envelope("1"), envelope("2"), redelivered=True)
    await agent.take(lost)
    assert (agent.moved(), lost.acked) == ([], 0)
    for _ in range(3):
        await look(agent)
    waiting = [one for _, bundle in agent.moved("maniple.delay") for one in bundle]
    assert {(one.id, one.lost, one.waited_for) for one in waiting} == {
        ("1", 1, "unconfirmed"),
        ("2", 1, "unconfirmed"),
    }
    assert lost.acked == 1
    agent.publisher.freed.set()
    await agent.settle()
    assert lost.acked == 1  # what is confirmed late settles nothing twice


async def test_a_lane_that_is_not_confirmed_yet_is_waited_for() -> None:
    agent, lost = stuck("a.task", queues=LATER), Delivery(envelope("1"), redelivered=True)
    await agent.take(lost)
    for _ in range(3):
        await look(agent)
    assert (agent.moved("maniple.delay"), lost.acked) == ([], 0)
    agent.publisher.freed.set()
    await agent.settle()
    assert ([key for key, _ in agent.moved()], lost.acked) == (["a.task"], 1)


async def test_while_the_broker_takes_nothing_nobodys_time_counts() -> None:
    agent = stuck("a.task", queues=Queues(patience=1e-9))
    lost = Delivery(envelope("1"), redelivered=True)
    await agent.take(lost)
    await look(agent, taking=False)
    assert agent.moved("maniple.delay") == []


async def test_another_attempt_whose_tier_confirms_nothing_waits_in_another() -> None:
    plan = RetryPlan(base=1.0, factor=1.0, cap=1.0)
    agent = stuck(*map(tier_name, DELAY_TIERS[:4]))
    delivery = Delivery(envelope("1", retry=plan, max_attempts=3))
    await agent.take(delivery)
    await agent.finish("1", failed(ErrorCode.HANDLER_ERROR, "no", retryable=True))
    assert delivery.acked == 0
    for _ in range(8):
        await look(agent)
    ((key, bundle),) = agent.moved("maniple.delay")
    assert key not in agent.publisher.silent
    assert ([one.attempt for one in bundle], delivery.acked) == ([2], 1)


async def handed_back(capability: str, count: int = 1) -> tuple[Agent, list[Delivery]]:
    """Return an agent that has handed back so many tasks to their lane, which confirms nothing."""
    agent = Agent(capacity=0, queues=NOW_OVERDUE, times=Holding(dissolve=1e-9))
    agent.publisher.silent = {"a.task", "a.once", "an.exclusive"}
    deliveries = []
    for number in range(count):
        one = envelope(f"{capability}-{number}", capability=capability, lane=capability)
        deliveries.append(Delivery(one))
        await agent.take(deliveries[-1])
    agent.work.dissolve()
    await agent.settle()
    return agent, deliveries


def waiting(agent: Agent) -> list[str]:
    return [one.id for _, bundle in agent.moved("maniple.delay") for one in bundle]


@pytest.mark.parametrize("capability", ["a.once", "an.exclusive"])
async def test_what_must_not_run_twice_gets_no_copy_and_holds_up_nothing_else(
    capability: str,
) -> None:
    agent, (once,) = await handed_back(capability)
    other = Delivery(envelope("other"))
    await agent.take(other)
    agent.work.dissolve()
    await agent.settle()
    for _ in range(5):
        await look(agent)
    assert (waiting(agent), other.acked, once.acked) == (["other"], 1, 0)
    agent.publisher.freed.set()
    await agent.settle()
    lanes = [key for key, _ in agent.moved()]
    assert (lanes.count(capability), once.acked) == (1, 1)


@pytest.mark.parametrize("capability", ["a.once", "an.exclusive"])
async def test_what_must_not_run_twice_goes_elsewhere_as_long_as_it_was_never_sent(
    capability: str,
) -> None:
    agent, deliveries = await handed_back(capability, count=11)
    for _ in range(5):
        await look(agent)
    gone = waiting(agent)
    assert (len(gone), [one.acked for one in deliveries]) == (3, [0] * 8 + [1] * 3)
    agent.publisher.freed.set()
    await agent.settle()
    sent = gone + [one.id for _, bundle in agent.moved() for one in bundle]
    assert len(sent) == len(set(sent)) == 11
    assert [one.acked for one in deliveries] == [1] * 11


async def test_another_attempt_of_what_must_not_run_twice_waits_for_its_tier() -> None:
    plan = RetryPlan(base=1.0, factor=1.0, cap=1.0)
    agent = stuck(*map(tier_name, DELAY_TIERS[:4]))
    delivery = Delivery(
        envelope("1", capability="an.exclusive", lane="an.exclusive", retry=plan, max_attempts=3)
    )
    await agent.take(delivery)
    await agent.finish("1", failed(ErrorCode.HANDLER_ERROR, "no", retryable=True))
    for _ in range(8):
        await look(agent)
    assert (waiting(agent), delivery.acked) == ([], 0)
    agent.publisher.freed.set()
    await agent.settle()
    assert (waiting(agent), delivery.acked) == (["1"], 1)


MOST_UNCONFIRMED = 32  # of one queue, which stops a channel of RabbitMQ


class Counting(FakePublisher):
    """Counts what is begun to be published, by key."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: Counter[str] = Counter()

    async def publish(self, message: Outgoing, *, timeout: float | None = None) -> None:
        self.begun[message.routing_key] += 1
        await super().publish(message, timeout=timeout)


async def test_where_nothing_is_confirmed_hardly_anything_is_tried_any_more() -> None:
    now = [1000.0]
    publisher = Counting()
    publisher.silent = {"a.task", *map(tier_name, DELAY_TIERS[:4])}
    agent = Agent(queues=Queues(), publisher=publisher, monotonic=lambda: now[0])
    deliveries = list[Delivery]()
    plan = RetryPlan(base=1.0, factor=1.0, cap=1.0)
    for second in range(400):
        now[0] += 1.0
        again = Delivery(envelope(f"again-{second}", retry=plan, max_attempts=3))
        lost = Delivery(envelope(f"lost-{second}"), redelivered=True)
        deliveries += (again, lost)
        await agent.take(again)
        await agent.take(lost)
        await agent.finish(f"again-{second}", failed(ErrorCode.HANDLER_ERROR, "", retryable=True))
        await look(agent)
    assert max(publisher.begun[key] for key in publisher.silent) < MOST_UNCONFIRMED
    assert all(one.acked for one in deliveries[:-40])


async def test_while_no_tier_confirms_anything_tasks_wait_for_the_next_that_may_be_tried() -> None:
    agent = Agent(queues=Queues(patience=0.0, cancel=0.0, stuck=2.0, most_stuck=2.0))
    agent.publisher.silent = {"a.task", *map(tier_name, DELAY_TIERS)}
    lost = Delivery(envelope("1"), redelivered=True)
    await agent.take(lost)
    for _ in range(len(DELAY_TIERS) + 1):
        await look(agent)
    assert (len(agent.agent_publisher._paused), lost.acked) == (1, 0)
    assert agent.agent_publisher.kept_bytes > 0
    agent.publisher.silent.clear()
    await wait_until(lambda: lost.acked == 1)
    assert waiting(agent) == ["1"]


async def test_a_queue_that_refuses_gets_no_copy_made(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(module, "REFUSED_PAUSE", DELAY_TIERS[0])
    monkeypatch.setattr(batch_publisher, "REFUSED_PAUSE", 0.05)
    agent = Agent(
        capacity=0, queues=Queues(), times=Holding(dissolve=1e-9), monotonic=lambda: now[0]
    )
    agent.publisher.full = {"a.task", *map(tier_name, DELAY_TIERS)}
    delivery = Delivery(envelope("1"))
    await agent.take(delivery)
    now[0] += 1e-6
    agent.work.dissolve()
    for _ in range(30):
        now[0] += 1.0
        agent.agent_publisher.in_flight.answered(now[0])  # others have their confirms all the while
        agent.agent_publisher.redirect_overdue(taking=True)
        await asyncio.sleep(0.01)
    assert (waiting(agent), delivery.acked) == ([], 0)
    agent.publisher.full = set()
    await wait_until(lambda: delivery.acked == 1)
    await agent.agent_publisher.drain_publishes()
    assert waiting(agent) == ["1"]


async def test_who_drains_waits_for_what_goes_from_a_full_lane_to_a_tier_and_from_there_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "REFUSED_PAUSE", DELAY_TIERS[0])
    agent = Agent(capacity=0, times=Holding(dissolve=1e-9))
    agent.publisher.full = {"a.task", tier_name(DELAY_TIERS[0])}
    lost, back = Delivery(envelope("1"), redelivered=True), Delivery(envelope("2"))
    for delivery in (lost, back):
        agent.work.ingress.on_bundle(delivery)  # type: ignore[arg-type]  # a fake
    agent.work.dissolve()
    await agent.agent_publisher.drain_publishes()
    assert (lost.acked, back.acked) == (1, 1)


async def test_who_drains_does_not_wait_for_a_lane_that_confirms_nothing() -> None:
    agent, lost = stuck("a.task"), Delivery(envelope("1"), redelivered=True)
    await agent.take(lost)
    draining = asyncio.create_task(agent.agent_publisher.drain_publishes())
    await asyncio.sleep(0)
    assert not draining.done()
    for _ in range(3):
        await look(agent)
    await wait_until(draining.done)
    assert (lost.acked, waiting(agent)) == (1, ["1"])


async def test_what_has_just_been_confirmed_may_be_looked_at_to_be_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent = Agent()
    agent_publisher, keys = agent.agent_publisher, list[str]()
    told = agent_publisher._told

    def look_at_it(leaving: Leaving, error: ManipleError | None) -> None:
        told(leaving, error)
        leaving.outlet.cancel("a.task", agent_publisher._is_given_up)
        keys.append("a.task")

    monkeypatch.setattr(agent_publisher, "_told", look_at_it)
    lost = Delivery(envelope("1"), envelope("2"), redelivered=True)
    await agent.take(lost)
    assert ([key for key, _ in agent.moved()], keys) == (["a.task"] * 2, ["a.task"] * 2)
    assert lost.acked == 1
