"""What is told and what is recorded of input that is not admitted. Pure.

What was never admitted has no claim on an identity: anybody may write any id into bad input, also
that of a task that runs, or one id twice into an array. So the record of a refusal bears an id of
its own, made of the message's id and the member's position, that no task can have. Its sender is
answered in its own words: by the id that it gave, unless its message gives that to another member,
too. In both, `error.detail` says which id was claimed, in which message, and where.

An array with more than `MOST` misshapen members gets one refusal: so no rubbish costs more than a
few other messages. What a policy or the time refuses does not count. That no sender can know
beforehand, and those whose tasks travel in one array (the SDK's do) need not know of each other.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from maniple.codec import peek_identity
from maniple.errors import ErrorCode, InvalidMessage
from maniple.identifiers import refusal_id
from maniple.messages import Failure, Result, Status, Task
from maniple_dispatcher.ingress.admission import claim_of, recordable
from maniple_dispatcher.ingress.arrival import Arrival

MOST = 20
"""Misshapen members of one message that are refused one by one."""
SHOWN = 200  # characters of why one of many is bad


@dataclass(frozen=True, slots=True)
class Refused:
    """Input that is not admitted, and what can be read of it.

    `position` is that of a member of an array; `body` is None if it is the whole message. What is
    `misshapen` is so by its bytes alone, under whatever policies, and at whatever time.
    """

    error: InvalidMessage
    claimed: str | None = None
    tenant: str = "default"
    capability: str | None = None
    position: int | None = None
    body: bytes | None = None
    misshapen: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """The terminal result of bad input: as it is recorded, and as its sender is answered."""

    record: Result
    answer: Result


def refusal_of(
    refused: Refused, arrival: Arrival, new_id: Callable[[], str], *, ambiguous: bool = False
) -> Refusal:
    """Return the refusal of one member, or of a message; `ambiguous` if its id means another."""
    error, message_id = refused.error, arrival.message_id
    record = Result(
        id=refusal_id(message_id or new_id(), refused.position),
        capability=recordable(refused.capability or arrival.routing_key),
        tenant=refused.tenant,
        status=Status.REJECTED,
        error=Failure(code=error.code, message=error.message, detail=_detail(refused, message_id)),
        attempt=0,
        submitted_at=arrival.sent_at,
        finished_at=arrival.received_at,
    )
    if ambiguous or refused.claimed is None:
        return Refusal(record, record)
    return Refusal(record, replace(record, id=refused.claimed))


def claimed_by(
    member: Task | InvalidMessage, arrival: Arrival, position: int | None
) -> tuple[str | None, str, str | None]:
    """Return the id, the tenant and the capability that a member claims, as far as it is read."""
    known = peek_identity(member.body or b"") if isinstance(member, InvalidMessage) else member
    return known.id or claim_of(arrival, position), known.tenant, known.capability


def whole(error: InvalidMessage, arrival: Arrival) -> Refused:
    """Return the refusal of a message in which no member can be told from another."""
    return Refused(error, claim_of(arrival, None))


def many(
    refused: Sequence[Refused],
    arrival: Arrival,
    *,
    others: bool,
    body: bytes | None = None,
) -> Refused:
    """Return the one refusal of a message with more than `MOST` misshapen members; see `as_one`."""
    first = refused[0]
    if others:
        what = f"{len(refused):,} members are bad, and the others go on"
    else:
        what = f"more than {MOST} members are bad, so none of the array is taken"
    error = InvalidMessage(
        ErrorCode.INVALID_TASK,
        f"{what}; the first is member {first.position}: {first.error.message[:SHOWN]}",
        detail={"bad": [_shown(one) for one in refused[:MOST]]},
    )
    return as_one(error, arrival, others=others, body=body)


def as_one(
    error: InvalidMessage, arrival: Arrival, *, others: bool, body: bytes | None = None
) -> Refused:
    """Return one refusal of several members.

    With `others`, which are not refused, it does not claim the message's id: whoever knows several
    tasks by that would take it for the end of all of them.
    """
    claimed = None if others else claim_of(arrival, None)
    return Refused(error, claimed, body=body, misshapen=True)


def _shown(refused: Refused) -> dict[str, Any]:
    error = refused.error
    return {
        "position": refused.position,
        "id": refused.claimed,
        "code": error.code.value,
        "message": error.message[:SHOWN],
    }


def refusals_of(
    members: Iterable[Refused],
    admitted: Iterable[tuple[str, str]],
    arrival: Arrival,
    new_id: Callable[[], str],
) -> Iterator[Refusal]:
    """Give the refusals of some members of a message, of which others are `admitted`."""
    taken = set(admitted)
    for refused in members:
        claim = (refused.tenant, refused.claimed or "")
        yield refusal_of(refused, arrival, new_id, ambiguous=claim in taken)
        taken.add(claim)


def _detail(refused: Refused, message_id: str | None) -> dict[str, Any]:
    about: dict[str, Any] = dict(refused.error.detail or {})
    if refused.claimed is not None:
        about["id"] = refused.claimed
    if message_id:
        about["message_id"] = message_id
    if refused.position is not None:
        about["position"] = refused.position
    return about
