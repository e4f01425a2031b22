"""Exporting spans over OTLP/HTTP: the one place that knows OpenTelemetry's SDK."""

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version

import opentelemetry.trace as api
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import Counter

from maniple import spans
from maniple.spans import Span, earlier
from maniple_runtime.settings import ServiceSettings
from maniple_runtime.telemetry.logs import get_logger

MAX_QUEUE = 16_384  # spans
MAX_BATCH = 512
PERIOD = 1.0
EXPORT_TIMEOUT = 5.0
MAX_SPANS = 1000  # of a handler in a worker process, for one attempt
_PATH = "/v1/traces"
_KINDS = {
    spans.SpanKind.INTERNAL: api.SpanKind.INTERNAL,
    spans.SpanKind.PRODUCER: api.SpanKind.PRODUCER,
    spans.SpanKind.CONSUMER: api.SpanKind.CONSUMER,
    spans.SpanKind.CLIENT: api.SpanKind.CLIENT,
    spans.SpanKind.SERVER: api.SpanKind.SERVER,
}
_OK = api.Status(api.StatusCode.UNSET)


class Exporter(SpanProcessor):
    """A bounded queue of spans, and the thread that sends them.

    Nobody waits for it: a span that finds the queue full is dropped, and so is one that cannot be
    exported; both are counted.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        overflow: Counter,
        failed: Counter,
        *,
        monotonic: Callable[[], float],
    ) -> None:
        """Export to `settings.otlp_endpoint`; the thread starts with the first span."""
        # We say ourselves, once, that nothing can be exported; it would say so for each batch.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
        self._resource = _resource_of(settings)
        self._monotonic = monotonic
        self._scopes: dict[str, InstrumentationScope] = {}
        self._target: SpanExporter = OTLPSpanExporter(
            endpoint=settings.otlp_endpoint.rstrip("/") + _PATH, timeout=EXPORT_TIMEOUT
        )
        self._overflow = overflow
        self._failed = failed
        self._queue: deque[Span | ReadableSpan] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._working = True
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ahead: Callable[[], float] = lambda: 0.0
        self._log = get_logger("maniple.tracing")

    def put(self, span: Span | ReadableSpan) -> None:
        """Queue a span, from any thread."""
        if len(self._queue) >= MAX_QUEUE:
            self._overflow.inc()
            return
        self._queue.append(span)
        if self._thread is None:
            self._start()
        if len(self._queue) == MAX_BATCH:
            self._wake.set()

    def put_of_handler(self, span: Span | ReadableSpan) -> None:
        """Queue a span of a handler, timed by this machine's clock; see `become_provider`."""
        ahead = self._ahead()
        self.put(earlier(span, ahead) if isinstance(span, Span) else _earlier(span, ahead))

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a span that a handler made in this process."""
        if span.context is not None and span.context.trace_flags.sampled:
            self.put_of_handler(span)

    def become_provider(self, ahead: Callable[[], float]) -> None:
        """Give handlers tracers that export here, unless their modules set a provider.

        Their spans are moved back by `ahead`: the seconds by which this machine's clock is ahead of
        the one that the other spans of their tasks use.
        """
        self._ahead = ahead
        set_provider(self, self._resource)

    def export_remaining(self, timeout: float) -> None:
        """Send what is left within `timeout` seconds."""
        self._closing = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout)
        self._target.shutdown()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while not self._closing or self._queue:
            if len(self._queue) < MAX_BATCH and not self._closing:
                self._wake.wait(PERIOD)
            self._wake.clear()
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), MAX_BATCH))]
            if batch:
                self._send(batch)

    def _send(self, batch: Sequence[Span | ReadableSpan]) -> None:
        began = self._monotonic()
        try:
            ready = [self._readable(s) if isinstance(s, Span) else s for s in batch]
            sent = self._target.export(ready) is SpanExportResult.SUCCESS
        except Exception:  # noqa: BLE001 - whatever it is, the next batch may go
            sent = False
        if not sent:
            self._failed.inc(len(batch))
        if sent != self._working:
            self._working = sent
            if sent:
                self._log.info("spans are exported again")
            else:
                seconds = round(self._monotonic() - began, 1)
                self._log.warning("spans cannot be exported; they are dropped", seconds=seconds)

    def _readable(self, span: Span) -> ReadableSpan:
        scope = self._scopes.get(span.scope)
        if scope is None:
            scope = self._scopes[span.scope] = InstrumentationScope(span.scope)
        return readable(span, self._resource, scope)


def readable(span: Span, resource: Resource, scope: InstrumentationScope) -> ReadableSpan:
    """Return a span as OpenTelemetry's exporters expect it."""
    failed = span.error is not None
    return ReadableSpan(
        span.name,
        context=_context(span.trace_id, span.span_id),
        parent=_context(span.trace_id, span.parent_id) if span.parent_id else None,
        resource=resource,
        attributes=span.attributes,
        events=[Event(e.name, e.attributes, e.at) for e in span.events],
        links=[api.Link(_context(link.trace_id, link.span_id)) for link in span.links],
        kind=_KINDS[span.kind],
        status=api.Status(api.StatusCode.ERROR, span.error) if failed else _OK,
        start_time=span.start,
        end_time=span.end,
        instrumentation_scope=scope,
    )


