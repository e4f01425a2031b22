"""What comes of the tasks in an agent: results, other attempts, and what goes on elsewhere.

And whether the time of a task is over before it has started.
"""

import math
import random
from collections import OrderedDict
from collections.abc import Callable, Iterable
from datetime import datetime
from enum import Enum, auto
from functools import partial
from typing import Final, NamedTuple

import structlog
from msgspec.structs import replace

from maniple.attempts import NextAttempt, Ran, conclude, expired, last, seconds_for, timeout_of
from maniple.clock import Clock
from maniple.errors import ErrorCode, ManipleError
from maniple.execution import Outcome, failed
from maniple.messages import Envelope, Result
from maniple.tasks import TaskDefinition
from maniple_agent.domain.redelivery import after_stop, may_copy
from maniple_agent.domain.retry_budget import RetryBudget
from maniple_agent.jobs import Job
from maniple_agent.publisher import AgentPublisher
from maniple_agent.run_queue import Attempts
from maniple_agent.tracing import AttemptTracing
from maniple_runtime.metric_names import RESULTS
from maniple_runtime.publish.confirm import ConfirmCallback
from maniple_runtime.telemetry import Metrics, about

DRAIN = "drain"
OVERLOAD = "overload"
MOST_ASKED: Final = 10_000

Known = Callable[[], datetime | None]
"""Returns the cluster's time, or None where no registry has told it."""


class DeadlineFate(Enum):
    """What a deadline makes of a task."""

    RUNS = auto()
    EXPIRED = auto()
    ASKED = auto()
    """It is over by this machine's clock alone: a dispatcher is to judge."""


class Moment(NamedTuple):
    """The time by which what happens now is dated, and the cluster's as far as it is known."""

    at: datetime
    known: datetime | None
    """By which alone anything is over; None while nobody has told it."""


class TaskDeadlines:
    """Judges whether a task's time is over, which an agent only says by the cluster's time.

    Who does not know the cluster's time has a dispatcher judge, once a task. What comes back from
    there runs: it was not over.
    """

    def __init__(self, known: Known, clock: Clock) -> None:
        """Judge by `known`; `clock` dates what happens."""
        self.known = known
        self.clock = clock
        self._asked: OrderedDict[tuple[str, str], None] = OrderedDict()

    def now(self) -> Moment:
        """Return the time; once for all tasks that are looked at together."""
        return Moment(self.clock.now(), self.known())

    def fate(self, envelope: Envelope, now: Moment) -> DeadlineFate:
        """Return what is to become of a task that has not started."""
        if envelope.deadline > (now.known or now.at):
            return DeadlineFate.RUNS
        if now.known is not None:
            return DeadlineFate.EXPIRED
        key = (envelope.tenant, envelope.id)
        if key in self._asked:
            return DeadlineFate.RUNS
        self._asked[key] = None
        if len(self._asked) > MOST_ASKED:
            self._asked.popitem(last=False)
        return DeadlineFate.ASKED


def seconds_of(envelope: Envelope, definition: TaskDefinition, now: Moment) -> float:
    """Return the seconds that an attempt has: until the deadline only where that is known."""
    if now.known is not None:
        return seconds_for(envelope, definition, now.known)
    return timeout_of(envelope, definition)


