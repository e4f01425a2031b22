"""A tracer whose spans a test can read."""

from collections.abc import Iterable

from maniple.spans import Span
from maniple_runtime.telemetry import Metrics
from maniple_runtime.telemetry.tracing import Tracer


class Kept:
    """In place of an exporter: keeps what it is given."""

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        self.spans = list(spans)

    def put(self, span: Span) -> None:
        self.spans.append(span)

    def tracer(self, rate: float = 100.0, metrics: Metrics | None = None) -> Tracer:
        """Return one that keeps up to `rate` traces a second."""
        return Tracer(self, rate=rate, metrics=metrics or Metrics())  # type: ignore[arg-type]  # a fake
