"""What a dispatcher does with messages of the control plane."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from maniple.control import Outcomes
from maniple.topology import OUTCOMES, Exchange
from maniple_dispatcher.domain.sizing import Sizes
from maniple_dispatcher.lanes import Lanes


@dataclass(frozen=True)
class Handlers:
    """The control plane's handlers, with what they act on."""

    lanes: Lanes
    sizes: Sizes

    def learn_run_times(self, report: Outcomes) -> None:
        """Let bundles of the reported lanes carry what fits their run times."""
        for lane in report.lanes:
            size = self.sizes.learn(lane.lane, lane.runs.count, lane.runs.p99)
            self.lanes.resize(lane.lane, size)


def routes(handlers: Handlers) -> Mapping[Exchange, tuple[type[Any], Callable[[Any], None]]]:
    """Return which message of which exchange goes to which handler."""
    return {OUTCOMES: (Outcomes, handlers.learn_run_times)}
