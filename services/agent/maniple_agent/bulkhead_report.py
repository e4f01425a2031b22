"""The room that this agent's tasks take in bulkheads, as it tells dispatchers."""

import asyncio
from collections import Counter
from collections.abc import Iterable

from maniple.messages import Envelope
from maniple_agent.bundle import Bundle


class BulkheadReport:
    """A task takes room here as long as the broker would bring it again, if this agent died.

    So what has ended leaves with the acknowledgement of its bundle, and is told once: if that
    is lost with the connection, whoever gets the bundle next tells it. What went back to a lane
    keeps its room there.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self._open: set[Bundle] = set()
        self._ended: Counter[str] = Counter()
        self.freed = asyncio.Event()
        """Set when some have left."""

    def took(self, bundle: Bundle, envelopes: Iterable[Envelope]) -> None:
        """Take what came in a bundle."""
        rooms = [one.bulkhead for one in envelopes if one.bulkhead is not None]
        if rooms:
            bundle.rooms = Counter(rooms)
            bundle.closed = self._closed
            self._open.add(bundle)

    def _closed(self, bundle: Bundle, *, acknowledged: bool) -> None:
        self._open.discard(bundle)
        if acknowledged and bundle.alive:
            self._ended += bundle.rooms
            self.freed.set()

    def here(self) -> Counter[str]:
        """Count tasks by their bulkhead; what came by a connection that is lost is not ours."""
        self._open = {bundle for bundle in self._open if bundle.alive}
        here: Counter[str] = Counter()
        for bundle in self._open:
            here.update(bundle.rooms)
        return here

    def take_ended(self) -> Counter[str]:
        """Return how many tasks have left each bulkhead here since this was last asked for."""
        ended, self._ended = self._ended, Counter()
        return ended
