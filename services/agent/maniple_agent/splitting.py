"""Sending tasks whose agent was lost on their way again, each alone."""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from maniple.attempts import Ran
from maniple.errors import ManipleError
from maniple.messages import Envelope, Result
from maniple.tasks import TaskRegistry
from maniple_agent.departures import Departures
from maniple_agent.domain.losses import after_loss

_log = logging.getLogger(__name__)

ACK_SECONDS = 1.0  # at most, for an acknowledgement to be written


class Source(Protocol):
    """What a task came with: settled part by part, its acknowledgement written by `flushed`."""

    def settle(self, error: ManipleError | None = None) -> None:
        """Take the end of one part."""

    async def flushed(self) -> None:
        """Return once the acknowledgement, if all parts have ended, is on its way."""


class Splits:
    """What becomes of tasks that were lost.

    Nothing should start while one is `under_way`, before its bundle is acknowledged: it may be this
    very task, which kills us, and then the bundle would come again with as many losses as before.

    Known weakness: an acknowledgement that is written may still wait in the broker's channel, which
    hands a quorum queue 32 at a time, and is forgotten there when we die. The copy that this leaves
    ends by itself.
    """

    def __init__(
        self, registry: TaskRegistry, departures: Departures, ended: Callable[[], None]
    ) -> None:
        """Publish through `departures`; `ended` is called when one is no longer under way."""
        self._finishing: set[asyncio.Future[None]] = set()
        self._registry = registry
        self._departures = departures
        self._ended = ended
        self._count = 0

    @property
    def under_way(self) -> bool:
        """Whether some are not confirmed yet, or their bundles not acknowledged."""
        return self._count > 0

    def move(
        self, envelope: Envelope, ran: Ran, reason: str, source: Source, *, suspect: bool
    ) -> None:
        """Send one task of `source` to where it may run again, or end it."""
        fate = after_loss(envelope, self._registry.get(envelope.capability), ran, suspect=suspect)

        def moved(error: ManipleError | None = None) -> None:
            try:
                source.settle(error)
            finally:
                task = asyncio.get_running_loop().create_task(self._finish(source))
                self._finishing.add(task)
                task.add_done_callback(self._finishing.discard)

        self._count += 1
        try:
            if isinstance(fate, Result):
                self._departures.publish(fate, envelope, moved)
            else:
                self._departures.alone(fate.key, fate.envelope, reason, moved)
        except BaseException:
            self._count -= 1
            raise

    async def _finish(self, source: Source) -> None:
        # Never cancelled, which would lose what it has still to write. A broker that takes nothing
        # for so long gets no killer either.
        writing = asyncio.ensure_future(source.flushed())
        self._finishing.add(writing)
        writing.add_done_callback(self._written)
        try:
            await asyncio.wait([writing], timeout=ACK_SECONDS)
        finally:
            self._count -= 1
            self._ended()

    def _written(self, writing: asyncio.Future[None]) -> None:
        self._finishing.discard(writing)
        if not writing.cancelled() and (error := writing.exception()) is not None:
            _log.error("an acknowledgement of a lost task could not be written", exc_info=error)
