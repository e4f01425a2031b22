"""What becomes of an attempt: a result, another attempt, or another place. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from msgspec import Raw
from msgspec.structs import replace

from maniple.errors import ErrorCode
from maniple.execution import Outcome
from maniple.messages import Envelope, Failure, Result, RetryPlan, Status
from maniple.tasks import DEFAULT_ATTEMPTS, DEFAULT_TIMEOUT, TaskDefinition
from maniple.topology import delay_tier, suspect_lane

SUSPECT_AFTER = 2
LOST_AFTER = 5
NO_PLAN = RetryPlan()


@dataclass(frozen=True, slots=True)
class Ran:
    """When and where an attempt ran."""

    agent: str
    started_at: datetime | None
    finished_at: datetime


@dataclass(frozen=True, slots=True)
class Again:
    """Another attempt, after the delay of this tier in seconds."""

    tier: float
    envelope: Envelope


@dataclass(frozen=True, slots=True)
class Move:
    """Publish the envelope alone under this key of `maniple.lanes`."""

    key: str
    envelope: Envelope


def seconds_for(envelope: Envelope, definition: TaskDefinition, now: datetime) -> float:
    """Return the seconds that an attempt has: its timeout, at most until the deadline."""
    timeout = envelope.timeout or definition.timeout or DEFAULT_TIMEOUT
    return min(timeout, (envelope.deadline - now).total_seconds())


def conclude(
    envelope: Envelope,
    definition: TaskDefinition,
    outcome: Outcome,
    ran: Ran,
    jitter: Callable[[], float],
) -> Result | Again:
    """Return the result of an attempt, or that it is to be tried again.

    `jitter` gives a number from 0 to 1 (full jitter over the exponential backoff).
    """
    if outcome.failure is None:
        return _result(envelope, Status.SUCCEEDED, ran, output=Raw(outcome.output))
    if outcome.failure.code is ErrorCode.TIMEOUT and ran.finished_at >= envelope.deadline:
        return expired(envelope, ran)
    plan = envelope.retry or definition.retry or NO_PLAN
    if _may_retry(envelope, definition, outcome, plan):
        seconds = _backoff(plan, envelope.attempt) * jitter()
        seconds = max(seconds, outcome.failure.retry_after or 0.0)
        if seconds < (envelope.deadline - ran.finished_at).total_seconds():
            return Again(delay_tier(seconds), replace(envelope, attempt=envelope.attempt + 1))
    return last(envelope, outcome, ran)


def _backoff(plan: RetryPlan, attempt: int) -> float:
    try:
        return min(plan.cap, plan.base * plan.factor ** (attempt - 1))
    except OverflowError:
        return plan.cap


def last(envelope: Envelope, outcome: Outcome, ran: Ran) -> Result:
    """Return the result of a failed attempt after which there is no other."""
    return _result(envelope, Status.FAILED, ran, failure=outcome.failure)


def _may_retry(
    envelope: Envelope, definition: TaskDefinition, outcome: Outcome, plan: RetryPlan
) -> bool:
    attempts = envelope.max_attempts or definition.max_attempts or DEFAULT_ATTEMPTS
    if not outcome.retryable or envelope.attempt >= attempts or outcome.failure is None:
        return False
    return not plan.codes or outcome.failure.code in plan.codes


def after_loss(
    envelope: Envelope, definition: TaskDefinition | None, ran: Ran, *, suspect: bool
) -> Move | Result:
    """Return what becomes of a task whose agent vanished while it held it.

    It goes alone to its lane, from the second loss to the lane's suspects, where only losses count
    towards the last one. `on_lost="fail"` ends it at once: it runs at most once.
    """
    lost = envelope.lost + 1
    suspected = envelope.suspected + suspect
    at_most_once = definition is not None and definition.on_lost == "fail"
    moved = replace(envelope, lost=lost, suspected=suspected)
    if suspected >= LOST_AFTER or at_most_once:
        message = (
            "its agent was lost, and it may run at most once"
            if at_most_once
            else f"{lost} agents were lost while they held it"
        )
        failure = Failure(code=ErrorCode.AGENT_LOST, message=message)
        return _result(moved, Status.FAILED, ran, failure=failure)
    key = suspect_lane(envelope.lane) if lost >= SUSPECT_AFTER else envelope.lane
    return Move(key, moved)


def expired(envelope: Envelope, ran: Ran) -> Result:
    """Return the result of a task whose deadline has passed."""
    failure = Failure(
        code=ErrorCode.DEADLINE_EXCEEDED,
        message=f"the deadline {envelope.deadline.isoformat()} passed",
    )
    return _result(envelope, Status.EXPIRED, ran, failure=failure)


def unknown_capability(envelope: Envelope, ran: Ran) -> Result:
    """Return the result of a task that this agent has no handler for."""
    failure = Failure(
        code=ErrorCode.NO_AGENT, message=f"agent has no handler for {envelope.capability!r}"
    )
    return _result(envelope, Status.FAILED, ran, failure=failure)


def _result(
    envelope: Envelope,
    status: Status,
    ran: Ran,
    *,
    output: Raw | None = None,
    failure: Failure | None = None,
) -> Result:
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
    )
