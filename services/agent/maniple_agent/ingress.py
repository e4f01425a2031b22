"""What comes to an agent: each task of a bundle is queued, ends, or goes on elsewhere."""

from collections import defaultdict
from collections.abc import Callable
from datetime import datetime

import structlog

from maniple.amqp import Delivery
from maniple.attempts import expired
from maniple.codec import decode_members
from maniple.errors import ErrorCode, InvalidMessage
from maniple.messages import Envelope
from maniple.task_registry import TaskRegistry
from maniple_agent.completion import Completion, DeadlineFate, Moment, TaskDeadlines
from maniple_agent.domain.redelivery import (
    is_over,
    lost_at_most_once,
    may_copy,
    unknown_capability,
)
from maniple_agent.jobs import BulkheadReport, Bundle, Job
from maniple_agent.publisher import AgentPublisher
from maniple_agent.run_queue import LaneMeasure, RunQueue
from maniple_agent.suspect_redelivery import SuspectRedelivery
from maniple_agent.tracing import AttemptTracing
from maniple_runtime.metric_names import HANDED_BACK
from maniple_runtime.remnants import remnant_of, undecodable
from maniple_runtime.telemetry import Metrics, about

LOST = "redelivered"


class Ingress:
    """Takes bundles from lanes; what is to run waits for its turn in the run queue."""

    def __init__(  # noqa: PLR0913 - whatever a task that comes may be given to
        self,
        registry: TaskRegistry,
        waiting: RunQueue,
        completion: Completion,
        redelivery: SuspectRedelivery,
        agent_publisher: AgentPublisher,
        *,
        deadlines: TaskDeadlines,
        measures: defaultdict[str, LaneMeasure],
        metrics: Metrics,
        traces: AttemptTracing,
        queued: Callable[[], None],
    ) -> None:
        """Queue jobs in `waiting`; `queued` is called after each bundle."""
        self._monotonic = deadlines.clock.monotonic
        self._registry = registry
        self._waiting = waiting
        self._completion = completion
        self._attempts = completion.attempts
        self._redelivery = redelivery
        self._agent_publisher = agent_publisher
        self._deadlines = deadlines
        self._measures = measures
        self._metrics = metrics
        self._traces = traces
        self._queued = queued
        self._log = structlog.get_logger("maniple.agent.work")
        self.rooms = BulkheadReport()
        self.last_delivery_at: datetime | None = None

    def on_bundle(self, delivery: Delivery, *, suspect: bool = False) -> None:
        """Queue the tasks of one bundle from a lane."""
        now = self._deadlines.now()
        self.last_delivery_at = now.at
        try:
            members = decode_members(delivery.body, Envelope)
        except InvalidMessage:
            members = [InvalidMessage(ErrorCode.UNDECODABLE, "no bundle")]
        if not members:
            delivery.ack()
            return
        envelopes = [member for member in members if isinstance(member, Envelope)]
        if not envelopes:
            # The broker moves it to the dead-letter log with its bytes, and a dispatcher ends it.
            self._metrics.counter(HANDED_BACK, "undecodable").inc()
            delivery.reject()
            return
        bundle = Bundle(delivery, len(members), self._monotonic())
        self.rooms.took(bundle, envelopes)
        if self._traces.on:
            self._traces.received(bundle, envelopes)
        for member in members:
            if isinstance(member, InvalidMessage):
                self._end_remnant(member, bundle, now.at)
        for envelope in envelopes:
            try:
                self._take_member(envelope, bundle, now, suspect=suspect)
            except Exception as error:  # noqa: BLE001 - one of them must not cost the others
                self._completion.fail(envelope, error, bundle.settle)
        if not delivery.redelivered:
            self._measures[envelopes[0].lane].bundled(len(envelopes))
        self._queued()

    def _take_member(
        self, envelope: Envelope, bundle: Bundle, now: Moment, *, suspect: bool
    ) -> None:
        again = bundle.redelivered or envelope.lost > 0
        if again and self._adopt(envelope, bundle, suspect=suspect):
            return
        if bundle.redelivered:
            self._measures[envelope.lane].record_end(well=False)
            self._move(envelope, bundle, suspect=suspect)
        else:
            self._take_task(envelope, bundle, now, suspect=suspect)

    def _end_remnant(self, unreadable: InvalidMessage, bundle: Bundle, now: datetime) -> None:
        """End a task that cannot be read, beside others that can."""
        self._metrics.counter(HANDED_BACK, "undecodable").inc()
        envelope = remnant_of(unreadable, now)
        if envelope is None:
            self._log.error("something in a bundle is no task", reason=unreadable.message)
            bundle.settle()
            return
        result = undecodable(envelope, unreadable, self._completion.ran())
        self._completion.publish_result(result, envelope, bundle.settle)

    def _take_task(self, envelope: Envelope, bundle: Bundle, now: Moment, *, suspect: bool) -> None:
        definition = self._registry.definitions.get(envelope.capability)
        fate = self._deadlines.fate(envelope, now)
        if fate is DeadlineFate.ASKED:
            self._agent_publisher.ask_dispatcher(
                envelope, bundle.settle, may_copy=may_copy(definition)
            )
            return
        if fate is DeadlineFate.EXPIRED:
            result = expired(envelope, self._completion.ran())
        elif definition is None:
            result = unknown_capability(envelope, self._completion.ran())
        elif envelope.lost and is_over(envelope, definition):
            result = lost_at_most_once(envelope, self._completion.ran())
        else:
            share = self._waiting.share(definition)
            job = Job(envelope, definition, bundle, suspect=suspect, share=share)
            self._attempts.add_attempt(job)
            self._waiting.enqueue(job)
            return
        self._completion.publish_result(result, envelope, bundle.settle)

    def _adopt(self, envelope: Envelope, bundle: Bundle, *, suspect: bool) -> bool:
        """Have an attempt that is still here settle its part of a bundle that brings it again."""
        job = self._attempts.same(envelope)
        if job is None:
            return False
        if not self._waiting.bring_back(job, envelope, bundle, suspect=suspect):
            job.adopted_by(bundle)
        self._log.info("a redelivered task goes on here", **about(envelope))
        return True

    def _move(self, envelope: Envelope, bundle: Bundle, *, suspect: bool) -> None:
        moved = self._traces.migrated(envelope, LOST, lost=True)
        self._redelivery.move(moved, self._completion.ran(), LOST, bundle, suspect=suspect)
