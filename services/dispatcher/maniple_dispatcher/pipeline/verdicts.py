"""What is decided about a task, and where it goes next: its lane, a wait, or its end. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from maniple.attempts import Ran, result_of
from maniple.delay_tiers import delay_tier
from maniple.errors import ErrorCode
from maniple.messages import Envelope, Failure, Result, Status, Waiting
from maniple.topology import DELAY_TIERS
from maniple_dispatcher.limits.breaker import BreakerState
from maniple_dispatcher.limits.limit import Limit

# A task that finds no way to an agent looks again after one of two times (seconds), so that what
# came together does not come back together; the last two repeat. They are short for a minute
# or three, for a lane that is about to get its agent, and end long, because each look costs: a
# million tasks that have waited for long come back as 22,000 in a second.
WAITS = (
    *((0.5, 1.0), (1.0, 2.0), (2.0, 5.0)),
    *[(5.0, 10.0)] * 8,  # a minute
    *[(10.0, 30.0)] * 6,  # and two more
    (30.0, 60.0),
)
LONGEST_WAIT = WAITS[-1][-1]
SELDOM = 3 + 8
"""The round from which on a task looks seldom."""
# Whatever waits in the broker passes a dispatcher within the longest tier.
KEPT = timedelta(seconds=DELAY_TIERS[-1] + 60)
MAX_CANCELLED = 10_000


class Pass(msgspec.Struct, frozen=True):
    """The task goes on."""


PASS = Pass()


class Divert(msgspec.Struct, frozen=True):
    """It goes on to another lane; `decision` is counted, if there is one."""

    lane: str
    decision: str | None = None


class Delay(msgspec.Struct, frozen=True):
    """It has passed, and goes on after so many seconds, once later stages of `ONCE` have decided.

    `decision` is counted.
    """

    seconds: float
    why: Waiting
    decision: str


class Reject(msgspec.Struct, frozen=True):
    """It is refused, and may ask again after so many seconds.

    It gets its fallback or ends, unless it has waited before or this `ends` none: then it waits,
    and `why` is told.
    """

    code: ErrorCode
    message: str
    seconds: float
    why: Waiting
    ends: bool = True


class Pending(msgspec.Struct, frozen=True):
    """Whoever owns a limit has to be asked; the stage is then asked again, with the answer."""

    limit: Limit


Verdict = Pass | Divert | Delay | Reject | Pending


@dataclass(frozen=True, slots=True)
class State:
    """What a stage may know besides the task and the policy.

    `breaker` tells how a lane's breaker is and since when. `passes` is None until the owner of a
    limit has answered to the stage's `Pending`: whether the task passes, and after how many
    `seconds`; if it does not, it may ask again after these.
    """

    breaker: Callable[[str], tuple[BreakerState, float]]
    passes: bool | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait in this tier (seconds) as this envelope."""

    tier: float
    envelope: Envelope


def wait(envelope: Envelope, now: datetime, why: Waiting, *, longer: bool, least: int = 0) -> Wait:
    """Return how a task waits that is not let through: its lane refused it, or a policy.

    The wait grows with the rounds and ends at the latest about when the task expires; `longer`
    chooses one of the two times that a round may take. At `least` it is so long as in that round.
    """
    seconds = WAITS[min(max(envelope.waits, least), len(WAITS) - 1)][longer]
    remaining = (envelope.deadline - now).total_seconds()
    tier = delay_tier(min(seconds, max(remaining + DELAY_TIERS[0], DELAY_TIERS[0])))
    waited = msgspec.structs.replace(envelope, waits=envelope.waits + 1, waited_for=why.value)
    return Wait(tier, waited)


def shorter(tier: float) -> float | None:
    """Return the next shorter tier, or None for the shortest."""
    place = DELAY_TIERS.index(tier)
    return DELAY_TIERS[place - 1] if place else None


def is_committed(envelope: Envelope) -> bool:
    """Tell whether a task has been accepted or has waited, so that want of room cannot end it."""
    return envelope.accepted or envelope.owing or envelope.waits > 0


def is_due(envelope: Envelope, now: datetime) -> bool:
    """Tell whether a task that waited has waited long enough, give or take the smallest tier."""
    if envelope.not_before is None:
        return True
    return (envelope.not_before - now).total_seconds() < DELAY_TIERS[0]


def rest_of(envelope: Envelope, now: datetime, why: Waiting | None = None) -> Wait:
    """Return the next round of a task that is not due yet; without `why`, for what it waited.

    It ends at the latest about when the task expires, due or not. What comes back from its first
    round has been admitted.
    """
    until = min(envelope.not_before or now, envelope.deadline + timedelta(seconds=DELAY_TIERS[0]))
    if why is not None:
        waits = max(1, envelope.waits)
        envelope = msgspec.structs.replace(envelope, waited_for=why.value, waits=waits)
    return Wait(delay_tier((until - now).total_seconds()), envelope)


def waited_for(envelope: Envelope) -> str:
    """Return why a task that comes back has waited."""
    # Without a reason it is from an agent of before there was one: each of those waits was this.
    return envelope.waited_for or Waiting.NEXT_ATTEMPT.value


def expired(envelope: Envelope, now: datetime, *, waiting: str = "") -> Result:
    """Return the terminal result of a task whose deadline has passed; it waited for `waiting`."""
    where = f" while it waited ({waiting.replace('_', ' ')})" if waiting else ""
    return _ended(
        envelope,
        now,
        Status.EXPIRED,
        Failure(
            code=ErrorCode.DEADLINE_EXCEEDED,
            message=f"the deadline {envelope.deadline.isoformat()} passed{where}",
        ),
    )


class Cancellations:
    """Tasks cancelled lately, by tenant and id; of too many the oldest are forgotten."""

    def __init__(self) -> None:
        self.since: dict[tuple[str, str], datetime] = {}
        """When each was; while there are none, nobody need ask."""

    def add_task(self, tenant: str, task: str, now: datetime) -> None:
        """Record that a task is cancelled."""
        self.since.pop((tenant, task), None)  # in the dict, the latest comes last
        self.since[tenant, task] = now
        while self.since:
            oldest = next(iter(self.since))
            if len(self.since) <= MAX_CANCELLED and now - self.since[oldest] < KEPT:
                break
            del self.since[oldest]

    def has(self, tenant: str, task: str) -> bool:
        """Tell whether a task has been cancelled."""
        return (tenant, task) in self.since


def cancelled(envelope: Envelope, now: datetime) -> Result:
    """Return the terminal result of a task that somebody cancelled."""
    failure = Failure(code=ErrorCode.CANCELLED, message="it was cancelled")
    return _ended(envelope, now, Status.CANCELLED, failure)


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


def rejected(envelope: Envelope, now: datetime, failure: Failure) -> Result:
    """Return the terminal result of a task that a policy does not let through."""
    return _ended(envelope, now, Status.REJECTED, failure)


def substituted(envelope: Envelope, now: datetime, output: msgspec.Raw | None) -> Result:
    """Return the terminal result of a task that gets an output in place of being run."""
    return result_of(envelope, Status.SUCCEEDED, Ran(None, None, now), output=output)


def given_up(envelope: Envelope, now: datetime, why: str) -> Result:
    """Return the terminal result of an admitted task that is not tried again."""
    return _ended(envelope, now, Status.FAILED, Failure(code=ErrorCode.AGENT_LOST, message=why))


def _ended(envelope: Envelope, now: datetime, status: Status, failure: Failure) -> Result:
    return result_of(envelope, status, Ran(None, None, now), failure=failure)
