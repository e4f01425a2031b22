"""Which submissions become tasks, what is recorded of them, and what each is told that does not.

Pure: the time and new ids are arguments, so deciding twice on the same message decides the same.
"""

import re
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from functools import lru_cache
from operator import attrgetter
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from msgspec import Struct

from maniple.errors import ErrorCode, InvalidMessage
from maniple.identifiers import is_refusal, member_id
from maniple.messages import (
    CARRIED,
    DEFAULT_TTL,
    MAX_NAME,
    MAX_TTL,
    NULL,
    RESERVED_FIELDS,
    Envelope,
    Task,
    TaskAccepted,
    TasksAccepted,
    carried_by,
)
from maniple.tasks import is_capability
from maniple.topology import BATCH_KEY
from maniple.traceparent import parse_traceparent, written
from maniple_dispatcher.ingress.arrival import Arrival, Redelivery
from maniple_dispatcher.result_cache import digest_of
from maniple_policies import Ceiling, Resolved

_NAME = re.compile(rf"[^\x00-\x1f\x7f]{{1,{MAX_NAME}}}")
UNKNOWN = "unknown"


def recordable(capability: str) -> str:
    """Return a name fit for the routing key of a record."""
    return capability if 0 < len(capability.encode()) <= MAX_NAME else UNKNOWN


def message_identity(message_id: str | None, new_id: Callable[[], str]) -> str:
    """Return a message's id as a task's: itself, or a UUID made of one that a task cannot have."""
    if not message_id:
        return new_id()
    if _NAME.fullmatch(message_id) and not is_refusal(message_id):
        return message_id
    return str(uuid5(NAMESPACE_OID, message_id))


def identity(
    own: str | None, arrival: Arrival, position: int | None, new_id: Callable[[], str]
) -> str:
    """Return a task's id: its own, else the message's (for member `position`, derived from it)."""
    if own is not None:
        return own
    if position is None or not arrival.message_id:
        return message_identity(arrival.message_id, new_id)
    return member_id(arrival.message_id, position)


def claim_of(arrival: Arrival, position: int | None) -> str | None:
    """Return the id that a member without one of its own has by its message, if that has one."""
    if not arrival.message_id:
        return None
    return identity(None, arrival, position, str)


def capability_of(task: Task, routing_key: str) -> str:
    """Return a task's capability. Raises `InvalidMessage` when body and key disagree."""
    if task.capability is None:
        if routing_key == BATCH_KEY:
            raise InvalidMessage(
                ErrorCode.INVALID_TASK, f"capability is missing, and the key is {BATCH_KEY!r}"
            )
        capability = routing_key
    else:
        capability = task.capability
        if routing_key not in (capability, BATCH_KEY):
            raise InvalidMessage(
                ErrorCode.INVALID_TASK,
                f"capability {capability!r} and routing key {routing_key!r} disagree",
            )
    if not is_capability(capability):
        raise InvalidMessage(
            ErrorCode.INVALID_TASK, f"capability {capability[:200]!r} is no dotted lower-case name"
        )
    return capability


def deadline_of(task: Task, arrival: Arrival, ttl: float | None = None) -> datetime:
    """Return when a task expires; one that says nothing of it after `ttl` seconds.

    Raises `InvalidMessage` for times that cannot be.

    One that was past when the task was sent is bad input. Of a task that a dispatcher had before
    nobody knows when it was sent first: it expires, as any other. What only its sender says is no
    reason: whoever writes the id of a task that runs would end it.
    """
    if task.deadline is None:
        # Not from `sent_at`: the sender's clock is another machine's, and a task that has a minute
        # would be over at once where that is behind by one.
        return arrival.received_at + _lifetime(task.ttl or ttl or DEFAULT_TTL)
    _check_one_end(task)
    if task.deadline > arrival.received_at + timedelta(seconds=MAX_TTL):
        raise InvalidMessage(
            ErrorCode.INVALID_TASK, f"deadline is more than {MAX_TTL / 86400:g} days away"
        )
    if task.deadline <= arrival.sent_at and arrival.before in {Redelivery.UNKNOWN, Redelivery.SAID}:
        raise InvalidMessage(
            ErrorCode.DEADLINE_EXCEEDED, f"deadline {task.deadline.isoformat()} is in the past"
        )
    return task.deadline


@lru_cache(maxsize=1024)  # the same few are asked for with every task
def _lifetime(ttl: float) -> timedelta:
    return timedelta(seconds=ttl)


def _check_one_end(task: Task) -> None:
    if task.deadline is not None and task.ttl is not None:
        raise InvalidMessage(ErrorCode.INVALID_TASK, "give deadline or ttl, not both")


def is_misshapen(task: Task, routing_key: str) -> bool:
    """Tell whether a task would be refused under whatever policies, and at whatever time."""
    try:
        capability_of(task, routing_key)
        check_supported(task)
        _check_one_end(task)
    except InvalidMessage:
        return True
    return False


def check_supported(task: Task) -> None:
    """Raise `InvalidMessage` (`not_supported`) for fields that are reserved for later."""
    for name in RESERVED_FIELDS:
        if bytes(getattr(task, name)).strip() != b"null":
            raise InvalidMessage(
                ErrorCode.NOT_SUPPORTED, f"{name} is not supported yet", detail={"field": name}
            )


class Chosen(Struct, frozen=True):
    """What holds for a task; `clamped` says what it asked for where it has less."""

    timeout: float | None
    max_attempts: int | None
    clamped: dict[str, float] = {}


