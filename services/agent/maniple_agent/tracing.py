"""The part of a task's trace that an agent writes."""

import random
from collections.abc import Sequence

from msgspec.structs import replace

from maniple import spans
from maniple.attempts import NextAttempt
from maniple.messages import Envelope, Result
from maniple.spans import Span, SpanEvent, SpanKind, SpanLink, SpanStep, Value, nanoseconds
from maniple.topology import LANES
from maniple.traceparent import is_sampled, trace_id_of
from maniple_agent.jobs import Bundle, Job
from maniple_runtime.publish.confirm import ConfirmCallback
from maniple_runtime.task_traces import ENDED_BADLY, TaskTraces, parent_of
from maniple_runtime.telemetry.tracing import new_span_id

_STOPPED = "stopped"


class AttemptTracing(TaskTraces):
    """Writes what happens to tasks in an agent; what comes with every task only while it is `on`.

    An attempt's spans are written when it ends: by then it is known whether they are wanted. Only
    of a task that is sampled before do handlers see a span, so only then are theirs kept.
    """

    def received(self, bundle: Bundle, envelopes: Sequence[Envelope]) -> None:
        """Write the arrival of several tasks together, if one of them is sampled."""
        if len(envelopes) == 1:
            return
        members = [envelope for envelope in envelopes if is_sampled(envelope.traceparent)]
        if not members:
            return
        bundle.link = SpanLink(f"{random.getrandbits(128) or 1:032x}", new_span_id())
        at = nanoseconds(self._clock())
        said: dict[str, Value] = {
            spans.SYSTEM: spans.RABBITMQ,
            spans.OPERATION_TYPE: "receive",
            spans.OPERATION_NAME: "receive",
            spans.DESTINATION: LANES.name,
            spans.LANE: members[0].lane,
            spans.BATCH_COUNT: len(envelopes),
        }
        self._tracer.write(
            Span(
                name=spans.RECEIVE_BUNDLE,
                trace_id=bundle.link.trace_id,
                span_id=bundle.link.span_id,
                kind=SpanKind.CLIENT,
                start=at,
                end=at,
                attributes=said,
                links=[SpanLink(trace_id_of(e.traceparent or ""), parent_of(e)) for e in members],
            )
        )

    def begins(self, job: Job) -> None:
        """Give an attempt of a sampled task its span."""
        if self.has(job.envelope):
            job.span = new_span_id()

    def attempted(self, job: Job, decision: Result | NextAttempt) -> Result | NextAttempt:
        """Write an attempt that has ended, and return what was decided, in the same trace."""
        if isinstance(decision, NextAttempt):
            job.envelope = self.keep_trace(job.envelope, "retried")
        elif decision.status in ENDED_BADLY:
            job.envelope = self.keep_trace(job.envelope, "ended")
        if not self.has(job.envelope):
            return decision
        self._write_attempt(job, decision)
        if isinstance(decision, Result):
            return decision
        marked = replace(
            decision.envelope, traceparent=job.envelope.traceparent, span=job.envelope.span
        )
        return NextAttempt(decision.tier, marked, decision.code)

    def stopped(self, job: Job, reason: str) -> Envelope:
        """Write an attempt that its agent stopped; return its task, which goes on elsewhere."""
        job.envelope = self.migrated(job.envelope, reason)
        if self.has(job.envelope):
            self._write_attempt(job, None)
        return job.envelope

    def ending(
        self, result: Result, envelope: Envelope, done: ConfirmCallback
    ) -> tuple[Result, ConfirmCallback]:
        """Return a result in its trace; what ends without having run has waited until now."""
        if result.started_at is None:
            if result.status in ENDED_BADLY:
                envelope = self.keep_trace(envelope, "ended")
            if self.has(envelope):
                error = None if result.error is None else result.error.code.value
                self._write_queue(envelope, error)
        return self.sending(result, envelope, done)

    def _write_queue(self, envelope: Envelope, error: str | None, job: Job | None = None) -> None:
        now = self._clock()
        self.write(
            envelope,
            SpanStep.QUEUE.span_name(envelope.capability),
            envelope.dispatched_at or now,
            (job.started_at if job else None) or now,
            attributes={spans.DESTINATION: LANES.name, spans.ROUTING_KEY: envelope.lane},
            error=error,
        )

    def _write_attempt(self, job: Job, decision: Result | NextAttempt | None) -> None:
        envelope, now = job.envelope, self._clock()
        self._write_queue(envelope, None, job)
        job.span = job.span or new_span_id()
        said: dict[str, Value] = {
            spans.DESTINATION: LANES.name,
            spans.ROUTING_KEY: job.lane_key,
        }
        events = []
        if isinstance(decision, NextAttempt):
            at = nanoseconds(now)
            events.append(SpanEvent(spans.RETRIED, at, {spans.RETRY_DELAY: decision.tier}))
        elif decision is not None:
            said[spans.STATUS] = decision.status.value
        self.write(
            envelope,
            SpanStep.EXECUTE.span_name(envelope.capability),
            job.started_at or now,
            now,
            operation=("process", "execute"),
            kind=SpanKind.CONSUMER,
            span_id=job.span,
            attributes=said,
            events=events,
            links=[job.bundle.link] if job.bundle.link else [],
            error=_error_of(decision),
        )


def _error_of(decision: Result | NextAttempt | None) -> str | None:
    if decision is None:
        return _STOPPED
    if isinstance(decision, NextAttempt):
        return decision.code.value
    return None if decision.error is None else decision.error.code.value
