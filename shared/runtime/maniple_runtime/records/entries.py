"""Entries of the stream: records, each with a position of its own. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import pydantic

from maniple.codec import decode_members
from maniple.errors import ErrorCode, InvalidMessage
from maniple.messages import (
    ACCEPTED_TYPE,
    ADMITTED_TYPE,
    GROUPS_TYPE,
    RESULTS_TYPE,
    RUNNING_TYPE,
    Result,
    TaskAccepted,
    TaskAdmitted,
    TaskRunning,
    TasksAccepted,
)
from maniple.traceparent import trace_of_id
from maniple_runtime.events import AGENT_EVENTS, BreakerChanged, Event, PolicyChanged

Record = TaskAdmitted | TaskAccepted | TaskRunning | Result | Event
_Decode = Callable[[bytes], "Sequence[Record | InvalidMessage]"]
_COMMON: Final = tuple(set(TaskAccepted.__struct_fields__) & set(TasksAccepted.__struct_fields__))
_EVENTS: Final[tuple[type[Event], ...]] = (*AGENT_EVENTS, PolicyChanged, BreakerChanged)


class Position(NamedTuple):
    """A record's position: the stream offset of its message, and its index in that bundle."""

    offset: int
    member: int = 0


class TaskKey(NamedTuple):
    """A task's identity."""

    tenant: str
    id: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One record of the stream."""

    position: Position
    record: Record


def decode_records(kind: str | None, body: bytes, offset: int) -> list[Entry | InvalidMessage]:
    """Return the records in a message with the AMQP type `kind`; none of an unknown type.

    A newer release may have written it; a record that cannot be read is replaced by its error.
    Raises `InvalidMessage` for a body that is not of its type.
    """
    decode = _DECODERS.get(kind or "")
    records = decode(body) if decode is not None else ()
    return [
        record if isinstance(record, InvalidMessage) else Entry(Position(offset, member), record)
        for member, record in enumerate(records)
    ]


def _members(model: type[TaskAdmitted | TaskAccepted | TaskRunning | Result]) -> _Decode:
    def decode(body: bytes) -> Sequence[Record | InvalidMessage]:
        return decode_members(body, model)

    return decode


def _groups(body: bytes) -> Sequence[Record | InvalidMessage]:
    found: list[Record | InvalidMessage] = []
    for group in decode_members(body, TasksAccepted):
        found += [group] if isinstance(group, InvalidMessage) else accepted_in(group)
    return found


def accepted_in(group: TasksAccepted) -> list[TaskAccepted]:
    """Return the record of each task of a group."""
    fields = {name: getattr(group, name) for name in _COMMON}
    return [
        TaskAccepted(
            id=one,
            traceparent=group.traceparents.get(one) or trace_of_id(one, sampled=False),
            **fields,
        )
        for one in group.ids
    ]


def _event(model: type[Event]) -> _Decode:
    def decode(body: bytes) -> Sequence[Record | InvalidMessage]:
        try:
            return (model.from_json(body),)
        except pydantic.ValidationError as error:
            raise InvalidMessage(ErrorCode.UNDECODABLE, f"not a {model.TYPE}: {error}") from error

    return decode


_DECODERS: Final[Mapping[str, _Decode]] = {
    ADMITTED_TYPE: _members(TaskAdmitted),
    ACCEPTED_TYPE: _members(TaskAccepted),
    GROUPS_TYPE: _groups,
    RUNNING_TYPE: _members(TaskRunning),
    RESULTS_TYPE: _members(Result),
    **{model.TYPE: _event(model) for model in _EVENTS},
}
