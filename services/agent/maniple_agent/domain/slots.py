"""How much an agent takes at once, from what it measured. Pure."""

import math
from dataclasses import dataclass, field

START_WITHIN = 0.05
MAX_PREFETCH = 256
FRESH = 0.3
# A change of the prefetch costs two round trips: only made when it is worth it.
WORTH = 2.0
SAMPLES = 4096


@dataclass(slots=True)
class LaneMeasure:
    """Run times and bundle sizes of one lane: since the last report, and smoothed."""

    mean: float | None = None
    bundle: float = 1.0
    times: list[float] = field(default_factory=list)
    runs: int = 0
    finished: dict[str, int] = field(default_factory=dict)

    def ran(self, seconds: float, status: str) -> None:
        """Take the run time of one attempt and how it ended."""
        self.runs += 1
        self.finished[status] = self.finished.get(status, 0) + 1
        if len(self.times) < SAMPLES:
            self.times.append(seconds)

    def bundled(self, tasks: int) -> None:
        """Take the size of a bundle that arrived."""
        self.bundle += FRESH * (tasks - self.bundle)

    def report(self) -> tuple[int, float, float, dict[str, int]]:
        """Return (runs, mean, p99, finished by status) since the last report, and begin anew."""
        times, runs, finished = sorted(self.times), self.runs, self.finished
        self.times, self.runs, self.finished = [], 0, {}
        if not times:
            return 0, 0.0, 0.0, finished
        mean = sum(times) / len(times)
        self.mean = mean if self.mean is None else self.mean + FRESH * (mean - self.mean)
        return runs, mean, times[min(len(times) - 1, int(len(times) * 0.99))], finished


def prefetch_for(capacity: int, measure: LaneMeasure) -> int:
    """Return how many messages of a lane to hold: what can start within 50 ms, at least one.

    `capacity` is the slots of the lane's executor. Unknown run times count as long.
    """
    rounds = 1.0 if measure.mean is None else max(1.0, START_WITHIN / max(measure.mean, 1e-6))
    tasks = capacity * rounds
    return max(1, min(MAX_PREFETCH, math.ceil(tasks / max(measure.bundle, 1.0))))


def worth_changing(current: int, wanted: int) -> bool:
    """Tell whether a lane's prefetch should be changed to `wanted`."""
    return wanted >= current * WORTH or wanted * WORTH <= current
