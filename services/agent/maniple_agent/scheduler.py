"""What an agent does with its tasks: run them, publish what came of them, then acknowledge.

All of it happens on the connection loop; handlers run elsewhere (`maniple_agent.executors`).
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

from msgspec import Raw

from maniple.attempts import NextAttempt
from maniple.clock import Clock
from maniple.execution import Outcome, timed_out
from maniple.task_registry import TaskRegistry
from maniple.tasks import Executor as Kind
from maniple.timings import Holding
from maniple_agent.completion import (
    DRAIN,
    OVERLOAD,
    Completion,
    DeadlineFate,
    Known,
    Moment,
    TaskDeadlines,
    seconds_of,
)
from maniple_agent.executors import Executor
from maniple_agent.fair_queue import tight_from
from maniple_agent.ingress import Ingress
from maniple_agent.jobs import Job, Report
from maniple_agent.progress import ProgressReports
from maniple_agent.publisher import AgentPublisher
from maniple_agent.run_queue import LaneMeasure, RunQueue
from maniple_agent.slots import Slots
from maniple_agent.stopped_jobs import StoppedJobs
from maniple_agent.suspect_redelivery import SuspectRedelivery
from maniple_agent.tracing import AttemptTracing
from maniple_runtime.metric_names import QUEUE_SECONDS, RUN_SECONDS
from maniple_runtime.task_traces import exemplar_of
from maniple_runtime.telemetry import Metrics

DEPARTURE_SECONDS = 2.0
MOST_BYTES = 64 * 1024**2


class Scheduler:
    """The tasks in this agent, from delivery to acknowledgement."""

    def __init__(  # noqa: PLR0913 - it is where the parts of an agent meet
        self,
        agent: str,
        registry: TaskRegistry,
        agent_publisher: AgentPublisher,
        progress: ProgressReports,
        *,
        metrics: Metrics,
        clock: Clock,
        traces: AttemptTracing,
        executors: Callable[[Report], Mapping[Kind, Executor]],
        fenced: Callable[[], bool],
        times: Holding | None = None,
        known: Known | None = None,
        most_bytes: int = MOST_BYTES,
        at_once: dict[str, int] | None = None,
    ) -> None:
        """Publish through `agent_publisher`; `executors` makes what runs jobs and tells the report.

        Nothing is started while it is `fenced`. Deadlines go by what is `known` (None: by `clock`,
        which then has the cluster's time). No more is begun while payloads that run and results on
        their way have `most_bytes`. `at_once` is how many of some capabilities may run here.
        """
        self._monotonic = clock.monotonic
        self._traces = traces
        self._agent_publisher = agent_publisher
        self._progress = progress
        self._queue_seconds = metrics.histograms(QUEUE_SECONDS)
        self._run_seconds = metrics.histograms(RUN_SECONDS)
        self._fenced = fenced
        self._deadlines = TaskDeadlines(known or clock.now, clock)
        self._completion = Completion(
            agent, agent_publisher, self._deadlines, metrics, traces=traces
        )
        self.attempts = self._completion.attempts
        self._suspect: Job | None = None
        self._pumping = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.draining = False
        self._redelivery = SuspectRedelivery(
            registry, agent_publisher, self._completion.publish_result, self._schedule_pump
        )
        self.waiting = RunQueue(times)
        self.running: set[Job] = set()
        self._most_bytes = most_bytes
        self._running_bytes = 0
        self.measures: defaultdict[str, LaneMeasure] = defaultdict(LaneMeasure)
        self.ingress = Ingress(
            registry,
            self.waiting,
            self._completion,
            self._redelivery,
            agent_publisher,
            deadlines=self._deadlines,
            measures=self.measures,
            metrics=metrics,
            traces=traces,
            queued=self._schedule_pump,
        )
        self.slots = Slots(executors(self))
        self.stopped = StoppedJobs(
            self.slots, self._completion, self._redelivery, traces, self._ended
        )
        for kind, executor in self.slots:
            names = [one.capability for one in registry if one.executor is kind]
            self.waiting.turns(kind).divide(names, executor.capacity, at_once or {})

    # --- running -------------------------------------------------------------------------

    def _schedule_pump(self) -> None:
        if not self._pumping:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        if self.draining:
            self._completion.hand_back(self.waiting.take_all(), DRAIN)
            return
        # By the clock, not by what was last looked at: this process may have been frozen since.
        if self._fenced():
            return
        for kind, executor in self.slots:
            jobs = self._due(kind, executor)
            if jobs:
                executor.run(jobs)

    def _due(self, kind: Kind, executor: Executor) -> list[Job]:
        """Begin the jobs that an executor can run now; one suspect at a time in this agent."""
        jobs: list[Job] = []
        free = executor.free
        turns = self.waiting.turns(kind)
        turns.begin_round(free, executor.capacity - free, lambda: executor.kept)
        now = self._deadlines.now()
        held = self._redelivery.holds_back if self._redelivery.in_flight else None
        most = self._most_bytes - self._agent_publisher.results_kept
        tight = tight_from(most)
        while free > 0 and self._running_bytes < most:
            spare = None if self._running_bytes < tight else most - self._running_bytes
            suspects = self._suspect is None
            job = self.waiting.next(kind, free, suspects=suspects, held=held, spare=spare)
            if job is None:
                break
            try:
                if self._begins(job, now):
                    jobs.append(job)
                    free -= 1
            except Exception as error:  # noqa: BLE001 - one of them must not cost the others
                self._ended(job)
                self._completion.fail_job(job, error)
        return jobs

    def _begins(self, job: Job, now: Moment) -> bool:
        envelope = job.envelope
        if not job.bundle.alive:
            self.waiting.put_away(job, self._monotonic())
            return False
        fate = self._deadlines.fate(envelope, now)
        if fate is not DeadlineFate.RUNS:
            end = (
                self._completion.expire
                if fate is DeadlineFate.EXPIRED
                else self._completion.ask_dispatcher
            )
            end(job)
            return False
        job.timeout = seconds_of(envelope, job.definition, now)
        job.deadline_known = now.known is not None
        job.started_at = now.at
        if self._traces.on:
            self._traces.begins(job)
        self.running.add(job)
        size, share = len(envelope.payload), job.share
        share.running += 1
        share.bytes += size
        self._running_bytes += size
        self._idle.clear()
        if job.suspect:
            self._suspect = job
        if envelope.dispatched_at is not None and not job.waited:
            job.waited = True
            waited = max(0.0, (now.at - envelope.dispatched_at).total_seconds())
            exemplar = exemplar_of(envelope) if job.span else None
            self._queue_seconds[envelope.capability,].observe(waited, exemplar)
        return True

    # --- told by executors (Report) ------------------------------------------------------

    def outcome(self, job: Job, outcome: Outcome, seconds: float) -> None:
        """Publish the result of a job, or send it to another attempt."""
        self._ended(job)
        try:
            decision = self._completion.decide(job, outcome)
            status = "retried" if isinstance(decision, NextAttempt) else decision.status.value
            self.measures[job.envelope.lane].ran(seconds, status, outcome.failure)
            exemplar = exemplar_of(job.envelope) if job.span else None
            self._run_seconds[job.envelope.capability,].observe(seconds, exemplar)
            self._completion.publish_decision(job, decision, outcome)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not cost the others
            self._completion.fail_job(job, error)
        self._schedule_pump()

    def returned(self, jobs: Iterable[Job]) -> None:
        """Queue again jobs that could not begin; what waits too long goes to others.

        Who drains is done once nothing runs: it hands them back before that is said.
        """
        jobs, back = tuple(jobs), list[Job]()
        for job in jobs:
            job.started_at = job.span = None
            job.announced = False
            if job.settled:
                continue
            if not job.bundle.alive:
                self.waiting.put_away(job, self._monotonic())
            elif self.draining:
                back.append(job)
            else:
                self.waiting.enqueue(job)
        self._completion.hand_back(back, DRAIN)
        for job in jobs:
            self._ended(job)
        self._schedule_pump()

    def slots_free(self) -> None:
        """Start what waits, as far as there is room."""
        self._schedule_pump()

    def progress(self, job: Job, value: Raw) -> None:
        """Send what a handler reported; a courtesy that is not kept."""
        if not self._fenced():
            self._progress.publish_progress(job, value)

    def _ended(self, job: Job) -> None:
        if job in self.running:
            self.running.remove(job)
            size, share = len(job.envelope.payload), job.share
            share.running -= 1
            share.bytes -= size
            self._running_bytes -= size
        if not self.running:
            self._idle.set()
        if job is self._suspect:
            self._suspect = None

    @property
    def takes(self) -> bool:
        """Whether anything new may be taken."""
        return not self.draining and not self._fenced()

    # --- without the broker --------------------------------------------------------------

    def connection_lost(self) -> None:
        """Put away what was delivered: the broker gives it to others, from now on."""
        self.waiting.put_away_lost(self._monotonic())
        self.stopped.stop_jobs(
            [j for j in self.running if j.definition.exclusive and not j.bundle.alive]
        )

    def stop_exclusive(self) -> None:
        """Stop what must not run twice."""
        self.stopped.stop_jobs([job for job in self.running if job.definition.exclusive])

    async def resume(self) -> None:
        """Go on: start what waits, and send on what was stopped, has ended and is still ours."""
        self._schedule_pump()
        await self.stopped.send_on()

    # --- handing back --------------------------------------------------------------------

    def dissolve(self) -> None:
        """End what is over, hand back what waited for too long, forget what has not come again.

        Nobody knows any more when that is over which comes back to its lane after its deadline.
        """
        now = self._monotonic()
        for job in self.waiting.forget_orphans(now):
            self.attempts.forget_attempt(job)
        if not self._fenced():
            if (known := self._deadlines.known()) is not None:
                for job in self.waiting.take_expired(known):
                    self._completion.expire(job)
                self._end_overdue(known)
            self._completion.hand_back(self.waiting.take_overdue(now), OVERLOAD)

    def _end_overdue(self, known: datetime) -> None:
        """End what began while nobody knew the time, and goes on though its deadline has passed."""
        for job in tuple(self.running):
            if job.deadline_known or job.envelope.deadline > known or job.started_at is None:
                continue
            self.slots.cancel_job(job)
            seconds = max(0.0, (self._deadlines.clock.now() - job.started_at).total_seconds())
            self.outcome(job, timed_out(seconds), seconds)

    def begin_draining(self) -> None:
        """Take and start nothing more, whatever a fence says that opens meanwhile."""
        self.draining = True

    async def drain_jobs(self, timeout: float) -> None:
        """Start nothing more, hand back what waits, let what runs end within `timeout` seconds.

        What still runs then is stopped, and runs again elsewhere unless it may not.
        """
        self.begin_draining()
        deadline = self._monotonic() + timeout
        self._completion.hand_back(self.waiting.take_all(), DRAIN)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        self.stopped.stop_jobs(self.running)
        await self.stopped.hand_stopped_on(DRAIN)
        rest = max(DEPARTURE_SECONDS, deadline - self._monotonic())
        with contextlib.suppress(TimeoutError):
            # Without the broker it would take for ever; what is not confirmed comes again.
            async with asyncio.timeout(rest):
                await self._agent_publisher.drain_publishes()
