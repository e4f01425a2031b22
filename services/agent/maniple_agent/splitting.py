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
        self._finishing: set[asyncio.Task[None]] = set()
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
        self._count += 1

        def moved(error: ManipleError | None = None) -> None:
            source.settle(error)
            task = asyncio.get_running_loop().create_task(self._finish(source))
            self._finishing.add(task)
            task.add_done_callback(self._finishing.discard)

        definition = self._registry.get(envelope.capability)
        fate = after_loss(envelope, definition, ran, suspect=suspect)
        if isinstance(fate, Result):
            self._departures.publish(fate, envelope, moved)
        else:
            self._departures.alone(fate.key, fate.envelope, reason, moved)

    async def _finish(self, source: Source) -> None:
        try:
            async with asyncio.timeout(ACK_SECONDS):
                await source.flushed()
        except TimeoutError:
            pass  # a broker that takes nothing gets no killer either
        except Exception:  # noqa: BLE001 - whatever it is, nothing more would start here
            _log.exception("an acknowledgement of a lost task could not be written")
        finally:
            self._count -= 1
            self._ended()
