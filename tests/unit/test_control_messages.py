"""`maniple_runtime.control.messages` and `maniple_runtime.events`: what is on the wire."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from maniple.digests import digest
from maniple_runtime.control.messages import (
    COMMANDS,
    AgentDescription,
    ControlMessage,
    Heartbeat,
    Outcomes,
    Request,
    Response,
)
from maniple_runtime.events import AGENT_EVENTS, AgentFailed, AgentUnreachable, Event, PolicyChanged

NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def description(**changes: Any) -> AgentDescription:
    fields = {"agent": "a1", "incarnation": "1", "host": "h", "pid": 1, "started_at": NOW}
    return AgentDescription.model_validate(fields | changes)


def heartbeat(**changes: Any) -> Heartbeat:
    fields = {"agent": "a1", "incarnation": "1", "sequence": 1, "sent_at": NOW, "digest": "d"}
    return Heartbeat.model_validate(fields | changes)


def test_a_heartbeat_with_its_description_survives_the_wire() -> None:
    sent = heartbeat(description=description(capabilities=("a.b",), labels={"region": "eu"}))
    assert Heartbeat.from_json(sent.to_json()) == sent


def test_a_field_that_we_do_not_know_is_ignored() -> None:
    newer = json.loads(heartbeat().to_json()) | {"mood": "good"}
    assert Heartbeat.from_json(json.dumps(newer).encode()) == heartbeat()


@pytest.mark.parametrize("timings", [{"digest": "later"}, {"failed": -1}, "fast", 3])
def test_times_that_a_later_agent_tells_otherwise_cost_nothing_but_themselves(
    timings: object,
) -> None:
    body = heartbeat(description=description(lanes=("a.b",))).to_json()
    fields = json.loads(body)
    fields["description"]["timings"] = timings
    found = Heartbeat.from_json(json.dumps(fields).encode()).description
    assert found == description(lanes=("a.b",))


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"\xff", b"{}", b"NaN", b"[" * 20_000], ids=lambda body: repr(body[:5])
)
def test_anything_else_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError, match="validation error"):
        Heartbeat.from_json(body)


def test_a_time_without_an_offset_is_refused() -> None:
    with pytest.raises(ValidationError, match="timezone"):
        heartbeat(sent_at="2026-11-22T18:00:00")


def test_the_order_of_capabilities_and_labels_does_not_change_the_digest() -> None:
    one = description(capabilities=("b", "a", "a"), labels={"x": "1", "y": "2"})
    two = description(capabilities=("a", "b"), labels={"y": "2", "x": "1"})
    assert one.digest == two.digest
    assert one.digest != description(capabilities=("a",)).digest


@given(value=st.dictionaries(st.text(), JSON_VALUES))
def test_a_digest_does_not_see_the_order_of_keys(value: dict[str, Any]) -> None:
    assert digest(value) == digest(dict(reversed(value.items())))


def test_every_type_and_key_is_used_once() -> None:
    events: tuple[type[Event], ...] = (*AGENT_EVENTS, PolicyChanged)
    others: tuple[type[ControlMessage], ...] = (
        *COMMANDS, Heartbeat, Outcomes, Request, Response,
    )  # fmt: skip
    types = [message.TYPE for message in (*events, *others)]
    keys = [event.KEY for event in events]
    assert len(set(types)) == len(types)
    assert len(set(keys)) == len(keys)


def test_replicas_report_a_failure_under_one_id_and_suspicions_apart() -> None:
    failed = {AgentFailed.model_validate({"agent": "a", "incarnation": "1", "sequence": n,
                                          "at": NOW}).id for n in (1, 2)}  # fmt: skip
    suspected = {AgentUnreachable.model_validate({"agent": "a", "incarnation": "1", "sequence": n,
                                                  "at": NOW}).id for n in (1, 2)}  # fmt: skip
    assert (len(failed), len(suspected)) == (1, 2)
