"""What is over in a lane whose agents are gone, or busy, is ended: the lane is turned over.

What waits is taken out and, unless it is over or cancelled, put back behind the others: published
and confirmed before it is acknowledged, so that nothing is lost and dying in between makes copies.
At most as many messages are taken as were seen in it before. If nobody read it, none is taken any
more once somebody does. If agents do, it goes once round, so that tasks stay in their order: it
ends with the first message that bears the stamp of what was sent there since it began; what the
tasks in it are called has no say in that. Which lanes, and when, `lane_deadlines.py`
decides; twice does no harm.

Known weaknesses: one task of a lane in which agents take something meanwhile may come behind the
others; and what a dispatcher had taken (16 messages of a queue at most) comes back as
redelivered when it dies or its connection is lost, and counts as lost with an agent.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from structlog.typing import FilteringBoundLogger

from maniple.amqp import Delivery, Pull, QueueView
from maniple.clock import Clock
from maniple.errors import BrokerUnavailable
from maniple.messages import Envelope, Waiting
from maniple.topology import LANES
from maniple_dispatcher.affinity.queue_markers import QueueMarkers
from maniple_dispatcher.egress.lane_deadlines import LaneDeadlines, Place
from maniple_dispatcher.egress.lane_publisher import ROUND_HEADER, LanePublisher
from maniple_dispatcher.ingress.bundle_members import BundleMembers
from maniple_dispatcher.pipeline.verdicts import given_up
from maniple_dispatcher.tracing import DispatchTracing
from maniple_runtime.publish.confirm import Settlement
from maniple_runtime.redelivery import once_more, too_often

BUSY = "agents busy"  # what a task waits for in a lane that agents read
OPEN = 16  # messages of one queue that are taken and not settled
AT_ONCE = 8  # queues, each by a connection
LOOKERS = 4  # at queues at a time: one that does not answer takes a quarter of a second to look at
SPARE = 30.0  # seconds for which connections are kept that nobody needs
READ = 60.0  # between two looks at what other dispatchers have marked
STOP_TIMEOUT = 3.0


class LaneQueues(Protocol):
    """What can be looked at and taken from; both raise `BrokerUnavailable`."""

    async def inspect_queue(self, queue: str) -> QueueView:
        """Look at a queue."""
        ...

    def open(self, queue: str) -> AbstractAsyncContextManager[Pull]:
        """Take from a queue."""
        ...

    async def trim(self) -> None:
        """Close what is not in use."""
        ...


@dataclass(frozen=True, kw_only=True)
class Around:
    """What a dispatcher knows of the cluster."""

    clock: Clock
    """Its `now` is the cluster's time."""
    others: Callable[[], frozenset[str]]
    """The other dispatchers."""
    taking: Callable[[], bool]
    """Whether the broker takes messages."""
    markers: QueueMarkers
    """Where the names of lanes are kept."""


class TurnOver:
    """Ends what is over in one queue, and puts the rest back."""

    def __init__(
        self,
        lanes: LanePublisher,
        members: BundleMembers,
        around: Around,
        *,
        traces: DispatchTracing,
        settle: float,
    ) -> None:
        """Wait at most `settle` seconds until what was taken is settled.

        While the broker takes nothing from anybody (an alarm) no time counts.
        """
        self._lanes = lanes
        self._members = members
        self._around = around
        self._traces = traces
        self._settle = settle

    async def turn_over_queue(
        self, pull: Pull, place: Place, most: int, goes_on: Callable[[], bool]
    ) -> bool:
        """Take `most` messages; tells whether it went through, or ended because it may not go on.

        Raises `BrokerUnavailable` when the queue does not answer, or what came of it is not
        confirmed.
        """
        taken = 0
        with self._lanes.round(place.routing_key) as stamp:
            while taken < most and goes_on():
                await self._await_room(pull, OPEN)
                delivery = await pull.take()
                if delivery is None:
                    taken = most
                    break
                taken += 1
                self._take(delivery, place)
                if place.read and _is_of(stamp, delivery):
                    taken = most
        await self._await_room(pull, 1)
        await pull.finish()
        return taken >= most

    async def _await_room(self, pull: Pull, most: int) -> None:
        while not await pull.room(most, self._settle):
            if self._around.taking():
                raise BrokerUnavailable(f"what was taken is not settled within {self._settle:g} s")

    def _take(self, delivery: Delivery, place: Place) -> None:
        onward = partial(self._take_member, place=place, lost=delivery.redelivered)
        self._members.bring_all(delivery, onward, LANES.name)

    def _take_member(
        self, envelope: Envelope, source: Settlement, *, place: Place, lost: bool
    ) -> None:
        """End a task, or put it back; alone and as lost once more, if an agent had it."""
        waiting = BUSY if place.read else Waiting.NO_AGENT
        if self._lanes.ends(envelope, source, self._around.clock.now(), waiting=waiting):
            return
        if lost:
            envelope = self._traces.migrated(envelope, "agent gone", lost=True)
            envelope = once_more(envelope, suspect=place.is_suspects)
            if (why := too_often(envelope)) is not None:
                self._lanes.end_task(
                    given_up(envelope, self._around.clock.now(), why), envelope, source
                )
                return
        self._lanes.put_back(envelope, source, alone=lost)


