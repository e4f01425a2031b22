"""Sending tasks whose agent was lost on their way again, each alone."""

import asyncio
from collections.abc import Callable

from maniple.attempts import Ran
from maniple.errors import ManipleError
from maniple.messages import Envelope, Result
from maniple.service.done import Done
from maniple.tasks import TaskRegistry
from maniple_agent.departures import Departures
from maniple_agent.domain.losses import after_loss

ACK_SECONDS = 0.02  # for an acknowledgement to be on its way


class Splits:
    """What becomes of tasks that were lost.

    Nothing should start while one is `under_way`, before its bundle is acknowledged: it may be this
    very task, which kills us, and then the bundle would come again with as many losses as before.
    """

    def __init__(
        self, registry: TaskRegistry, departures: Departures, ended: Callable[[], None]
    ) -> None:
        """Publish through `departures`; `ended` is called when one is no longer under way."""
        self._registry = registry
        self._departures = departures
        self._ended = ended
        self._count = 0

    @property
    def under_way(self) -> bool:
        """Whether some are not confirmed yet, or their bundles not acknowledged."""
        return self._count > 0

    def move(self, envelope: Envelope, ran: Ran, reason: str, done: Done, *, suspect: bool) -> None:
        """Send one task to where it may run again, or end it."""
        self._count += 1

        def moved(error: ManipleError | None = None) -> None:
            done(error)
            asyncio.get_running_loop().call_later(ACK_SECONDS, self._over)

        definition = self._registry.get(envelope.capability)
        fate = after_loss(envelope, definition, ran, suspect=suspect)
        if isinstance(fate, Result):
            self._departures.publish(fate, envelope, moved)
        else:
            self._departures.alone(fate.key, fate.envelope, reason, moved)

    def _over(self) -> None:
        self._count -= 1
        self._ended()
