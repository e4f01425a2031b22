"""An agent's scheduler with fakes around it: executors and a broker that the tests control."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from time import monotonic
from types import SimpleNamespace
from typing import Any

from maniple.amqp import Outgoing, Publisher
from maniple.clock import Clock
from maniple.codec import decode_envelopes, decode_results, encode, join
from maniple.errors import PublishRefused
from maniple.execution import Outcome
from maniple.messages import Envelope, Result
from maniple.task_registry import TaskRegistry
from maniple.tasks import Executor as Kind
from maniple.tasks import task
from maniple.timings import Holding, Queues
from maniple_agent.completion import Known
from maniple_agent.executors import Executor, Spawn
from maniple_agent.jobs import Job
from maniple_agent.progress import ProgressReports
from maniple_agent.publisher import AgentPublisher
from maniple_agent.scheduler import MOST_BYTES, Scheduler
from maniple_agent.tracing import AttemptTracing
from maniple_runtime.publish.batch_publisher import ResultPublisher
from maniple_runtime.telemetry import Metrics
from maniple_runtime.telemetry.tracing import NO_TRACER, Tracer
from started_in_tasks import StartedInTasks

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
OK = Outcome(b"1")


@task("a.task")
async def a_task(payload: Any) -> Any:
    return payload


@task("a.once", on_lost="fail")
async def a_task_once(payload: Any) -> Any:
    return payload


@task("an.exclusive", exclusive=True)
async def an_exclusive_task(payload: Any) -> Any:
    return payload


class FakePublisher(StartedInTasks, Publisher):
    """Keeps what is published; refuses the routing keys in `full`, confirms while `up`.

    There are no queues for those in `absent`. Messages to keys in `silent` are confirmed only once
    it is `freed`.
    """

    def __init__(self) -> None:
        self.sent: list[Outgoing] = []
        self.full: set[str] = set()
        self.absent: set[str] = set()
        self.silent: set[str] = set()
        self.freed = asyncio.Event()
        self.up = asyncio.Event()
        self.up.set()

    async def publish(self, message: Outgoing, *, timeout: float | None = None) -> None:
        del timeout
        await self.up.wait()
        if message.routing_key in self.silent:
            await self.freed.wait()
        if message.routing_key in self.full | self.absent:
            unroutable = message.routing_key in self.absent
            raise PublishRefused(message.exchange, message.routing_key, unroutable=unroutable)
        self.sent.append(message)

    def to(self, exchange: str) -> list[Outgoing]:
        return [message for message in self.sent if message.exchange == exchange]


class Recording(FakePublisher):
    """The same, but accepts every record: their keys are those of lanes, too."""

    async def publish(self, message: Outgoing, *, timeout: float | None = None) -> None:
        if message.exchange == "maniple.results":
            self.sent.append(message)
        else:
            await super().publish(message, timeout=timeout)


class FakeExecutor:
    """Accepts jobs up to its capacity and keeps them."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.jobs: list[Job] = []
        self.cancelled: list[str] = []
        self.stuck: list[str] = []
        self.slow: list[Job] = []

    @property
    def free(self) -> int:
        return self.capacity - len(self.jobs) - len(self.stuck)

    @property
    def kept(self) -> list[str]:
        return [*self.stuck, *(job.definition.capability for job in self.slow)]

    async def start(self, _spawn: Spawn) -> None: ...

    async def stop(self) -> None: ...

    def run(self, jobs: Sequence[Job]) -> None:
        assert len(jobs) <= self.free
        self.jobs += jobs

    def cancel(self, job: Job) -> None:
        job.settled = True
        self.jobs.remove(job)
        self.cancelled.append(job.envelope.id)

    def holds(self, job: Job) -> bool:
        return job in self.jobs or job in self.slow

    @property
    def ids(self) -> list[str]:
        return [job.envelope.id for job in self.jobs]


