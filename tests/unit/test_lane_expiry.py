"""A lane whose agents are gone is turned over: what is over ends, the rest goes back."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import structlog
from msgspec import Raw
from msgspec.structs import replace

from maniple.amqp import Outgoing, Pull, QueueView
from maniple.amqp.wire.properties import Properties
from maniple.amqp.wire.requests import Message as WireMessage
from maniple.clock import Clock
from maniple.codec import decode_envelopes, decode_results, encode, join
from maniple.errors import BrokerUnavailable
from maniple.messages import Envelope
from maniple.timings import Expiry as Times
from maniple.topology import lane_queues
from maniple_dispatcher.affinity.assignment import Assignment
from maniple_dispatcher.egress.lane_deadlines import LaneDeadlines
from maniple_dispatcher.egress.lane_expiry import AT_ONCE, OPEN, Around, LaneExpiry, TurnOver
from maniple_dispatcher.egress.lane_publisher import LanePublisher
from maniple_dispatcher.ingress.bundle_members import BundleMembers
from maniple_dispatcher.tracing import DispatchTracing
from maniple_runtime.publish.batch_publisher import ResultPublisher
from maniple_runtime.redelivery import LOST_AFTER
from maniple_runtime.telemetry import Metrics
from maniple_runtime.telemetry.tracing import NO_TRACER
from permits import bulkhead_counts
from waiting import wait_until
from work_with_fakes import NOW, FakePublisher, envelope

LANE = "a.lane"
QUEUE, SUSPECTS = f"maniple.lane.{LANE}", f"maniple.lane.{LANE}.suspect"
QUICK = Times(look=0.01, every=0.04, answer=1.0, settle=1.0)
OVER = NOW - timedelta(seconds=1)


class Message(NamedTuple):
    """One in a queue."""

    body: bytes
    redelivered: bool = False
    headers: dict[str, Any] | None = None


class Broker(FakePublisher):
    """Lanes in memory: what is published to them can be looked at and taken."""

    def __init__(self) -> None:
        super().__init__()
        self.queues: dict[str, deque[Message]] = {QUEUE: deque(), SUSPECTS: deque()}
        self.taken: dict[int, tuple[str, Message]] = {}
        self.tags = 0
        self.most_open = 0
        self.rejected: list[bytes] = []
        self.consumers = 0
        self.dead = False
        self.pulls = 0

    def put(self, *members: Envelope, queue: str = QUEUE, redelivered: bool = False) -> None:
        body = join([encode(one) for one in members])
        self.queues[queue].append(Message(body, redelivered))

    def ids(self, queue: str = QUEUE) -> list[str]:
        return [one.id for body, *_ in self.queues[queue] for one in decode_envelopes(body)]

    async def publish(self, message: Outgoing, *, timeout: float | None = None) -> None:
        await super().publish(message, timeout=timeout)
        if message.exchange == "maniple.lanes":
            stored = Message(message.body, headers=message.headers)
            self.queues[f"maniple.lane.{message.routing_key}"].append(stored)

    async def inspect_queue(self, queue: str) -> QueueView:
        return QueueView(len(self.queues[queue]), self.consumers)

    @asynccontextmanager
    async def pulling(self, queue: str) -> AsyncIterator[Pull]:
        self.pulls += 1
        channel: Any = Channel(self)
        try:
            yield Pull(channel, queue, QUICK.answer)
        finally:
            for tag, (place, message) in tuple(self.taken.items()):
                if place == queue:
                    self.queues[queue].append(message._replace(redelivered=True))
                    del self.taken[tag]

    async def trim(self) -> None: ...


class Channel:
    """By which messages are taken."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker

    async def basic_get(self, queue: str) -> WireMessage | None:
        await asyncio.sleep(0)
        broker = self.broker
        if broker.dead:
            raise BrokerUnavailable("no answer")
        if not broker.queues[queue]:
            return None
        message = broker.queues[queue].popleft()
        broker.tags += 1
        broker.taken[broker.tags] = queue, message
        broker.most_open = max(broker.most_open, len(broker.taken))
        properties = Properties(headers=message.headers)
        return WireMessage(
            broker.tags, message.redelivered, "maniple.lanes", LANE, properties, message.body
        )

    def basic_ack(self, tag: int) -> None:
        del self.broker.taken[tag]

    def basic_reject(self, tag: int, *, requeue: bool) -> None:
        assert not requeue
        self.broker.rejected.append(self.broker.taken.pop(tag)[1].body)


