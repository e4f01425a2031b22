"""The states of a task and its transitions, as data. Pure.

`docs/states/task.md` draws `TRANSITIONS`. No process stores a task's state: it follows from where
the task is in the broker, and from the records in the stream `maniple.records`.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from maniple.open_enum import OpenEnum


class TaskState(OpenEnum):
    """Where a task is; the last five are the statuses of a result."""

    SUBMITTED = "submitted"
    WAITING = "waiting"
    ACCEPTED = "accepted"
    RUNNING = "running"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REJECTED = "rejected"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class Trigger(StrEnum):
    """What causes a transition of a task."""

    CONFIRMED = "the broker confirmed it"
    ADMITTED = "its lane confirmed it"
    NOT_ADMITTED = "bad input"
    NO_ROOM = "its lane is full or missing"
    NO_ROOM_ANYWHERE = "lane and delay are full"
    STARTED = "an agent starts it"
    UNSERVED = "the agent has no handler for it"
    RETURNED = "the handler returned"
    FAILED_AGAIN = "the last attempt failed"
    TO_BE_RETRIED = "the attempt failed, there is another"
    LOST = "its agent was lost or stopped it"
    LOST_FOR_GOOD = "agents were lost too often"
    DEADLINE = "its deadline passed"
    CANCELLED = "it was cancelled"


TERMINAL: Final = frozenset(
    {
        TaskState.SUCCEEDED,
        TaskState.FAILED,
        TaskState.REJECTED,
        TaskState.EXPIRED,
        TaskState.CANCELLED,
    }
)

# None is a task that nobody has confirmed yet. What is not here changes nothing.
TRANSITIONS: Final[Mapping[tuple[TaskState | None, Trigger], TaskState]] = {
    (None, Trigger.CONFIRMED): TaskState.SUBMITTED,
    (TaskState.SUBMITTED, Trigger.ADMITTED): TaskState.ACCEPTED,
    (TaskState.SUBMITTED, Trigger.NO_ROOM): TaskState.WAITING,
    (TaskState.SUBMITTED, Trigger.NOT_ADMITTED): TaskState.REJECTED,
    (TaskState.SUBMITTED, Trigger.NO_ROOM_ANYWHERE): TaskState.REJECTED,
    (TaskState.WAITING, Trigger.ADMITTED): TaskState.ACCEPTED,
    (TaskState.ACCEPTED, Trigger.STARTED): TaskState.RUNNING,
    (TaskState.ACCEPTED, Trigger.NO_ROOM): TaskState.WAITING,
    (TaskState.ACCEPTED, Trigger.UNSERVED): TaskState.FAILED,
    (TaskState.ACCEPTED, Trigger.LOST_FOR_GOOD): TaskState.FAILED,
    (TaskState.RUNNING, Trigger.RETURNED): TaskState.SUCCEEDED,
    (TaskState.RUNNING, Trigger.FAILED_AGAIN): TaskState.FAILED,
    (TaskState.RUNNING, Trigger.TO_BE_RETRIED): TaskState.RETRYING,
    (TaskState.RUNNING, Trigger.LOST): TaskState.ACCEPTED,
    (TaskState.RUNNING, Trigger.NO_ROOM): TaskState.WAITING,
    (TaskState.RUNNING, Trigger.LOST_FOR_GOOD): TaskState.FAILED,
    (TaskState.RETRYING, Trigger.ADMITTED): TaskState.ACCEPTED,
    (TaskState.RETRYING, Trigger.NO_ROOM): TaskState.WAITING,
    (TaskState.SUBMITTED, Trigger.DEADLINE): TaskState.EXPIRED,
    (TaskState.WAITING, Trigger.DEADLINE): TaskState.EXPIRED,
    (TaskState.ACCEPTED, Trigger.DEADLINE): TaskState.EXPIRED,
    (TaskState.RUNNING, Trigger.DEADLINE): TaskState.EXPIRED,
    (TaskState.RETRYING, Trigger.DEADLINE): TaskState.EXPIRED,
    (TaskState.SUBMITTED, Trigger.CANCELLED): TaskState.CANCELLED,
    (TaskState.WAITING, Trigger.CANCELLED): TaskState.CANCELLED,
    (TaskState.ACCEPTED, Trigger.CANCELLED): TaskState.CANCELLED,
    (TaskState.RUNNING, Trigger.CANCELLED): TaskState.CANCELLED,
    (TaskState.RETRYING, Trigger.CANCELLED): TaskState.CANCELLED,
}


def is_terminal(state: TaskState) -> bool:
    """Tell whether a task stays in `state` for good; of one known here, see `TaskFate.over`."""
    return state in TERMINAL


def may_follow(before: TaskState | None, after: TaskState) -> bool:
    """Tell whether one transition leads from `before` (None: not submitted yet) to `after`."""
    return any(source is before and target is after for (source, _), target in TRANSITIONS.items())
