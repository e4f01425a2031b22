"""How often an agent that is told again and again that its life has ended begins a new one."""

from dataclasses import dataclass

FIRST = 0.5
LONGEST = 30.0
CALM = 120.0  # seconds without a return, after which the next one is the first


@dataclass(slots=True)
class RejoinBackoff:
    """At once, then after pauses that double. Seconds are those of a steady clock."""

    last: float = float("-inf")
    pause: float = 0.0

    def allows(self, now: float) -> bool:
        """Tell whether to come back now; if so, it counts as done."""
        rested = now - self.last
        if rested < self.pause:
            return False
        self.pause = FIRST if rested >= CALM else min(LONGEST, max(FIRST, 2 * self.pause))
        self.last = now
        return True