class Marks:
    """Names of lanes, kept by somebody else."""

    def __init__(self, *known: str) -> None:
        self.known = set(known)

    def has(self, names: Any) -> bool:
        return self.known.issuperset(names)

    async def refresh(self, names: Any) -> set[str]:
        self.known |= set(names)
        return self.known


class ExpiringDispatcher:
    """A dispatcher that ends what is over in lanes, with a broker in memory."""

    def __init__(self, *known: str) -> None:
        self.now = NOW
        self.taking = True
        self.broker = Broker()
        self.queues: Any = SimpleNamespace(
            inspect_queue=self.broker.inspect_queue, open=self.broker.pulling, trim=self.broker.trim
        )
        self.markers = Marks(*known)
        metrics, traces = Metrics(), DispatchTracing(NO_TRACER, lambda: self.now, ratio=0.0)
        self.results = ResultPublisher(self.broker, metrics, replier=self.broker)
        self.deadlines = LaneDeadlines(QUICK, lambda _: True, NOW.timestamp())
        self.lanes = LanePublisher(
            self.broker,
            self.results,
            metrics,
            Clock(now=lambda: self.now),
            assignment=Assignment(),
            traces=traces,
            bulkheads=bulkhead_counts(),
            deadlines=self.deadlines,
        )
        nothing, markers = None, self.markers
        around: Any = SimpleNamespace(
            clock=Clock(now=lambda: self.now),
            others=frozenset,
            taking=lambda: self.taking,
            markers=markers,
        )
        assert set(vars(around)) == set(Around.__dataclass_fields__)
        turn_over = TurnOver(
            self.lanes,
            BundleMembers(self.lanes, nothing, lambda: self.now),
            around,
            traces=traces,
            settle=QUICK.settle,
        )
        self.expiry = LaneExpiry(
            self.deadlines, self.queues, turn_over, around, structlog.get_logger()
        )

    @asynccontextmanager
    async def runs(self) -> AsyncIterator[None]:
        running = asyncio.create_task(self.expiry.watch_lanes())
        try:
            yield
        finally:
            await self.expiry.stop_turning()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    def ends(self) -> dict[str, str]:
        sent = self.broker.to("maniple.results")
        results = [result for message in sent for result in decode_results(message.body)]
        return {one.id: one.error.code.value if one.error else "" for one in results}

    async def first_is_back(self) -> deque[Message]:
        """Return the lane as soon as something has been put back there."""
        queue = self.broker.queues[QUEUE]
        while not any(message.headers for message in queue):  # noqa: ASYNC110 - told by nobody
            await asyncio.sleep(0)
        return queue

    async def turned_over(self) -> None:
        await wait_until(lambda: self.broker.pulls > 0 and not self.expiry._turning)


def task(name: str, **changes: Any) -> Envelope:
    return envelope(name, lane=LANE, accepted=True, **changes)


async def test_a_task_that_a_dispatcher_sent_ends_in_its_lane_when_nobody_reads_that() -> None:
    dispatcher = ExpiringDispatcher()
    source: Any = SimpleNamespace(settle=lambda *_: None)
    dispatcher.lanes.send_task(task("short", deadline=NOW + timedelta(seconds=2)), source)
    dispatcher.lanes.send_task(task("long"), source)
    await dispatcher.lanes.drain_lanes()
    async with dispatcher.runs():
        await dispatcher.turned_over()  # as nobody knows what was there before
        assert (dispatcher.ends(), sorted(dispatcher.broker.ids())) == ({}, ["long", "short"])
        dispatcher.now += timedelta(seconds=3)
        await wait_until(lambda: bool(dispatcher.ends()))
    assert dispatcher.ends() == {"short": "deadline_exceeded"}
    assert dispatcher.broker.ids() == ["long"]


