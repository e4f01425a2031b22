"""The room in bulkheads of the tasks that this dispatcher has, from the grant to their lanes.

An envelope's `bulkhead` says that its task has room there: whoever takes that out either gives the
room back or knows that a copy may still need it.
"""

from collections.abc import Callable

from maniple.messages import Envelope, without_room
from maniple_dispatcher.limits.coordinator import Coordinator
from maniple_dispatcher.limits.limit import ConcurrencyLimit


class BulkheadCounts:
    """Counts what is on its way to a queue, and gives back what does not get there."""

    def __init__(self, coordinator: Coordinator, monotonic: Callable[[], float]) -> None:
        """Give back room to the `coordinator`, at the time that `monotonic` tells."""
        self._coordinator = coordinator
        self._unqueued = coordinator.unqueued.counts
        self._monotonic = monotonic

    def goes(self, envelope: Envelope) -> None:
        """Count a task as on its way to a queue, or first to a record that it needs."""
        if envelope.bulkhead is not None:
            self._unqueued[envelope.bulkhead] += 1

    def keeps(self, envelope: Envelope) -> None:
        """Count a task as on its way no more; it still has its room."""
        if envelope.bulkhead is not None:
            self._ends(envelope.bulkhead)

    def arrived(self, envelope: Envelope) -> None:
        """Count it as on its way no more: a queue has it, or may have it."""
        if envelope.bulkhead is not None:
            self._ends(envelope.bulkhead)
            self._coordinator.arrived(envelope.bulkhead, envelope.lane)

    def turned_away(self, envelope: Envelope, *, no_lane: bool) -> Envelope:
        """Give back the room of a task on its way that found no queue; return it without.

        With `no_lane` there is none of its lane.
        """
        if envelope.bulkhead is None:
            return envelope
        self._ends(envelope.bulkhead)
        limit = ConcurrencyLimit(envelope.bulkhead, most=1, lane=envelope.lane)
        free = self._coordinator.found_no_lane if no_lane else self._coordinator.return_permit
        free(limit, self._monotonic())
        return without_room(envelope)

    def back(self, envelope: Envelope) -> Envelope:
        """Give back the room of a task that was not on its way; return it without."""
        if envelope.bulkhead is None:
            return envelope
        limit = ConcurrencyLimit(envelope.bulkhead, most=1)
        self._coordinator.return_permit(limit, self._monotonic())
        return without_room(envelope)

    def _ends(self, bulkhead: str) -> None:
        self._unqueued[bulkhead] -= 1
        if self._unqueued[bulkhead] <= 0:
            del self._unqueued[bulkhead]
