"""What an agent does with a bundle: run its tasks, publish what came of them, then acknowledge.

All of it happens on the connection loop; handlers run elsewhere (`maniple_agent.executors`).
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

import structlog
from msgspec import Raw

from maniple.amqp import Delivery
from maniple.attempts import NextAttempt, expired
from maniple.clock import Clock
from maniple.codec import decode_members
from maniple.errors import ErrorCode, InvalidMessage
from maniple.execution import Outcome, timed_out
from maniple.messages import Envelope
from maniple.tasks import Executor as Kind
from maniple.tasks import TaskRegistry
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
from maniple_agent.domain.redelivery import (
    is_over,
    lost_at_most_once,
    may_copy,
    unknown_capability,
)
from maniple_agent.executors import Executor
from maniple_agent.fair_queue import tight_from
from maniple_agent.jobs import BulkheadReport, Bundle, Job, Report
from maniple_agent.progress import ProgressReports
from maniple_agent.publisher import AgentPublisher
from maniple_agent.run_queue import LaneMeasure, RunQueue
from maniple_agent.slots import Slots
from maniple_agent.suspect_redelivery import SuspectRedelivery
from maniple_agent.tracing import AttemptTracing
from maniple_runtime.metric_names import HANDED_BACK, QUEUE_SECONDS, RUN_SECONDS
from maniple_runtime.remnants import remnant_of, undecodable
from maniple_runtime.task_traces import exemplar_of
from maniple_runtime.telemetry import Metrics, about

DEPARTURE_SECONDS = 2.0
MOST_BYTES = 64 * 1024**2
LOST = "redelivered"
STOPPED = "stopped"


class Scheduler:
    """The tasks in this agent, from delivery to acknowledgement."""

    def __init__(  # noqa: PLR0913 - it is where the parts of an agent meet
        self,
        agent: str,
        registry: TaskRegistry,
        departures: AgentPublisher,
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
        """Publish through `departures`; `executors` makes what runs jobs and tells the report.

        Nothing is started while it is `fenced`. Deadlines go by what is `known` (None: by `clock`,
        which then has the cluster's time). No more is begun while payloads that run and results on
        their way have `most_bytes`. `at_once` is how many of some capabilities may run here.
        """
        self._monotonic = clock.monotonic
        self._traces = traces
        self._registry = registry
        self._departures = departures
        self._progress = progress
        self._metrics = metrics
        self._queue_seconds = metrics.histograms(QUEUE_SECONDS)
        self._run_seconds = metrics.histograms(RUN_SECONDS)
        self._fenced = fenced
        self.rooms = BulkheadReport()
        self._deadlines = TaskDeadlines(known or clock.now, clock)
        self._conclusions = Completion(agent, departures, self._deadlines, metrics, traces=traces)
        self.attempts = self._conclusions.attempts
        self._suspect: Job | None = None
        self._stopped: list[Job] = []
        self._pumping = False
        self._log = structlog.get_logger("maniple.agent.work")
        self._idle = asyncio.Event()
        self._idle.set()
        self.draining = False
        self._splits = SuspectRedelivery(
            registry, departures, self._conclusions.publish_result, self._schedule_pump
        )
        self.waiting = RunQueue(times)
        self.running: set[Job] = set()
        self._most_bytes = most_bytes
        self._running_bytes = 0
        self.measures: defaultdict[str, LaneMeasure] = defaultdict(LaneMeasure)
        self.last_delivery_at: datetime | None = None
        self.slots = Slots(executors(self))
        for kind, executor in self.slots:
            names = [one.capability for one in registry if one.executor is kind]
            self.waiting.turns(kind).divide(names, executor.capacity, at_once or {})

    # --- in ------------------------------------------------------------------------------

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
                self._conclusions.fail(envelope, error, bundle.settle)
        if not delivery.redelivered:
            self.measures[envelopes[0].lane].bundled(len(envelopes))
        self._schedule_pump()

    def _take_member(
        self, envelope: Envelope, bundle: Bundle, now: Moment, *, suspect: bool
    ) -> None:
        again = bundle.redelivered or envelope.lost > 0
        if again and self._adopt(envelope, bundle, suspect=suspect):
            return
        if bundle.redelivered:
            self.measures[envelope.lane].record_end(well=False)
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
        result = undecodable(envelope, unreadable, self._conclusions.ran())
        self._conclusions.publish_result(result, envelope, bundle.settle)

    def _take_task(self, envelope: Envelope, bundle: Bundle, now: Moment, *, suspect: bool) -> None:
        definition = self._registry.definitions.get(envelope.capability)
        fate = self._deadlines.fate(envelope, now)
        if fate is DeadlineFate.ASKED:
            self._departures.ask_dispatcher(envelope, bundle.settle, may_copy=may_copy(definition))
            return
        if fate is DeadlineFate.EXPIRED:
            result = expired(envelope, self._conclusions.ran())
        elif definition is None:
            result = unknown_capability(envelope, self._conclusions.ran())
        elif envelope.lost and is_over(envelope, definition):
            result = lost_at_most_once(envelope, self._conclusions.ran())
        else:
            share = self.waiting.share(definition)
            job = Job(envelope, definition, bundle, suspect=suspect, share=share)
            self.attempts.add_attempt(job)
            self.waiting.enqueue(job)
            return
        self._conclusions.publish_result(result, envelope, bundle.settle)

    def _adopt(self, envelope: Envelope, bundle: Bundle, *, suspect: bool) -> bool:
        """Have an attempt that is still here settle its part of a bundle that brings it again."""
        job = self.attempts.same(envelope)
        if job is None:
            return False
        if not self.waiting.bring_back(job, envelope, bundle, suspect=suspect):
            job.adopted_by(bundle)
        self._log.info("a redelivered task goes on here", **about(envelope))
        return True

    def _move(self, envelope: Envelope, bundle: Bundle, *, suspect: bool) -> None:
        moved = self._traces.migrated(envelope, LOST, lost=True)
        self._splits.move(moved, self._conclusions.ran(), LOST, bundle, suspect=suspect)

    # --- running -------------------------------------------------------------------------

    def _schedule_pump(self) -> None:
        if not self._pumping:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        if self.draining:
            self._conclusions.hand_back(self.waiting.take_all(), DRAIN)
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
        held = self._splits.holds_back if self._splits.under_way else None
        most = self._most_bytes - self._departures.results_kept
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
                self._conclusions.fail_job(job, error)
        return jobs

    def _begins(self, job: Job, now: Moment) -> bool:
        envelope = job.envelope
        if not job.bundle.alive:
            self.waiting.put_away(job, self._monotonic())
            return False
        fate = self._deadlines.fate(envelope, now)
        if fate is not DeadlineFate.RUNS:
            end = (
                self._conclusions.expire
                if fate is DeadlineFate.EXPIRED
                else self._conclusions.ask_dispatcher
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
            decision = self._conclusions.decide(job, outcome)
            status = "retried" if isinstance(decision, NextAttempt) else decision.status.value
            self.measures[job.envelope.lane].ran(seconds, status, outcome.failure)
            exemplar = exemplar_of(job.envelope) if job.span else None
            self._run_seconds[job.envelope.capability,].observe(seconds, exemplar)
            self._conclusions.publish_decision(job, decision, outcome)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not cost the others
            self._conclusions.fail_job(job, error)
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
        self._conclusions.hand_back(back, DRAIN)
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
        self.stop_jobs([j for j in self.running if j.definition.exclusive and not j.bundle.alive])

    def stop_exclusive(self) -> None:
        """Stop what must not run twice."""
        self.stop_jobs([job for job in self.running if job.definition.exclusive])

    def stop_jobs(self, jobs: Iterable[Job]) -> None:
        """Stop running jobs without a result: the broker has them, and gives them to others."""
        for job in tuple(jobs):
            self._log.warning("a task was stopped without a result", **about(job.envelope))
            self._ended(job)
            self.attempts.forget_attempt(job)
            if job.bundle.alive:
                self._stopped.append(job)
            self.slots.cancel_job(job)

    async def resume(self) -> None:
        """Go on: start what waits, and send on what was stopped, has ended and is still ours."""
        self._schedule_pump()
        stopped = tuple(self._stopped)
        await self.slots.await_ends(job for job in stopped if job.definition.exclusive)
        for job in stopped:
            if job in self._stopped:  # by now somebody else may have handed it on
                self._stopped.remove(job)
                self._send_on(job)

    def _send_on(self, job: Job) -> None:
        if job.bundle.alive:
            moved = self._traces.stopped(job, STOPPED)
            ran = self._conclusions.ran(job.started_at)
            self._splits.move(moved, ran, STOPPED, job, suspect=job.suspect)

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
                    self._conclusions.expire(job)
                self._end_overdue(known)
            self._conclusions.hand_back(self.waiting.take_overdue(now), OVERLOAD)

    def _end_overdue(self, known: datetime) -> None:
        """End what began while nobody knew the time, and goes on though its deadline has passed."""
        for job in tuple(self.running):
            if job.deadline_known or job.envelope.deadline > known or job.started_at is None:
                continue
            self.slots.cancel_job(job)
            seconds = max(0.0, (self._deadlines.clock.now() - job.started_at).total_seconds())
            self.outcome(job, timed_out(seconds), seconds)

    async def drain_jobs(self, timeout: float) -> None:
        """Start nothing more, hand back what waits, let what runs end within `timeout` seconds.

        What still runs then is stopped, and runs again elsewhere unless it may not.
        """
        self.draining = True
        deadline = self._monotonic() + timeout
        self._conclusions.hand_back(self.waiting.take_all(), DRAIN)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        await self._stop_rest()
        rest = max(DEPARTURE_SECONDS, deadline - self._monotonic())
        with contextlib.suppress(TimeoutError):
            # Without the broker it would take for ever; what is not confirmed comes again.
            async with asyncio.timeout(rest):
                await self._departures.drain_publishes()

    async def _stop_rest(self) -> None:
        """Stop what runs, and hand it on: each member of a bundle alone, so that it can end."""
        self.stop_jobs(self.running)
        stopped, self._stopped = self._stopped, []
        await self.slots.await_ends(job for job in stopped if job.definition.exclusive)
        self._conclusions.hand_on(stopped, DRAIN)
