"""Tasks of bulkheads that this dispatcher has, until a queue has them. Pure."""

from collections import Counter

Way = tuple[str, str]
"""A bulkhead and a lane."""


class UnqueuedTasks:
    """Tasks that have room in a bulkhead and are on their way to a queue, by bulkhead."""

    def __init__(self) -> None:
        self.counts = Counter[str]()
        self._before = Counter[str]()

    def lasting(self) -> dict[str, int]:
        """Return what is on its way for longer than since this was last asked for."""
        before, self._before = self._before, self.counts.copy()
        return dict(before & self._before)


class OutstandingTasks:
    """Counts tasks by lane from when they ask for room until a queue has them, or none gets them.

    So that the dispatcher can tell when none of its tasks can be in a lane: the lane is not there,
    and no other of its tasks is on its way to it.
    """

    def __init__(self) -> None:
        self._count: dict[Way, int] = {}
        self._taken: set[Way] = set()
        self._missed: set[Way] = set()

    def begins(self, way: Way) -> None:
        """Count a task that asks for room on a way."""
        self._count[way] = self._count.get(way, 0) + 1

    def arrives(self, way: Way) -> None:
        """Record that a queue has it, or may have it."""
        if way in self._count:
            self._taken.add(way)
            self.ends(way)

    def ends(self, way: Way, *, missed: bool = False) -> bool:
        """Record that it goes nowhere, for it `missed` the lane, or before that.

        Tells whether none of those that began with it went there, and some missed it.
        """
        count = self._count.get(way, 0)
        if not count:
            return False
        if missed:
            self._missed.add(way)
        if count > 1:
            self._count[way] = count - 1
            return False
        del self._count[way]
        left = way in self._missed and way not in self._taken
        self._taken.discard(way)
        self._missed.discard(way)
        return left
