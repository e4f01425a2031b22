"""Ids: those of new tasks, and those that members of an array get."""

import secrets
from typing import NewType
from uuid import NAMESPACE_OID, UUID, uuid5

import uuid_utils

TaskId = NewType("TaskId", str)
Capability = NewType("Capability", str)
Lane = NewType("Lane", str)

REFUSED_PREFIX = "maniple.refused."
"""Prefix of the ids of refusals; no task's id begins so."""

SECRET_BYTES = 16
_REFUSALS = UUID("5d3f0f0e-6b0c-5f0a-9d0e-0c6f4f1b8a51")


def new_id() -> str:
    """Return a new UUIDv7 as text: unique, and sorted by creation time."""
    return str(uuid_utils.uuid7())


def new_secret() -> str:
    """Return a random, unguessable word of 22 letters, digits, `-` and `_`."""
    return secrets.token_urlsafe(SECRET_BYTES)


def member_id(message_id: str, position: int) -> str:
    """Return the id of member `position` (from 0) of the array sent as `message_id`.

    It is `uuid5(message_id, str(position))`; a `message_id` that is no UUID is first made one by
    `uuid5(NAMESPACE_OID, message_id)`. The same array sent again gets the same ids.
    """
    try:
        namespace = UUID(message_id)
    except ValueError:
        namespace = uuid5(NAMESPACE_OID, message_id)
    return str(uuid5(namespace, str(position)))


def refusal_id(message_id: str, position: int | None) -> str:
    """Return the id under which bad input is recorded: member `position`, or a whole message.

    The same message sent again gets the same id, and no task can have it.
    """
    place = "" if position is None else str(position)
    return f"{REFUSED_PREFIX}{uuid5(_REFUSALS, f'{place}:{message_id}')}"


def is_refusal(task_id: str) -> bool:
    """Tell whether an id is a refusal's, and so no task's."""
    return task_id.startswith(REFUSED_PREFIX)
