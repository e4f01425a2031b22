"""Deadlines of tasks that wait somewhere, as a few numbers. Pure."""

import math

MINUTE, HOUR = 60, 3600
FARTHEST = 8 * 24 * HOUR  # no deadline is farther away than 7 days
NEVER = math.inf


class Deadlines:
    """When tasks of one lane are over, coalesced: at most some 330 numbers, however many tasks.

    What is over within a minute is known to the second, rounded up. What is over later is known by
    the beginning of its minute, or of its hour: then the lane is turned over, and from then on
    what is in it is known better.
    """

    __slots__ = ("_at", "first")

    def __init__(self) -> None:
        self._at: set[int] = set()
        self.first = NEVER

    def __len__(self) -> int:
        return len(self._at)

    def add_deadline(self, deadline: float, now: float) -> int:
        """Add a deadline, and return by what it is known; all are seconds of the same clock."""
        left = deadline - now
        if left <= MINUTE:
            at = math.ceil(deadline)
        elif left <= HOUR:
            at = int(deadline) // MINUTE * MINUTE
        else:
            at = int(min(deadline, now + FARTHEST)) // HOUR * HOUR
        if at not in self._at:
            self._at.add(at)
            self.first = min(self.first, at)
        return at

    def pass_until(self, now: float) -> bool:
        """Forget those until `now`; tell whether there were any."""
        if now < self.first:
            return False
        self._at = {at for at in self._at if at > now}
        self.first = min(self._at, default=NEVER)
        return True
