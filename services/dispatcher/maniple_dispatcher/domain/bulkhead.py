"""One bulkhead: what was granted, to which lanes, and what is missing. Pure."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from maniple.peers import Room

MAX_LANES = 2_000  # of which more are not looked at: then only what is told gives room back


@dataclass(slots=True)
class Missing:
    """Tasks that were nowhere at any look since a time."""

    since: float
    least: int
    blank: bool


@dataclass(slots=True)
class Bulkhead:
    """What its owner knows of one, beside what agents and dispatchers tell.

    Of those `counted`, `unsure` are only remembered from before all dispatchers died.
    """

    counted: int = 0
    unsure: int = 0
    astray: bool = False
    """Where the unsure ones may be is not known: there was no room to write down their lanes."""
    grants: deque[tuple[float, int]] = field(default_factory=deque)
    lanes: set[str] = field(default_factory=set)
    missing: Missing | None = None
    most: int = 0
    """About how many there were lately: no less, and seldom another number."""
    most_at: float = 0.0

    def lately(self, now: float, seconds: float) -> int:
        """Return how many were granted in the last seconds."""
        while self.grants and now - self.grants[0][0] > seconds:
            self.grants.popleft()
        return sum(number for _, number in self.grants)

    def grant(self, number: int, lanes: Iterable[str], now: float) -> None:
        """Let some go, to any of these lanes."""
        self.counted += number
        self.grants.append((now, number))
        self.went_to(lanes)

    def went_to(self, lanes: Iterable[str]) -> None:
        """Take that some may be in these lanes."""
        for lane in lanes:
            if len(self.lanes) < MAX_LANES:
                self.lanes.add(lane)

    def ended(self, number: int) -> None:
        """Take that some take room no more."""
        self.counted = max(0, self.counted - number)

    @property
    def room(self) -> Room:
        """How many take room, and where they may be."""
        return self.counted, tuple(sorted(self.lanes))
