"""Decoding properties that a foreign client filled with anything.

pamqp raises on a short string or header name that is not UTF-8 and on a timestamp beyond the year
9999, inside the reader of the whole connection: one such message would cost every process that
consumes it its connection, again and again. Here such values are decoded as far as they can be
shown, and admission refuses the message.
"""

from collections.abc import Callable

from pamqp import common, decode

Decoder = Callable[[bytes], tuple[int, common.FieldValue]]

UNREADABLE = "\N{REPLACEMENT CHARACTER}"


def tolerate_foreign_bytes() -> None:
    """Make pamqp's decoders tolerant in this process; idempotent."""
    decode.METHODS["shortstr"] = _short_string
    decode.METHODS["timestamp"] = _timestamp
    decode.METHODS["table"] = _table
    decode.TABLE_MAPPING[b"T"] = _timestamp


def _short_string(value: bytes) -> tuple[int, common.FieldValue]:
    length = value[0]
    return length + 1, value[1 : length + 1].decode("utf-8", "replace")


def _timestamp(value: bytes) -> tuple[int, common.FieldValue]:
    try:
        return decode.timestamp(value)
    except (ValueError, OverflowError, OSError):
        return 8, None


def _table(value: bytes) -> tuple[int, common.FieldValue]:
    try:
        return decode.field_table(value)
    except Exception:  # noqa: BLE001 - what is wrong with it is the sender's, also a recursion
        length = int.from_bytes(value[:4], "big")
        return length + 4, {UNREADABLE: value[4 : length + 4]}
