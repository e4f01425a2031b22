"""Identities: new task ids, and the ids that members of an array get."""

from typing import NewType
from uuid import NAMESPACE_OID, UUID, uuid5

import uuid_utils

TaskId = NewType("TaskId", str)
Capability = NewType("Capability", str)
Lane = NewType("Lane", str)


def new_id() -> str:
    """Return a new UUIDv7 as text: unique, and sorted by time of making."""
    return str(uuid_utils.uuid7())


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
