"""A task that may be with the broker may run: it does not end for want of room elsewhere."""

import asyncio

import pytest

from maniple.clock import Clock
from maniple.timings import Queues
from maniple.topology import DELAY_TIERS, tier_name
from maniple_dispatcher.affinity.assignment import Assignment
from maniple_dispatcher.egress.lane_publisher import LanePublisher
from maniple_dispatcher.tracing import DispatchTracing
from maniple_runtime.publish.batch_publisher import ResultPublisher
from maniple_runtime.publish.confirm import Settlement
from maniple_runtime.telemetry import Metrics
from maniple_runtime.telemetry.tracing import NO_TRACER
from permits import bulkhead_counts
from work_with_fakes import NOW, Delivery, Recording, envelope

LANE, AGENT = "a.task", "agent-1"
TIERS = {tier_name(tier) for tier in DELAY_TIERS}
FIRST_TIERS = {"0.5", "1"}


class UnconfirmedEgress:
    """The way out of a dispatcher whose patience is over at each look."""

    def __init__(self) -> None:
        self.publisher, self.delivery = Recording(), Delivery()
        self.results = ResultPublisher(self.publisher, Metrics(), replier=self.publisher)
        self.assignment = Assignment()
        self.lanes = LanePublisher(
            self.publisher,
            self.results,
            Metrics(),
            Clock(now=lambda: NOW),
            assignment=self.assignment,
            traces=DispatchTracing(NO_TRACER, lambda: NOW, ratio=0.0),
            bulkheads=bulkhead_counts(),
            times=Queues(patience=0.0, cancel=3600.0),
        )

    async def send(self, affinity: str | None = None) -> None:
        """Send a new task, and look until what is not confirmed has been given up."""
        source = Settlement(self.delivery, 1)  # type: ignore[arg-type]  # a fake
        self.lanes.send_task(envelope("1", lane=LANE, affinity=affinity), source)
        for _ in range(8):
            await self.turn()
            self.lanes.redirect_overdue(taking=True)
        await self.turn()
        await self.results.drain_results()

    async def turn(self) -> None:
        for _ in range(50):
            await asyncio.sleep(0)

    @property
    def ends(self) -> int:
        return len(self.publisher.to("maniple.results"))


@pytest.mark.parametrize(
    ("silent", "full"),
    [
        ({LANE}, TIERS),
        ({AGENT}, {LANE, *TIERS}),
        (FIRST_TIERS, {LANE, *TIERS} - FIRST_TIERS),
    ],
    ids=["a lane", "an agent's own queue", "the first tiers"],
)
async def test_what_was_not_confirmed_and_finds_no_room_to_wait_does_not_end(
    silent: set[str], full: set[str]
) -> None:
    egress = UnconfirmedEgress()
    egress.assignment.registered(AGENT, "1", frozenset({LANE}))
    egress.publisher.silent, egress.publisher.full = silent, full
    await egress.send(affinity="key" if AGENT in silent else None)
    assert egress.ends == 0
    egress.publisher.freed.set()
    await egress.turn()
    await egress.lanes.drain_lanes()
    await egress.results.drain_results()
    assert (egress.ends, egress.delivery.acked, egress.delivery.rejected) == (0, 1, 0)


async def test_what_was_refused_everywhere_ends() -> None:
    egress = UnconfirmedEgress()
    egress.publisher.full = {LANE, *TIERS}
    source = Settlement(egress.delivery, 1)  # type: ignore[arg-type]  # a fake
    egress.lanes.send_task(envelope("1", lane=LANE), source)
    await egress.lanes.drain_lanes()
    await egress.results.drain_results()
    assert (egress.ends, egress.delivery.acked) == (1, 1)
