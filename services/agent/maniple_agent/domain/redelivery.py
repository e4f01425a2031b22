"""What becomes of a task that its agent could not run to an end. Pure."""

from dataclasses import dataclass

from msgspec.structs import replace

from maniple.attempts import Ran, result_of
from maniple.errors import ErrorCode
from maniple.messages import Envelope, Failure, Result, Status
from maniple.tasks import TaskDefinition
from maniple.topology import lane_key
from maniple_runtime.redelivery import once_more, too_often


@dataclass(frozen=True, slots=True)
class Move:
    """Publish the envelope alone under this key of `maniple.lanes`."""

    key: str
    envelope: Envelope


def after_loss(
    envelope: Envelope, definition: TaskDefinition | None, ran: Ran, *, suspect: bool
) -> Move | Result:
    """Return what becomes of a task whose agent vanished while it held it.

    It goes alone to its lane, from the second loss to the lane's suspects, where only losses count
    towards the last one. `on_lost="fail"` ends it at once: it runs at most once.
    """
    moved = once_more(envelope, suspect=suspect)
    if definition is not None and is_over(moved, definition):
        return lost_at_most_once(moved, ran)
    if (why := too_often(moved)) is not None:
        return _lost(moved, ran, why)
    return Move(lane_key(moved.lane, moved.lost), moved)


def after_stop(envelope: Envelope, definition: TaskDefinition, ran: Ran, key: str) -> Move | Result:
    """Return what becomes of a task that its agent stopped while it ran, because it leaves.

    It had started, so `on_lost="fail"` ends it. Otherwise it goes back to the lane that it came by
    (`key`) as it is: no agent was lost, so nothing brings it nearer to the suspects.
    """
    lost = replace(envelope, lost=envelope.lost + 1)
    if is_over(lost, definition):
        return lost_at_most_once(lost, ran)
    return Move(key, envelope)


def is_over(envelope: Envelope, definition: TaskDefinition) -> bool:
    """Tell whether a task must not run because an agent was lost while it held it."""
    return envelope.lost > 0 and definition.on_lost == "fail"


def may_copy(definition: TaskDefinition | None) -> bool:
    """Tell whether two of a task may be on their way: not of one that must not run twice."""
    return definition is None or not (definition.on_lost == "fail" or definition.exclusive)


def lost_at_most_once(envelope: Envelope, ran: Ran) -> Result:
    """Return the result of a task that may run once and may have run already."""
    return _lost(envelope, ran, "its agent was lost, and it may run at most once")


def _lost(envelope: Envelope, ran: Ran, message: str) -> Result:
    failure = Failure(code=ErrorCode.AGENT_LOST, message=message)
    return result_of(envelope, Status.FAILED, ran, failure=failure)


def unknown_capability(envelope: Envelope, ran: Ran) -> Result:
    """Return the result of a task that this agent has no handler for."""
    failure = Failure(
        code=ErrorCode.NO_AGENT, message=f"agent has no handler for {envelope.capability!r}"
    )
    return result_of(envelope, Status.FAILED, ran, failure=failure)
