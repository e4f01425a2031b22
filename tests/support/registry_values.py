"""Agents as the registry's state machine knows them, made for its tests."""

from datetime import UTC, datetime
from typing import Any

from maniple.timings import Bounds
from maniple_registry.domain.agent_record import (
    AgentRecord,
    Decision,
    Instant,
    LaneView,
)
from maniple_registry.domain.state_machine import (
    decide,
)
from maniple_runtime.control.messages import (
    AgentDescription,
    Heartbeat,
)

NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)
BOUNDS = Bounds()
DESCRIPTION = AgentDescription.model_validate(
    {"agent": "a1", "incarnation": "1", "host": "h", "pid": 1, "started_at": NOW, "lanes": ["x"]}
)
WORK = {"x": LaneView(ready=3, consumers=1)}
NOTHING = {"x": LaneView(ready=0, consumers=1)}


def beat(sequence: int = 1, **changes: Any) -> Heartbeat:
    fields = {"agent": "a1", "incarnation": "1", "sent_at": NOW, "digest": "d"}
    return Heartbeat.model_validate(fields | {"sequence": sequence} | changes)


def at(seconds: float) -> Instant:
    return Instant(seconds, NOW)


def known(record: AgentRecord | None) -> AgentRecord:
    assert record is not None
    return record


def active(heard: float = 0.0) -> AgentRecord:
    return known(decide(None, beat(description=DESCRIPTION), at(heard)).record)


def keys(decision: Decision) -> list[str]:
    return [event.KEY for event in decision.events]
