"""Looks for tasks of bulkheads of which more is counted than agents and dispatchers tell of."""

import asyncio
import contextlib
from collections.abc import Callable

from maniple.amqp import Inspector
from maniple.amqp.batching import MAX_ITEMS
from maniple.errors import BrokerUnavailable
from maniple.topology import agent_queue, lane_queues
from maniple_dispatcher.affinity.assignment import Assignment
from maniple_dispatcher.limits.concurrency import Doubt
from maniple_dispatcher.limits.coordinator import Coordinator

PERIOD = 0.5


class BulkheadRecount:
    """Looks into the queues where tasks may be of the bulkheads that are ours."""

    def __init__(
        self,
        inspector: Inspector,
        coordinator: Coordinator,
        assignment: Assignment,
        monotonic: Callable[[], float],
    ) -> None:
        """Look through `inspector`; `assignment` knows which agents have a queue of their own."""
        self._inspector = inspector
        self._coordinator = coordinator
        self._assignment = assignment
        self._monotonic = monotonic

    async def recount_bulkheads(self) -> None:
        """Look again and again, until cancelled."""
        bulkheads, peers = self._coordinator.owned.bulkheads, self._coordinator.peers
        while True:
            await asyncio.sleep(PERIOD)
            for doubt in tuple(bulkheads.doubtful(self._monotonic())):
                if not peers.owns(doubt.key):
                    continue
                with contextlib.suppress(BrokerUnavailable):
                    ready, blank = await self._waiting(doubt)
                    if peers.hears(now := self._monotonic()):
                        bulkheads.looked(doubt.key, ready, now, blank=blank)

    async def _waiting(self, doubt: Doubt) -> tuple[int, bool]:
        """Look wherever tasks may wait, also in agents' own queues, until it is enough.

        Tells how many may, for a message may be a bundle, and whether a queue looks blank, without
        tasks and readers: it may not answer. In one that is not there nothing waits.
        """
        queues = [queue.name for lane in sorted(doubt.lanes) for queue in lane_queues(lane)]
        queues += [agent_queue(agent).name for agent in self._assignment.may_have(doubt.lanes)]
        ready, blank = 0, False
        for queue in queues:
            view = await self._inspector.inspect_queue(queue)
            ready += view.ready * MAX_ITEMS
            blank = blank or (view.there and not (view.ready or view.consumers))
            if ready >= doubt.number:
                break
        return ready, blank
