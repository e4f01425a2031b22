"""Writing spans: which traces are kept, and where their spans go.

Spans are written afterwards, by the code that knows their times, and exported by a thread. A
process without an endpoint loads nothing of OpenTelemetry and writes nothing.
"""

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from maniple.clock import SYSTEM_CLOCK, Clock
from maniple.spans import Span
from maniple_runtime.allowance import Allowance
from maniple_runtime.metric_names import SPANS_DROPPED, TRACES_LIMITED
from maniple_runtime.settings import ServiceSettings
from maniple_runtime.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from maniple_runtime.telemetry.export import Exporter


SUBMITTED = "submitted"


class Tracer:
    """The spans of a process; without `exporter` it is not `on` and keeps nothing.

    Belongs to the connection loop. Traces that others cause are kept up to a rate: those that
    outsiders want sampled, and tasks that turn out to be worth it (failed, tried again, moved).
    """

    def __init__(
        self,
        exporter: "Exporter | None" = None,
        *,
        rate: float = 0.0,
        metrics: Metrics | None = None,
        monotonic: Callable[[], float] = SYSTEM_CLOCK.monotonic,
    ) -> None:
        """Send spans to `exporter`; `rate` is traces per second, of either sort."""
        self.on = exporter is not None
        self._exporter = exporter
        self._monotonic = monotonic
        # Who asks for everything to be sampled takes nothing from what goes wrong.
        self._submitted, self._late = Allowance(rate), Allowance(rate)
        self._metrics = metrics

    def write(self, span: Span) -> None:
        """Queue a span for export; if there are too many it is dropped and counted."""
        if self._exporter is not None:
            self._exporter.put(span)

    def may_keep(self, why: str) -> bool:
        """Tell whether one more trace may be kept, and count it if not."""
        if not self.on:
            return False
        allowance = self._submitted if why == SUBMITTED else self._late
        if allowance.take(self._monotonic()):
            return True
        if self._metrics is not None:
            self._metrics.counter(TRACES_LIMITED, why).inc()
        return False

    def serve_handlers(self, ahead: Callable[[], float]) -> None:
        """Export the spans that handlers make in this process as well.

        They are timed by this machine's clock, ours by the cluster's: `ahead` returns the
        difference in seconds.
        """
        if self._exporter is not None:
            self._exporter.become_provider(ahead)

    def write_of_handler(self, span: Span) -> None:
        """Export a span that a handler made in another process of this machine."""
        if self._exporter is not None:
            self._exporter.put_of_handler(span)

    def export_remaining(self, timeout: float) -> None:
        """Export queued spans, within `timeout` seconds; blocks."""
        if self._exporter is not None:
            self._exporter.export_remaining(timeout)


NO_TRACER = Tracer()


def new_span_id() -> str:
    """Return a new span id."""
    return f"{random.getrandbits(64) or 1:016x}"


def make_tracer(settings: ServiceSettings, metrics: Metrics, clock: Clock = SYSTEM_CLOCK) -> Tracer:
    """Return the tracer of a process; it exports if the settings say where to."""
    if not settings.otlp_endpoint:
        return NO_TRACER
    # It loads OpenTelemetry's SDK, protobuf and requests.
    from maniple_runtime.telemetry.export import Exporter  # noqa: PLC0415

    dropped = metrics.counter(SPANS_DROPPED, "queue_full"), metrics.counter(SPANS_DROPPED, "failed")
    exporter = Exporter(settings, *dropped, monotonic=clock.monotonic)
    return Tracer(exporter, rate=settings.trace_rate, metrics=metrics, monotonic=clock.monotonic)