def _earlier(span: ReadableSpan, seconds: float) -> ReadableSpan:
    by = round(seconds * spans.BILLION)
    events = [Event(event.name, event.attributes, event.timestamp - by) for event in span.events]
    return ReadableSpan(
        span.name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=span.attributes,
        events=events,
        links=span.links,
        kind=span.kind,
        status=span.status,
        start_time=(span.start_time or 0) - by,
        end_time=(span.end_time or 0) - by,
        instrumentation_scope=span.instrumentation_scope,
    )


def _context(trace_id: str, span_id: str) -> api.SpanContext:
    return api.SpanContext(
        int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=api.TraceFlags(1)
    )


def _resource_of(settings: ServiceSettings) -> Resource:
    return Resource.create(
        {
            "service.name": f"maniple-{settings.service}",
            "service.instance.id": settings.instance,
            "service.version": version("maniple"),
            "deployment.environment.name": settings.environment,
        }
    )


def set_provider(processor: SpanProcessor, resource: Resource | None = None) -> None:
    """Pass the spans that handlers make under a sampled task's span to `processor`."""
    if not isinstance(api.get_tracer_provider(), api.ProxyTracerProvider):
        return
    # Without a task's span around it a handler's is not kept: its task is not sampled.
    provider = TracerProvider(
        sampler=ParentBased(ALWAYS_OFF), resource=resource, shutdown_on_exit=False
    )
    provider.add_span_processor(processor)
    api.set_tracer_provider(provider)


class Collector(SpanProcessor):
    """Keeps the spans that a handler makes in a worker process, for its agent to export.

    At most `MAX_SPANS` of one attempt: its memory is limited, and so is its agent's time.
    """

    def __init__(self) -> None:
        """Start without spans."""
        self._spans: list[Span] = []

    def on_end(self, span: ReadableSpan) -> None:
        """Add a span that has ended."""
        is_wanted = span.context is not None and span.context.trace_flags.sampled
        if is_wanted and len(self._spans) < MAX_SPANS:
            self._spans.append(_plain(span))

    def take_spans(self) -> list[Span]:
        """Return the spans since the last call."""
        taken, self._spans = self._spans, []
        return taken


def _plain(span: ReadableSpan) -> Span:
    """Return a span in a form that can be sent to another process."""
    context = span.context
    scope = span.instrumentation_scope
    ended = span.status.status_code is api.StatusCode.ERROR
    return Span(
        name=_text(span.name),
        trace_id=f"{context.trace_id:032x}",
        span_id=f"{context.span_id:016x}",
        parent_id=f"{span.parent.span_id:016x}" if span.parent else None,
        kind=spans.SpanKind(span.kind.name.lower()),
        start=span.start_time or 0,
        end=span.end_time or 0,
        attributes=_attributes(span.attributes),
        events=[
            spans.SpanEvent(_text(e.name), e.timestamp, _attributes(e.attributes))
            for e in span.events
        ],
        links=[
            spans.SpanLink(f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}")
            for link in span.links
        ],
        error=_text(span.status.description or "error") if ended else None,
        scope=_text(scope.name) if scope else "",
    )


def _attributes(given: Mapping[str, object] | None) -> dict[str, spans.Value]:
    return {_text(name): _value(value) for name, value in (given or {}).items()}


def _value(value: object) -> spans.Value:
    if isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str) or not isinstance(value, Sequence):
        return _text(value)
    return [_text(item) for item in value]


def _text(value: object) -> str:
    """Return a text that can be encoded as UTF-8."""
    return str(value).encode("utf-8", "replace").decode()
