"""A bundle of tasks from a lane, until all that came of it is safe."""

from time import monotonic

from maniple.service.settlement import Settlement
from maniple.service.spans import Link
from maniple.transport import Delivery


class Bundle(Settlement):
    """A bundle from a lane, and when it came."""

    __slots__ = ("link", "opened_at")

    def __init__(self, delivery: Delivery, tasks: int) -> None:
        """Wait for `tasks` calls of `settle`."""
        super().__init__(delivery, tasks)
        self.opened_at = monotonic()
        self.link: Link | None = None
        """The span of its arrival, if a sampled task came in it with others."""

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
