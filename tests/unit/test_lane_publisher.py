"""The way out of a dispatcher, with a broker that the tests decide for."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from maniple.amqp import Outgoing
from maniple.clock import Clock
from maniple.codec import decode_envelopes
from maniple.messages import Envelope
from maniple.timings import Queues
from maniple_dispatcher.affinity.assignment import Assignment
from maniple_dispatcher.egress.lane_publisher import LanePublisher
from maniple_dispatcher.tracing import DispatchTracing
from maniple_runtime.publish.batch_publisher import ResultPublisher
from maniple_runtime.telemetry import Metrics
from maniple_runtime.telemetry.tracing import NO_TRACER
from permits import bulkhead_counts
from waiting import wait_until
from work_with_fakes import NOW, FakePublisher, envelope

AGENT = "agent-1"


class Broker(FakePublisher):
    """Does not confirm the routing keys in `stuck`, and counts what waits for that."""

    def __init__(self) -> None:
        super().__init__()
        self.stuck: set[str] = set()
        self.well = asyncio.Event()
        self.waiting = 0

    async def publish(self, message: Outgoing, *, timeout: float | None = None) -> None:
        self.waiting += 1
        try:
            if message.routing_key in self.stuck:
                await self.well.wait()
            await super().publish(message, timeout=timeout)
        finally:
            self.waiting -= 1


class Seconds:
    """Seconds that the tests let pass."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class Source:
    """A source message that knows whether it is settled."""

    patient = False
    alive = True

    def __init__(self) -> None:
        self.settled = 0

    def settle(self, error: object = None) -> None:
        assert error is None
        self.settled += 1


class Egress:
    """Lanes with a broker around them."""

    def __init__(self, clock: Seconds) -> None:
        self.clock = clock
        self.broker = Broker()
        self.assignment = Assignment()
        results = ResultPublisher(self.broker, Metrics(), replier=self.broker, monotonic=clock)
        self.lanes = LanePublisher(
            self.broker,
            results,
            Metrics(),
            Clock(now=lambda: NOW, monotonic=clock),
            assignment=self.assignment,
            traces=DispatchTracing(NO_TRACER, lambda: NOW, ratio=0.0),
            bulkheads=bulkhead_counts(),
        )

    def send(self, name: str, **fields: Any) -> Source:
        source = Source()
        fields.setdefault("deadline", NOW + timedelta(hours=1))
        self.lanes.send_task(envelope(name, **fields), source)  # type: ignore[arg-type]  # a fake
        return source

    async def turn(self) -> None:
        """Run everything that can run now."""
        for _ in range(20):
            await asyncio.sleep(0)

    def to(self, exchange: str) -> list[Envelope]:
        return [one for m in self.broker.to(exchange) for one in decode_envelopes(m.body)]


@pytest.fixture
def egress() -> Egress:
    return Egress(Seconds())


async def test_what_was_given_up_is_not_with_the_broker_any_more(egress: Egress) -> None:
    egress.broker.stuck = {"stuck.lane"}
    sources = [egress.send(str(n), lane="stuck.lane") for n in range(3)]
    await egress.turn()
    for _ in range(2):  # one copy finds out, then the others follow
        egress.clock.seconds += Queues().patience
        egress.lanes.redirect_overdue(taking=True)
        await egress.turn()
    assert [source.settled for source in sources] == [1, 1, 1]
    assert egress.broker.waiting > 0  # it may be merely late
    egress.clock.seconds += Queues().cancel
    egress.lanes.redirect_overdue(taking=True)
    await egress.turn()
    assert egress.broker.waiting == 0


async def test_a_confirm_that_is_merely_late_opens_the_lane_again(egress: Egress) -> None:
    egress.broker.stuck = {"slow.lane"}
    egress.send("first", lane="slow.lane")
    await egress.turn()
    egress.clock.seconds += Queues().patience
    egress.lanes.redirect_overdue(taking=True)
    egress.broker.stuck.clear()
    egress.broker.well.set()
    await egress.turn()
    egress.send("then", lane="slow.lane")
    await egress.lanes.drain_lanes()
    assert [one.id for one in egress.to("maniple.lanes")] == ["first", "then"]


async def test_a_stuck_lane_is_tried_by_one_task_at_a_time_until_it_confirms(
    egress: Egress,
) -> None:
    egress.broker.stuck = {"stuck.lane"}
    egress.send("first", lane="stuck.lane")
    await egress.turn()
    egress.clock.seconds += Queues().patience
    egress.lanes.redirect_overdue(taking=True)
    egress.clock.seconds += Queues().cancel  # longer than the lane is shut
    egress.lanes.redirect_overdue(taking=True)
    for name in ("probe", "behind it"):
        egress.send(name, lane="stuck.lane")
    await egress.turn()
    assert egress.broker.waiting == 1
    egress.broker.stuck.clear()
    egress.broker.well.set()
    await egress.turn()
    egress.send("then", lane="stuck.lane")
    await egress.lanes.drain_lanes()
    assert [one.id for one in egress.to("maniple.lanes")] == ["probe", "then"]
    assert [one.id for one in egress.to("maniple.delay")] == ["first", "behind it"]


async def test_a_task_that_its_lane_takes_has_waited_for_nothing(egress: Egress) -> None:
    egress.send("a", waits=9)
    await egress.lanes.drain_lanes()
    (taken,) = egress.to("maniple.lanes")
    assert (taken.accepted, taken.waits) == (True, 0)


async def test_draining_waits_for_what_an_agents_own_queue_refuses(egress: Egress) -> None:
    egress.assignment.registered(AGENT, "1", frozenset({"a.task"}))
    egress.broker.full, egress.broker.stuck = {AGENT}, {"a.task"}
    egress.broker.up.clear()
    source = egress.send("a", affinity="key")
    draining = asyncio.create_task(egress.lanes.drain_lanes())
    await egress.turn()
    egress.broker.up.set()
    await egress.turn()
    assert not draining.done()
    egress.broker.well.set()
    await draining
    assert [one.id for one in egress.to("maniple.lanes")] == ["a"]
    assert source.settled == 1


async def test_a_reply_queue_that_confirms_nothing_holds_up_no_source(
    egress: Egress,
) -> None:
    egress.broker.stuck = {"me"}

    async def expire(name: str, **fields: Any) -> Source:
        source, recorded = Source(), len(egress.broker.to("maniple.results"))
        over = envelope(name, deadline=NOW, **fields)
        assert egress.lanes.ends(over, source, NOW)  # type: ignore[arg-type]  # a fake
        await wait_until(lambda: len(egress.broker.to("maniple.results")) > recorded)
        await egress.turn()
        return source

    asked = await expire("1", reply_to="maniple.replies.me")
    egress.lanes.redirect_overdue(taking=True)
    assert asked.settled == 0
    egress.clock.seconds += Queues().patience
    await expire("2")  # others are confirmed
    egress.lanes.redirect_overdue(taking=True)
    assert asked.settled == 1
    assert egress.broker.waiting > 0  # the reply is still tried