async def test_a_dispatcher_that_knows_only_the_names_of_lanes_ends_what_is_over_too() -> None:
    dispatcher = ExpiringDispatcher(LANE)
    dispatcher.broker.put(task("over", deadline=OVER), task("well"))
    dispatcher.broker.put(task("suspect", deadline=OVER, lost=2), queue=SUSPECTS)
    dispatcher.broker.put(task("later", deadline=NOW + timedelta(seconds=30)))
    async with dispatcher.runs():
        await wait_until(lambda: len(dispatcher.ends()) == 2 and not dispatcher.expiry._turning)
        assert dispatcher.ends() == dict.fromkeys(("over", "suspect"), "deadline_exceeded")
        assert dispatcher.broker.ids() == ["well", "later"]
        dispatcher.now += timedelta(seconds=31)
        await wait_until(lambda: "later" in dispatcher.ends())  # which it knows of by now
    assert dispatcher.broker.ids() == ["well"]


async def test_a_queue_that_takes_its_time_to_be_looked_at_holds_up_no_other() -> None:
    dispatcher, looking = ExpiringDispatcher("a.first", LANE), asyncio.Event()

    async def inspect_queue(queue: str) -> QueueView:
        if "first" in queue:
            looking.set()
            await asyncio.Event().wait()
        return await dispatcher.broker.inspect_queue(queue)

    dispatcher.queues.inspect_queue = inspect_queue
    dispatcher.broker.put(task("over", deadline=OVER))
    async with dispatcher.runs():
        await looking.wait()
        await wait_until(lambda: "over" in dispatcher.ends())


async def test_of_many_lanes_the_next_is_turned_over_when_one_is_through() -> None:
    lanes = [f"lane-{number}" for number in range(3 * AT_ONCE)]
    dispatcher = ExpiringDispatcher(*lanes)
    for lane in lanes:
        dispatcher.broker.queues |= {queue.name: deque() for queue in lane_queues(lane)}
        over = replace(task(lane, deadline=OVER), lane=lane)
        dispatcher.broker.put(over, queue=f"maniple.lane.{lane}")
    async with dispatcher.runs():
        await wait_until(lambda: dispatcher.ends().keys() == set(lanes))


async def test_what_goes_back_is_as_it_was_and_few_are_taken_at_a_time() -> None:
    dispatcher = ExpiringDispatcher(LANE)
    many = [
        task(
            str(n),
            attempt=3,
            lost=1,
            payload=Raw(str(n).encode()),
            dispatched_at=NOW,
            policies={"p": 2},
        )
        for n in range(3 * OPEN)
    ]
    for one in many:
        dispatcher.broker.put(one)
    async with dispatcher.runs():
        await dispatcher.turned_over()
    back = [one for body, *_ in dispatcher.broker.queues[QUEUE] for one in decode_envelopes(body)]
    assert [encode(one) for one in back] == [encode(one) for one in many]
    assert 1 < dispatcher.broker.most_open <= OPEN
    assert dispatcher.broker.pulls == 1
    assert dispatcher.broker.to("maniple.events") == []  # none is accepted a second time


async def test_what_an_agent_had_counts_as_lost_with_it() -> None:
    dispatcher = ExpiringDispatcher(LANE)
    dispatcher.broker.put(task("once"), redelivered=True)
    dispatcher.broker.put(task("again", lost=1), redelivered=True)
    dispatcher.broker.put(task("suspect", lost=3, suspected=1), queue=SUSPECTS, redelivered=True)
    async with dispatcher.runs():
        await wait_until(lambda: dispatcher.broker.pulls == 2 and not dispatcher.expiry._turning)
    losses = {
        one.id: (queue, one.lost, one.suspected)
        for queue, bodies in dispatcher.broker.queues.items()
        for body, redelivered, _ in bodies
        for one in decode_envelopes(body)
        if not redelivered
    }
    assert losses == {
        "once": (QUEUE, 1, 0),
        "again": (SUSPECTS, 2, 0),
        "suspect": (SUSPECTS, 4, 2),
    }


