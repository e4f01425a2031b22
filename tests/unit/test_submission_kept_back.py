"""What is said to be repeated, while nothing has room: it stays where it is."""

import asyncio
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from ingress_with_fakes import Ingress, Submission
from maniple.clock import Clock
from maniple.codec import decode_envelopes
from maniple.messages import REPEATED_HEADER
from maniple.topology import DELAY_TIERS, RETRY_QUEUE, tier_name
from maniple_dispatcher.affinity.assignment import Assignment
from maniple_dispatcher.egress import waits
from maniple_dispatcher.egress.lane_publisher import LanePublisher
from maniple_dispatcher.limits.lease_owner import LeaseOwner
from maniple_dispatcher.pipeline.pipeline import Pipeline
from maniple_dispatcher.tracing import DispatchTracing
from maniple_runtime.telemetry import Metrics
from maniple_runtime.telemetry.tracing import NO_TRACER
from permits import bulkhead_counts
from waiting import wait_until
from work_with_fakes import NOW, Recording

LANE = "text.stats"
TIERS = {tier_name(tier) for tier in DELAY_TIERS}
SAID: dict[str, Any] = {"headers": {REPEATED_HEADER: "true"}}
DELIVERED: dict[str, Any] = {"redelivered": True}


class FullDispatcher:
    """A dispatcher from its way in to its way out, without room anywhere."""

    def __init__(self) -> None:
        self.ingress, self.now = Ingress(Recording()), NOW
        self.publisher = self.ingress.publisher
        self.publisher.full = {LANE, *TIERS}
        results, nothing = self.ingress._results, None
        traces = DispatchTracing(NO_TRACER, self.clock, ratio=0.0)
        clock = Clock(now=self.clock)
        self.lanes = LanePublisher(
            self.publisher,
            results,
            Metrics(),
            clock,
            assignment=Assignment(),
            traces=traces,
            bulkheads=bulkhead_counts(),
        )
        of_nobody: Any = nothing
        coordinator: Any = SimpleNamespace(owned=LeaseOwner(lambda _: None))
        gate = Pipeline(
            self.lanes,
            coordinator,
            of_nobody,
            results,
            good=of_nobody,
            metrics=Metrics(),
            clock=clock,
        )
        self.ingress.submissions._onward = gate.admit

    def clock(self) -> datetime:
        return self.now

    async def take(self, *names: str, **properties: Any) -> Submission:
        delivery: Any = Submission([{"id": name} for name in names], **properties)
        self.ingress.submissions.on_submission(delivery)
        for _ in range(50):
            await asyncio.sleep(0)
        await self.ingress.drain()
        submission: Submission = delivery
        return submission

    @property
    def waiting(self) -> list[str]:
        messages = self.publisher.to("maniple.delay")
        return [one.id for message in messages for one in decode_envelopes(message.body)]


@pytest.fixture
def dispatcher(monkeypatch: pytest.MonkeyPatch) -> FullDispatcher:
    monkeypatch.setattr(waits, "KEPT_BACK", 0.001, raising=False)
    return FullDispatcher()


async def test_what_its_sender_says_is_repeated_stays_in_its_queue_until_there_is_room(
    dispatcher: FullDispatcher,
) -> None:
    delivery = await dispatcher.take("a", "b", **SAID)
    assert (dispatcher.publisher.sent, delivery.acked, delivery.rejected) == ([], 0, 0)
    dispatcher.publisher.full.discard("0.1")
    await wait_until(lambda: delivery.acked == 1)
    assert sorted(dispatcher.waiting) == ["a", "b"]
    assert (dispatcher.ingress.recorded, delivery.rejected) == ([], 0)


async def test_what_is_kept_back_expires(dispatcher: FullDispatcher) -> None:
    delivery = await dispatcher.take("a", **SAID)
    dispatcher.now += timedelta(days=2)
    await wait_until(lambda: delivery.acked == 1)
    await dispatcher.ingress.drain()
    assert [(one.id, one.status) for one in dispatcher.ingress.recorded] == [("a", "expired")]


async def test_what_is_kept_back_does_not_hold_up_a_dispatcher_that_stops(
    dispatcher: FullDispatcher,
) -> None:
    delivery = await dispatcher.take("a", **SAID)
    await dispatcher.lanes.drain_lanes()
    assert (dispatcher.lanes._waits._kept_back, dispatcher.publisher.sent, delivery.acked) == (
        set(),
        [],
        0,
    )


async def test_what_a_dispatcher_had_takes_the_room_that_has_no_bound(
    dispatcher: FullDispatcher,
) -> None:
    delivery = await dispatcher.take("a", **DELIVERED)
    await dispatcher.lanes.drain_lanes()
    assert [message.routing_key for message in dispatcher.publisher.sent] == [RETRY_QUEUE.name]
    assert delivery.acked == 1


async def test_what_is_new_is_told_that_there_is_no_room(dispatcher: FullDispatcher) -> None:
    delivery = await dispatcher.take("a")
    assert [one.status for one in dispatcher.ingress.recorded] == ["rejected"]
    assert delivery.acked == 1
