"""How a submission comes: its AMQP properties, and what is believed of them. Pure."""

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from msgspec import Struct

from maniple.amqp import Delivery
from maniple.errors import ErrorCode, InvalidMessage
from maniple.messages import MAX_TTL, REPEATED_HEADER, TASK_TYPE
from maniple.topology import REPLY_PREFIX, RESERVED_PREFIX
from maniple_runtime.direct_replies import PREFIX, node_of

# What stands for bytes that are not UTF-8 (`maniple.amqp.wire.properties`); it is longer than they
# were, so a property that has it might not fit where it is to be sent.
_UNREADABLE = "\N{REPLACEMENT CHARACTER}"
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
MAX_CLOCK_LAG = timedelta(seconds=MAX_TTL)


class Redelivery(Enum):
    """What is known of whether a submission was taken before, so that its tasks may be running.

    Of what may have been, a copy may be running: it gets no end of a policy's making, and none for
    want of room. It passes or waits.
    """

    UNKNOWN = "unknown"
    SAID = "said"
    """Its sender says that it may have been."""
    DELIVERED = "delivered"
    """A dispatcher had it, and did not settle it."""
    BOTH = "both"


class Arrival(Struct, frozen=True):
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


class RawArrival(Struct, frozen=True):
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


def raw_arrival(delivery: Delivery) -> RawArrival:
    """Return the properties of a delivery as they came."""
    properties = delivery.properties
    return RawArrival(
        routing_key=delivery.routing_key,
        message_id=properties.message_id or None,
        message_type=properties.message_type or None,
        reply_to=properties.reply_to or None,
        correlation_id=properties.correlation_id or None,
        content_encoding=properties.content_encoding or None,
        timestamp=properties.timestamp,
        headers=delivery.headers,
        redelivered=delivery.redelivered,
    )


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
    # An address of direct reply-to that a broker cannot decode may cost the connection.
    undecodable = reply_to.startswith(PREFIX) and node_of(reply_to) is None
    if undecodable or not _REPLY_TO.fullmatch(reply_to):
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


def taken_before(headers: Mapping[str, Any], *, redelivered: bool) -> Redelivery:
    """Return what is known of whether a submission was taken before."""
    said = headers.get(REPEATED_HEADER) == "true"
    if redelivered:
        return Redelivery.BOTH if said else Redelivery.DELIVERED
    return Redelivery.SAID if said else Redelivery.UNKNOWN