class Delivery(SimpleNamespace):
    """A delivery that counts how it was settled."""

    def __init__(self, *envelopes: Envelope, redelivered: bool = False, body: bytes = b"") -> None:
        body = body or join([encode(envelope) for envelope in envelopes])
        super().__init__(body=body, redelivered=redelivered, alive=True)
        self.acked = self.rejected = self.weight = 0
        self.written = asyncio.Event()
        self.written.set()
        self.fault: Exception | None = None
        self.flushes = 0

    def ack(self) -> None:
        self.acked += 1

    def reject(self) -> None:
        self.rejected += 1

    async def flushed(self) -> None:
        await self.written.wait()
        if self.fault is not None:
            raise self.fault
        self.flushes += 1


class Agent:
    """A scheduler with fakes around it."""

    def __init__(  # noqa: PLR0913 - what a test may decide about it
        self,
        capacity: int = 100,
        *,
        tracer: Tracer = NO_TRACER,
        times: Holding | None = None,
        known: Known | None = None,
        queues: Queues | None = None,
        most_bytes: int = MOST_BYTES,
        publisher: FakePublisher | None = None,
        at_once: dict[str, int] | None = None,
        monotonic: Callable[[], float] = monotonic,
        is_fenced: Callable[[], bool] | None = None,
        registry: TaskRegistry | None = None,
        executors: Mapping[Kind, Executor] | None = None,
    ) -> None:
        self.publisher = publisher or FakePublisher()
        self.executor = FakeExecutor(capacity)
        self.now = NOW
        self.fenced = False
        metrics = self.metrics = Metrics()
        results = ResultPublisher(self.publisher, metrics, replier=self.publisher, times=queues)
        traces = AttemptTracing(tracer, lambda: self.now)
        self.reports = ProgressReports(results, lambda: self.now)
        self.agent_publisher = AgentPublisher(
            self.publisher, results, metrics, times=queues, monotonic=monotonic
        )
        self.work = Scheduler(
            "agent-1",
            registry or TaskRegistry([a_task, a_task_once, an_exclusive_task]),
            self.agent_publisher,
            self.reports,
            metrics=metrics,
            clock=Clock(now=lambda: self.now, monotonic=monotonic),
            traces=traces,
            executors=lambda _: executors or {Kind.ASYNC: self.executor},
            fenced=is_fenced or (lambda: self.fenced),
            times=times,
            known=known,
            most_bytes=most_bytes,
            at_once=at_once,
        )

    async def take(self, delivery: Delivery, *, suspect: bool = False) -> None:
        self.work.ingress.on_bundle(delivery, suspect=suspect)  # type: ignore[arg-type]  # a fake
        await self.settle()

    async def finish(self, name: str, outcome: Outcome = OK) -> None:
        job = next(job for job in self.executor.jobs if job.envelope.id == name)
        self.executor.jobs.remove(job)
        self.work.outcome(job, outcome, 0.01)
        await self.settle()

    async def lose(self, *deliveries: Delivery) -> None:
        """Lose the connection by which these were delivered."""
        for delivery in deliveries:
            delivery.alive = False
        self.work.connection_lost()
        await self.settle()

    async def settle(self) -> None:
        await asyncio.sleep(0)
        if self.publisher.up.is_set() and not self.publisher.silent:
            await self.agent_publisher.drain_publishes()
        for _ in range(10):
            await asyncio.sleep(0)

    def results(self) -> list[Result]:
        sent = self.publisher.to("maniple.results")
        return [result for message in sent for result in decode_results(message.body)]

    def moved(self, exchange: str = "maniple.lanes") -> list[tuple[str, list[Envelope]]]:
        sent = self.publisher.to(exchange)
        return [(message.routing_key, decode_envelopes(message.body)) for message in sent]


def envelope(name: str, **changes: Any) -> Envelope:
    fields: dict[str, Any] = {
        "id": name,
        "capability": "a.task",
        "lane": "a.task",
        "submitted_at": NOW,
        "deadline": NOW + timedelta(hours=1),
    }
    return Envelope(**fields | changes)