def _is_of(stamp: str, delivery: Delivery) -> bool:
    """Tell whether a message has come round: what an agent had comes again at the head."""
    return delivery.headers.get(ROUND_HEADER) == stamp and not delivery.redelivered


class LaneExpiry:
    """Looks at lanes and has those turned over in which something is over."""

    def __init__(
        self,
        deadlines: LaneDeadlines,
        queues: LaneQueues,
        turn_over: TurnOver,
        around: Around,
        log: FilteringBoundLogger,
    ) -> None:
        """Do in `queues` what `deadlines` decides."""
        self._deadlines = deadlines
        self._queues = queues
        self._turn_over = turn_over
        self._around = around
        self._monotonic = around.clock.monotonic
        self._log = log
        self._times = deadlines.times
        self._turning: set[asyncio.Task[None]] = set()
        self._wanted: dict[str, tuple[Place, int]] = {}
        self._late = deque[Place]()
        self._looked_at = set[str]()
        self._lookers: set[asyncio.Task[None]] = set()
        self._used = self._monotonic()
        self._stopping = False

    async def watch_lanes(self) -> None:
        """Watch the lanes until cancelled."""
        async with asyncio.TaskGroup() as both:
            both.create_task(self._keep_looking())
            both.create_task(self._keep_marks())

    async def stop_turning(self) -> None:
        """Stop taking messages; what was taken is settled, or goes back to its queue."""
        self._stopping = True
        if self._turning:
            await asyncio.wait(self._turning, timeout=STOP_TIMEOUT)
        for task in self._turning | self._lookers:
            task.cancel()

    async def _keep_looking(self) -> None:
        while not self._stopping:
            await asyncio.sleep(self._times.look)
            try:
                await self._look_at_late()
            except Exception:  # noqa: BLE001 - whatever it was, lanes are looked at again
                self._log.exception("lanes not inspected")

    async def _keep_marks(self) -> None:
        """Keep the names of lanes in Consul, and learn those of before this dispatcher."""
        markers, lanes = self._around.markers, self._deadlines.lanes
        again = -math.inf
        while not self._stopping:
            now = self._monotonic()
            if now >= again or not markers.has(lanes):
                self._deadlines.learn_lane(await markers.refresh(tuple(lanes)))
                again = now + READ
                if not markers.has(lanes):  # Consul is away
                    await asyncio.sleep(self._times.every)
            await asyncio.sleep(self._times.look)

    async def _look_at_late(self) -> None:
        now = self._monotonic()
        self._deadlines.advance_time(
            self._around.clock.now().timestamp(), now, self._around.others()
        )
        if self._turning:
            self._used = now
        elif now - self._used > SPARE:
            await self._queues.trim()
        if not self._around.taking():
            return
        self._wanted.clear()
        late = self._deadlines.to_look_at(now)
        self._late = deque(place for place in late if place.queue not in self._looked_at)
        while self._late and len(self._lookers) < LOOKERS:
            looker = asyncio.create_task(self._look_at_next(self._late.popleft()))
            self._lookers.add(looker)
            looker.add_done_callback(self._lookers.discard)

    async def _look_at_next(self, place: Place) -> None:
        """Look at one after the other, as others do beside; who gets no answer leaves the rest."""
        try:
            while await self._look_at(place) and self._late:
                place = self._late.popleft()
        except Exception:  # noqa: BLE001 - whatever it was, lanes are looked at again
            self._log.exception("lanes not inspected")

    async def _look_at(self, place: Place) -> bool:
        self._looked_at.add(place.queue)
        try:
            view = await self._queues.inspect_queue(place.queue)
        except BrokerUnavailable as error:
            self._log.info("a lane is not inspected", queue=place.queue, reason=str(error))
            self._deadlines.miss(place, self._monotonic())
            return False
        finally:
            self._looked_at.discard(place.queue)
        if self._deadlines.see(place, view.ready, view.consumers, self._monotonic()):
            self._wanted[place.queue] = place, view.ready
            self._begin_next()
        return True

    def _begin_next(self) -> None:
        """Turn over as many as may be at a time of those that are to be."""
        while self._wanted and len(self._turning) < AT_ONCE and not self._stopping:
            queue = next(iter(self._wanted))
            self._begin(*self._wanted.pop(queue))

    def _begin(self, place: Place, ready: int) -> None:
        self._deadlines.begin_turn(place)
        task = asyncio.create_task(self._turn(place, ready), name=f"turn over {place.queue}")
        self._turning.add(task)
        task.add_done_callback(self._turned)

    def _turned(self, task: asyncio.Task[None]) -> None:
        self._turning.discard(task)
        self._begin_next()

    async def _turn(self, place: Place, ready: int) -> None:
        began = self._monotonic()
        try:
            async with self._queues.open(place.queue) as pull:
                whole = await self._turn_over.turn_over_queue(
                    pull, place, ready, lambda: not (place.consumed or self._stopping)
                )
        except BrokerUnavailable as error:
            self._log.info("a lane is not turned over", queue=place.queue, reason=str(error))
            self._deadlines.fail(place, self._monotonic())
        except Exception:  # noqa: BLE001 - the same
            self._log.exception("a lane cannot be turned over", queue=place.queue)
            self._deadlines.fail(place, self._monotonic())
        else:
            now = self._monotonic()
            self._deadlines.end_turn(place, now, now - began, whole=whole)
