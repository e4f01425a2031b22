"""A dispatcher from its pipeline to its lanes, and back from a wait, without a broker."""

from collections.abc import Callable, Iterable
from datetime import datetime
from time import monotonic
from types import SimpleNamespace
from typing import Any

from maniple.clock import Clock
from maniple.codec import decode_envelopes
from maniple.messages import Envelope
from maniple_dispatcher.affinity.assignment import Assignment
from maniple_dispatcher.egress.lane_publisher import LanePublisher
from maniple_dispatcher.ingress.arrival import Redelivery
from maniple_dispatcher.ingress.record_lookup import RecordLookup
from maniple_dispatcher.ingress.redelivered_tasks import RedeliveredTasks
from maniple_dispatcher.ingress.retry_consumer import RetryConsumer
from maniple_dispatcher.limits.bulkhead_counts import BulkheadCounts
from maniple_dispatcher.limits.lease_owner import LeaseOwner
from maniple_dispatcher.pipeline.pipeline import Pipeline
from maniple_dispatcher.tracing import DispatchTracing
from maniple_policies import PolicySet, parse_policy
from maniple_runtime.publish.batch_publisher import ResultPublisher
from maniple_runtime.publish.confirm import Settlement
from maniple_runtime.telemetry import Metrics
from maniple_runtime.telemetry.tracing import NO_TRACER, Tracer
from permits import bulkhead_counts
from work_with_fakes import NOW, Delivery, FakePublisher

OF_NO_LIMITS: Any = SimpleNamespace(owned=LeaseOwner(lambda _: None))
Kind = tuple[str, dict[str, Any]]
"""A policy's kind and what it says."""


class PipelineWithFakes:
    """A pipeline with `policies`, a `coordinator` (or none) for permits, and a fake publisher."""

    def __init__(  # noqa: PLR0913 - what a test may decide about it
        self,
        policies: Iterable[Kind],
        coordinator: Any,
        *,
        tracer: Tracer = NO_TRACER,
        counts: BulkheadCounts | None = None,
        lookups: RecordLookup | None = None,
        monotonic: Callable[[], float] = monotonic,
    ) -> None:
        self.publisher, self.assignment, self.now = FakePublisher(), Assignment(), NOW
        self.known: datetime | None = None
        """The cluster's time, if it is known."""
        self.results = ResultPublisher(self.publisher, Metrics(), replier=self.publisher)
        self.policies = PolicySet(
            parse_policy({"kind": kind, "name": "p", "spec": spec}) for kind, spec in policies
        )
        self.traces = DispatchTracing(tracer, self.clock, ratio=0.0)
        clock = Clock(now=self.clock, monotonic=monotonic)
        self.lanes = LanePublisher(
            self.publisher,
            self.results,
            Metrics(),
            clock,
            assignment=self.assignment,
            traces=self.traces,
            bulkheads=counts or bulkhead_counts(),
            known=lambda: self.known,
        )
        nothing: Any = None
        self.pipeline = Pipeline(
            self.lanes,
            coordinator or OF_NO_LIMITS,
            self.policies,
            self.results,
            good=nothing,
            metrics=Metrics(),
            clock=clock,
        )
        again = None if lookups is None else RedeliveredTasks(lookups, self.pipeline, self.results)
        self.returns = RetryConsumer(
            self.lanes, self.pipeline, nothing, self.clock, traces=self.traces, again=again
        )

    def clock(self) -> datetime:
        return self.now

    def bring(
        self, task: Envelope, before: Redelivery = Redelivery.UNKNOWN, *, expires: bool = False
    ) -> Delivery:
        """Admit a task; return its delivery."""
        delivery = Delivery()
        resolved = self.policies.resolve(task.capability, task.tenant, task.labels, task.id)
        source = Settlement(delivery, 1, expires=expires)  # type: ignore[arg-type]  # a fake
        self.pipeline.admit(task, resolved, source, before)
        return delivery

    async def bring_back(self, task: Envelope, *, redelivered: bool = False) -> None:
        """Deliver a task that has waited; return when all that comes of it is published."""
        self.returns.on_retry(Delivery(task, redelivered=redelivered))  # type: ignore[arg-type]  # a fake
        await self.drain()

    async def drain(self) -> None:
        """Return when everything has been published."""
        await self.lanes.drain_lanes()
        await self.results.drain_results()

    def tasks(self, exchange: str) -> list[Envelope]:
        """Return the tasks that were published to an exchange."""
        return [
            task
            for message in self.publisher.to(exchange)
            for task in decode_envelopes(message.body)
        ]
