"""Which outstanding tasks end by a result that may say that a task, or a message, was refused.

What was never admitted may bear an id that is somebody else's, or none: so it is looked at closely.
"""

import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from msgspec.structs import replace

from maniple.errors import BAD_INPUT
from maniple.messages import Result, Status, is_result_of

if TYPE_CHECKING:
    from maniple.client.handle import Ticket

PERHAPS_REFUSED = frozenset({Status.REJECTED, Status.EXPIRED})
"""How what was never admitted ends: the broker may have dropped it at the end of its time."""

_log = logging.getLogger(__name__)


def ended_by(
    result: Result, tickets: Mapping[tuple[str, str], "Ticket"]
) -> Iterator[tuple["Ticket", Result]]:
    """Return what a rejection ends, each with its result: a task, bad input, or a whole message.

    Bad input in another message says nothing of the task that is outstanding under its id now. That
    of a whole message has the message's id.
    """
    ticket = tickets.get((result.tenant, result.id))
    if ticket is None:
        if _message_of(result, result.id) == result.id:
            for one in [t for t in tickets.values() if t.message_id == result.id]:
                yield one, replace(result, id=one.id, tenant=one.tenant, capability=one.capability)
        return
    if not _is_bad_input(result) and not is_of(ticket, result):
        return
    message_id = _message_of(result, ticket.message_id)
    if message_id == ticket.message_id:
        yield ticket, result
    else:
        _log.warning("task %s was refused in another message, %.100s", ticket.id, message_id)


def is_of(ticket: "Ticket", result: Result) -> bool:
    """Tell whether a result is of the capability that was asked for, or of a fallback for it."""
    if is_result_of(result, ticket.capability):
        return True
    _log.warning("task %s has got a result of %.100s", ticket.id, result.capability)
    return False


def _is_bad_input(result: Result) -> bool:
    """Tell whether it is about a message, of which it may not even be known what it asked for."""
    return result.error is not None and result.error.code in BAD_INPUT


def _message_of(result: Result, ours: str) -> str:
    """Return the id of the message that a refusal of bad input is about; `ours` if of no other.

    A dispatcher tells the claimed id and the message's. If that has none, it is not one of ours,
    which all have. A dispatcher of an earlier release tells neither.
    """
    if result.error is None or not _is_bad_input(result):
        return ours  # whoever has written that detail means something else by it
    detail = result.error.detail
    if not isinstance(detail, dict) or not detail.keys() & {"id", "message_id"}:
        return ours
    return str(detail.get("message_id", "without an id"))
