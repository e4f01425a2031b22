"""Copies of tasks for a lane that mirrors another: nobody waits for them."""

from collections.abc import Callable
from functools import partial

from maniple.codec import encode
from maniple.errors import ManipleError
from maniple.messages import Envelope
from maniple_dispatcher.tracing import DispatchTracing
from maniple_runtime.metric_names import MIRRORS_DROPPED
from maniple_runtime.publish.batch_publisher import BatchPublisher
from maniple_runtime.telemetry import Metrics

MIRROR_SECONDS = 5.0
MIRRORED_BYTES = 8 * 1024**2  # of copies that the broker has not confirmed


class MirrorPublisher:
    """Sends copies, and drops those for which there is no room."""

    def __init__(
        self,
        lanes: BatchPublisher,
        traces: DispatchTracing,
        metrics: Metrics,
        note: Callable[[Envelope], None],
    ) -> None:
        """Publish by `lanes`, which sends nothing else and gives up in `MIRROR_SECONDS`.

        `note` hears of what a lane took.
        """
        self._lanes = lanes
        self._traces = traces
        self._dropped = metrics.counter(MIRRORS_DROPPED)
        self._note = note

    def send_copy(self, copy: Envelope) -> None:
        """Send a copy, or drop it."""
        if self._lanes.kept > MIRRORED_BYTES:
            self._dropped.inc()
            return
        copy, sent = self._traces.mirroring(copy, partial(self._sent, copy))
        self._lanes.add_item(copy.lane, encode(copy), sent)

    async def drain_mirrors(self) -> None:
        """Return when every copy has been confirmed or dropped."""
        await self._lanes.drain()

    def _sent(self, copy: Envelope, error: ManipleError | None) -> None:
        if error is None:
            self._note(copy)
        else:
            self._dropped.inc()
