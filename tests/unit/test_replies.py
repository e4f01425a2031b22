"""A reply queue that confirms nothing holds up neither tasks nor other replies."""

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import cast

import pytest

from maniple.errors import ManipleError
from maniple.messages import Result, Status
from maniple.timings import Queues
from maniple_runtime.metric_names import REPLIES_DROPPED
from maniple_runtime.publish import replies
from maniple_runtime.publish.batch_publisher import BatchPublisher, ResultPublisher
from maniple_runtime.publish.confirm import ConfirmCallback
from maniple_runtime.publish.replies import Replies
from maniple_runtime.telemetry import Metrics
from waiting import wait_until
from work_with_fakes import Agent, Delivery, FakePublisher, envelope

NOW_OVERDUE = Queues(patience=0.0, cancel=0.0)
SILENT_AT_ONCE = Queues(patience=0.0, cancel=0.0, silence=0.0)
LATER = Queues(patience=3600.0)
TASKS = 20
SILENT = {"maniple.replies.me": "me", "theirs": "theirs"}

both_kinds = pytest.mark.parametrize("reply_to", list(SILENT))


async def ended(reply_to: str, queues: Queues) -> tuple[Agent, list[Delivery]]:
    """Return an agent whose tasks are recorded, and whose replies are not confirmed."""
    agent, deliveries = Agent(queues=queues), list[Delivery]()
    agent.publisher.silent = {SILENT[reply_to]}
    for number in range(TASKS):
        deliveries.append(Delivery(envelope(str(number), reply_to=reply_to)))
        await agent.take(deliveries[-1])
        await agent.finish(str(number))
    await wait_until(lambda: len(agent.results()) == TASKS)
    await agent.settle()
    return agent, deliveries


def acked(deliveries: list[Delivery]) -> Counter[int]:
    return Counter(one.acked for one in deliveries)


def replied(agent: Agent, reply_to: str) -> int:
    """How many results have been replied, all told."""
    sent = [one for one in agent.publisher.sent if one.routing_key == SILENT[reply_to]]
    return sum(one.body.count(b'"status"') for one in sent)


@both_kinds
async def test_a_silent_reply_queue_holds_up_no_bundle_and_gets_its_replies_late(
    reply_to: str,
) -> None:
    agent, deliveries = await ended(reply_to, NOW_OVERDUE)
    assert acked(deliveries) == {0: TASKS}
    agent.agent_publisher.redirect_overdue(taking=True)
    assert acked(deliveries) == {1: TASKS}
    agent.publisher.freed.set()
    await wait_until(lambda: replied(agent, reply_to) == TASKS)
    await agent.settle()
    assert acked(deliveries) == {1: TASKS}  # what is confirmed late settles nothing twice


@both_kinds
async def test_a_reply_that_is_not_confirmed_yet_is_waited_for(reply_to: str) -> None:
    agent, deliveries = await ended(reply_to, LATER)
    agent.agent_publisher.redirect_overdue(taking=True)
    assert acked(deliveries) == {0: TASKS}
    agent.publisher.freed.set()
    await wait_until(lambda: acked(deliveries) == {1: TASKS})


async def test_while_the_broker_takes_nothing_nobodys_time_counts() -> None:
    agent, deliveries = await ended("theirs", Queues(patience=1e-9))
    agent.agent_publisher.redirect_overdue(taking=False)
    assert acked(deliveries) == {0: TASKS}


class World:
    """An outlet of results whose reply queue `me` confirms nothing."""

    def __init__(self, queues: Queues) -> None:
        self.publisher, self.metrics = FakePublisher(), Metrics()
        self.publisher.silent = {"me"}
        self.outlet = ResultPublisher(
            self.publisher, self.metrics, replier=self.publisher, times=queues
        )
        self.done: Counter[str] = Counter()

    async def report(self, name: str, reply_to: str = "maniple.replies.me") -> None:
        """Report one result, and wait until it is recorded and its reply sent, if there is room."""
        before = len(self.publisher.to("maniple.results"))
        result = Result(id=name, capability="a.task", status=Status.SUCCEEDED)
        self.outlet.report_result(result, reply_to, None, lambda _: self.done.update([name]))
        await wait_until(lambda: len(self.publisher.to("maniple.results")) > before)
        for _ in range(10):
            await asyncio.sleep(0)

    @property
    def dropped(self) -> float:
        return self.metrics.registry.get_sample_value(f"{REPLIES_DROPPED.name}_total") or 0.0


