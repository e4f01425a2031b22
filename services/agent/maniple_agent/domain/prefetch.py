"""How much an agent takes at once, from what it measured. Pure."""

import math
from dataclasses import dataclass, field

from maniple.errors import ErrorCode
from maniple.messages import Failure

START_WITHIN = 0.05
MAX_PREFETCH = 256
# Of a lane, or as many as can run. Those whose results are not confirmed are among them: more of
# them make nothing faster, but each garbage collection longer.
MAX_TASKS = 2048
LARGEST_BUNDLE = 128
FRESH = 0.3
# A change of the prefetch costs two round trips: only made when it is worth it.
WORTH = 2.0
SAMPLES = 4096
# What tells that something is wrong with the handler or what it needs, not with the task.
BREAKS = (
    ErrorCode.TIMEOUT,
    ErrorCode.HANDLER_ERROR,
    ErrorCode.HANDLER_CRASHED,
    ErrorCode.INVALID_OUTPUT,
)


@dataclass(slots=True)
class LaneMeasure:
    """Run times and bundle sizes of one lane: since the last report, and smoothed."""

    mean: float | None = None
    bundle: float | None = None
    times: list[float] = field(default_factory=list)
    runs: int = 0
    finished: dict[str, int] = field(default_factory=dict)
    succeeded: int = 0
    failed: int = 0
    failing: int = 0
    """Failures after the last success."""

    def record_end(self, *, well: bool) -> None:
        """Take an end that says how the lane is: a lost agent is a failure, bad input says none."""
        if well:
            self.succeeded += 1
            self.failing = 0
        else:
            self.failed += 1
            self.failing += 1

    def ends(self) -> tuple[int, int, int]:
        """Return (succeeded, failed, failing) since the last report, and begin anew."""
        found = self.succeeded, self.failed, self.failing
        self.succeeded = self.failed = self.failing = 0
        return found

    def ran(self, seconds: float, status: str, failure: Failure | None = None) -> None:
        """Take the run time of one attempt and how it ended."""
        if failure is None or failure.code in BREAKS:
            self.record_end(well=failure is None)
        self.runs += 1
        self.finished[status] = self.finished.get(status, 0) + 1
        if len(self.times) < SAMPLES:
            self.times.append(seconds)

    def bundled(self, tasks: int) -> None:
        """Take the size of a bundle that arrived."""
        known = tasks if self.bundle is None else self.bundle
        self.bundle = known + FRESH * (tasks - known)

    def make_report(self) -> tuple[int, float, float, dict[str, int]]:
        """Return (runs, mean, p99, finished by status) since the last report, and begin anew."""
        times, runs, finished = sorted(self.times), self.runs, self.finished
        self.times, self.runs, self.finished = [], 0, {}
        if not times:
            return 0, 0.0, 0.0, finished
        mean = sum(times) / len(times)
        self.mean = mean if self.mean is None else self.mean + FRESH * (mean - self.mean)
        return runs, mean, times[min(len(times) - 1, int(len(times) * 0.99))], finished


def prefetch_for(capacity: int, measure: LaneMeasure) -> int:
    """Return how many messages of a lane to hold: what can start within 50 ms, one to `MAX_TASKS`.

    `capacity` is the slots of the lane's executor that can be used. Unknown run times count as
    long, and unknown bundles as large.
    """
    rounds = 1.0 if measure.mean is None else max(1.0, START_WITHIN / max(measure.mean, 1e-6))
    bundle = LARGEST_BUNDLE if measure.bundle is None else max(measure.bundle, 1.0)
    tasks = min(capacity * rounds, max(capacity, MAX_TASKS))
    return max(1, min(MAX_PREFETCH, math.ceil(tasks / bundle)))


def worth_changing(current: int, wanted: int) -> bool:
    """Tell whether a lane's prefetch should be changed to `wanted`."""
    return wanted >= current * WORTH or wanted * WORTH <= current
