"""For which lanes it is tried whether they are there. Pure.

Anybody may invent names of capabilities, and what waits for one that no agent offers is looked at
for up to seven days. A publish that finds no queue costs as much as one that does, and one to a new
place more. So of lanes of which nothing is known only some are tried at a time; what is for another
waits without. What agents are heard to offer, or took something before, is always tried.
"""

from collections.abc import Callable

from maniple_runtime.allowance import Allowance

RATE = 20.0  # lanes a second
BURST = 100.0
MOST_LOOKING = 256
MOST_THERE = 16_384


class LaneProbes:
    """Lanes that are there, and those that are being looked for."""

    def __init__(self, knows: Callable[[str], bool]) -> None:
        """Begin with none besides those that one `knows` otherwise."""
        self._knows = knows
        self._there: set[str] = set()
        self._looking: dict[str, None] = {}
        self._allowance = Allowance(RATE, BURST)

    def may_try(self, lane: str, now: float) -> bool:
        """Tell whether a task may try its lane; if it is looked for already, it goes with that."""
        if lane in self._there or lane in self._looking or self._knows(lane):
            return True
        if not self._allowance.take(now):
            return False
        if len(self._looking) >= MOST_LOOKING:  # one that does not answer must not stay for ever
            del self._looking[next(iter(self._looking))]
        self._looking[lane] = None
        return True

    def found(self, lane: str) -> None:
        """Take that a lane took something."""
        if lane in self._there:
            return
        self._looking.pop(lane, None)
        if len(self._there) >= MOST_THERE:
            self._there.clear()
        self._there.add(lane)

    def missed(self, lane: str) -> None:
        """Take that there is no such lane."""
        self._looking.pop(lane, None)
        self._there.discard(lane)
