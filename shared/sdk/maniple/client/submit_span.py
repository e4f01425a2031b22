"""The span of a submission, in the trace that the submitting program is in.

A program that has not loaded OpenTelemetry has no span, and pays nothing here.
"""

import sys
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from maniple import spans
from maniple.messages import Task
from maniple.topology import TASKS
from maniple.traceparent import TraceContext, written

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext, Tracer

_API = "opentelemetry.trace"


class SubmitSpans:
    """Begins the span of each submission; ends it when the broker has confirmed the task."""

    def __init__(self, tracer: "Tracer | None" = None) -> None:
        """Make spans with `tracer`; without one, only where the program is in a span."""
        self._tracer = tracer

    def begin(self, task: Task) -> "tuple[Task, Span | None]":
        """Return a task in the trace of its submission; one that has a trace keeps it."""
        api: Any = sys.modules.get(_API)
        if api is None or task.traceparent is not None:
            return task, None
        tracer, here = self._tracer, api.get_current_span().get_span_context()
        if tracer is None and not here.is_valid:
            return task, None
        if tracer is None and not here.trace_flags.sampled:
            return replace(task, traceparent=_traceparent(here)), None
        span = (tracer or api.get_tracer("maniple")).start_span(
            spans.SEND_TASK, kind=api.SpanKind.PRODUCER, attributes=_about(task)
        )
        made = span.get_span_context()
        return replace(task, traceparent=_traceparent(made)) if made.is_valid else task, span


def end(span: "Span", error: Exception | None) -> None:
    """End the span of a submission that the broker has confirmed, or that failed."""
    if error is not None:
        api: Any = sys.modules[_API]
        span.set_attribute(spans.ERROR_TYPE, type(error).__name__)
        span.set_status(api.Status(api.StatusCode.ERROR))
    span.end()


def _traceparent(context: "SpanContext") -> str:
    trace_id, span_id = f"{context.trace_id:032x}", f"{context.span_id:016x}"
    return written(TraceContext(trace_id, span_id, context.trace_flags.sampled))


def _about(task: Task) -> dict[str, str]:
    return {
        spans.SYSTEM: spans.RABBITMQ,
        spans.OPERATION_TYPE: "send",
        spans.OPERATION_NAME: "send",
        spans.DESTINATION: TASKS.name,
        spans.ROUTING_KEY: task.capability or "",
        spans.TASK_ID: task.id or "",
        spans.CAPABILITY: task.capability or "",
        spans.TENANT: task.tenant,
    }
