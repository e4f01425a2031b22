"""What the registry knows of an agent, as values. Pure: times are seconds of an `Instant`."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from maniple.topology import agent_queue, suspect_lane
from maniple_runtime.control.messages import (
    AgentDescription,
    AgentId,
    AgentPhase,
    Command,
    Heartbeat,
    Incarnation,
)
from maniple_runtime.events import AgentEvent

UNKNOWN_LIFE: Final = Incarnation("")
"""Of an agent that stands in Consul and was never heard."""


class AgentState(StrEnum):
    """The registry's view of one incarnation of an agent."""

    ACTIVE = "active"
    UNREACHABLE = "unreachable"
    FAILED = "failed"
    DRAINING = "draining"
    LEFT = "left"


FINAL: Final = frozenset({AgentState.FAILED, AgentState.LEFT})


@dataclass(frozen=True, slots=True)
class Instant:
    """Now: seconds of the registry's `Clock`, and the time of day for people."""

    seconds: float
    at: datetime


@dataclass(frozen=True, slots=True)
class LaneView:
    """The queue of a place as the broker shows it."""

    ready: int
    consumers: int
    by_consumers: bool = False
    """Of suspects and of an agent's own queue: that messages wait there says nothing."""

    @property
    def waiting(self) -> bool:
        """Whether an agent with free slots should have taken something."""
        return self.ready > 0 and not self.by_consumers

    @property
    def untaken(self) -> bool:
        """Whether somebody who serves it should have done something."""
        return self.waiting or self.consumers == 0

    @property
    def blank(self) -> bool:
        """Whether it may be the answer for a queue that did not answer."""
        return self.ready == self.consumers == 0


@dataclass(frozen=True, slots=True)
class StalledConsumer:
    """Since when an agent has taken nothing although `place` wanted it to."""

    place: str
    since: float
    delivered_at: datetime | None
    doubted: bool = False
    told: bool = False
    unconsumed: bool = False
    """At the last look nobody consumed there."""
    asked_at: float | None = None
    """When it was asked to consume there anew."""

    @property
    def where(self) -> str:
        """The place in words."""
        return f"{'queue' if self.place.startswith(_OWN) else 'lane'} {self.place}"


_OWN: Final = agent_queue("").name


def places_of(description: AgentDescription) -> dict[str, str]:
    """Return what is looked at for an agent, each with the lane whose hunger counts there.

    Its lanes, their suspects, and its own queue, for which it must be hungry for any lane.
    """
    places = {lane: lane for lane in description.lanes}
    for lane in description.lanes:
        places.setdefault(suspect_lane(lane), lane)
    if description.affinity:
        places[agent_queue(description.agent).name] = ""
    return places


@dataclass(frozen=True, slots=True)
class AgentRecord:
    """One incarnation as last heard; `heard` last, `since` in its state, `begun` first heard."""

    state: AgentState
    heartbeat: Heartbeat
    heard: float
    since: float
    description: AgentDescription | None = None
    digest: str = ""
    """Of the description that we have; empty while we have none."""
    past: tuple[Incarnation, ...] = ()
    begun: float = 0.0
    unwell: bool = False
    """Its HTTP check in Consul is critical."""
    starving: StalledConsumer | None = None
    life: str = ""
    """As in the names of its connections; known only of an agent that was seen in Consul."""
    places: Mapping[str, str] = field(default_factory=dict)
    """See `places_of`; empty while we have no description."""
    fed: float = -math.inf
    """When it was heard last that it had taken something since the heartbeat before."""
    offset: float = 0.0
    """Seconds by which its clock was ahead of ours by the last heartbeat, less its way here."""
    ahead: float = 0.0
    """The same by the quicker one of the last two."""

    @property
    def agent(self) -> AgentId:
        """Id of the agent."""
        return self.heartbeat.agent

    @property
    def incarnation(self) -> Incarnation:
        """The life that this record is about."""
        return self.heartbeat.incarnation

    @property
    def own_place(self) -> str:
        """The name of its own queue."""
        return f"{_OWN}{self.agent}"

    @property
    def is_addressed(self) -> bool:
        """Whether it has a queue of its own."""
        return self.own_place in self.places

    @property
    def doubted(self) -> bool:
        """Whether a heartbeat alone does not clear it."""
        return self.unwell or (self.starving is not None and self.starving.doubted)

    @property
    def prefix(self) -> str:
        """What the names of its connections begin with; empty when that is not known."""
        return f"{self.agent}.{self.life}." if self.life else ""

    def has_connection_in(self, names: Iterable[str]) -> bool:
        """Whether one of these names is of the process that was seen in Consul."""
        return bool(self.prefix) and any(name.startswith(self.prefix) for name in names)

    @property
    def has_free_slots(self) -> bool:
        """Whether it says so."""
        heartbeat = self.heartbeat
        return heartbeat.slots > heartbeat.in_flight + heartbeat.held

    def open_lanes(self) -> tuple[str, ...]:
        """Return the lanes that it says it consumes and of which it does not hold enough.

        One that does not say so does while it has free slots.
        """
        heartbeat = self.heartbeat
        if (
            heartbeat.state is not AgentPhase.ACTIVE
            or not (self.state is AgentState.ACTIVE or self.state is AgentState.UNREACHABLE)
            or self.description is None
            or self.digest != heartbeat.digest
        ):
            return ()
        if heartbeat.hungry is None:
            return self.description.lanes if self.has_free_slots else ()
        return tuple(lane for lane in self.description.lanes if lane in heartbeat.hungry)


@dataclass(frozen=True, slots=True)
class Decision:
    """The record from now on (None: forgotten), events to publish, commands to the agent.

    `failed` are records whose broker connections shall be closed.
    """

    record: AgentRecord | None
    events: tuple[AgentEvent, ...] = ()
    commands: tuple[Command, ...] = ()
    failed: tuple[AgentRecord, ...] = ()
    refused: bool = False
    """What was heard cannot be, and has changed nothing."""
