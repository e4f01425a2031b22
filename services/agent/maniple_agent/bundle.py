"""A bundle of tasks from a lane, until all that came of it is safe, and the room that it takes."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from time import monotonic
from typing import Protocol

from maniple.amqp import Delivery
from maniple.errors import ManipleError
from maniple.messages import Envelope
from maniple.spans import SpanLink
from maniple_runtime.publish.confirm import Settlement


class Closed(Protocol):
    """Told when all that came of a bundle is safe, or cannot be."""

    def __call__(self, bundle: "Bundle", *, acknowledged: bool) -> None:
        """Take that it is acknowledged, or refused or lost."""


class Bundle(Settlement):
    """A bundle from a lane, and when it came."""

    __slots__ = ("closed", "link", "opened_at", "rooms")

    def __init__(self, delivery: Delivery, tasks: int) -> None:
        """Wait for `tasks` calls of `settle`."""
        super().__init__(delivery, tasks)
        self.opened_at = monotonic()
        self.link: SpanLink | None = None
        """The span of its arrival, if a sampled task came in it with others."""
        self.rooms: Counter[str] = Counter()
        """How many of its tasks have room in each bulkhead, and need it nowhere else."""
        self.closed: Closed | None = None

    def settle(self, error: ManipleError | None = None) -> None:
        """Take the end of one part."""
        super().settle(error)
        if self.closed is not None and not self._remaining:
            self.closed(self, acknowledged=not (self._lost or self._refused))

    def keeps_room(self, bulkhead: str | None) -> None:
        """Take that a task keeps its room elsewhere: it is in a lane again, or may be."""
        if bulkhead is not None:
            self.rooms[bulkhead] -= 1

    @property
    def redelivered(self) -> bool:
        """Whether an agent had it before and did not settle it."""
        return self._delivery.redelivered

    async def flushed(self) -> None:
        """Return once it is acknowledged as far as this process can do that, if it may be."""
        await self._delivery.flushed()

    @property
    def alive(self) -> bool:
        """Whether it is still ours: without its connection the broker gives it to others."""
        return self._delivery.alive


class BulkheadReport:
    """The room that this agent's tasks take in bulkheads, as it tells dispatchers.

    A task takes room here as long as the broker would bring it again, if this agent died.

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
