"""How many attempts may be repetitions: a share of what runs, so that retries make no storm. Pure.

Each agent keeps to the share for each lane by itself, and so they all do together.
"""

from collections import deque
from dataclasses import dataclass, field

WINDOW = 10.0  # seconds
MAX_LANES = 10_000


@dataclass(slots=True)
class _Lane:
    ends: deque[tuple[float, bool]] = field(default_factory=deque)
    repeated: int = 0

    def forget(self, until: float) -> None:
        while self.ends and self.ends[0][0] <= until:
            self.repeated -= self.ends.popleft()[1]


class RetryBudget:
    """What has run lately in each lane, and how much of it was decided to be run again."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._lanes: dict[str, _Lane] = {}

    def record_attempt(self, lane: str, now: float) -> None:
        """Count an attempt that has ended."""
        self._lane(lane, now).ends.append((now, False))

    def allows(self, lane: str, share: float, now: float) -> bool:
        """Tell whether one more may be run again; if so, it counts as done.

        One in a window always may: few tasks would otherwise never be tried again.
        """
        known = self._lane(lane, now)
        if known.repeated and known.repeated + 1 > share * (len(known.ends) - known.repeated):
            return False
        known.repeated += 1
        known.ends.append((now, True))
        return True

    def _lane(self, lane: str, now: float) -> _Lane:
        known = self._lanes.get(lane)
        if known is None:
            if len(self._lanes) >= MAX_LANES:
                self._lanes.clear()
            known = self._lanes[lane] = _Lane()
        known.forget(now - WINDOW)
        return known
