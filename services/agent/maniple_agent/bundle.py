"""A bundle of tasks from a lane, until all that came of it is safe."""

from collections import Counter
from time import monotonic
from typing import Protocol

from maniple.amqp import Delivery
from maniple.errors import ManipleError
from maniple.spans import SpanLink
from maniple_runtime.settlement import Settlement


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