async def test_what_has_cost_too_many_agents_ends_here_as_it_would_at_an_agent() -> None:
    dispatcher = ExpiringDispatcher(LANE)
    dispatcher.broker.put(
        task("killer", lost=6, suspected=LOST_AFTER - 1), queue=SUSPECTS, redelivered=True
    )
    dispatcher.broker.put(task("waits", lost=6, suspected=LOST_AFTER - 1), queue=SUSPECTS)
    async with dispatcher.runs():
        await wait_until(lambda: bool(dispatcher.ends()) and not dispatcher.expiry._turning)
    assert dispatcher.ends() == {"killer": "agent_lost"}
    ((body, *_),) = dispatcher.broker.queues[SUSPECTS]
    assert [(one.id, one.lost) for one in decode_envelopes(body)] == [("waits", 6)]


async def test_it_ends_when_somebody_reads_the_lane() -> None:
    dispatcher = ExpiringDispatcher(LANE)
    for n in range(200):
        dispatcher.broker.put(task(str(n)))
    dispatcher.broker.up.clear()  # so that it lasts
    async with dispatcher.runs():
        await wait_until(lambda: len(dispatcher.broker.taken) == OPEN)
        dispatcher.broker.consumers = 1
        (place, _) = dispatcher.deadlines._lanes[LANE].places
        await wait_until(lambda: place.consumed)
        dispatcher.broker.up.set()
        await dispatcher.turned_over()
    assert place.due  # it has not been looked through
    assert len(dispatcher.broker.to("maniple.lanes")) <= OPEN + 1
    assert sorted(dispatcher.broker.ids(), key=int) == [str(n) for n in range(200)]


async def test_what_is_not_confirmed_in_time_goes_back_to_its_lane_but_not_for_an_alarm() -> None:
    dispatcher = ExpiringDispatcher(LANE)
    dispatcher.broker.put(task("1"))
    dispatcher.broker.up.clear()
    rooms, original = list[bool](), Pull.room

    async def room(pull: Pull, most: int, seconds: float) -> bool:
        rooms.append(await original(pull, most, seconds / 10))
        return rooms[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pull, "room", room)
        async with dispatcher.runs():
            await wait_until(lambda: dispatcher.broker.pulls == 1)
            dispatcher.taking = False
            await wait_until(lambda: rooms.count(False) > 3)
            assert dispatcher.expiry._turning
            assert dispatcher.broker.taken
            dispatcher.taking = True
            await wait_until(lambda: not dispatcher.expiry._turning)
            assert dispatcher.broker.ids() == ["1"]
            dispatcher.broker.up.set()


async def test_a_queue_that_does_not_answer_costs_no_other() -> None:
    dispatcher = ExpiringDispatcher(LANE, "other.lane")
    dispatcher.broker.queues |= {
        "maniple.lane.other.lane": deque(),
        "maniple.lane.other.lane.suspect": deque(),
    }
    other = envelope("other", lane="other.lane", deadline=OVER)
    dispatcher.broker.put(other, queue="maniple.lane.other.lane")
    dispatcher.broker.put(task("silent", deadline=OVER))
    original = dispatcher.queues.inspect_queue

    async def inspect_queue(queue: str) -> QueueView:
        if queue == QUEUE:
            raise BrokerUnavailable("no answer")
        view: QueueView = await original(queue)
        return view

    dispatcher.queues.inspect_queue = inspect_queue
    async with dispatcher.runs():
        await wait_until(lambda: "other" in dispatcher.ends())
        assert "silent" not in dispatcher.ends()
        dispatcher.queues.inspect_queue = original
        dispatcher.broker.dead = True
        await wait_until(lambda: dispatcher.broker.pulls > 1 and not dispatcher.expiry._turning)
        dispatcher.broker.dead = False
        await wait_until(lambda: "silent" in dispatcher.ends())


@pytest.mark.parametrize("body", [b"garbage", b"[]"])
async def test_what_is_no_bundle_of_ours_does_not_stay_in_the_way(body: bytes) -> None:
    dispatcher = ExpiringDispatcher(LANE)
    dispatcher.broker.queues[QUEUE].append(Message(body))
    dispatcher.broker.put(task("over", deadline=OVER))
    async with dispatcher.runs():
        await wait_until(lambda: "over" in dispatcher.ends() and not dispatcher.expiry._turning)
    assert dispatcher.broker.rejected == ([body] if body != b"[]" else [])
    assert dispatcher.broker.ids() == []


