"""The protocol time of a cluster: what one process relies on another keeping, as one value.

All processes of a cluster should have equal `Timings`; those that are told to differ say so (see
`shown`). Seconds, unless a field says otherwise. It is passed down, whole or in parts; whoever
needs a time has it from its constructor or as an argument. What only concerns one process (how
often a screen is drawn, how long a tool waits) is not here.

A value that would break a promise cannot be made: see `maniple.timing_rules`.
"""

import hashlib
import math
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Self

from maniple.timing_rules import complaints

LEAST_SCALE: Final = 0.1
MOST_SCALE: Final = 10.0


class WrongTimings(ValueError):
    """Times that do not fit together; the message names both, and why they must."""


def _outside(default: float, least: float) -> Any:
    """Return a field that no scale makes shorter than what is outside of us allows."""
    return field(default=default, metadata={"least": least})


def _share(default: float) -> Any:
    """Return a field that is no time and is not scaled."""
    return field(default=default, metadata={"share": True})


@dataclass(frozen=True, slots=True)
class _Group:
    """A part of the timings."""

    def scaled(self, factor: float) -> Self:
        """Return it with all times so many times as long."""
        changes: dict[str, Any] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if "share" not in one.metadata:
                longer = max(one.metadata.get("least", 0.0), value * factor)
                # Rounded up: what a client holds must not be given to others the sooner.
                changes[one.name] = math.ceil(longer - 1e-9) if one.type is int else longer
        return replace(self, **changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeats(_Group):
    """Of an agent, over RabbitMQ; registries, Consul and the agent itself go by them."""

    period: float = 3.0
    """between two heartbeats of an agent; registries call one missed after `Bounds.unreachable`"""
    jitter: float = _share(0.1)
    """share of `period` by which it varies"""
    confirm: float = 2.5
    """until a heartbeat that the broker has not confirmed is warned of, and not waited for"""

    @property
    def longest(self) -> float:
        """Seconds from one heartbeat to the next at most."""
        return self.period * (1 + self.jitter)


@dataclass(frozen=True, slots=True)
class Bounds(_Group):
    """Of a registry's view of an agent: of silence, and of work that waits untaken."""

    unreachable: float = 4.5
    """of silence until an agent is suspected"""
    failed: float = 9.0
    """of silence until it is failed: its tasks are given to others, so it must have stopped them"""
    forgotten: float = 600.0
    """for which a failed or left agent is known"""
    starving: float = 2.0
    """from the first look at work that it leaves untaken until it is suspected"""
    reconnect: float = 5.0
    """until it is told to build its connections anew"""
    hopeless: float = 10.0
    """until it is failed"""
    settling: float = 5.0
    """an incarnation known for less is not looked at: it may still be opening its consumers"""
    unwell: float = _outside(10.0, 2.0)
    """nor is its HTTP check held against one that is known for less: it failed for another"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fencing(_Group):
    """Of an agent whose heartbeats are not confirmed, from the sending of the last that was."""

    fenced: float = 6.0
    """until it takes and starts nothing new; registries do not count on it before `failed`"""
    exclusive: float = 8.0
    """until it stops what must not run twice"""
    look: float = 0.25
    """between two looks at the time, so that all of this may come so much later"""
    first_rebuild: float = 1.0
    """after it was fenced until it builds a connection anew: a heartbeat goes first"""
    rebuild: float = 5.0
    """between two rebuilds of one that seems to stand"""

    @property
    def stopped(self) -> float:
        """Seconds after which nothing exclusive runs any more."""
        return self.exclusive + self.look


@dataclass(frozen=True, slots=True, kw_only=True)
class Watching(_Group):
    """Of a registry, which judges agents by what it hears."""

    scan: float = 0.1
    """between two looks at who is silent"""
    look: float = 1.0
    """between two looks at lanes, and at Consul's checks"""
    echo: float = 1.0
    """for which it waits for its own echo before it judges many that are silent together"""
    proof: float = 1.0
    """for which an echo that came proves that it hears"""
    longest_step: float = 1.0
    """of its clock; more means that it stood still itself, and is not held against agents"""
    settling: float = 5.0
    """after its link was lost in which agents, who may have lost theirs, are not looked at"""
    seeding: float = 2.0
    """for which one that starts waits to hear all agents that stand in Consul"""
    answering: float = 0.2
    """of these, for those that Consul has lost"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standby(_Group):
    """Of registries among themselves: when another does what the leader should have done."""

    grace: float = 0.5
    """for which a standby waits whether what it decided is seen done"""
    reconnect_grace: float = 5.0
    """the same for telling an agent to reconnect, which shows only when it takes work again"""
    remembered: float = 10.0
    """for which an event seen is known as done; replicas differ by less"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog(_Group):
    """Of a process's entry in Consul, which registries and people go by."""

    ttl: float = _outside(6.0, 1.0)
    """without a sign of life until the TTL check is critical"""
    refresh: float = 2.0
    """between two refreshes by a process that has no heartbeats"""
    http_interval: float = _outside(5.0, 1.0)
    """between two looks of Consul at `/health`; Consul takes no less than a second"""
    http_timeout: float = _outside(3.0, 1.0)
    """for which Consul waits for the page"""
    gone: float = _outside(10.0, 2.0)
    """for which all checks of an entry have been critical when a registry takes it out"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leading(_Group):
    """Of the lock in Consul that decides who of several replicas leads."""

    look: float = 1.0
    """between two looks at the lock"""
    lease: float = 5.0
    """for which a look that found us leading holds"""
    lock_delay: float = 1.0
    """for which Consul gives the lock to nobody after its holder's session ended"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Amqp(_Group):
    """Of a connection to RabbitMQ."""

    heartbeat: int = _outside(5, 1)
    """whole seconds, as the protocol has it; the broker gives others what a client holds after two
    to three of them without a word"""
    silence: float = _share(1.6)
    """of these without a word of the broker until the connection is taken for dead"""
    tick: float = 1.0
    """between two looks whether the broker is there"""
    confirm: float = 30.0
    """without the confirm of a message until the connection is taken for dead"""
    connect: float = _outside(4.0, 4.0)
    """of one attempt to connect; into a black hole a SYN goes at 0, 1 and 3 s, whatever we do"""
    open: float = _outside(10.0, 10.0)
    """until a connection is whole the first time, and longer from then on: what is busy needs it"""
    longest_open: float = _outside(30.0, 30.0)
    """until it is at most"""

    @property
    def silent(self) -> float:
        """Seconds without a word of the broker until the connection is taken for dead."""
        return self.silence * self.heartbeat

    def ticks(self, seconds: float) -> int:
        """Return how many looks that is.

        In looks of the loop and not by the clock: a process that was stopped for a minute, or whose
        loop was held up, must not take its own sleep for the broker's silence.
        """
        return max(1, round(seconds / self.tick))


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """All of them. Raises `WrongTimings` where they do not fit together."""

    heartbeats: Heartbeats = field(default_factory=Heartbeats)
    bounds: Bounds = field(default_factory=Bounds)
    fencing: Fencing = field(default_factory=Fencing)
    watching: Watching = field(default_factory=Watching)
    standby: Standby = field(default_factory=Standby)
    catalog: Catalog = field(default_factory=Catalog)
    leading: Leading = field(default_factory=Leading)
    amqp: Amqp = field(default_factory=Amqp)

    def __post_init__(self) -> None:
        """Refuse what would break a promise."""
        if found := complaints(self):
            raise WrongTimings("; ".join(found))

    def scaled(self, factor: float) -> Self:
        """Return it with all times so many times as long, as far as others allow.

        `factor` is from `LEAST_SCALE` to `MOST_SCALE`; what it makes of the defaults is valid.
        """
        if not LEAST_SCALE <= factor <= MOST_SCALE:
            raise WrongTimings(f"a scale is from {LEAST_SCALE:g} to {MOST_SCALE:g}, not {factor:g}")
        if factor == 1:
            return self
        parts = {one.name: getattr(self, one.name).scaled(factor) for one in fields(self)}
        return replace(self, **parts)

    def bounded(self, **seconds: float | None) -> Self:
        """Return it with these fields of `bounds`, as far as they are given."""
        given = {name: value for name, value in seconds.items() if value is not None}
        return replace(self, bounds=replace(self.bounds, **given)) if given else self

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits, equal for equal timings."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:8]

    def shown(self) -> dict[str, float | str]:
        """Return what a process tells of its timings: the digest of all, and those of membership.

        `heartbeat` and `exclusive` are the latest: the longest between two heartbeats, and when
        nothing exclusive runs any more.
        """
        return {
            "digest": self.digest,
            "heartbeat": round(self.heartbeats.longest, 6),
            "unreachable": round(self.bounds.unreachable, 6),
            "fenced": round(self.fencing.fenced, 6),
            "exclusive": round(self.fencing.stopped, 6),
            "failed": round(self.bounds.failed, 6),
        }
