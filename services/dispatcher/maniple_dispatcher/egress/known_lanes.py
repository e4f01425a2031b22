"""What is known of lanes: whether they are there, and how many tasks a bundle may carry. Pure.

Anybody may invent names of capabilities, and what waits for one that no agent offers is looked at
for up to seven days. A publish that finds no queue costs as much as one that does, and one to a new
place more. So of lanes of which nothing is known only some are tried at a time; what is for another
waits without. What agents are heard to offer, or took something before, is always tried.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from maniple.amqp.batching import MAX_ITEMS
from maniple_runtime.allowance import Allowance

RATE = 20.0  # lanes a second
BURST = 100.0
MOST_LOOKING = 256
MOST_THERE = 16_384
BUNDLE_SECONDS = 0.05
KNOWN_AFTER = 100
# The weight of the newest report against what was known before it.
FRESH = 0.3


class LaneProbes:
    """Lanes that are there, and those that are being looked for."""

    def __init__(self, knows: Callable[[str], bool]) -> None:
        """Begin with none besides those that one `knows` otherwise."""
        self._knows = knows
        self.there: set[str] = set()
        """Lanes that took something: they need not be looked for, nor be found."""
        self._looking: dict[str, None] = {}
        self._allowance = Allowance(RATE, BURST)

    def may_try(self, lane: str, now: float) -> bool:
        """Tell whether a task may try its lane; if it is looked for already, it goes with that."""
        if lane in self.there or lane in self._looking or self._knows(lane):
            return True
        if not self._allowance.take(now):
            return False
        if len(self._looking) >= MOST_LOOKING:  # one that does not answer must not stay for ever
            del self._looking[next(iter(self._looking))]
        self._looking[lane] = None
        return True

    def found(self, lane: str) -> None:
        """Record that a lane took something."""
        if lane in self.there:
            return
        self._looking.pop(lane, None)
        if len(self.there) >= MOST_THERE:
            self.there.clear()
        self.there.add(lane)

    def missed(self, lane: str) -> None:
        """Record that there is no such lane."""
        self._looking.pop(lane, None)
        self.there.discard(lane)


@dataclass(slots=True)
class LaneTimes:
    """What is known of the run times of one lane."""

    runs: int = 0
    mean: float = 0.0

    def learn(self, count: int, mean: float) -> None:
        """Learn from a report of `count` runs, which took `mean` seconds each on average.

        A slower lane is believed at once, a faster one gradually.
        """
        if count <= 0:
            return
        self.mean = mean if mean >= self.mean else self.mean + FRESH * (mean - self.mean)
        self.runs += count


@dataclass(slots=True)
class Sizes:
    """Bundle sizes of all lanes: expected run time under 50 ms, one task until 100 runs are known.

    So a bundle stays cheap to lose, and slow capabilities stay finely balanced. What counts is the
    mean, by which the time of a whole bundle goes: few slow tasks among many make it as small as
    they are slow, but a process that waits for its turn now and then does not.
    """

    lanes: dict[str, LaneTimes] = field(default_factory=dict)

    def learn(self, lane: str, count: int, mean: float) -> int:
        """Learn from a report and return the size in force for the lane now."""
        self.lanes.setdefault(lane, LaneTimes()).learn(count, mean)
        return self.size(lane)

    def size(self, lane: str) -> int:
        """Return the most tasks a bundle of `lane` may carry."""
        times = self.lanes.get(lane)
        if times is None or times.runs < KNOWN_AFTER:
            return 1
        return max(1, min(MAX_ITEMS, int(BUNDLE_SECONDS / max(times.mean, 1e-6))))
