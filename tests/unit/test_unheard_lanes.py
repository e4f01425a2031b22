"""What is for lanes that nobody has heard of costs next to nothing, however many there are."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from maniple.clock import Clock
from maniple.codec import decode_envelopes
from maniple.timings import Timings
from maniple_dispatcher.affinity.assignment import Assignment
from maniple_dispatcher.egress.known_lanes import BURST, MOST_LOOKING, MOST_THERE, RATE, LaneProbes
from maniple_dispatcher.egress.lane_deadlines import LaneDeadlines
from maniple_dispatcher.egress.lane_publisher import LanePublisher
from maniple_dispatcher.tracing import DispatchTracing
from maniple_runtime.publish.batch_publisher import ResultPublisher
from maniple_runtime.telemetry import Metrics
from maniple_runtime.telemetry.tracing import NO_TRACER
from permits import bulkhead_counts
from waiting import wait_until
from work_with_fakes import NOW, FakePublisher, envelope

INVENTED = [f"no.x{number}" for number in range(1000)]


class Absent(FakePublisher):
    """Has no lane but those that are `there`, and counts what it returns."""

    def __init__(self, *there: str) -> None:
        super().__init__()
        self.there = set(there)
        self.returned = 0

    async def publish(self, message: Any, *, timeout: float | None = None) -> None:
        if message.exchange == "maniple.lanes" and message.routing_key not in self.there:
            self.returned += 1
            self.absent.add(message.routing_key)
        await super().publish(message, timeout=timeout)


class Source:
    """A source message that is not settled yet."""

    patient, alive, settled = False, True, 0

    def settle(self, error: object = None) -> None:
        assert error is None
        self.settled += 1


class UnheardEgress:
    """A dispatcher's way out, with a clock that stands still until it is moved."""

    def __init__(self, broker: Absent) -> None:
        self.broker, self.now = broker, 1000.0
        self.deadlines = LaneDeadlines(Timings().expiry, lambda _: True, 0.0)
        self.deadlines.told = True
        self.sources: list[Source] = []
        self.lanes = LanePublisher(
            broker,
            ResultPublisher(broker, Metrics(), replier=broker),
            Metrics(),
            Clock(now=lambda: NOW, monotonic=lambda: self.now),
            assignment=Assignment(),
            traces=DispatchTracing(NO_TRACER, lambda: NOW, ratio=0.0),
            bulkheads=bulkhead_counts(),
            deadlines=self.deadlines,
        )

    async def send(self, *lanes: str) -> None:
        for number, lane in enumerate(lanes):
            source: Any = Source()
            self.sources.append(source)
            deadline = NOW + timedelta(hours=1)
            task = envelope(f"{lane}-{number}", capability=lane, lane=lane, deadline=deadline)
            self.lanes.send_task(task, source)
        await wait_until(lambda: all(one.settled for one in self.sources))
        await asyncio.sleep(0)


@pytest.fixture
def egress() -> UnheardEgress:
    return UnheardEgress(Absent("test.plain"))


async def test_of_invented_lanes_only_some_are_looked_for_and_the_others_wait_together(
    egress: UnheardEgress,
) -> None:
    await egress.send(*INVENTED)
    assert egress.broker.returned == BURST
    delayed = egress.broker.to("maniple.delay")
    assert len(delayed) < len(INVENTED) / 10
    assert sum(len(decode_envelopes(one.body)) for one in delayed) == len(INVENTED)
    assert sum(one.routing_key in {"10", "30"} for one in delayed) >= len(delayed) / 2
    egress.now += 2.0
    await egress.send(*INVENTED)
    assert egress.broker.returned == BURST + 2 * RATE


async def test_a_lane_that_agents_offer_takes_its_tasks_among_them(egress: UnheardEgress) -> None:
    await egress.send(*INVENTED)
    await egress.send("test.plain")
    assert not egress.broker.to("maniple.lanes")
    egress.deadlines.stir(["test.plain"])
    await egress.send("test.plain")
    assert len(egress.broker.to("maniple.lanes")) == 1


async def test_before_a_registry_has_told_of_any_lane_all_are_tried(egress: UnheardEgress) -> None:
    egress.deadlines.told = False
    await egress.send(*INVENTED)
    await egress.send("test.plain")
    assert len(egress.broker.to("maniple.lanes")) == 1
    assert egress.broker.returned == len(INVENTED)


async def test_a_lane_that_nobody_told_of_is_found_and_known_from_then_on(
    egress: UnheardEgress,
) -> None:
    await egress.send(*["test.plain"] * 300)  # which are one look
    sent = [one for m in egress.broker.to("maniple.lanes") for one in decode_envelopes(m.body)]
    assert len(sent) == 300
    await egress.send(*INVENTED)
    assert egress.broker.returned == BURST - 1
    await egress.send("test.plain")
    sent = [one for m in egress.broker.to("maniple.lanes") for one in decode_envelopes(m.body)]
    assert len(sent) == 301


def test_a_lane_that_is_gone_is_looked_for_as_any_other() -> None:
    looks = LaneProbes(lambda _: False)
    looks.found("a.lane")
    for number in range(int(BURST)):
        assert looks.may_try(f"no.x{number}", 1000.0)
    assert looks.may_try("a.lane", 1000.0)
    looks.missed("a.lane")
    assert not looks.may_try("a.lane", 1000.0)
    assert looks.may_try("a.lane", 1001.0)
    assert looks.may_try("a.lane", 1001.0)  # with the one before


def test_what_is_known_of_lanes_is_bounded() -> None:
    looks, now = LaneProbes(lambda _: False), 0.0
    for number in range(2 * MOST_LOOKING):
        now += 1.0
        looks.may_try(f"no.x{number}", now)
    assert len(looks._looking) == MOST_LOOKING
    for number in range(MOST_THERE + 10):
        looks.found(f"a.x{number}")
    assert len(looks.there) <= MOST_THERE
