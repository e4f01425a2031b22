"""The room in bulkheads of the tasks that this dispatcher has, from the grant to their lanes.

An envelope's `bulkhead` says that its task has room there: whoever takes that out either gives the
room back or knows that a copy may still need it.
"""

from collections import Counter
from collections.abc import Callable
from time import monotonic

from maniple.messages import Envelope, without_room
from maniple_dispatcher.domain.fleet import Fleet
from maniple_dispatcher.domain.permits import Limit


class Rooms:
    """Counts what is on its way to a queue, and gives back what does not get there."""

    def __init__(self, give_back: Callable[[str], object] = lambda _: None) -> None:
        """Give back room in a bulkhead by `give_back`; without it there are no bulkheads."""
        self._give_back = give_back
        self._going: Counter[str] = Counter()
        self._before: Counter[str] = Counter()

    @classmethod
    def of(cls, fleet: Fleet) -> "Rooms":
        """Return those of a fleet, which tells all what is on its way."""
        rooms = cls(lambda key: fleet.free(Limit(key, most=1), monotonic()))
        fleet.on_way = rooms.on_way
        return rooms

    def on_way(self) -> dict[str, int]:
        """Return what is on its way for longer than since this was last asked for."""
        before, self._before = self._before, self._going.copy()
        return dict(before & self._before)

    def goes(self, envelope: Envelope) -> None:
        """Take that a task is on its way to a queue."""
        if envelope.bulkhead is not None:
            self._going[envelope.bulkhead] += 1

    def arrived(self, envelope: Envelope) -> None:
        """Take that it is on its way no more: a queue has it, or may have it."""
        if envelope.bulkhead is not None:
            self._going[envelope.bulkhead] -= 1
            if not self._going[envelope.bulkhead]:
                del self._going[envelope.bulkhead]

    def back(self, envelope: Envelope) -> Envelope:
        """Give back the room of a task that no queue has; return it without."""
        if envelope.bulkhead is None:
            return envelope
        self._give_back(envelope.bulkhead)
        return without_room(envelope)