async def test_behind_long_tasks_what_is_over_ends_and_the_rest_stays_in_its_order() -> None:
    dispatcher = ExpiringDispatcher(LANE)
    dispatcher.broker.consumers = 1  # which takes nothing
    for n in range(100):
        dispatcher.broker.put(task(str(n), deadline=OVER) if n % 10 == 3 else task(str(n)))
    async with dispatcher.runs():
        await wait_until(lambda: len(dispatcher.ends()) == 10 and not dispatcher.expiry._turning)
    assert dispatcher.ends() == {str(n): "deadline_exceeded" for n in range(3, 100, 10)}
    assert dispatcher.broker.ids() == [str(n) for n in range(100) if n % 10 != 3]
    (message, *_) = dispatcher.broker.to("maniple.results")
    (result, *_) = decode_results(message.body)
    assert result.error is not None
    assert "agents busy" in result.error.message


async def test_it_goes_once_round_though_agents_take_something_and_more_comes_meanwhile() -> None:
    dispatcher = ExpiringDispatcher(LANE)
    dispatcher.broker.consumers = 1
    for n in range(100):
        dispatcher.broker.put(task(str(n)))
    dispatcher.broker.up.clear()
    async with dispatcher.runs():
        await wait_until(lambda: len(dispatcher.broker.taken) == OPEN)
        for _ in range(10):
            dispatcher.broker.queues[QUEUE].popleft()  # as agents do
        dispatcher.broker.up.set()
        queue = await dispatcher.first_is_back()
        queue.extend(Message(encode([task("new")])) for _ in range(10))
        await dispatcher.turned_over()
    left = [str(n) for n in range(100) if not OPEN <= n < OPEN + 10]
    # All went round once, the first once more, and nothing that has come since.
    assert [name for name in dispatcher.broker.ids() if name != "new"] == [*left[1:], left[0]]
    sent = dispatcher.broker.to("maniple.lanes")
    assert "new" not in [one.id for message in sent for one in decode_envelopes(message.body)]


async def test_a_lane_goes_round_whole_though_tasks_in_it_have_the_same_id() -> None:
    dispatcher = ExpiringDispatcher(LANE)
    dispatcher.broker.consumers = 1
    for n in range(100):
        dispatcher.broker.put(task("over", deadline=OVER) if n == 50 else task("same"))
    async with dispatcher.runs():
        await dispatcher.turned_over()
    assert dispatcher.ends() == {"over": "deadline_exceeded"}
    assert dispatcher.broker.ids() == 99 * ["same"]


async def test_what_an_agent_had_of_those_put_back_does_not_end_the_round() -> None:
    dispatcher = ExpiringDispatcher(LANE)
    dispatcher.broker.consumers = 1
    for n in range(100):
        dispatcher.broker.put(task("over", deadline=OVER) if n == 90 else task(str(n)))
    async with dispatcher.runs():
        queue = await dispatcher.first_is_back()
        queue.appendleft(queue.pop()._replace(redelivered=True))
        await dispatcher.turned_over()
    assert dispatcher.ends() == {"over": "deadline_exceeded"}


async def test_a_lane_whose_agents_take_and_end_tasks_is_not_touched() -> None:
    dispatcher = ExpiringDispatcher(LANE)
    dispatcher.broker.consumers = 1
    dispatcher.broker.put(task("over", deadline=OVER), task("well"))
    looks = 0
    original = dispatcher.queues.inspect_queue

    async def inspect_queue(queue: str) -> QueueView:
        nonlocal looks
        looks += queue == QUEUE
        dispatcher.lanes.learn_times(LANE, 1, 0.5)
        view: QueueView = await original(queue)
        return view

    dispatcher.queues.inspect_queue = inspect_queue
    async with dispatcher.runs():
        await wait_until(lambda: looks > 5)
        assert dispatcher.broker.pulls == 0
        dispatcher.queues.inspect_queue = original  # from now on nobody tells of an end
        await wait_until(lambda: "over" in dispatcher.ends())
