"""What the registry thinks of an agent, decided from its heartbeats and its silence.

Pure: time is an argument. `docs/states/agent.md` draws `TRANSITIONS`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Final

from maniple.control import (
    AgentDescription,
    AgentId,
    AgentPhase,
    Announce,
    Command,
    Heartbeat,
    Incarnation,
    Retire,
)
from maniple.events import (
    AgentDraining,
    AgentEvent,
    AgentFailed,
    AgentLeft,
    AgentRecovered,
    AgentRegistered,
    AgentUnreachable,
)

PAST_KEPT = 8
REPLACED = "replaced by a new incarnation"


class AgentState(StrEnum):
    """The registry's view of one incarnation of an agent."""

    ACTIVE = "active"
    UNREACHABLE = "unreachable"
    FAILED = "failed"
    DRAINING = "draining"
    LEFT = "left"


class Trigger(StrEnum):
    """What moves an agent from state to state."""

    HEARD = "heartbeat"
    DRAINS = "heartbeat: draining"
    LEAVES = "heartbeat: leaving"
    SUSPECTED = "one heartbeat missed"
    LOST = "three heartbeats missed"


FINAL: Final = frozenset({AgentState.FAILED, AgentState.LEFT})

# None is an incarnation that is not known yet. What is not here changes nothing.
TRANSITIONS: Final[Mapping[tuple[AgentState | None, Trigger], AgentState]] = {
    (None, Trigger.HEARD): AgentState.ACTIVE,
    (None, Trigger.DRAINS): AgentState.DRAINING,
    (AgentState.ACTIVE, Trigger.SUSPECTED): AgentState.UNREACHABLE,
    (AgentState.ACTIVE, Trigger.DRAINS): AgentState.DRAINING,
    (AgentState.ACTIVE, Trigger.LEAVES): AgentState.LEFT,
    (AgentState.UNREACHABLE, Trigger.HEARD): AgentState.ACTIVE,
    (AgentState.UNREACHABLE, Trigger.LOST): AgentState.FAILED,
    (AgentState.UNREACHABLE, Trigger.DRAINS): AgentState.DRAINING,
    (AgentState.UNREACHABLE, Trigger.LEAVES): AgentState.LEFT,
    (AgentState.DRAINING, Trigger.LOST): AgentState.FAILED,
    (AgentState.DRAINING, Trigger.LEAVES): AgentState.LEFT,
}

_SAID: Final = {
    AgentPhase.ACTIVE: Trigger.HEARD,
    AgentPhase.DRAINING: Trigger.DRAINS,
    AgentPhase.LEAVING: Trigger.LEAVES,
}
_TOLD: Final[Mapping[AgentState, type[AgentEvent]]] = {
    AgentState.ACTIVE: AgentRecovered,
    AgentState.UNREACHABLE: AgentUnreachable,
    AgentState.FAILED: AgentFailed,
    AgentState.DRAINING: AgentDraining,
    AgentState.LEFT: AgentLeft,
}


@dataclass(frozen=True, slots=True)
class Bounds:
    """Seconds of silence after which an agent is suspected, failed, and forgotten."""

    unreachable: float = 4.5
    failed: float = 9.0
    forgotten: float = 600.0


@dataclass(frozen=True, slots=True)
class Instant:
    """Now: seconds of a clock that never goes back, and the time of day for people."""

    seconds: float
    at: datetime


@dataclass(frozen=True, slots=True)
class AgentRecord:
    """One incarnation as last heard; `heard` and `since` (of the state) in seconds of `Instant`."""

    state: AgentState
    heartbeat: Heartbeat
    heard: float
    since: float
    description: AgentDescription | None = None
    digest: str = ""
    """Of the description that we have; empty while we have none."""
    past: tuple[Incarnation, ...] = ()

    @property
    def agent(self) -> AgentId:
        """Id of the agent."""
        return self.heartbeat.agent

    @property
    def incarnation(self) -> Incarnation:
        """The life that this record is about."""
        return self.heartbeat.incarnation


@dataclass(frozen=True, slots=True)
class Decision:
    """The record from now on (None: forgotten), events to publish, commands to the agent.

    `failed` are records whose broker connections shall be closed.
    """

    record: AgentRecord | None
    events: tuple[AgentEvent, ...] = ()
    commands: tuple[Command, ...] = ()
    failed: tuple[AgentRecord, ...] = ()


