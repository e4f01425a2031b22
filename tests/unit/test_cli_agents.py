"""`maniple agents` and `agent drain`: what they make of the registry's answers."""

import contextlib
from collections.abc import Mapping
from typing import Any

import pytest

from maniple_cli import control
from maniple_cli.commands import agents
from maniple_cli.commands.drain import is_another

SAME = {"host": "h", "pid": 7, "http": "http://h:1", "incarnation": "1", "state": "draining"}
UNKNOWN = {"incarnation": "1", "state": "active"}


@pytest.mark.parametrize(
    ("before", "seen", "another"),
    [
        (SAME, SAME, False),
        (UNKNOWN, SAME, False),
        (SAME, UNKNOWN, False),
        (UNKNOWN, {**SAME, "incarnation": "2"}, False),
        (SAME, {**SAME, "incarnation": "2"}, False),
        (UNKNOWN, {**SAME, "incarnation": "2", "state": "active"}, True),
        ({**UNKNOWN, "incarnation": ""}, {**SAME, "state": "active"}, False),
        (SAME, {**SAME, "pid": 8}, True),
        (SAME, {**SAME, "host": "other"}, True),
        (SAME, {**SAME, "http": "http://h:2"}, True),
    ],
    ids=[
        "the same",
        "not known before",
        "not known now",
        "not known before, a new life that drains",
        "a new life of the same process",
        "not known before, a new life that works",
        "never heard before",
        "another pid",
        "another machine",
        "another port",
    ],
)
def test_another_process_is_told_from_one_that_a_registry_does_not_know_yet(
    before: Mapping[str, Any], seen: Mapping[str, Any], another: bool
) -> None:
    assert is_another(before, seen) is another


@pytest.mark.parametrize(("answer", "warned"), [({}, False), ({"hearing": True}, False),
                                                ({"hearing": False}, True)])  # fmt: skip
def test_a_registry_that_hears_nothing_is_said_to(
    answer: Mapping[str, Any],
    warned: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def ask(*_: Any) -> Mapping[str, Any]:
        return {"agents": [{"id": "a1", "agent": "a1", "state": "active"}], **answer}

    monkeypatch.setattr(control, "operator_plane", contextlib.nullcontext)
    monkeypatch.setattr(control, "ask_over", ask)
    agents.agents(as_json=True, broker_url="amqp://here")
    out, err = capsys.readouterr()
    assert '"a1"' in out
    assert ("hears no heartbeats" in " ".join(err.split())) is warned
