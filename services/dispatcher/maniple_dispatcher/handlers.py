"""What a dispatcher does with messages of the control plane."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from maniple_dispatcher.egress.lane_publisher import LanePublisher
from maniple_dispatcher.limits.breaker import Ends
from maniple_dispatcher.limits.concurrency import Held
from maniple_dispatcher.limits.coordinator import Coordinator
from maniple_runtime.control.messages import Cancel, LaneOutcomes, Outcomes, Time

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DispatcherHandlers:
    """The control plane's handlers, with what they act on."""

    lanes: LanePublisher
    coordinator: Coordinator
    monotonic: Callable[[], float]
    hear: Callable[[Time], None] = lambda _: None
    """Takes the cluster's time."""

    def on_outcomes(self, report: Outcomes) -> None:
        """Take how attempts ended: it decides about bundles, breakers and bulkheads."""
        now = self.monotonic()
        for lane in report.lanes:
            try:
                self._learn_lane(lane, now)
            except Exception:  # noqa: BLE001 - one of them must not cost the others
                _log.exception("the report of %s about %s cannot be used", report.agent, lane.lane)
        held = [Held(one.key, one.here, one.ended) for one in report.bulkheads]
        self.coordinator.owned.bulkheads.record_load((report.agent, report.incarnation), held, now)

    def _learn_lane(self, lane: LaneOutcomes, now: float) -> None:
        self.lanes.learn_times(lane.lane, lane.runs.count, lane.runs.mean)
        ends = Ends(lane.ends.succeeded, lane.ends.failed, lane.ends.failing)
        self.coordinator.record_outcomes(lane.lane, ends, now)

    def on_command(self, command: Cancel | Time) -> None:
        """End a task when it passes, or take the time."""
        if isinstance(command, Time):
            self.hear(command)
        else:
            self.lanes.cancel_task(command.tenant, command.id)
