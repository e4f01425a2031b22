"""What becomes of a task that its agent could not run to an end. Pure."""

from dataclasses import dataclass

from msgspec.structs import replace

from maniple.attempts import Ran, result_of
from maniple.errors import ErrorCode
from maniple.messages import Envelope, Failure, Result, Status
from maniple.tasks import TaskDefinition
from maniple.topology import lane_key

LOST_AFTER = 5


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
    lost = envelope.lost + 1
    suspected = envelope.suspected + suspect
    at_most_once = definition is not None and definition.on_lost == "fail"
    moved = replace(envelope, lost=lost, suspected=suspected)
    if suspected >= LOST_AFTER or at_most_once:
        message = (
            "its agent was lost, and it may run at most once"
            if at_most_once
            else f"{lost} agents were lost while they held it"
        )
        failure = Failure(code=ErrorCode.AGENT_LOST, message=message)
        return result_of(moved, Status.FAILED, ran, failure=failure)
    return Move(lane_key(envelope.lane, lost), moved)


def unknown_capability(envelope: Envelope, ran: Ran) -> Result:
    """Return the result of a task that this agent has no handler for."""
    failure = Failure(
        code=ErrorCode.NO_AGENT, message=f"agent has no handler for {envelope.capability!r}"
    )
    return result_of(envelope, Status.FAILED, ran, failure=failure)
