"""What is told of a submission that no dispatcher settled before the broker gave it up."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeGuard

from msgspec.structs import replace

from maniple.codec import decode_submission, is_list
from maniple.errors import ErrorCode, InvalidMessage
from maniple.identifiers import new_id
from maniple.messages import Status, Task
from maniple_dispatcher.ingress.admission import (
    admit,
    capability_of,
    identity,
    is_misshapen,
)
from maniple_dispatcher.ingress.arrival import Arrival, RawArrival, check_arrival
from maniple_dispatcher.ingress.refusal import (
    MOST,
    Refusal,
    Refused,
    as_one,
    claimed_by,
    refusals_of,
)
from maniple_policies import Resolved

EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class ExpiredTask:
    """A good task that expired in a queue of submissions, and what is told of it if it ends so."""

    refusal: Refusal
    arrival: Arrival
    task: Task
    itself: bool
    """Its message said when it expires, not its queue."""


@dataclass(frozen=True, slots=True)
class RefusedMember:
    """What is told of a member that was not admitted, as far as one can know."""

    refusal: Refusal
    misshapen: bool


def dead_members(
    body: bytes, raw: RawArrival, arrival: Arrival, reason: str, *, itself: bool
) -> Generator[None, None, list[ExpiredTask | RefusedMember]]:
    """Return what becomes of each member; of what expired `itself` has said when, or its queue.

    `arrival` is what can be used of the `raw` one.
    """
    checked = _checked(raw, arrival.received_at)
    members, refused = _refused_members(body, arrival, reason)
    good: list[Task | None] = []
    bad: list[bool] = []
    for member in members:
        yield
        good.append(member if checked is not None and _is_good(member, checked) else None)
        bad.append(checked is None or _is_misshapen(member, checked))
    if sum(bad) > MOST:
        error = refused[bad.index(True)].error
        refused = [one for one, is_bad in zip(refused, bad, strict=True) if not is_bad]
        good = [task for task, is_bad in zip(good, bad, strict=True) if not is_bad]
        refused.append(as_one(error, arrival, others=bool(good)))
        bad = [False for _ in good] + [True]
        good.append(None)
    refusals = list(refusals_of(refused, (), arrival, new_id))
    if reason == EXPIRED:
        refusals = [_expired(refusal) for refusal in refusals]
    return [
        RefusedMember(refusal, is_bad)
        if task is None or checked is None or reason != EXPIRED
        else ExpiredTask(refusal, checked, task, itself)
        for task, refusal, is_bad in zip(good, refusals, bad, strict=True)
    ]


def _refused_members(
    body: bytes, arrival: Arrival, reason: str
) -> tuple[Sequence[Task | InvalidMessage], list[Refused]]:
    """Return the members of a submission that no dispatcher settled, and what is told of each.

    A dispatcher may have admitted it, before it died: so it has no claim on its identity.
    """
    code = ErrorCode.DEADLINE_EXCEEDED if reason == EXPIRED else ErrorCode.UNDECODABLE
    error = InvalidMessage(code, f"no dispatcher took it: the broker gave it up ({reason})")
    try:
        members = decode_submission(body)
        is_array = is_list(body)
    except InvalidMessage as unreadable:
        members, is_array = [unreadable], False
    refused = []
    for number, member in enumerate(members):
        position = number if is_array else None
        refused.append(Refused(error, *claimed_by(member, arrival, position), position))
    return members, refused


def _checked(raw: RawArrival, now: datetime) -> Arrival | None:
    """Return the properties of a message that a dispatcher would have looked into."""
    try:
        return check_arrival(raw, now)
    except InvalidMessage:
        return None


def _is_misshapen(member: Task | InvalidMessage, arrival: Arrival) -> bool:
    return isinstance(member, InvalidMessage) or is_misshapen(member, arrival.routing_key)


def _is_good(member: Task | InvalidMessage, arrival: Arrival) -> TypeGuard[Task]:
    """Tell whether a dispatcher would have admitted it, had it come in time."""
    if isinstance(member, InvalidMessage):
        return False
    try:
        capability = capability_of(member, arrival.routing_key)
        admit(
            member,
            arrival,
            task_id=identity(member.id, arrival, None, new_id),
            capability=capability,
            decided=Resolved(),
            traceparent="",
        )
    except InvalidMessage:
        return False
    return True


def _expired(refusal: Refusal) -> Refusal:
    record, answer = refusal.record, refusal.answer
    return Refusal(replace(record, status=Status.EXPIRED), replace(answer, status=Status.EXPIRED))
