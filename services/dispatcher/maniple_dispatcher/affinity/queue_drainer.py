"""What waits in the own queue of an agent that is gone is dispatched again, and the queue removed.

Every dispatcher does so, as competing consumers. Why nothing that was confirmed is lost:

- A message is acknowledged after its tasks are confirmed elsewhere; dying in between makes copies.
- A dispatcher that does not know yet may go on publishing to the queue: it is taken, too, until the
  queue is removed; then such a publish comes back as unroutable and goes to the lane.
- What the agent still holds (frozen, or its connection half dead) comes back to the queue when the
  broker ends that connection, after at most three of its heartbeats of 5 s. So the queue must have
  been quiet for longer, and no other consumer may be left: neither the agent nor a dispatcher.
- So one that finds others stops for at least as long as they may go on: the last of them is alone,
  unless others have come. Each time for up to three times as long, however many they are.
- Quorum queues know no "delete if empty". So the binding is removed first and the queue last,
  while we consume it: what slips in between is delivered to us before the queue ends, and we hold
  its bytes. Removing the binding any sooner could take it from an agent that has just come back.
- An agent comes back by declaring, binding, consuming, and only then registering. It has its
  consumer before anyone publishes to it, so its queue is not removed; and whoever had taken the
  binding puts it back on hearing of it.

Why nothing counts as lost that only a dispatcher had: what is under way to a consumer that is
cancelled comes back as redelivered (rabbitmq-server 3746), and its agent, which is back, would take
it for lost with the life before. So nothing is sent to a queue that is being emptied, not even once
its agent is back, until neither we nor another dispatcher consume it: also by a dispatcher that
hears of the failure and of the return at once. Known weaknesses:

- What a dispatcher that dies, or its connection, had taken does count.
- A dispatcher that starts while others empty the queue of an agent that is back has not heard of
  the failure, and sends to it at once.
- The others are waited for 5 s at most, then their queue is sent to.
"""

import asyncio
import random
from collections.abc import Callable
from datetime import datetime
from functools import partial

from msgspec.structs import replace

from maniple.amqp import AmqpConnection, Delivery, OrphanedQueue, leftover
from maniple.errors import BrokerUnavailable
from maniple.messages import Envelope
from maniple.topology import AGENTS, agent_queue
from maniple_dispatcher.affinity.assignment import Assignment
from maniple_dispatcher.affinity.queue_markers import QueueMarkers
from maniple_dispatcher.egress.lane_publisher import LanePublisher
from maniple_dispatcher.ingress.bundle_members import BundleMembers
from maniple_dispatcher.tracing import DispatchTracing
from maniple_runtime.publish.confirm import Settlement
from maniple_runtime.publish.refused_log import RefusedLog
from maniple_runtime.runtime import Runtime

POLL = 0.25
LOOKS = 10  # at a queue that is left to others, in the time that is `quiet`
AGAIN = 1.0
MOST_ROUNDS = 4
LONGEST = 1.3  # times `quiet` for which one consumes until it looks whether it is alone
STOP_TIMEOUT = 3.0
# Seconds for which others are waited for. An agent that changes its prefetch may count as two
# consumers for as long as it runs what it took before.
OTHERS_TIMEOUT = 5.0


