"""What an agent does with a bundle: run its tasks, publish what came of them, then acknowledge.

All of it happens on the connection loop; handlers run elsewhere (`maniple_agent.executors`).
"""

import asyncio
import contextlib
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from time import monotonic
from typing import Any

from maniple.attempts import Again, Ran, conclude, expired, last, seconds_for
from maniple.codec import decode_envelopes
from maniple.errors import InvalidMessage
from maniple.execution import Outcome
from maniple.messages import Envelope, Result, TaskRunning
from maniple.service.names import HANDED_BACK, HELD, IN_FLIGHT, QUEUE_SECONDS, RUN_SECONDS
from maniple.service.settlement import Settlement
from maniple.service.telemetry import Metrics
from maniple.tasks import Executor as Kind
from maniple.tasks import TaskRegistry
from maniple.transport import Delivery
from maniple_agent.departures import Departures
from maniple_agent.domain.losses import after_loss, unknown_capability
from maniple_agent.domain.slots import LaneMeasure
from maniple_agent.executors import Executor, Job
from maniple_agent.progress import ProgressReports

DISSOLVE_AFTER = 1.0
MAX_HOLD = 16.0
RUNNING_AFTER = timedelta(seconds=1)


class Bundle(Settlement):
    """A bundle from a lane, and when it came."""

    __slots__ = ("opened_at",)

    def __init__(self, delivery: Delivery, tasks: int) -> None:
        """Wait for `tasks` calls of `settle`."""
        super().__init__(delivery, tasks)
        self.opened_at = monotonic()