def decide(record: AgentRecord | None, heartbeat: Heartbeat, now: Instant) -> Decision:
    """Take a heartbeat. One that is late, doubled or of an old incarnation changes nothing."""
    if record is None:
        return _begin(heartbeat, now, ())
    if heartbeat.incarnation != record.incarnation:
        return _other_incarnation(record, heartbeat, now)
    if record.state is AgentState.FAILED:
        return Decision(record, commands=(Retire(incarnation=record.incarnation),))
    if record.state is AgentState.LEFT or heartbeat.sequence <= record.heartbeat.sequence:
        return Decision(record)
    return _hear(record, heartbeat, now)


def tick(record: AgentRecord, now: Instant, bounds: Bounds) -> Decision:
    """Let time pass: suspect, fail or forget who has been silent for too long."""
    if record.state in FINAL:
        return Decision(None if now.seconds >= record.since + bounds.forgotten else record)
    events: tuple[AgentEvent, ...] = ()
    for trigger, bound in (
        (Trigger.SUSPECTED, bounds.unreachable),
        (Trigger.LOST, bounds.failed),
    ):
        if now.seconds < record.heard + bound:
            break
        reason = f"{trigger} ({bound:g} s)"
        record, told = _move(record, trigger, now, reason)
        events += told
    failed = (record,) if record.state is AgentState.FAILED else ()
    return Decision(record, events, failed=failed)


def deadline(record: AgentRecord, bounds: Bounds) -> float:
    """Return the second at which `tick` may next change this record."""
    match record.state:
        case AgentState.ACTIVE:
            return record.heard + bounds.unreachable
        case AgentState.UNREACHABLE | AgentState.DRAINING:
            return record.heard + bounds.failed
        case _:
            return record.since + bounds.forgotten


def _begin(heartbeat: Heartbeat, now: Instant, past: tuple[Incarnation, ...]) -> Decision:
    state = TRANSITIONS.get((None, _SAID[heartbeat.state]))
    if state is None:
        return Decision(None)
    record = AgentRecord(state, heartbeat, now.seconds, now.seconds, past=past)
    events = (_event(AgentDraining, record, now),) if state is AgentState.DRAINING else ()
    return _described(record, heartbeat, now, events)


def _other_incarnation(record: AgentRecord, heartbeat: Heartbeat, now: Instant) -> Decision:
    known = heartbeat.incarnation in record.past
    # Incarnations sort by time, but a host's clock may have been set back between two of them.
    older = record.state not in FINAL and heartbeat.incarnation < record.incarnation
    if known or older:
        return Decision(record)
    past = (*record.past, record.incarnation)[-PAST_KEPT:]
    begun = _begin(heartbeat, now, past)
    if begun.record is None:
        return Decision(record)
    if record.state in FINAL:
        return begun
    gone = replace(record, state=AgentState.FAILED, since=now.seconds)
    events = (_event(AgentFailed, gone, now, REPLACED), *begun.events)
    return replace(begun, events=events, failed=(gone,))


def _hear(record: AgentRecord, heartbeat: Heartbeat, now: Instant) -> Decision:
    heard = AgentRecord(
        record.state,
        heartbeat,
        now.seconds,
        record.since,
        record.description,
        record.digest,
        record.past,
    )
    moved, events = _move(heard, _SAID[heartbeat.state], now)
    return _described(moved, heartbeat, now, events)


def _described(
    record: AgentRecord, heartbeat: Heartbeat, now: Instant, events: tuple[AgentEvent, ...]
) -> Decision:
    if heartbeat.digest == record.digest or record.state in FINAL:
        return Decision(record, events)
    description = heartbeat.description
    if description is None:
        return Decision(record, events, (Announce(),))
    record = replace(record, description=description, digest=heartbeat.digest)
    registered = AgentRegistered(
        at=now.at,
        agent=record.agent,
        incarnation=record.incarnation,
        sequence=heartbeat.sequence,
        description=description,
    )
    return Decision(record, (registered, *events))


def _move(
    record: AgentRecord, trigger: Trigger, now: Instant, reason: str = ""
) -> tuple[AgentRecord, tuple[AgentEvent, ...]]:
    state = TRANSITIONS.get((record.state, trigger))
    if state is None:
        return record, ()
    moved = replace(record, state=state, since=now.seconds)
    return moved, (_event(_TOLD[state], moved, now, reason),)


def _event(
    kind: type[AgentEvent], record: AgentRecord, now: Instant, reason: str = ""
) -> AgentEvent:
    return kind(
        at=now.at,
        agent=record.agent,
        incarnation=record.incarnation,
        sequence=record.heartbeat.sequence,
        reason=reason,
    )
