"""The spans of tasks, as dispatchers and agents write them.

All that a span needs travels in the envelope, so a span is written when its end is known, with its
earlier times. A process that finds that an unsampled task is worth its trace (it failed, is tried
again, lost its agent) marks it as sampled from there on, and writes the spans left out before.
"""

from collections.abc import Callable
from datetime import datetime

from msgspec.structs import replace

from maniple import spans
from maniple.errors import ManipleError
from maniple.messages import Envelope, Result, Status, fallbacks_in
from maniple.spans import Span, SpanKind, SpanLink, SpanStep, Value, nanoseconds
from maniple.topology import RESULTS, RETRY_QUEUE, SUBMIT
from maniple.traceparent import (
    is_begun_here,
    is_sampled,
    of_copy,
    span_id_of,
    trace_id_of,
    with_sampling,
    with_span,
)
from maniple_runtime.publish.confirm import ConfirmCallback
from maniple_runtime.telemetry.tracing import Tracer, new_span_id

ENDED_BADLY = frozenset({Status.FAILED, Status.REJECTED, Status.EXPIRED})


def dispatching(envelope: Envelope) -> Envelope:
    """Give a sampled task the id of the span of its dispatch, which starts now.

    The first span of a trace that was started here is a root, which the traceparent names from then
    on. Its id is a new one like any other: of a task that was delivered twice, each copy may write
    one.
    """
    span = new_span_id()
    traceparent = envelope.traceparent or ""
    if is_begun_here(traceparent):
        traceparent = with_span(traceparent, span)
    return replace(envelope, traceparent=traceparent, span=span)


def is_back(envelope: Envelope) -> bool:
    """Tell whether a task that is dispatched has returned from a wait."""
    # Those of before there was a reason have none.
    return envelope.waited_for is not None or envelope.attempt > 1 or envelope.waits > 0


def parent_of(envelope: Envelope) -> str:
    """Return the parent of an agent's spans of a task."""
    return envelope.span or span_id_of(envelope.traceparent or "")


def original_of(copy: Envelope) -> SpanLink:
    """Return the link to the task that this one is a copy of."""
    original = of_copy(copy.traceparent or "")
    return SpanLink(trace_id_of(original), copy.span or span_id_of(original))


def exemplar_of(envelope: Envelope) -> dict[str, str] | None:
    """Return the labels that link a measured time to its trace; None unless it is sampled."""
    if envelope.traceparent is None or not is_sampled(envelope.traceparent):
        return None
    return {"trace_id": trace_id_of(envelope.traceparent)}


