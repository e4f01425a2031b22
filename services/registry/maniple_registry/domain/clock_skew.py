"""Whose clock is wrong: an agent's, or this registry's own. Pure."""

from collections.abc import Iterable
from typing import Final

from maniple_registry.domain.agent_record import FINAL, UNKNOWN_LIFE, AgentRecord

SLEW: Final = 0.01
"""Least correction of the cluster's time per second, in seconds; more for more than half a
minute. A ttl is then wrong by as much."""
HOUR: Final = 3600.0
DAY: Final = 86400.0
SET_BACK: Final = 5
"""Multiple of the allowed difference above which time is set back at once."""
LOOKS: Final = 3
"""How many looks in a row must agree that it is: one may precede another registry's broadcast."""
LONGEST_STEP: Final = 60.0
"""Most seconds that count as passed between two looks: a process that stood still would jump."""


def by_host(records: Iterable[AgentRecord], own_host: str) -> list[float]:
    """Return by how many seconds the clock of each other host is ahead of ours.

    All agents of a host have one clock. A heartbeat that was long on its way makes it seem behind,
    never ahead; so of all its agents the one counts that is the furthest ahead.
    """
    ahead: dict[str, float] = {}
    for record in records:
        if record.description is None or record.state in FINAL:
            continue
        host = record.description.host
        if record.incarnation != UNKNOWN_LIFE and host != own_host:
            ahead[host] = max(record.ahead, ahead.get(host, record.ahead))
    return list(ahead.values())


def correction(others: Iterable[float], agree: float) -> float:
    """Return by how many seconds the right time is ahead of our clock: 0 unless most hosts differ.

    Most of all hosts, ours among them. `agree` is by how much clocks may differ.
    """
    clocks = sorted([0.0, *others])
    low, high = clocks[(len(clocks) - 1) // 2], clocks[len(clocks) // 2]
    middle = 0.0 if low <= 0.0 <= high else min(low, high, key=abs)
    return middle if abs(middle) > agree else 0.0


def slewed(ahead: float, target: float, elapsed: float) -> float:
    """Return how far time is ahead after `elapsed` seconds of moving from `ahead` to `target`.

    The larger the difference, the faster, so that hours take hours and not weeks; but up to a day
    it at most doubles the pace: what has a minute keeps half of it.
    """
    gap = target - ahead
    most = elapsed * max(SLEW, min(1.0, abs(gap) / HOUR), abs(gap) / DAY)
    return ahead + max(-most, min(most, gap))


class Leading:
    """The cluster's time as a registry leads it, by how far it is ahead of a steady clock.

    It jumps only backwards, by which nothing ends too early.
    """

    def __init__(self, agree: float) -> None:
        """Start without a time; `agree` is by how much clocks may differ."""
        self.ahead: float | None = None
        self._most_ahead = SET_BACK * agree
        self._at = 0.0
        self._looks = 0

    def follow(self, ahead: float, now: float) -> None:
        """Adopt another registry's time, or one that is to count from now on."""
        self.ahead, self._at, self._looks = ahead, now, 0

    def lead(self, target: float, now: float) -> None:
        """Move nearer to `target`; without a time, start there."""
        if self.ahead is None:
            self.follow(target, now)
            return
        self._looks = self._looks + 1 if self.ahead - target > self._most_ahead else 0
        if self._looks >= LOOKS:
            self.follow(target, now)
            return
        self.ahead = slewed(self.ahead, target, min(now - self._at, LONGEST_STEP))
        self._at = now


def told(ahead: float) -> str:
    """Return a sentence about by how much a clock is wrong."""
    return f"{abs(ahead):.0f} s {'ahead' if ahead > 0 else 'behind'}"
