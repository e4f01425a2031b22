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


class Scene:
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
def scene() -> Scene:
    return Scene(Seconds())


async def test_what_was_given_up_is_not_with_the_broker_any_more(scene: Scene) -> None:
    scene.broker.stuck = {"stuck.lane"}
    sources = [scene.send(str(n), lane="stuck.lane") for n in range(3)]
    await scene.turn()
    for _ in range(2):  # one copy finds out, then the others follow
        scene.clock.seconds += Queues().patience
        scene.lanes.redirect_overdue(taking=True)
        await scene.turn()
    assert [source.settled for source in sources] == [1, 1, 1]
    assert scene.broker.waiting > 0  # it may be merely late
    scene.clock.seconds += Queues().cancel
    scene.lanes.redirect_overdue(taking=True)
    await scene.turn()
    assert scene.broker.waiting == 0


async def test_a_confirm_that_is_merely_late_opens_the_lane_again(scene: Scene) -> None:
    scene.broker.stuck = {"slow.lane"}
    scene.send("first", lane="slow.lane")
    await scene.turn()
    scene.clock.seconds += Queues().patience
    scene.lanes.redirect_overdue(taking=True)
    scene.broker.stuck.clear()
    scene.broker.well.set()
    await scene.turn()
    scene.send("then", lane="slow.lane")
    await scene.lanes.drain_lanes()
    assert [one.id for one in scene.to("maniple.lanes")] == ["first", "then"]


async def test_a_stuck_lane_is_tried_by_one_task_at_a_time_until_it_confirms(scene: Scene) -> None:
    scene.broker.stuck = {"stuck.lane"}
    scene.send("first", lane="stuck.lane")
    await scene.turn()
    scene.clock.seconds += Queues().patience
    scene.lanes.redirect_overdue(taking=True)
    scene.clock.seconds += Queues().cancel  # longer than the lane is shut
    scene.lanes.redirect_overdue(taking=True)
    for name in ("probe", "behind it"):
        scene.send(name, lane="stuck.lane")
    await scene.turn()
    assert scene.broker.waiting == 1
    scene.broker.stuck.clear()
    scene.broker.well.set()
    await scene.turn()
    scene.send("then", lane="stuck.lane")
    await scene.lanes.drain_lanes()
    assert [one.id for one in scene.to("maniple.lanes")] == ["probe", "then"]
    assert [one.id for one in scene.to("maniple.delay")] == ["first", "behind it"]


async def test_a_task_that_its_lane_takes_has_waited_for_nothing(scene: Scene) -> None:
    scene.send("a", waits=9)
    await scene.lanes.drain_lanes()
    (taken,) = scene.to("maniple.lanes")
    assert (taken.accepted, taken.waits) == (True, 0)


async def test_draining_waits_for_what_an_agents_own_queue_refuses(scene: Scene) -> None:
    scene.assignment.registered(AGENT, "1", frozenset({"a.task"}))
    scene.broker.full, scene.broker.stuck = {AGENT}, {"a.task"}
    scene.broker.up.clear()
    source = scene.send("a", affinity="key")
    draining = asyncio.create_task(scene.lanes.drain_lanes())
    await scene.turn()
    scene.broker.up.set()
    await scene.turn()
    assert not draining.done()
    scene.broker.well.set()
    await draining
    assert [one.id for one in scene.to("maniple.lanes")] == ["a"]
    assert source.settled == 1


async def test_a_reply_queue_that_confirms_nothing_holds_up_no_source(
    scene: Scene,
) -> None:
    scene.broker.stuck = {"me"}

    async def expire(name: str, **fields: Any) -> Source:
        source, recorded = Source(), len(scene.broker.to("maniple.results"))
        over = envelope(name, deadline=NOW, **fields)
        assert scene.lanes.ends(over, source, NOW)  # type: ignore[arg-type]  # a fake
        await wait_until(lambda: len(scene.broker.to("maniple.results")) > recorded)
        await scene.turn()
        return source

    asked = await expire("1", reply_to="maniple.replies.me")
    scene.lanes.redirect_overdue(taking=True)
    assert asked.settled == 0
    scene.clock.seconds += Queues().patience
    await expire("2")  # others are confirmed
    scene.lanes.redirect_overdue(taking=True)
    assert asked.settled == 1
    assert scene.broker.waiting > 0  # the reply is still tried
