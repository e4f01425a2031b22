"""How many tasks a bundle of a lane may carry, from what agents report. Pure."""

from dataclasses import dataclass, field

from maniple.amqp.batching import MAX_ITEMS

BUNDLE_SECONDS = 0.05
KNOWN_AFTER = 100
# The weight of the newest report against what was known before it.
FRESH = 0.3


@dataclass(slots=True)
class LaneTimes:
    """What is known of the run times of one lane."""

    runs: int = 0
    p99: float = 0.0

    def learn(self, count: int, p99: float) -> None:
        """Take a report of `count` runs, the slowest hundredth of which took `p99` seconds.

        A slower lane is believed at once, a faster one gradually.
        """
        if count <= 0:
            return
        self.p99 = p99 if p99 >= self.p99 else self.p99 + FRESH * (p99 - self.p99)
        self.runs += count


@dataclass(slots=True)
class Sizes:
    """Bundle sizes of all lanes: expected run time under 50 ms, one task until 100 runs are known.

    So a bundle stays cheap to lose, and slow capabilities stay finely balanced.
    """

    lanes: dict[str, LaneTimes] = field(default_factory=dict)

    def learn(self, lane: str, count: int, p99: float) -> int:
        """Take a report and return the size in force for the lane now."""
        self.lanes.setdefault(lane, LaneTimes()).learn(count, p99)
        return self.size(lane)

    def size(self, lane: str) -> int:
        """Return the most tasks a bundle of `lane` may carry."""
        times = self.lanes.get(lane)
        if times is None or times.runs < KNOWN_AFTER:
            return 1
        return max(1, min(MAX_ITEMS, int(BUNDLE_SECONDS / max(times.p99, 1e-6))))