class TaskTraces:
    """Writes the spans of tasks; does nothing when tracing is off, or a task is not sampled."""

    def __init__(self, tracer: Tracer, clock: Callable[[], datetime]) -> None:
        """Write through `tracer`."""
        self.on = tracer.on
        self._tracer = tracer
        self._clock = clock

    def has(self, envelope: Envelope) -> bool:
        """Tell whether the spans of a task are written."""
        return self.on and is_sampled(envelope.traceparent)

    def marked(self, envelope: Envelope, why: str) -> Envelope | None:
        """Return an unsampled task as one whose trace is kept from now on, if the rate allows."""
        if envelope.traceparent is None or not self._tracer.may_keep(why):
            return None
        traceparent = with_sampling(envelope.traceparent, sampled=True)
        return dispatching(replace(envelope, traceparent=traceparent))

    def keep_trace(self, envelope: Envelope, why: str) -> Envelope:
        """Keep the trace of a task, and write its dispatch if nobody has.

        The task is returned unchanged when there are too many of them.
        """
        if not self.on or is_sampled(envelope.traceparent):
            return envelope
        marked = self.marked(envelope, why)
        if marked is None:
            return envelope
        at = marked.dispatched_at or marked.submitted_at
        # When its lane confirmed it is not known here: it takes no time.
        links = [original_of(envelope)] if envelope.mirror_of else []
        self.write_dispatch(marked, at, at, links=links, late=True)
        return marked

    def write_dispatch(  # noqa: PLR0913 - what may be known of it
        self,
        envelope: Envelope,
        start: datetime,
        end: datetime,
        *,
        links: list[SpanLink] | None = None,
        late: bool = False,
        attributes: dict[str, Value] | None = None,
        error: str | None = None,
    ) -> None:
        """Write the span of a dispatch."""
        said: dict[str, Value] = {
            spans.DESTINATION: (RETRY_QUEUE if is_back(envelope) else SUBMIT).name
        }
        fallbacks = fallbacks_in(envelope.policies)
        if envelope.policies:
            said[spans.POLICIES] = [f"{key}@{value}" for key, value in envelope.policies.items()]
        if fallbacks:
            said[spans.FALLBACK] = fallbacks[0]
        if late:
            said[spans.LATE] = True
        parent = span_id_of(envelope.traceparent or "")
        self.write(
            envelope,
            SpanStep.DISPATCH.span_name(envelope.capability),
            start,
            end,
            operation=("process", "dispatch"),
            kind=SpanKind.CONSUMER,
            span_id=envelope.span or new_span_id(),
            parent_id=None if parent == envelope.span else parent,
            attributes=said | (attributes or {}),
            error=error,
            events=[spans.SpanEvent(spans.FELL_BACK, nanoseconds(end))] if fallbacks else [],
            links=links or [],
        )

    def migrated(
        self, envelope: Envelope, reason: str, *, lost: bool = False, keep: bool = True
    ) -> Envelope:
        """Write the span of a task that moves on without having ended, and `keep` its trace."""
        if keep:
            envelope = self.keep_trace(envelope, "migrated")
        if self.has(envelope):
            self.write(
                envelope,
                SpanStep.MIGRATE.span_name(envelope.capability),
                envelope.dispatched_at or envelope.submitted_at,
                self._clock(),
                attributes={spans.REASON: reason},
                error="agent_lost" if lost else None,
            )
        return envelope

    def sending(
        self, result: Result, envelope: Envelope, done: ConfirmCallback
    ) -> tuple[Result, ConfirmCallback]:
        """Return a result with its trace, and a `done` that writes the span of its sending."""
        if not self.has(envelope):
            return result, done

        def sent(error: ManipleError | None) -> None:
            self.write(
                envelope,
                spans.SEND_RESULT,
                result.finished_at or self._clock(),
                self._clock(),
                operation=("send", "send"),
                kind=SpanKind.PRODUCER,
                attributes={
                    spans.DESTINATION: RESULTS.name,
                    spans.ROUTING_KEY: result.capability,
                    spans.STATUS: result.status.value,
                },
                error=None if error is None else type(error).__name__,
            )
            done(error)

        return replace(result, traceparent=envelope.traceparent), sent

    def write(  # noqa: PLR0913 - the parts of a span
        self,
        envelope: Envelope,
        name: str,
        start: datetime,
        end: datetime,
        *,
        attributes: dict[str, Value],
        operation: tuple[str, str] | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        span_id: str | None = None,
        parent_id: str | None = "",
        events: list[spans.SpanEvent] | None = None,
        links: list[SpanLink] | None = None,
        error: str | None = None,
    ) -> None:
        """Write a span of a sampled task; without `parent_id` its parent is the dispatch."""
        if error is not None:
            attributes = attributes | {spans.ERROR_TYPE: error}
        self._tracer.write(
            Span(
                name=name,
                trace_id=trace_id_of(envelope.traceparent or ""),
                span_id=span_id or new_span_id(),
                parent_id=parent_of(envelope) if parent_id == "" else parent_id,
                kind=kind,
                start=nanoseconds(start),
                end=nanoseconds(max(start, end)),
                attributes=_about(envelope, operation) | attributes,
                events=events or [],
                links=links or [],
                error=error,
            )
        )


def _about(envelope: Envelope, operation: tuple[str, str] | None) -> dict[str, Value]:
    said: dict[str, Value] = {
        spans.TASK_ID: envelope.id,
        spans.CAPABILITY: envelope.capability,
        spans.TENANT: envelope.tenant,
        spans.LANE: envelope.lane,
        spans.ATTEMPT: envelope.attempt,
    }
    if envelope.lost:
        said[spans.LOST] = envelope.lost
    if envelope.mirror_of:
        said[spans.MIRROR_OF] = envelope.mirror_of
    if operation is not None:
        said[spans.SYSTEM] = spans.RABBITMQ
        said[spans.OPERATION_TYPE], said[spans.OPERATION_NAME] = operation
        if envelope.correlation_id is not None:
            said[spans.CONVERSATION_ID] = envelope.correlation_id
    return said