def _chosen(task: Task, decided: Resolved, *, may_refuse: bool) -> Chosen:
    """Choose between what a task says and what the policies say.

    Raises `InvalidMessage` (`forbidden`) for more than a policy that refuses allows, unless the
    task may have been admitted before (not `may_refuse`): then it has the most that is allowed.
    """
    timeout, attempts = task.timeout or decided.timeout, task.max_attempts or decided.attempts
    if decided.most_timeout is None and decided.most_attempts is None:
        return Chosen(timeout, attempts)
    clamped: dict[str, float] = {}
    most = decided.most_timeout
    if most is not None and timeout is not None and timeout > most.value:
        clamped["timeout"] = _above(timeout, "timeout", most, may_refuse=may_refuse)
        timeout = most.value
    most = decided.most_attempts
    if most is not None and attempts is not None and attempts > most.value:
        clamped["max_attempts"] = _above(attempts, "max_attempts", most, may_refuse=may_refuse)
        attempts = int(most.value)
    return Chosen(timeout, attempts, clamped)


def _until(
    deadline: datetime,
    taken_at: datetime,
    most: Ceiling,
    clamped: dict[str, float],
    *,
    may_refuse: bool,
) -> datetime:
    """Return when a task expires that lives no longer than a policy allows.

    What it asked for is put into `clamped` where it has less. Raises as `_chosen` does.
    """
    latest = taken_at + timedelta(seconds=most.value)
    if deadline <= latest:
        return deadline
    asked = (deadline - taken_at).total_seconds()
    clamped["ttl"] = _above(asked, "ttl", most, may_refuse=may_refuse)
    return latest


def _above(asked: float, name: str, most: Ceiling, *, may_refuse: bool) -> float:
    if most.refuses and may_refuse:
        raise InvalidMessage(
            ErrorCode.FORBIDDEN,
            f"{name} is {asked:g}, and policy {most.policy} allows at most {most.value:g}",
            detail={"field": name, "max": most.value, "policy": most.policy,
                    "version": most.version},
        )  # fmt: skip
    return asked


def admit(  # noqa: PLR0913 - the whole of what decides, as values
    task: Task,
    arrival: Arrival,
    *,
    task_id: str,
    capability: str,
    decided: Resolved,
    traceparent: str,
) -> Envelope:
    """Return the envelope of a task that is admitted. Raises `InvalidMessage`."""
    if task.not_before is not NULL or task.idempotency_key is not NULL or task.sealed is not NULL:
        check_supported(task)
    may_refuse = arrival.before is Redelivery.UNKNOWN
    may = _chosen(task, decided, may_refuse=may_refuse)
    deadline, most = deadline_of(task, arrival, decided.ttl), decided.most_ttl
    if most is not None:
        deadline = _until(deadline, arrival.received_at, most, may.clamped, may_refuse=may_refuse)
    return Envelope(
        id=task_id,
        capability=capability,
        lane=capability,
        **dict(zip(CARRIED, carried_by(task), strict=True)),
        max_attempts=may.max_attempts,
        timeout=may.timeout,
        retry=decided.retry,
        reply_to=arrival.reply_to,
        correlation_id=arrival.correlation_id,
        traceparent=traceparent,
        submitted_at=arrival.sent_at,
        dispatched_at=arrival.received_at,
        deadline=deadline,
        payload_digest=digest_of(task.payload) if decided.keeps_good else None,
        policies=dict(decided.versions) if decided.versions else {},
        clamped=may.clamped,
    )


def acceptance(envelope: Envelope) -> TaskAccepted:
    """Return the record that a task is accepted."""
    return TaskAccepted(
        id=envelope.id,
        capability=envelope.capability,
        lane=envelope.lane,
        tenant=envelope.tenant,
        labels=envelope.labels,
        policies=envelope.policies,
        clamped=envelope.clamped,
        submitted_at=envelope.submitted_at,
        dispatched_at=envelope.dispatched_at or envelope.submitted_at,
        deadline=envelope.deadline,
        traceparent=envelope.traceparent,
    )


_SHARED = tuple(
    name for name in TasksAccepted.__struct_fields__ if name in Envelope.__struct_fields__
)
shared_by: Callable[[Envelope], tuple[Any, ...]] = attrgetter(*_SHARED)
"""Returns what accepted tasks have in common if their records are one."""


def acceptances(
    envelope: Envelope, ids: Iterable[str], traceparents: dict[str, str]
) -> TasksAccepted:
    """Return the record that tasks are accepted, with what is `shared_by` this one."""
    return TasksAccepted(
        ids=tuple(ids),
        capability=envelope.capability,
        lane=envelope.lane,
        tenant=envelope.tenant,
        labels=envelope.labels,
        policies=envelope.policies,
        clamped=envelope.clamped,
        submitted_at=envelope.submitted_at,
        dispatched_at=envelope.dispatched_at or envelope.submitted_at,
        deadline=envelope.deadline,
        traceparents=traceparents,
    )


def trace_of(
    task: Task,
    arrival: Arrival,
    new_trace: Callable[[], str],
    honoured: Callable[[str], str] = lambda given: given,
) -> str:
    """Return the trace that a task continues, as far as it is `honoured`, or else a new one."""
    given = task.traceparent or arrival.traceparent
    context = None if given is None else parse_traceparent(given)
    if given is None or context is None:
        return new_trace()
    # A later version is continued as the one that we know.
    return honoured(given if given.startswith("00-") else written(context))
