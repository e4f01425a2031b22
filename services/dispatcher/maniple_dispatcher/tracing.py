"""The part of a task's trace that a dispatcher writes."""

import random
from collections.abc import Callable
from datetime import datetime

from maniple import spans
from maniple.errors import ManipleError
from maniple.messages import Envelope, Result, Waiting
from maniple.spans import SpanStep
from maniple.traceparent import (
    begun_trace,
    is_sampled,
    span_id_of,
    trace_of_id,
    with_sampling,
)
from maniple_runtime.publish.confirm import ConfirmCallback
from maniple_runtime.task_traces import (
    ENDED_BADLY,
    TaskTraces,
    dispatching,
    is_back,
    original_of,
)
from maniple_runtime.telemetry.tracing import SUBMITTED, Tracer


class DispatchTracing(TaskTraces):
    """Decides which new tasks are sampled, and writes when they are dispatched, wait or end."""

    def __init__(self, tracer: Tracer, clock: Callable[[], datetime], *, ratio: float) -> None:
        """Write through `tracer`; `ratio` of the traces begun here are sampled."""
        super().__init__(tracer, clock)
        self._ratio = ratio if tracer.on else 0.0

    def begun(self, task_id: str) -> str:
        """Begin a trace for a task that brought none."""
        sampled = random.random() < self._ratio
        trace = trace_of_id(task_id, sampled=sampled)
        return trace or begun_trace(random.getrandbits(128), sampled=sampled)

    def honoured(self, traceparent: str) -> str:
        """Return the trace that a task brought, not sampled if submitters want too many to be."""
        if not self.on or not is_sampled(traceparent) or self._tracer.may_keep(SUBMITTED):
            return traceparent
        return with_sampling(traceparent, sampled=False)

    def returned(self, envelope: Envelope, now: datetime) -> Envelope:
        """Write the wait of a task that comes back from a delay, and begin its next dispatch."""
        if not self.has(envelope):
            return envelope
        self.write(
            envelope,
            SpanStep.WAIT.span_name(envelope.capability),
            envelope.dispatched_at or now,
            now,
            parent_id=span_id_of(envelope.traceparent or ""),
            attributes={},
        )
        return dispatching(envelope)

    def moved(self, envelope: Envelope, *, lost: bool) -> Envelope:
        """Write that the agent in whose own queue a task was is gone, and begin its next dispatch.

        `lost` if the agent had taken the task.
        """
        envelope = self.migrated(envelope, "agent gone", lost=lost)
        return dispatching(envelope) if self.has(envelope) else envelope

    def accepted(self, envelope: Envelope) -> None:
        """Write the dispatch of a task that its lane has confirmed."""
        if self.has(envelope):
            self.write_dispatch(envelope, self._start(envelope), self._clock())

    def delayed(self, envelope: Envelope, why: Waiting) -> None:
        """Write the dispatch of a task that has to wait."""
        if self.has(envelope):
            self.write_dispatch(
                envelope,
                self._start(envelope),
                self._clock(),
                attributes={spans.WAITING_FOR: why.value},
            )

    def mirroring(self, copy: Envelope, done: ConfirmCallback) -> tuple[Envelope, ConfirmCallback]:
        """Return a copy in a trace of its own, and a `done` that links that to its original's."""
        if not self.has(copy):
            return copy, done
        original = original_of(copy)
        copy = dispatching(copy)

        def sent(error: ManipleError | None) -> None:
            self.write_dispatch(
                copy,
                self._start(copy),
                self._clock(),
                links=[original],
                error=None if error is None else Waiting.NO_AGENT.value,
            )
            done(error)

        return copy, sent

    def ended(
        self, result: Result, envelope: Envelope, done: ConfirmCallback
    ) -> tuple[Result, ConfirmCallback]:
        """Write the dispatch of a task that goes no further, and the sending of its result.

        If it is kept late, nobody wrote for what it has waited: then that is its dispatch, too.
        """
        late = False
        if self.on and not is_sampled(envelope.traceparent) and result.status in ENDED_BADLY:
            marked = self.marked(envelope, "ended")
            envelope, late = marked or envelope, marked is not None
        if self.has(envelope):
            waited = late and (is_back(envelope) or envelope.accepted)
            self.write_dispatch(
                envelope,
                envelope.submitted_at if waited else self._start(envelope),
                self._clock(),
                late=late,
                attributes={spans.STATUS: result.status.value},
                error=None if result.error is None else result.error.code.value,
            )
        return self.sending(result, envelope, done)

    def given_up(
        self, result: Result, envelope: Envelope, done: ConfirmCallback
    ) -> tuple[Result, ConfirmCallback]:
        """Write a dispatch that ends a task that the broker dead-lettered, as `ended` does."""
        if self.has(envelope):
            envelope = dispatching(envelope)
        return self.ended(result, envelope, done)

    def _start(self, envelope: Envelope) -> datetime:
        return envelope.dispatched_at or envelope.submitted_at
