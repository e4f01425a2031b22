"""Where an admitted task goes next: its lane, a wait, or its end. Pure."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import msgspec

from maniple.attempts import Ran, result_of
from maniple.errors import ErrorCode
from maniple.messages import Envelope, Failure, Result, Status
from maniple.topology import DELAY_TIERS, delay_tier

# A task without an agent looks again after these seconds; the last one repeats.
WAITS = (0.5, 1.0, 2.0, 5.0)


class Waiting(StrEnum):
    """Why a task waits in `maniple.delay`."""

    NO_AGENT = "no_agent"
    OVERLOADED = "overloaded"
    NOT_DUE = "not_due"


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait in this tier (seconds) as this envelope."""

    tier: float
    envelope: Envelope


def wait(envelope: Envelope, now: datetime) -> Wait:
    """Return how a task waits whose lane refused it or does not exist.

    The wait grows with the rounds and ends at the latest about when the task expires.
    """
    seconds = WAITS[min(envelope.waits, len(WAITS) - 1)]
    remaining = (envelope.deadline - now).total_seconds()
    tier = delay_tier(min(seconds, max(remaining + DELAY_TIERS[0], DELAY_TIERS[0])))
    return Wait(tier, msgspec.structs.replace(envelope, waits=envelope.waits + 1))


def is_due(envelope: Envelope, now: datetime) -> bool:
    """Tell whether a task that waited has waited long enough, give or take the smallest tier."""
    if envelope.not_before is None:
        return True
    return (envelope.not_before - now).total_seconds() < DELAY_TIERS[0]


def rest_of(envelope: Envelope, now: datetime) -> Wait:
    """Return the next round of a task that is not due yet."""
    until = envelope.not_before or now
    return Wait(delay_tier((until - now).total_seconds()), envelope)


def expired(envelope: Envelope, now: datetime, *, waiting: str = "") -> Result:
    """Return the terminal result of a task whose deadline has passed."""
    where = f" while it waited ({waiting})" if waiting else ""
    return _ended(
        envelope,
        now,
        Status.EXPIRED,
        Failure(
            code=ErrorCode.DEADLINE_EXCEEDED,
            message=f"the deadline {envelope.deadline.isoformat()} passed{where}",
        ),
    )


def overloaded(envelope: Envelope, now: datetime, retry_after: float) -> Result:
    """Return the terminal result of a task that neither its lane nor a delay would take."""
    return _ended(
        envelope,
        now,
        Status.REJECTED,
        Failure(
            code=ErrorCode.OVERLOADED,
            message=f"the lane {envelope.lane} and the delay queues are full",
            retry_after=retry_after,
        ),
    )


def given_up(envelope: Envelope, now: datetime, why: str) -> Result:
    """Return the terminal result of an admitted task that the broker dead-lettered."""
    return _ended(envelope, now, Status.FAILED, Failure(code=ErrorCode.AGENT_LOST, message=why))


def _ended(envelope: Envelope, now: datetime, status: Status, failure: Failure) -> Result:
    return result_of(envelope, status, Ran(None, None, now), failure=failure)