class QueueDrainer:
    """Moves the tasks of agents that are gone; `quiet` is in seconds, see above."""

    def __init__(  # noqa: PLR0913 - what it reads, where it sends, and whose it is
        self,
        runtime: Runtime,
        link: AmqpConnection,
        lanes: LanePublisher,
        assignment: Assignment,
        markers: QueueMarkers,
        *,
        quiet: float,
        clock: Callable[[], datetime],
        traces: DispatchTracing,
        log: RefusedLog | None = None,
    ) -> None:
        """Consume over `link`, dispatch to `lanes`; keep what cannot be read in `log`."""
        self._traces = traces
        self._runtime = runtime
        self._monotonic = runtime.clock.monotonic
        self._link = link
        self._lanes = lanes
        self._members = BundleMembers(lanes, log, clock)
        self._assignment = assignment
        self._markers = markers
        self._quiet = quiet
        self._clock = clock
        self._moving: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()
        self._stopping = False

    def begin_draining(self, agent: str) -> None:
        """Move what waits for an agent that is gone; while that is being done, once more after."""
        if self._stopping:
            return
        if agent in self._moving:
            self._again.add(agent)
            return
        self._assignment.withhold(agent)
        task = self._runtime.spawn(self._move(agent), f"move {agent}")
        self._moving[agent] = task
        task.add_done_callback(lambda _: self._ended(agent))

    def _ended(self, agent: str) -> None:
        del self._moving[agent]
        self._assignment.release(agent)
        if agent in self._again:
            self._again.discard(agent)
            self.begin_draining(agent)

    async def stop_draining(self) -> None:
        """Stop taking messages; what was taken is settled, or stays where it is."""
        self._stopping = True
        if self._moving:
            await asyncio.wait(list(self._moving.values()), timeout=STOP_TIMEOUT)

    def _is_over(self, agent: str) -> bool:
        return self._stopping or self._assignment.reads(agent)

    async def _move(self, agent: str) -> None:
        # Once also for an agent that is back by now: others may not have heard of that.
        while True:
            if await self._move_once(agent) or self._is_over(agent):
                return
            await asyncio.sleep(AGAIN * random.uniform(0.5, 1.0))

    async def _move_once(self, agent: str) -> bool:
        """Empty the queue, and wait for others who do; tell whether it is gone for good."""
        try:
            async with leftover(
                self._link, agent_queue(agent), self._take, self._monotonic
            ) as queue:
                removed = await self._empty(agent, queue)
                await self._await_others(agent, queue)
            if not removed or self._is_over(agent):
                return False
            await self._markers.remove_marker(agent)
        except BrokerUnavailable as error:
            self._runtime.log.info(
                "moving tasks of an agent that is gone begins again", agent=agent, reason=str(error)
            )
            return False
        return True

    async def _empty(self, agent: str, queue: OrphanedQueue) -> bool:
        """Take what comes until the queue is removed: True; False, if our part was over first.

        That may have changed again meanwhile.
        """
        if await queue.inspect_queue() is None:
            return True
        self._runtime.log.info("moving tasks of an agent that is gone", agent=agent)
        rounds = 0
        while await self._await_quiet(agent, queue):
            await queue.unbind()
            rounds += 1
            if await self._remove(agent, queue):
                self._runtime.log.info("queue removed", agent=agent)
                return True
            await queue.pause()
            most = 3.0 ** min(rounds, MOST_ROUNDS)
            await self._leave(agent, queue, self._quiet * LONGEST * random.uniform(1.0, most))
        await queue.pause()
        if rounds:
            await queue.bind()
        return False

    async def _await_quiet(self, agent: str, queue: OrphanedQueue) -> bool:
        """Consume until nothing has come for long enough; False when our part is over."""
        patience = self._quiet * random.uniform(1.0, LONGEST)
        if self._is_over(agent):
            return False  # as when it was replaced: then we hear of both lives at once
        await queue.consume()
        while not self._is_over(agent) and not queue.lost:
            if queue.quiet >= patience:
                return True
            await asyncio.sleep(POLL)
        return False

    async def _remove(self, agent: str, queue: OrphanedQueue) -> bool:
        """Remove the queue if it is empty and we are its only consumer; True if it is gone."""
        seen = await queue.inspect_queue()
        if seen is None:
            return True
        if seen.ready or seen.consumers > 1 or not queue.quiet or self._is_over(agent):
            return False
        await queue.remove_queue()
        return True

    async def _await_others(self, agent: str, queue: OrphanedQueue) -> None:
        """Return when nobody but an agent that is back consumes its queue, or after 5 s."""
        deadline = self._monotonic() + OTHERS_TIMEOUT
        while self._assignment.reads(agent) and not self._stopping and self._monotonic() < deadline:
            seen = await queue.inspect_queue()
            if seen is None or seen.consumers <= 1:
                return
            await asyncio.sleep(POLL)

    async def _leave(self, agent: str, queue: OrphanedQueue, seconds: float) -> None:
        """Leave the queue to others for so long, or until it is gone or nobody takes what waits."""
        now = self._monotonic()
        until, next_look = now + seconds, now + self._quiet / LOOKS
        while not self._is_over(agent) and not queue.lost and now < until:
            await asyncio.sleep(POLL)
            now = self._monotonic()
            if now >= next_look:
                seen, next_look = await queue.inspect_queue(), now + self._quiet / LOOKS
                if seen is None or (seen.ready and not seen.consumers):
                    return

    def _take(self, delivery: Delivery) -> None:
        """Dispatch a message again: alone and as lost once more, if its agent had it."""
        onward = partial(self._take_member, lost=delivery.redelivered)
        self._members.bring_all(delivery, onward, AGENTS.name)

    def _take_member(self, envelope: Envelope, source: Settlement, *, lost: bool) -> None:
        now = self._clock()
        moved = self._traces.moved(envelope, lost=lost)
        again = replace(moved, dispatched_at=now, lost=envelope.lost + lost)
        if not self._lanes.ends(again, source, now):
            self._lanes.send_task(again, source, alone=lost)