class Completion:
    """Publishes what comes of jobs, and settles each once the broker has confirmed it."""

    def __init__(
        self,
        agent: str,
        agent_publisher: AgentPublisher,
        deadlines: TaskDeadlines,
        metrics: Metrics,
        *,
        traces: AttemptTracing,
    ) -> None:
        """Publish through `agent_publisher`; what is settled is forgotten in `attempts`."""
        self._traces = traces
        self._monotonic = deadlines.clock.monotonic
        self._agent = agent
        self._agent_publisher = agent_publisher
        self.attempts = Attempts()
        self._deadlines = deadlines
        self._results = metrics.counters(RESULTS)
        self._budget = RetryBudget()
        self._log = structlog.get_logger("maniple.agent.work")

    def ran(self, started_at: datetime | None = None, limit: float = math.inf) -> Ran:
        """Return where and when a task ran that has ended now, and the seconds that it had."""
        return Ran(
            self._agent, started_at, self._deadlines.clock.now(), self._deadlines.known, limit
        )

    def decide(self, job: Job, outcome: Outcome) -> Result | NextAttempt:
        """Return what comes of a job that has ended."""
        decision = self._decided(job, outcome)
        return self._traces.attempted(job, decision) if self._traces.on else decision

    def _decided(self, job: Job, outcome: Outcome) -> Result | NextAttempt:
        ran = self.ran(job.started_at, limit=job.timeout)
        decision = conclude(job.envelope, job.definition, outcome, ran, random.random)
        plan, lane = job.envelope.retry, job.envelope.lane
        if plan is None or plan.budget is None:
            return decision
        self._budget.record_attempt(lane, self._monotonic())
        if isinstance(decision, NextAttempt) and not self._budget.allows(
            lane, plan.budget, self._monotonic()
        ):
            return last(job.envelope, outcome, ran)
        return decision

    def publish_result(self, result: Result, envelope: Envelope, done: ConfirmCallback) -> None:
        """Record a result and reply to whoever asked."""
        variant = (result.lane or "").partition("@")[2]
        self._results[result.capability, variant, result.status.value].inc()
        if self._traces.on:
            result, done = self._traces.ending(result, envelope, done)
        agent_publisher = self._agent_publisher
        if agent_publisher.in_flight.waits:
            done = agent_publisher.answering(done)
        agent_publisher.results.report_result(
            result, envelope.reply_to, envelope.correlation_id, done
        )

    def publish_decision(self, job: Job, decision: Result | NextAttempt, outcome: Outcome) -> None:
        """Publish what was decided about a job."""
        departed = partial(self._departed, job)
        if isinstance(decision, NextAttempt):
            attempt, ran = job.envelope, self.ran(job.started_at)

            def end(envelope: Envelope, done: ConfirmCallback) -> None:
                self.publish_result(last(attempt, outcome, ran), envelope, done)

            self._agent_publisher.retry(decision, end, departed, may_copy=may_copy(job.definition))
        else:
            envelope = job.envelope
            if job.span is not None:  # the span of its sending stands under that of the attempt
                envelope = replace(envelope, span=job.span)
            self.publish_result(decision, envelope, departed)

    def expire(self, job: Job) -> None:
        """End a job whose deadline has passed before it could start."""
        result = expired(job.envelope, self.ran())
        self.publish_result(result, job.envelope, partial(self._departed, job))

    def ask_dispatcher(self, job: Job) -> None:
        """Have a dispatcher judge whether the time of a job that could not start is over."""
        copies = may_copy(job.definition)
        self._agent_publisher.ask_dispatcher(
            job.envelope, partial(self._departed, job), may_copy=copies
        )

    def fail_job(self, job: Job, error: Exception) -> None:
        """End a job that this agent cannot handle; see `fail`."""
        self.fail(job.envelope, error, partial(self._departed, job), started_at=job.started_at)

    def fail(
        self,
        envelope: Envelope,
        error: Exception,
        done: ConfirmCallback,
        *,
        started_at: datetime | None = None,
    ) -> None:
        """End a task that this agent cannot handle, so that it costs no other; log why.

        If not even its failure can be published, the broker dead-letters what it came in.
        """
        self._log.error(
            "a task cannot be handled",
            exc_info=error,
            **about(envelope),
        )
        message = f"its agent cannot handle it: {type(error).__name__}"
        outcome = failed(ErrorCode.HANDLER_ERROR, message, retryable=False)
        try:
            self.publish_result(last(envelope, outcome, self.ran(started_at)), envelope, done)
        except Exception as second:  # noqa: BLE001 - nothing is left to try
            self._log.exception("its failure cannot be published", **about(envelope))
            done(ManipleError(f"cannot be published: {second!r}"))

    def hand_back(self, jobs: Iterable[Job], reason: str) -> None:
        """Send jobs that have not started back to their lanes.

        For `OVERLOAD` no trace is kept that would not be anyway: it may happen to any task, often.
        """
        keep = reason != OVERLOAD
        for job in jobs:
            self.attempts.forget_attempt(job)  # it may come back before this is confirmed
            if job.bundle.alive:
                envelope = self._traces.migrated(job.envelope, reason, keep=keep)
                self._alone(job.lane_key, envelope, reason, job)

    def hand_on(self, jobs: Iterable[Job], reason: str) -> None:
        """Send jobs that were stopped while they ran to where they may run again, or end them.

        Nobody has died with them, so they do not count as lost.
        """
        for job in jobs:
            if not job.bundle.alive:
                continue
            ran = self.ran(job.started_at)
            fate = after_stop(self._traces.stopped(job, reason), job.definition, ran, job.lane_key)
            if isinstance(fate, Result):
                self.publish_result(fate, job.envelope, job.settle)
            else:
                self._alone(fate.key, fate.envelope, reason, job)

    def _alone(self, key: str, envelope: Envelope, reason: str, job: Job) -> None:
        copies, keep = may_copy(job.definition), job.keeps_room
        self._agent_publisher.alone(key, envelope, reason, job.settle, may_copy=copies, keep=keep)

    def _departed(self, job: Job, error: ManipleError | None = None) -> None:
        """Settle a job: the broker has what came of it, or it cannot be published."""
        self.attempts.forget_attempt(job)
        job.settle(error)
