"""Which submissions become tasks, and what each is told that does not.

Pure: the time and new ids are arguments, so deciding twice on the same message decides the same.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from maniple.errors import ErrorCode, InvalidMessage
from maniple.identifiers import is_refusal, member_id
from maniple.messages import (
    DEFAULT_TTL,
    MAX_NAME,
    MAX_TTL,
    NULL,
    RESERVED_FIELDS,
    TASK_TYPE,
    Envelope,
    Task,
    carried,
)
from maniple.tasks import is_capability
from maniple.topology import BATCH_KEY, REPLY_PREFIX, RESERVED_PREFIX
from maniple.traceparent import parse_traceparent, written
from maniple_dispatcher.ingress.redelivery import Redelivery, taken_before
from maniple_dispatcher.pipeline.ceilings import chosen, until
from maniple_dispatcher.result_cache import digest_of
from maniple_policies import Resolved
from maniple_runtime.direct_replies import is_sound

# What stands for bytes that are not UTF-8 (`maniple.amqp.lenient_decoding`); it is longer than they
# were, so a property that has it might not fit where it is to be sent.
_UNREADABLE = "\N{REPLACEMENT CHARACTER}"
_NAME = re.compile(rf"[^\x00-\x1f\x7f]{{1,{MAX_NAME}}}")
_REPLY_TO = re.compile(rf"[^\x00-\x1f\x7f{_UNREADABLE}]{{1,255}}")
# What the broker and its plugins set themselves, in types of their own.
_BROKER_HEADERS = (
    "x-death",
    "x-first-death-",
    "x-last-death-",
    "x-delivery-count",
    "x-acquired-count",
    "x-received-from",
    "x-mqtt-",
    "x-stream-",
    "x-opt-",
    "CC",
    "BCC",
)
# What clients set by themselves for bytes that are as they are: kombu a charset, or `binary`.
_PLAIN = frozenset({"utf-8", "utf8", "us-ascii", "ascii", "identity", "binary", "7bit", "8bit"})
UNKNOWN = "unknown"
MAX_CLOCK_LAG = timedelta(seconds=MAX_TTL)


@dataclass(frozen=True, slots=True)
class Arrival:
    """How a submission came: its AMQP properties, checked. `sent_at` is the sender's timestamp."""

    routing_key: str
    received_at: datetime
    sent_at: datetime
    message_id: str | None = None
    reply_to: str | None = None
    correlation_id: str | None = None
    traceparent: str | None = None
    before: Redelivery = Redelivery.UNKNOWN
    """Whether it came before, and may have been admitted then."""


@dataclass(frozen=True, slots=True)
class RawArrival:
    """The same as the broker delivered it: nothing is checked yet."""

    routing_key: str
    message_id: str | None
    message_type: str | None
    reply_to: str | None
    correlation_id: str | None
    content_encoding: str | None
    timestamp: datetime | None
    headers: Mapping[str, Any]
    redelivered: bool = False


def check_arrival(raw: RawArrival, now: datetime) -> Arrival:
    """Return the properties of a submission that may be looked into.

    Raises `InvalidMessage` for what refuses the whole message before its body is read.
    """
    if raw.reply_to is not None:
        check_reply_to(raw.reply_to)
    for name in ("message_id", "correlation_id"):
        if readable(getattr(raw, name)) != getattr(raw, name):
            raise InvalidMessage(ErrorCode.UNDECODABLE, f"{name} is not UTF-8")
    if raw.content_encoding and raw.content_encoding.strip().lower() not in _PLAIN:
        raise InvalidMessage(
            ErrorCode.UNDECODABLE,
            f"content_encoding {raw.content_encoding!r} is not taken: send plain JSON as UTF-8",
        )
    if raw.message_type and raw.message_type.startswith(RESERVED_PREFIX):
        _check_type(raw.message_type)
    for name, value in raw.headers.items():
        if not isinstance(value, str) and not name.startswith(_BROKER_HEADERS):
            raise InvalidMessage(
                ErrorCode.INVALID_TASK, f"header {name!r} must be a string", detail={"header": name}
            )
    return Arrival(
        routing_key=raw.routing_key,
        received_at=now,
        sent_at=_sent_at(raw.timestamp, now),
        message_id=raw.message_id,
        reply_to=raw.reply_to,
        correlation_id=raw.correlation_id,
        traceparent=_header(raw.headers.get("traceparent")),
        before=taken_before(raw.headers, redelivered=raw.redelivered),
    )


def check_reply_to(reply_to: str) -> None:
    """Raise `InvalidMessage` for a `reply_to` that must not be written to."""
    if reply_to.startswith(RESERVED_PREFIX) and not reply_to.startswith(REPLY_PREFIX):
        raise InvalidMessage(
            ErrorCode.FORBIDDEN, f"reply_to must not begin with {RESERVED_PREFIX!r}"
        )
    if not _REPLY_TO.fullmatch(reply_to) or not is_sound(reply_to):
        raise InvalidMessage(ErrorCode.FORBIDDEN, "reply_to is not the name of a queue")


def readable(text: str | None) -> str | None:
    """Return a property, or None for one that is not UTF-8."""
    return None if text is not None and _UNREADABLE in text else text


def _check_type(message_type: str) -> None:
    if message_type != TASK_TYPE:
        raise InvalidMessage(
            ErrorCode.INVALID_TASK, f"type {message_type!r} is not a task: send {TASK_TYPE!r}"
        )


def _sent_at(timestamp: datetime | None, now: datetime) -> datetime:
    """Believe the sender's clock when it is behind by at most a week, as after a long queue.

    Only to show it: nothing is judged by it.
    """
    if timestamp is None or timestamp.tzinfo is None or not now - MAX_CLOCK_LAG < timestamp < now:
        return now
    return timestamp


def _header(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def bare_arrival(raw: RawArrival, now: datetime) -> Arrival:
    """Return what can be used of the properties of a message that is refused as a whole."""
    return Arrival(
        routing_key=raw.routing_key,
        received_at=now,
        sent_at=now,
        message_id=raw.message_id,
        reply_to=allowed_reply_to(raw.reply_to),
        correlation_id=readable(raw.correlation_id),
    )


def allowed_reply_to(reply_to: str | None) -> str | None:
    """Return where a result may be sent, or None."""
    if reply_to is None:
        return None
    try:
        check_reply_to(reply_to)
    except InvalidMessage:
        return None
    return reply_to


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
        return arrival.received_at + timedelta(seconds=task.ttl or ttl or DEFAULT_TTL)
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
    may = chosen(task, decided, may_refuse=may_refuse)
    deadline, most = deadline_of(task, arrival, decided.ttl), decided.most_ttl
    if most is not None:
        deadline = until(deadline, arrival.received_at, most, may.clamped, may_refuse=may_refuse)
    return Envelope(
        id=task_id,
        capability=capability,
        lane=capability,
        **carried(task),
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
