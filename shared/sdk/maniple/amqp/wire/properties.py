"""The properties of a message, as bytes and as values.

A foreign client may fill them with anything: what cannot be decoded is shown as far as it can be,
and costs nobody a connection. Whoever reads the message refuses it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Final

from pamqp import decode, encode

from maniple.amqp.wire.framing import short_string

UNREADABLE: Final = "\N{REPLACEMENT CHARACTER}"
_TEXT = ord("S")
_LONGEST_KEY = 128  # bytes; RabbitMQ allows no more


@dataclass(slots=True)
class Properties:
    """Properties of a message; None where it has none."""

    content_type: str | None = None
    content_encoding: str | None = None
    headers: dict[str, Any] | None = None
    delivery_mode: int | None = None
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: str | None = None
    message_id: str | None = None
    timestamp: datetime | None = None
    message_type: str | None = None
    user_id: str | None = None
    app_id: str | None = None

    def to_bytes(self) -> bytes:
        """Return them as a message's header has them.

        Raises `ValueError` for a text of more than 255 bytes, `TypeError` for a header's value that
        AMQP does not have.
        """
        flags, parts = 0, [b""]
        for value, (flag, _, _, written) in zip(_values(self), _FIELDS, strict=True):
            if value is not None and value != {}:
                flags |= flag
                parts.append(written(value))
        parts[0] = flags.to_bytes(2, "big")
        return b"".join(parts)


def read_properties(data: bytes) -> Properties:
    """Return what `data` says, as far as it can be read."""
    found = Properties()
    flags, at = int.from_bytes(data[:2], "big"), 2
    for flag, name, read, _ in _FIELDS:
        if flags & flag:
            try:
                size, value = read(data, at)
            except IndexError:  # it ends within a field
                found.headers = {UNREADABLE: data}
                return found
            setattr(found, name, value)
            at += size
    return found


def _short_string(data: bytes, at: int) -> tuple[int, str]:
    size = data[at] + 1
    return size, data[at + 1 : at + size].decode("utf-8", "replace")


def _octet(data: bytes, at: int) -> tuple[int, int]:
    return 1, data[at]


def _timestamp(data: bytes, at: int) -> tuple[int, datetime | None]:
    try:
        return 8, datetime.fromtimestamp(int.from_bytes(data[at : at + 8], "big"), UTC)
    except (ValueError, OverflowError, OSError):
        return 8, None


def _table(data: bytes, at: int) -> tuple[int, dict[str, Any]]:
    size = int.from_bytes(data[at : at + 4], "big") + 4
    table = data[at : at + size]
    texts = _texts(table)
    if texts is not None:
        return size, texts
    try:
        return size, decode.field_table(table)[1]
    except Exception:  # noqa: BLE001 - what is wrong with it is the sender's, also a recursion
        return size, {UNREADABLE: table[4:]}


def _texts(table: bytes) -> dict[str, Any] | None:
    """Return a table that has nothing but texts, as most have; None for any other."""
    found: dict[str, Any] = {}
    at, end = 4, len(table)
    try:
        while at < end:
            value = at + 1 + table[at]
            if table[value] != _TEXT:
                return None
            key = table[at + 1 : value].decode()
            at = value + 5 + int.from_bytes(table[value + 1 : value + 5], "big")
            found[key] = table[value + 5 : at].decode()
    except (IndexError, UnicodeDecodeError):
        return None
    return found if at == end else None


def _table_of(values: dict[str, Any]) -> bytes:
    parts = [b""]
    for key, value in values.items():
        name = key.encode()
        if type(value) is not str or len(name) > _LONGEST_KEY:
            return encode.field_table(values)
        text = value.encode()
        parts += (bytes((len(name),)), name, b"S", len(text).to_bytes(4, "big"), text)
    table = b"".join(parts)
    return len(table).to_bytes(4, "big") + table


def _octet_of(value: int) -> bytes:
    return bytes((value,))


def _timestamp_of(value: datetime) -> bytes:
    if (seconds := int(value.timestamp())) < 0:
        raise ValueError("a time in AMQP is not before 1970")
    return seconds.to_bytes(8, "big")


_Read = Callable[[bytes, int], tuple[int, Any]]
_FIELDS: tuple[tuple[int, str, _Read, Callable[[Any], bytes]], ...] = (
    (1 << 15, "content_type", _short_string, short_string),
    (1 << 14, "content_encoding", _short_string, short_string),
    (1 << 13, "headers", _table, _table_of),
    (1 << 12, "delivery_mode", _octet, _octet_of),
    (1 << 11, "priority", _octet, _octet_of),
    (1 << 10, "correlation_id", _short_string, short_string),
    (1 << 9, "reply_to", _short_string, short_string),
    (1 << 8, "expiration", _short_string, short_string),
    (1 << 7, "message_id", _short_string, short_string),
    (1 << 6, "timestamp", _timestamp, _timestamp_of),
    (1 << 5, "message_type", _short_string, short_string),
    (1 << 4, "user_id", _short_string, short_string),
    (1 << 3, "app_id", _short_string, short_string),
)
"""In the order in which they follow each other: flag, name, and how each is read and written."""
_values = attrgetter(*(name for _, name, _, _ in _FIELDS))