async def test_what_follows_to_a_queue_that_is_known_to_be_silent_waits_for_its_record_only() -> (
    None
):
    world = World(NOW_OVERDUE)
    await world.report("first")
    assert not world.done
    world.outlet.drop_late_replies(taking=True)
    await world.report("second")
    assert world.done == {"first": 1, "second": 1}
    world.publisher.freed.set()
    await wait_until(lambda: len(world.publisher.to("maniple.replies")) == 2)
    world.publisher.silent.clear()
    await world.report("third")  # it answers again
    assert (world.done["third"], world.dropped) == (1, 0)


@pytest.mark.parametrize("queues", [Queues(patience=0.0, reply=0.0), SILENT_AT_ONCE])
async def test_replies_that_are_late_for_too_long_or_are_too_many_are_dropped_and_counted(
    queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(queues)
    if queues is SILENT_AT_ONCE:
        monkeypatch.setattr(replies, "REPLY_BYTES", 0)  # one is kept, and no other besides
    for number in range(TASKS):  # more than are sent at once
        await world.report(str(number))
    for _ in range(TASKS):  # each look makes room for what the next may release
        world.outlet.drop_late_replies(taking=True)
    await world.report("to another", "other")
    assert world.done == dict.fromkeys([*map(str, range(TASKS)), "to another"], 1)
    assert (world.dropped, world.outlet._in_flight_replies.kept) == (TASKS, 0)
    await wait_until(lambda: world.outlet._replies.kept == 0)  # nothing of it is kept either
    world.publisher.freed.set()
    await world.outlet.drain_results()
    assert sum(world.done.values()) == TASKS + 1


async def test_large_replies_to_a_slow_queue_hold_up_their_tasks_and_none_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replies, "REPLY_BYTES", 5 * replies.BESIDES)
    world = World(NOW_OVERDUE)
    for number in range(TASKS):
        await world.report(str(number))
    world.outlet.drop_late_replies(taking=True)
    await world.report("more")
    world.outlet.drop_late_replies(taking=True)
    released = sum(world.done.values())
    assert 0 < released <= 6
    assert world.outlet._in_flight_replies.kept <= replies.REPLY_BYTES + 2 * replies.BESIDES
    assert world.dropped == 0
    world.publisher.freed.set()
    await wait_until(lambda: sum(world.done.values()) == TASKS + 1)
    assert (world.dropped, world.outlet._in_flight_replies.kept) == (0, 0)


class Wire:
    """An outlet that keeps what is added; a test tells what becomes of it."""

    def __init__(self) -> None:
        self.sent: list[ConfirmCallback] = []

    def add_item(self, _key: str, _encoded: bytes, done: ConfirmCallback, _count: int) -> None:
        self.sent.append(done)

    def withdraw(self, _key: str) -> list[ConfirmCallback]:
        return []

    def cancel(self, _key: str, _given_up: Callable[[ConfirmCallback], bool]) -> None:
        self.sent.clear()


def _count(done: Counter[str], name: str, _error: ManipleError | None) -> None:
    done[name] += 1


@pytest.mark.parametrize("confirms", [0, 1])
async def test_only_a_queue_that_confirms_nothing_is_given_up_for_want_of_room(
    confirms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(replies, "REPLY_BYTES", 5 * replies.BESIDES)
    wire, done, dropped = Wire(), Counter[str](), Counter[str]()
    times = Queues(patience=0.0, silence=10.0)
    in_flight = Replies(lambda count: dropped.update({"one": count}), times, lambda: now)
    for number in range(TASKS):
        ended = partial(_count, done, str(number))
        in_flight.send_reply((cast("BatchPublisher", wire), "me"), b"", ended)
    in_flight.answered(1.0)
    in_flight.drop_late(taking=True)
    for _ in range(3):
        now += 9.0
        for _ in range(confirms):
            wire.sent.pop(0)(None)
        in_flight.drop_late(taking=True)
    assert set(done.values()) == {1}
    assert (dropped.total() > 0) == (confirms == 0)
    assert in_flight.kept <= 6 * replies.BESIDES


async def test_who_leaves_waits_for_no_silent_reply_queue() -> None:
    world = World(NOW_OVERDUE)
    await world.report("1")
    leaving = asyncio.create_task(world.outlet.drain_results())
    await asyncio.sleep(0)
    assert not leaving.done()
    world.outlet.drop_late_replies(taking=True)
    await wait_until(leaving.done)
    await leaving


async def test_a_reply_that_is_refused_late_is_counted_once() -> None:
    world = World(NOW_OVERDUE)
    world.publisher.full = {"me"}
    await world.report("1")
    world.outlet.drop_late_replies(taking=True)
    world.publisher.freed.set()
    await wait_until(lambda: world.dropped == 1)
    assert world.done == {"1": 1}
