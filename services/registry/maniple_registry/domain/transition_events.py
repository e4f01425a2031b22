"""Transitions along the table, with their events. Pure: time is an argument."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from maniple_registry.domain.agent_record import AgentRecord, AgentState, Instant
from maniple_registry.domain.transitions import TRANSITIONS, Trigger
from maniple_runtime.events import (
    AgentDraining,
    AgentEvent,
    AgentFailed,
    AgentLeft,
    AgentRecovered,
    AgentUnreachable,
)

_TOLD: Final[Mapping[AgentState, type[AgentEvent]]] = {
    AgentState.ACTIVE: AgentRecovered,
    AgentState.UNREACHABLE: AgentUnreachable,
    AgentState.FAILED: AgentFailed,
    AgentState.DRAINING: AgentDraining,
    AgentState.LEFT: AgentLeft,
}


def move(
    record: AgentRecord, trigger: Trigger, now: Instant, reason: str = ""
) -> tuple[AgentRecord, tuple[AgentEvent, ...]]:
    """Return the record after `trigger` and its event; unchanged and None without a transition."""
    state = TRANSITIONS.get((record.state, trigger))
    if state is None:
        return record, ()
    moved = replace(record, state=state, since=now.seconds)
    return moved, (event_of(_TOLD[state], moved, now, reason),)


def event_of(
    kind: type[AgentEvent], record: AgentRecord, now: Instant, reason: str = ""
) -> AgentEvent:
    """Return an event about this record."""
    return kind(
        at=now.at,
        agent=record.agent,
        incarnation=record.incarnation,
        sequence=record.heartbeat.sequence,
        reason=reason,
    )
