"""`maniple_runtime.control.messages`: what an agent may say of itself fits where it is put."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from maniple.topology import agent_queue, lane_queues
from maniple_runtime.control.field_types import MOST_CONNECTIONS, MOST_NAMES, AgentName
from maniple_runtime.control.messages import AgentDescription, Heartbeat
from maniple_runtime.control.routing_keys import agent_key
from maniple_runtime.settings import InstanceName

NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)
SHORTSTR = 255  # bytes of a routing key or a name in AMQP
WHO = {"agent": "a1", "incarnation": "1"}


def heartbeat(**changes: Any) -> Heartbeat:
    return Heartbeat.model_validate(WHO | {"sequence": 1, "sent_at": NOW, "digest": "d"} | changes)


def description(**changes: Any) -> AgentDescription:
    return AgentDescription.model_validate(
        WHO | {"host": "h", "pid": 1, "started_at": NOW} | changes
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"agent": ""},
        {"agent": "a" * 101},
        {"agent": "a.b"},
        {"agent": "a\n"},
        {"agent": "ü"},
        {"incarnation": ""},
        {"incarnation": "1" * 65},
        {"connections": [""]},
        {"connections": ["c" * 256]},
        {"connections": ["c"] * (MOST_CONNECTIONS + 1)},
        {"hungry": ["x" * 201]},
        {"hungry": ["x"] * (MOST_NAMES + 1)},
        {"digest": "d" * 65},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_heartbeat_that_fits_nowhere_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        heartbeat(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"agent": "a" * 101},
        {"lanes": ["x" * 201]},
        {"lanes": ["ü" * 150]},
        {"lanes": [""]},
        {"lanes": [f"x{n}" for n in range(MOST_NAMES + 1)]},
        {"capabilities": ["x" * 201]},
        {"labels": {"x": "y" * 1001}},
        {"host": "h" * 1001},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_description_that_fits_nowhere_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        heartbeat(description={"host": "h", "pid": 1, "started_at": NOW} | WHO | changes)


@given(agent=st.from_type(str) | st.from_regex(r"[A-Za-z0-9_-]{0,101}", fullmatch=True))
def test_an_agent_may_be_called_what_a_process_may(agent: str) -> None:
    def takes(kind: Any) -> bool:
        try:
            TypeAdapter[Any](kind).validate_python(agent)
        except ValidationError:
            return False
        return True

    assert takes(AgentName) == takes(InstanceName)


def test_the_longest_names_fit_into_keys_and_queues() -> None:
    agent, lane = "a" * 100, "x" * 200
    heartbeat(agent=agent, description=description(agent=agent, lanes=[lane]))
    names = [agent_key(agent), agent_queue(agent).name, *(q.name for q in lane_queues(lane))]
    assert max(len(name.encode()) for name in names) <= SHORTSTR
