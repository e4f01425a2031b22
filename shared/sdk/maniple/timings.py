"""The protocol timings of a cluster: the times that one process relies on another keeping.

All processes of a cluster should have equal `Timings`; processes that differ are reported (see
`shown`). The value is passed down, whole or in parts, to constructors and functions. Times that
concern one process only (how often a screen is drawn, how long a tool waits) are not here.

The parts, with what each time means and who relies on it, are in `maniple.timing_parts`; a value
that would break a promise (`maniple.timing_rules`) cannot be made.
"""

import hashlib
from dataclasses import dataclass, field, fields, replace
from typing import Final, Self

from maniple.timing_checks import complaints
from maniple.timing_parts import (
    Amqp,
    Bounds,
    Catalog,
    Clocks,
    Expiry,
    Fencing,
    Heartbeats,
    Holding,
    Leading,
    Peers,
    Policies,
    Queues,
    Reports,
    Standby,
    Watching,
)

__all__ = [
    "LEAST_SCALE",
    "MOST_SCALE",
    "Amqp",
    "Bounds",
    "Catalog",
    "Clocks",
    "Expiry",
    "Fencing",
    "Heartbeats",
    "Holding",
    "Leading",
    "Peers",
    "Policies",
    "Queues",
    "Reports",
    "Standby",
    "Timings",
    "Watching",
    "WrongTimings",
]

LEAST_SCALE: Final = 0.1
MOST_SCALE: Final = 10.0


class WrongTimings(ValueError):
    """Times that do not fit together; the message names both, and why they must."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """All protocol timings of a cluster. Raises `WrongTimings` where they do not fit together."""

    heartbeats: Heartbeats = field(default_factory=Heartbeats)
    bounds: Bounds = field(default_factory=Bounds)
    fencing: Fencing = field(default_factory=Fencing)
    watching: Watching = field(default_factory=Watching)
    standby: Standby = field(default_factory=Standby)
    clocks: Clocks = field(default_factory=Clocks)
    catalog: Catalog = field(default_factory=Catalog)
    leading: Leading = field(default_factory=Leading)
    amqp: Amqp = field(default_factory=Amqp)
    holding: Holding = field(default_factory=Holding)
    reports: Reports = field(default_factory=Reports)
    peers: Peers = field(default_factory=Peers)
    policies: Policies = field(default_factory=Policies)
    queues: Queues = field(default_factory=Queues)
    expiry: Expiry = field(default_factory=Expiry)

    def __post_init__(self) -> None:
        """Refuse timings that would break a promise."""
        if found := complaints(self):
            raise WrongTimings("; ".join(found))

    def scaled(self, factor: float) -> Self:
        """Return the timings with all times multiplied by `factor`, as far as that is possible.

        `factor` is from `LEAST_SCALE` to `MOST_SCALE`; the scaled defaults are valid.
        """
        if not LEAST_SCALE <= factor <= MOST_SCALE:
            raise WrongTimings(f"a scale is from {LEAST_SCALE:g} to {MOST_SCALE:g}, not {factor:g}")
        if factor == 1:
            return self
        parts = {one.name: getattr(self, one.name).scaled(factor) for one in fields(self)}
        return replace(self, **parts)

    def bounded(self, *, leftover: float | None = None, **seconds: float | None) -> Self:
        """Return the timings with other values of these fields of `bounds` and `queues`."""
        given = {name: value for name, value in seconds.items() if value is not None}
        queues = self.queues if leftover is None else replace(self.queues, leftover=leftover)
        return replace(self, bounds=replace(self.bounds, **given), queues=queues)

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits, equal for equal timings."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:8]

    def shown(self) -> dict[str, float | str]:
        """Return what a process reports of its timings: the digest of all, and those of membership.

        `heartbeat` and `exclusive` are the latest values: the longest time between two heartbeats,
        and when nothing exclusive runs any more.
        """
        return {
            "digest": self.digest,
            "heartbeat": round(self.heartbeats.longest, 6),
            "unreachable": round(self.bounds.unreachable, 6),
            "fenced": round(self.fencing.fenced, 6),
            "exclusive": round(self.fencing.stopped, 6),
            "failed": round(self.bounds.failed, 6),
        }
