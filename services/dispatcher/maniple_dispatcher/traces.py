"""The part of a task's trace that a dispatcher writes."""

import random
from collections.abc import Callable
from datetime import datetime

from msgspec.structs import replace

from maniple.errors import ManipleError
from maniple.messages import Envelope, Result
from maniple.service import spans
from maniple.service.done import Done
from maniple.service.spans import Step
from maniple.service.task_traces import ENDED_BADLY, TaskTraces, dispatching, original_of
from maniple.service.telemetry.tracing import SUBMITTED, Tracer
from maniple.traceparent import (
    begun_trace,
    is_sampled,
    span_id_of,
    with_sampling,
)
from maniple_dispatcher.domain.routing import Waiting


class Traces(TaskTraces):
    """Decides which new tasks are sampled, and writes when they are dispatched, wait or end."""

    def __init__(self, tracer: Tracer, clock: Callable[[], datetime], *, ratio: float) -> None:
        """Write through `tracer`; `ratio` of the traces begun here are sampled."""
        super().__init__(tracer, clock)
        self._ratio = ratio if tracer.on else 0.0

    def begun(self) -> str:
        """Begin a trace for a task that brought none."""
        return begun_trace(random.getrandbits(128), sampled=random.random() < self._ratio)

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
            Step.WAIT.of(envelope.capability),
            envelope.dispatched_at or now,
            now,
            parent_id=span_id_of(envelope.traceparent or ""),
            attributes={},
        )
        return dispatching(envelope)

    def lost(self, envelope: Envelope) -> Envelope:
        """Write that the agent of a task that waited in its own queue is gone."""
        envelope = self.migrated(envelope, "agent gone", lost=True)
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

    def mirroring(self, copy: Envelope, done: Done) -> tuple[Envelope, Done]:
        """Return a copy in a trace of its own, and a `done` that links that to its original's."""
        if not self.has(copy):
            return copy, done
        original = original_of(copy)
        copy = dispatching(replace(copy, span=None))

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

    def ended(self, result: Result, envelope: Envelope, done: Done) -> tuple[Result, Done]:
        """Write the dispatch of a task that goes no further, and the sending of its result."""
        if self.on and not is_sampled(envelope.traceparent) and result.status in ENDED_BADLY:
            envelope = self.marked(envelope, "ended") or envelope
        if self.has(envelope):
            self.write_dispatch(
                envelope,
                self._start(envelope),
                self._clock(),
                attributes={spans.STATUS: result.status.value},
                error=None if result.error is None else result.error.code.value,
            )
        return self.sending(result, envelope, done)

    def _start(self, envelope: Envelope) -> datetime:
        return envelope.dispatched_at or envelope.submitted_at
