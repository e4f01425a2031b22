"""Whose clock is wrong: an agent's, or this registry's own. Pure."""

from collections.abc import Iterable
from typing import Final

from maniple_registry.domain.records import FINAL, UNKNOWN_LIFE, AgentRecord

SLEW: Final = 0.01
"""Seconds by which the cluster's time is led elsewhere in a second: what a ttl is then wrong by."""


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
    """Return by how many seconds the right time is ahead of our clock: 0 unless most say so.

    Most of all hosts, ours among them. `agree` is by how much clocks may differ.
    """
    clocks = sorted([0.0, *others])
    low, high = clocks[(len(clocks) - 1) // 2], clocks[len(clocks) // 2]
    middle = 0.0 if low <= 0.0 <= high else min(low, high, key=abs)
    return middle if abs(middle) > agree else 0.0


def slewed(ahead: float, target: float, elapsed: float) -> float:
    """Lead a time that is `ahead` of something nearer to `target`, `elapsed` seconds later."""
    most = SLEW * elapsed
    return ahead + max(-most, min(most, target - ahead))


def told(ahead: float) -> str:
    """Say by how much a clock is wrong."""
    return f"{abs(ahead):.0f} s {'ahead' if ahead > 0 else 'behind'}"
