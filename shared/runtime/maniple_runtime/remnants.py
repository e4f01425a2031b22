"""What can be read of a task that cannot be read as a whole. Pure.

A newer process may write a task that this release does not understand. The task then ends here with
a result that says so, and not silently.
"""

import contextlib
from datetime import datetime
from typing import Any

import msgspec

from maniple.attempts import Ran, result_of
from maniple.codec import decode_value
from maniple.errors import ErrorCode, InvalidMessage
from maniple.messages import MAX_NAME, Envelope, Failure, Result, Status

_FIELDS = [field for field in msgspec.structs.fields(Envelope) if field.name != "payload"]
_NEEDED = ("id", "capability")


def remnant_of(unreadable: InvalidMessage, now: datetime) -> Envelope | None:
    """Return what can be read of a member of a bundle, without its payload.

    None if not even its identity can be read.
    """
    try:
        value = decode_value(unreadable.body or b"")
    except InvalidMessage:
        return None
    if not isinstance(value, dict):
        return None
    told: dict[str, Any] = {"submitted_at": now, "deadline": now}
    for field in _FIELDS:
        if field.name in value:
            with contextlib.suppress(msgspec.ValidationError):
                told[field.name] = msgspec.convert(value[field.name], field.type)
    if not all(0 < len(told.get(name, "")) <= MAX_NAME for name in _NEEDED):
        return None
    return Envelope(**told)


def undecodable(envelope: Envelope, unreadable: InvalidMessage, ran: Ran) -> Result:
    """Return the result of a task of which only this `envelope` can be read."""
    failure = Failure(
        code=ErrorCode.UNDECODABLE,
        message=f"it cannot be read, which is on its way: {unreadable.message}",
    )
    return result_of(envelope, Status.FAILED, ran, failure=failure)
