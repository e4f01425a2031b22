"""One bulkhead: what was granted, to which lanes, and what is missing. Pure."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from maniple_dispatcher.limits.messages import Room

MAX_LANES = 2_000  # of which more are not looked at: then only what is told gives room back
MOST_LANES = 2 * MAX_LANES  # that are known; more than these may be there for a moment
MOST_NAMES = 50
NOTED = 10.0  # seconds for which it is noted that there were more than twice as many
BLANK = 10.0  # times as long as of others nothing is known of queues that look blank
ANYBODY = "*"


@dataclass(slots=True)
class Missing:
    """Tasks that were nowhere at any look since a time."""

    since: float
    least: int
    blank: bool


@dataclass(slots=True)
class Known:
    """Of a lane: since when tasks may be there, and which dispatchers sent some, if it is known."""

    since: float
    senders: set[str] = field(default_factory=set)


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
    lanes: dict[str, Known] = field(default_factory=dict)
    """Where tasks may be."""
    missing: Missing | None = None
    most: int = 0
    """About how many there were lately: no less, and seldom another number."""
    most_at: float = 0.0

    def lately(self, now: float, seconds: float) -> int:
        """Return how many were granted in the last seconds."""
        while self.grants and now - self.grants[0][0] > seconds:
            self.grants.popleft()
        return sum(number for _, number in self.grants)

    def grant(self, number: int, now: float) -> None:
        """Count some as granted."""
        self.counted += number
        self.grants.append((now, number))

    def note_most(self, now: float) -> bool:
        """Note about how many there are, if that has changed by much; tells whether it has."""
        most = self.most
        changed = self.counted > most or (self.counted < most // 2 and now - self.most_at > NOTED)
        if changed:
            # What is remembered had its reserve when it was written, and each restart would add.
            sure = self.counted - self.unsure
            self.most = self.counted + sure // 4
        if self.counted >= self.most // 2:
            self.most_at = now
        return changed

    def learn_room(self, told: Room, now: float, *, ours: bool, unsure: int) -> None:
        """Record what another owner has granted; as `Bulkheads.follow_owner`."""
        counted, lanes = told
        if not ours:
            self.keep_lanes(lanes)
        self.went_to(lanes, now)
        self.astray |= bool(unsure) and not lanes
        more = counted - self.counted
        if not ours:
            self.unsure = unsure
        elif more > 0:
            self.unsure += min(more, unsure)
        if more > 0:
            self.grant(more, now)
        elif not ours:
            self.counted = counted

    def miss_tasks(self, number: int, now: float, heard: float, *, blank: bool) -> bool:
        """Record that so many were nowhere at a look, where a queue may have looked `blank`.

        Tells whether some have ended by that: they were nowhere at any look for `heard` seconds.
        """
        missing = self.missing
        if missing is None:
            self.missing = Missing(now, number, blank)
            return False
        missing.blank = missing.blank or blank
        missing.least = min(missing.least, number)
        if now - missing.since < heard * (BLANK if missing.blank else 1.0):
            return False
        self.missing = None
        self.release_slots(missing.least)
        return True

    def went_to(self, lanes: Iterable[str], now: float) -> bool:
        """Record that some may be in these lanes; tells whether one is new."""
        before = len(self.lanes)
        for lane in lanes:
            if lane not in self.lanes and len(self.lanes) < MOST_LANES:
                self.lanes[lane] = Known(now)
        return len(self.lanes) > before

    def keep_lanes(self, lanes: Iterable[str]) -> None:
        """Forget all other lanes: there are none in them."""
        self.lanes = {lane: self.lanes[lane] for lane in lanes if lane in self.lanes}

    def lanes_before(self, then: float) -> frozenset[str]:
        """Return where those may be that went before."""
        return frozenset(lane for lane, known in self.lanes.items() if known.since <= then)

    def sends(self, lanes: Iterable[str], who: str) -> None:
        """Record that a dispatcher may send some there."""
        for lane in lanes:
            if (known := self.lanes.get(lane)) is not None:
                known.senders.add(who if len(known.senders) < MOST_NAMES else ANYBODY)

    def forget_lanes(self, lanes: Iterable[str], who: str) -> None:
        """Record that there are no such lanes, and that one dispatcher sends nothing there."""
        for lane in lanes:
            if (known := self.lanes.get(lane)) is not None:
                known.senders.discard(who)
                if not known.senders:
                    del self.lanes[lane]

    def release_slots(self, number: int) -> None:
        """Count some as ended: they take no room any more."""
        self.counted = max(0, self.counted - number)

    @property
    def room(self) -> Room:
        """How many take room, and where they may be."""
        return self.counted, tuple(sorted(self.lanes))