class Work:
    """The tasks in this agent, from delivery to acknowledgement."""

    def __init__(  # noqa: PLR0913 - it is where the parts of an agent meet
        self,
        agent: str,
        registry: TaskRegistry,
        departures: Departures,
        progress: ProgressReports,
        *,
        metrics: Metrics,
        clock: Callable[[], datetime],
    ) -> None:
        """Publish through `departures`; `equip` gives executors before anything is taken."""
        self._agent = agent
        self._registry = registry
        self._departures = departures
        self._progress = progress
        self._metrics = metrics
        self._clock = clock
        self._executors: Mapping[Kind, Executor] = {}
        self._waiting: dict[Kind, deque[Job]] = {kind: deque() for kind in Kind}
        self._suspects: deque[Job] = deque()
        self._hold = dict.fromkeys(Kind, DISSOLVE_AFTER)
        self._suspect: Job | None = None
        self._pumping = False
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.running: set[Job] = set()
        self.measures: dict[str, LaneMeasure] = {}
        self.last_delivery_at: datetime | None = None

    def equip(self, executors: Mapping[Kind, Executor]) -> None:
        """Give the executors that run jobs."""
        self._executors = executors

    def waiting(self) -> Iterator[Job]:
        """Iterate over the jobs that have not started."""
        for jobs in (*self._waiting.values(), self._suspects):
            yield from jobs

    # --- in ------------------------------------------------------------------------------

    def take(self, delivery: Delivery, *, suspect: bool = False) -> None:
        """Take one bundle from a lane."""
        now = self.last_delivery_at = self._clock()
        try:
            envelopes = decode_envelopes(delivery.body)
        except InvalidMessage:
            # Nothing of ours: the broker moves it to the dead-letter log with its bytes.
            self._metrics.counter(HANDED_BACK, "undecodable").inc()
            delivery.reject()
            return
        if not envelopes:
            delivery.ack()
            return
        bundle = Bundle(delivery, len(envelopes))
        if delivery.redelivered:
            self._split(envelopes, bundle, now, suspect=suspect)
            return
        for envelope in envelopes:
            self._take_task(envelope, bundle, now, suspect=suspect)
        self._measure(envelopes[0].lane).bundled(len(envelopes))
        self._schedule_pump()

    def _take_task(
        self, envelope: Envelope, bundle: Bundle, now: datetime, *, suspect: bool
    ) -> None:
        definition = self._registry.get(envelope.capability)
        if envelope.deadline <= now:
            self._departures.publish(expired(envelope, self._ran()), envelope, bundle.settle)
        elif definition is None:
            result = unknown_capability(envelope, self._ran())
            self._departures.publish(result, envelope, bundle.settle)
        else:
            job = Job(envelope, definition, bundle, suspect=suspect)
            (self._suspects if suspect else self._waiting[definition.executor]).append(job)

    def _split(
        self, envelopes: list[Envelope], bundle: Bundle, now: datetime, *, suspect: bool
    ) -> None:
        """Send each task of a bundle whose agent was lost on its way alone."""
        ran = Ran(self._agent, None, now)
        for envelope in envelopes:
            definition = self._registry.get(envelope.capability)
            fate = after_loss(envelope, definition, ran, suspect=suspect)
            if isinstance(fate, Result):
                self._departures.publish(fate, envelope, bundle.settle)
            else:
                self._departures.alone(fate.key, fate.envelope, "redelivered", bundle.settle)

    # --- running -------------------------------------------------------------------------

    def _schedule_pump(self) -> None:
        if not self._pumping:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        if self._draining:
            self._hand_back_all()
            return
        for kind, executor in self._executors.items():
            jobs = self._due(kind, executor.free)
            if jobs:
                executor.run(jobs)

    def _due(self, kind: Kind, free: int) -> list[Job]:
        """Take the jobs that an executor can run now; one suspect at a time in this agent."""
        jobs: list[Job] = []
        now = self._clock()
        while free > 0 and self._suspect is None and self._suspects:
            first = self._suspects[0]
            if first.definition.executor is not kind:
                break
            if self._begins(self._suspects.popleft(), now):
                self._suspect = first
                jobs.append(first)
        waiting = self._waiting[kind]
        if not waiting:
            self._hold[kind] = DISSOLVE_AFTER
        while waiting and len(jobs) < free:
            job = waiting.popleft()
            if self._begins(job, now):
                jobs.append(job)
        return jobs

    def _begins(self, job: Job, now: datetime) -> bool:
        envelope = job.envelope
        job.timeout = seconds_for(envelope, job.definition, now)
        if job.timeout <= 0:
            self._departures.publish(expired(envelope, self._ran()), envelope, job.bundle.settle)
            return False
        job.started_at = now
        self.running.add(job)
        self._idle.clear()
        if envelope.dispatched_at is not None:
            waited = max(0.0, (now - envelope.dispatched_at).total_seconds())
            self._metrics.histogram(QUEUE_SECONDS, envelope.capability).observe(waited)
        return True

    # --- told by executors (Report) ------------------------------------------------------

    def outcome(self, job: Job, outcome: Outcome, seconds: float) -> None:
        """Publish the result of a job, or send it to another attempt."""
        self.running.discard(job)
        if not self.running:
            self._idle.set()
        if job is self._suspect:
            self._suspect = None
        self._progress.forget(job)
        envelope = job.envelope
        ran = self._ran(job.started_at)
        decision = conclude(envelope, job.definition, outcome, ran, random.random)
        status = "retried" if isinstance(decision, Again) else decision.status.value
        self._measure(envelope.lane).ran(seconds, status)
        self._metrics.histogram(RUN_SECONDS, envelope.capability).observe(seconds)
        if isinstance(decision, Again):
            self._departures.retry(
                decision, lambda: last(envelope, outcome, ran), job.bundle.settle
            )
        else:
            self._departures.publish(decision, envelope, job.bundle.settle)
        self._schedule_pump()

    def slots_free(self) -> None:
        """Start what waits."""
        self._schedule_pump()

    def progress(self, job: Job, value: Any) -> None:
        """Send what a handler reported."""
        self._progress.report(job, value)

    # --- handing back --------------------------------------------------------------------

    def dissolve(self) -> None:
        """Hand back what has not started within a second of its bundle's arrival.

        An executor that stays full hands back what comes again after 2, 4, 8 and 16 s.
        """
        now = monotonic()
        for kind, jobs in self._waiting.items():
            if self._hand_back(jobs, "overload", opened_by=now - self._hold[kind]):
                # The lane may well send it back to us: while we are full, ever more slowly.
                self._hold[kind] = min(MAX_HOLD, 2 * self._hold[kind])
        self._hand_back(self._suspects, "overload", opened_by=now - DISSOLVE_AFTER)

    def measure_load(self) -> None:
        """Set the gauges of what runs and what waits."""
        running = Counter(job.definition.executor for job in self.running)
        for kind in self._executors:
            self._metrics.gauge(IN_FLIGHT, kind.value).set(running[kind])
        self._metrics.gauge(HELD).set(sum(1 for _ in self.waiting()))

    def announce_running(self) -> None:
        """Record the attempts that have been running for a second, each once."""
        since = self._clock() - RUNNING_AFTER
        for job in self.running:
            if job.announced or job.started_at is None or job.started_at > since:
                continue
            job.announced = True
            event = TaskRunning(
                id=job.envelope.id,
                capability=job.envelope.capability,
                attempt=job.envelope.attempt,
                agent=self._agent,
                started_at=job.started_at,
                tenant=job.envelope.tenant,
                traceparent=job.envelope.traceparent,
            )
            self._departures.running(event)

    async def drain(self, timeout: float) -> None:
        """Start nothing more, hand back what waits, let what runs end within `timeout` seconds."""
        self._draining = True
        self._hand_back_all()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), timeout)
        await self._departures.drain()

    def _hand_back_all(self) -> None:
        for jobs in (*self._waiting.values(), self._suspects):
            self._hand_back(jobs, "drain", opened_by=monotonic())

    def _hand_back(self, jobs: deque[Job], reason: str, *, opened_by: float) -> int:
        """Send the jobs back whose bundle came at that time or before; return how many."""
        going = [job for job in jobs if job.bundle.opened_at <= opened_by]
        if going:
            staying = [job for job in jobs if job.bundle.opened_at > opened_by]
            jobs.clear()
            jobs.extend(staying)
        for job in going:
            self._departures.alone(job.lane_key, job.envelope, reason, job.bundle.settle)
        return len(going)

    def _measure(self, lane: str) -> LaneMeasure:
        measure = self.measures.get(lane)
        if measure is None:
            measure = self.measures[lane] = LaneMeasure()
        return measure

    def _ran(self, started_at: datetime | None = None) -> Ran:
        return Ran(self._agent, started_at, self._clock())
