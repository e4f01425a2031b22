"""The registry's knowledge of an agent, as values. Pure: times are seconds of an `Instant`."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from maniple.topology import agent_queue, suspect_lane
from maniple_runtime.control.field_types import AgentId
from maniple_runtime.control.incarnations import Incarnation
from maniple_runtime.control.messages import AgentDescription, AgentPhase, Command, Heartbeat
from maniple_runtime.events import AgentEvent

UNKNOWN_LIFE: Final = Incarnation("")
"""Of an agent that is in Consul and never sent a heartbeat."""


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
    """The present: seconds of the registry's `Clock`, and the time of day for people."""

    seconds: float
    at: datetime


@dataclass(frozen=True, slots=True)
class LaneView:
    """The queue of a place as the broker shows it."""

    ready: int
    consumers: int
    by_consumers: bool = False
    """For suspect queues and an agent's own queue: waiting messages there prove nothing."""

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
        """Whether it may be the view of a queue that did not answer."""
        return self.ready == self.consumers == 0


@dataclass(frozen=True, slots=True)
class StalledConsumer:
    """Since when an agent has taken nothing although it should have at `place`."""

    place: str
    since: float
    delivered_at: datetime | None
    doubted: bool = False
    told: bool = False
    unconsumed: bool = False
    """At the last look it had no consumer."""
    asked_at: float | None = None
    """When the agent was asked to consume there anew."""

    @property
    def where(self) -> str:
        """The place in words."""
        return f"{'queue' if self.place.startswith(_OWN) else 'lane'} {self.place}"


_OWN: Final = agent_queue("").name


def places_of(description: AgentDescription) -> dict[str, str]:
    """Return the places to watch for an agent, each with the lane whose capacity counts there.

    Its lanes, their suspect queues, and its own queue, for which capacity for any lane counts.
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
    """Of its known description; empty while that is not known."""
    past: tuple[Incarnation, ...] = ()
    begun: float = 0.0
    unwell: bool = False
    """Its HTTP check in Consul is critical."""
    starving: StalledConsumer | None = None
    life: str = ""
    """As in the names of its connections; known only of an agent that was seen in Consul."""
    places: Mapping[str, str] = field(default_factory=dict)
    """See `places_of`; empty while its description is not known."""
    fed: float = -math.inf
    """When a heartbeat last showed that it had taken something since the one before."""
    offset: float = 0.0
    """Seconds by which its clock was ahead of ours at the last heartbeat, less the heartbeat's
    way."""
    ahead: float = 0.0
    """The same by the faster one of the last two heartbeats."""

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
        """Whether it is suspected so that a heartbeat alone does not clear it."""
        return self.unwell or (self.starving is not None and self.starving.doubted)

    @property
    def prefix(self) -> str:
        """The prefix of the names of its connections; empty when that is not known."""
        return f"{self.agent}.{self.life}." if self.life else ""

    def has_connection_in(self, names: Iterable[str]) -> bool:
        """Tell whether one of these names belongs to the process seen in Consul."""
        return bool(self.prefix) and any(name.startswith(self.prefix) for name in names)

    @property
    def has_free_slots(self) -> bool:
        """Whether its heartbeat shows free slots."""
        heartbeat = self.heartbeat
        return heartbeat.slots > heartbeat.in_flight + heartbeat.held

    def open_lanes(self) -> tuple[str, ...]:
        """Return the lanes that it reports to consume and to have capacity for.

        For an agent that reports none: all of its lanes while it has free slots.
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
    """The new record (None: forgotten), events to publish, commands to the agent.

    `failed` are records whose broker connections shall be closed.
    """

    record: AgentRecord | None
    events: tuple[AgentEvent, ...] = ()
    commands: tuple[Command, ...] = ()
    failed: tuple[AgentRecord, ...] = ()
    refused: bool = False
    """The heartbeat cannot be genuine, and has changed nothing."""
