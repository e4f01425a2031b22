"""A task on its way through the pipeline."""

from msgspec import Struct
from msgspec.structs import replace

from maniple.messages import Envelope
from maniple_dispatcher.limits.limit import ConcurrencyLimit, Limit
from maniple_dispatcher.pipeline.verdicts import Delay, State
from maniple_policies import Resolved
from maniple_runtime.publish.confirm import Settlement


class PipelineTask(Struct, frozen=True):
    """A task on its way through the pipeline."""

    envelope: Envelope
    resolved: Resolved
    source: Settlement
    returned: bool = False
    """It comes back from a wait: it is not to end for being refused."""
    submitted: bool = False
    """It comes from a submission, new or not."""
    fell: bool = False
    """It is here instead of another capability that refused it."""
    room: ConcurrencyLimit | None = None
    delay: Delay | None = None
    """It goes on so much later, once it has passed the stages of `ONCE`."""


def once_pending(task: PipelineTask) -> PipelineTask:
    """Return a task that has yet to pass the stages of `ONCE`, after what it waits for now."""
    if task.envelope.owing:
        return task
    return replace(task, envelope=replace(task.envelope, owing=True))


def once_passed(task: PipelineTask) -> PipelineTask:
    """Return a task that has passed the stages of `ONCE`: no wait makes it pay again."""
    if not task.envelope.owing:
        return task
    # It has waited, and that it has is not to be forgotten: nor does it end for want of room now.
    waits = max(1, task.envelope.waits)
    return replace(task, envelope=replace(task.envelope, owing=False, waits=waits))


def with_room(task: PipelineTask, limit: Limit, state: State) -> PipelineTask:
    """Return a task with the room that it got, if that was asked for."""
    if not state.passes or not isinstance(limit, ConcurrencyLimit):
        return task
    return replace(task, envelope=replace(task.envelope, bulkhead=limit.key), room=limit)


def delayed(task: PipelineTask, delay: Delay) -> PipelineTask:
    """Return a task that goes on later: by the longest of its delays."""
    longer = task.delay is None or delay.seconds > task.delay.seconds
    return replace(task, delay=delay) if longer else task
