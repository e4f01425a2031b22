"""The current span of a handler, in OpenTelemetry's API."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from maniple.traceparent import span_id_of, trace_id_of

_NOTHING: AbstractContextManager[None] = nullcontext()


def in_span(traceparent: str | None) -> AbstractContextManager[None]:
    """Make a sampled span the current one within the block; None costs nothing."""
    return _NOTHING if traceparent is None else _attached(traceparent)


@contextmanager
def _attached(traceparent: str) -> Iterator[None]:
    from opentelemetry import context, trace  # noqa: PLC0415 - only where something is sampled

    here = trace.SpanContext(
        int(trace_id_of(traceparent), 16),
        int(span_id_of(traceparent), 16),
        is_remote=False,
        trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED),
    )
    token = context.attach(trace.set_span_in_context(trace.NonRecordingSpan(here)))
    try:
        yield
    finally:
        context.detach(token)
