"""How an attempt ends: with a result or another attempt. Pure.

Used by agents and by `maniple.testing`, so that a test sees what a cluster would do.
"""

import math
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from msgspec import UNSET, Raw, Struct
from msgspec.structs import replace

from maniple.delay_tiers import delay_tier
from maniple.errors import ErrorCode
from maniple.execution import Outcome
from maniple.messages import Envelope, Failure, Result, RetryPlan, Status, Waiting
from maniple.tasks import DEFAULT_ATTEMPTS, DEFAULT_TIMEOUT, TaskContext, TaskDefinition

NO_PLAN = RetryPlan()


class Ran(Struct, frozen=True):
    """When and where an attempt ran; without agent and start for a task that never started."""

    agent: str | None
    started_at: datetime | None
    finished_at: datetime
    known: Callable[[], datetime | None] | None = None
    """Returns the cluster's time, by which alone a deadline is judged; without it, that is
    `finished_at`."""
    limit: float = math.inf
    """The seconds that the attempt was given, see `seconds_for`."""

    def seconds_before(self, deadline: datetime) -> float:
        """Return the seconds until a deadline; infinite where nobody knows the time."""
        now = self.finished_at if self.known is None else self.known()
        return math.inf if now is None else (deadline - now).total_seconds()


class NextAttempt(Struct, frozen=True):
    """Another attempt, after `delay` seconds in a delay tier; `code` is why."""

    tier: float
    envelope: Envelope
    code: ErrorCode


def seconds_for(envelope: Envelope, definition: TaskDefinition, now: datetime) -> float:
    """Return the seconds given to an attempt: its timeout, at most until the deadline."""
    return min(timeout_of(envelope, definition), (envelope.deadline - now).total_seconds())


def timeout_of(envelope: Envelope, definition: TaskDefinition) -> float:
    """Return the seconds that an attempt may take, regardless of the deadline."""
    return envelope.timeout or definition.timeout or DEFAULT_TIMEOUT


def context_of(
    envelope: Envelope, timeout: float, agent: str, report: Callable[[Any], None] | None
) -> TaskContext:
    """Return the `TaskContext` of an attempt."""
    return TaskContext(envelope, timeout, agent, envelope.traceparent, report)


def conclude(
    envelope: Envelope,
    definition: TaskDefinition,
    outcome: Outcome,
    ran: Ran,
    jitter: Callable[[], float],
) -> Result | NextAttempt:
    """Return the result of an attempt, or the next attempt.

    `jitter` returns a number from 0 to 1 (full jitter over the exponential backoff). An attempt
    that had only until the deadline and used all of that time has expired, though another reading
    of the clock may show some milliseconds left.
    """
    if outcome.failure is None:
        return result_of(envelope, Status.SUCCEEDED, ran, output=Raw(outcome.output))
    left = ran.seconds_before(envelope.deadline)
    if outcome.failure.code is ErrorCode.TIMEOUT:
        had_the_rest = ran.limit < timeout_of(envelope, definition)
        if left <= 0 or had_the_rest:
            return expired(envelope, ran)
    plan = envelope.retry or definition.retry or NO_PLAN
    if _may_retry(envelope, definition, outcome, plan):
        seconds = _backoff(plan, envelope.attempt) * jitter()
        asked = outcome.failure.retry_after or 0.0
        if max(seconds, asked) < left:
            return _again(envelope, seconds, outcome.failure, ran)
    return last(envelope, outcome, ran)


def _again(envelope: Envelope, seconds: float, failure: Failure, ran: Ran) -> NextAttempt:
    """Return the next attempt; jitter never shortens a delay that the handler asked for."""
    asked = failure.retry_after or 0.0
    not_before = ran.finished_at + timedelta(seconds=asked) if asked > seconds else None
    return NextAttempt(
        delay_tier(max(seconds, asked)),
        # From now on it waits; it is dispatched again when that is over.
        replace(
            envelope,
            attempt=envelope.attempt + 1,
            not_before=not_before,
            waited_for=Waiting.NEXT_ATTEMPT.value,
            dispatched_at=ran.finished_at,
        ),
        failure.code,
    )


def _backoff(plan: RetryPlan, attempt: int) -> float:
    try:
        return min(plan.cap, plan.base * plan.factor ** (attempt - 1))
    except OverflowError:
        return plan.cap


def last(envelope: Envelope, outcome: Outcome, ran: Ran) -> Result:
    """Return the result of a failed attempt that is not repeated."""
    return result_of(envelope, Status.FAILED, ran, failure=outcome.failure)


def _may_retry(
    envelope: Envelope, definition: TaskDefinition, outcome: Outcome, plan: RetryPlan
) -> bool:
    attempts = envelope.max_attempts or definition.max_attempts or DEFAULT_ATTEMPTS
    if not outcome.retryable or envelope.attempt >= attempts or outcome.failure is None:
        return False
    return not plan.codes or outcome.failure.code in plan.codes


def expired(envelope: Envelope, ran: Ran) -> Result:
    """Return the result of a task whose deadline has passed."""
    failure = Failure(
        code=ErrorCode.DEADLINE_EXCEEDED,
        message=f"the deadline {envelope.deadline.isoformat()} passed",
    )
    return result_of(envelope, Status.EXPIRED, ran, failure=failure)


def result_of(
    envelope: Envelope,
    status: Status,
    ran: Ran,
    *,
    output: Raw | None = None,
    failure: Failure | None = None,
) -> Result:
    """Return a result of `envelope`, with everything that the envelope tells."""
    return Result(
        id=envelope.id,
        capability=envelope.capability,
        status=status,
        tenant=envelope.tenant,
        output=Raw(b"null") if output is None else output,
        error=failure,
        attempt=envelope.attempt,
        lost=envelope.lost,
        agent=ran.agent,
        lane=envelope.lane,
        policies=envelope.policies,
        submitted_at=envelope.submitted_at,
        dispatched_at=envelope.dispatched_at,
        started_at=ran.started_at,
        finished_at=ran.finished_at,
        traceparent=envelope.traceparent,
        payload_digest=envelope.payload_digest or UNSET,
    )
