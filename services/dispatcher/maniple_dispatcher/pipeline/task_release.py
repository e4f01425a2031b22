"""How a task leaves the pipeline, to its lane or to a wait, and what leaves with it."""

import logging
from collections.abc import Callable
from datetime import datetime
from functools import partial

from msgspec.structs import replace

from maniple.errors import BrokerUnavailable
from maniple_dispatcher.egress.lane_publisher import LanePublisher
from maniple_dispatcher.pipeline.pipeline_task import PipelineTask
from maniple_dispatcher.pipeline.stages import ON_LEAVING, is_charged
from maniple_runtime.publish.confirm import DELIVERED_AGAIN

_COPIES = tuple((copies.kind, copies.copy) for copies in ON_LEAVING)

Go = Callable[[PipelineTask], None]
_log = logging.getLogger(__name__)


class TaskRelease:
    """Has tasks leave, once they are recorded if somebody may ask for that."""

    def __init__(
        self,
        lanes: LanePublisher,
        clock: Callable[[], datetime],
        *,
        give_back: Callable[[PipelineTask], PipelineTask],
        wait_undecided: Go,
    ) -> None:
        """Have what cannot leave `wait_undecided`; `give_back` the room of what another has."""
        self._lanes = lanes
        self._clock = clock
        self._give_back = give_back
        self._wait_undecided = wait_undecided

    def send_with_copies(self, task: PipelineTask) -> None:
        """Send a task to its lane that every stage has passed, and a new one's copies to theirs."""
        envelope = task.envelope
        if not task.returned:
            policy_of = task.resolved.policies.get
            for kind, copy_of in _COPIES:
                policy = policy_of(kind)
                if policy is None:
                    continue
                copy = copy_of(envelope, policy, self._clock())
                if copy is not None:
                    versions = {**envelope.policies, policy.key: policy.version}
                    envelope = replace(envelope, policies=versions)
                    self._lanes.mirror(copy)
        self._lanes.send_task(envelope, task.source)

    def release_task(self, task: PipelineTask, go: Go) -> None:
        """Call `go` for a task that is not ended here, once it is recorded if somebody may ask.

        A dispatcher to which it is delivered again then knows whether it was charged, and one that
        finds that it has expired, whether it may run: what has no record never left, and is as new.
        So what is not ours any more must not leave: another may have ended it by now.
        """
        asked = task.fell or task.source.expires or is_charged(task.resolved)
        if not (task.submitted and asked):
            go(task)
        elif task.source.alive:
            self._lanes.admitted(task.envelope, task.source, partial(self._left, task, go))
        else:
            self._drop(task)

    def _left(self, task: PipelineTask, go: Go) -> None:
        try:
            if task.source.alive:
                go(task)
            else:
                self._drop(task)
        except Exception:  # noqa: BLE001 - one of them must not cost the others, who come next
            _log.exception("a task cannot be dispatched")
            self._wait_undecided(replace(task, submitted=False))

    def _drop(self, task: PipelineTask) -> None:
        """Leave a task to whoever is given it again; whatever fails, its room is given back once.

        It is settled also if the room cannot be: its source may have others, who wait for that.
        Nothing is raised: whoever called would give the room back too, and have the task wait.
        """
        try:
            try:
                self._give_back(task)
            finally:
                task.source.settle(BrokerUnavailable(DELIVERED_AGAIN))
        except Exception:  # noqa: BLE001 - it is not ours any more: there is nothing else to do
            _log.exception("a task that is delivered again cannot be left")
