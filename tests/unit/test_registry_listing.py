"""What registries answer about all their agents, and how it is asked for."""

import asyncio
import json
from collections.abc import Mapping
from functools import partial
from typing import Any, cast
from unittest.mock import Mock

import pytest
import structlog

from maniple.clock import SYSTEM_CLOCK
from maniple.errors import RequestFailed
from maniple_registry import agent_listing
from maniple_registry.actions import ActionRunner
from maniple_registry.consumers import consumers_of
from maniple_registry.domain.agents import Agents
from maniple_registry.handlers import FAILED_PAGE, UNSHOWN, RegistryHandlers
from maniple_registry.hearing_clock import HearingClock
from maniple_runtime.control.amqp_messages import IncomingMessage
from maniple_runtime.control.incarnations import Incarnation
from maniple_runtime.control.messages import AgentDescription, Request, Response
from maniple_runtime.control.requests import answer
from maniple_runtime.events import AgentFailed
from maniple_runtime.listing import Ask, all_agents, pages
from maniple_runtime.telemetry import Metrics
from registry_values import NOW, at, beat

SLACK = 1024  # of an answer around its page
CAPABILITIES = tuple(f"team.department.capability{number:02}" for number in range(30))


def describe(agent: str, *, texts: int = 0) -> AgentDescription:
    fields = {
        "agent": agent,
        "incarnation": "1",
        "host": "h",
        "pid": 1,
        "started_at": NOW,
        "capabilities": CAPABILITIES,
        "lanes": CAPABILITIES,
        "labels": {f"{number:04}{'x' * 900}": "ü" * 1000 for number in range(texts)},
    }
    return AgentDescription.model_validate(fields)


class Registry:
    """One that hears agents and answers requests as it does over the broker."""

    def __init__(self) -> None:
        self.fleet, self.asked, self.longest = Agents(), 0, 0
        log = structlog.get_logger()
        actor = cast("ActionRunner", None)
        self.handlers = RegistryHandlers(
            self.fleet, HearingClock(SYSTEM_CLOCK), actor, Metrics(), log
        )
        self.requests = consumers_of(self.handlers, Mock(), Mock()).requests

    def hear(self, agent: str, *, texts: int = 0) -> None:
        description = describe(agent, texts=texts)
        self.fleet.record_heartbeat(beat(agent=agent, description=description, digest="d"), at(0))

    def fail(self, agent: str) -> None:
        event = AgentFailed(at=NOW, agent=cast("Any", agent), incarnation=Incarnation("1"))
        self.fleet.learn_event(event, at(0))

    async def request(self, op: str, body: Mapping[str, Any]) -> dict[str, Any]:
        question = Request(op=op, body=dict(body)).to_json()
        arrival = IncomingMessage(question)
        written = await answer(self.requests, arrival, structlog.get_logger())
        self.asked, self.longest = self.asked + 1, max(self.longest, len(written))
        told = Response.from_json(written)
        if told.error is not None:
            raise RequestFailed(told.error.code, told.error.message)
        return told.body

    def ask(self, op: str = "agents") -> Ask:
        return partial(self.request, op)


async def ids(ask: Ask) -> list[str]:
    return [one["id"] for one in (await all_agents(ask))["agents"]]


async def test_no_answer_about_many_agents_is_longer_than_a_page() -> None:
    registry, names = Registry(), [f"agent-{number:04}" for number in range(2000)]
    for name in reversed(names):
        registry.hear(name)
    assert await ids(registry.ask()) == names
    assert registry.longest <= agent_listing.PAGE_BYTES + SLACK
    assert registry.asked > 10


async def test_an_answer_about_a_few_is_one_page_and_none_is_shown_of_nobody() -> None:
    registry = Registry()
    assert await all_agents(registry.ask()) == {"agents": [], "hearing": True}
    for number in range(agent_listing.PAGE_AGENTS // 4):
        registry.hear(f"agent-{number}")
    registry.asked = 0
    assert len(await ids(registry.ask())) == agent_listing.PAGE_AGENTS // 4
    assert registry.asked == 1


async def test_who_stays_is_shown_once_while_others_come_and_go_between_pages() -> None:
    registry, stay = Registry(), [f"m{number:04}" for number in range(500)]
    for name in stay:
        registry.hear(name)
    registry.hear("a-goes")
    registry.fail("a-goes")

    async def ask(body: Mapping[str, Any]) -> Mapping[str, Any]:
        told = await registry.request("agents", body)
        if registry.asked == 1:
            registry.fleet.judge(["a-goes"], at(10_000.0))  # type: ignore[list-item]
            registry.hear("a-came-too-late")
            registry.hear("z-came")
        return told

    shown = await ids(ask)
    assert registry.fleet.get_record("a-goes") is None
    assert shown == ["a-goes", *stay, "z-came"]


async def test_one_that_says_too_much_of_itself_keeps_nobody_from_being_shown() -> None:
    registry = Registry()
    for name in ("a", "b", "c"):
        registry.hear(name, texts=2000 if name == "b" else 0)
    found = (await all_agents(registry.ask()))["agents"]
    assert [one["id"] for one in found] == ["a", "b", "c"]
    assert [UNSHOWN in one["doubts"] for one in found] == [False, True, False]
    assert registry.longest <= agent_listing.AGENT_BYTES
    assert UNSHOWN in (await registry.request("agent", {"id": "b"}))["doubts"]


async def test_of_an_agent_is_told_which_heartbeat_was_its_last() -> None:
    """By its own number: every registry that has heard it tells the same, whenever it did."""
    registry = Registry()
    registry.hear("a")
    registry.fleet.record_heartbeat(beat(7, agent="a"), at(3))
    told = await registry.request("agent", {"id": "a"})
    assert (told["incarnation"], told["sequence"]) == ("1", 7)


async def test_who_asks_for_no_page_gets_all_and_others_run_meanwhile() -> None:
    registry, turns = Registry(), 0
    for number in range(1000):
        registry.hear(f"agent-{number}")

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    told = await registry.request("agents", {})
    counting.cancel()
    assert len(told["agents"]) == 1000
    assert turns >= registry.longest // (agent_listing.PAGE_BYTES + SLACK)


async def test_too_many_for_one_answer_are_refused_before_they_are_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry, written = Registry(), 0
    for number in range(1000):
        registry.hear(f"agent-{number}")
    monkeypatch.setattr(agent_listing, "WHOLE_BYTES", 1000 * 1000 // agent_listing.UNLIKE)

    def write(_record: Any) -> bytes:
        nonlocal written
        written += 1
        return b"x" * 2000

    with pytest.raises(RequestFailed) as caught:
        await agent_listing.whole(registry.fleet, write)
    assert caught.value.code == "too_large"
    assert written <= agent_listing.PAGE_AGENTS
    with pytest.raises(RequestFailed, match="page by page"):
        await registry.request("agents", {})


async def test_a_few_large_ones_at_first_do_not_make_all_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = Registry()
    for number in range(1000):
        registry.hear(f"agent-{number:04}")
    monkeypatch.setattr(agent_listing, "WHOLE_BYTES", 1000 * 1000)

    def write(record: Any) -> bytes:
        return b"x" * (2000 if record.agent < "agent-0200" else 100)

    assert len(await agent_listing.whole(registry.fleet, write)) == 1000


async def test_a_registry_that_knows_no_pages_is_understood_at_any_of_them() -> None:
    registry = Registry()
    for number in range(500):
        registry.hear(f"agent-{number:03}")

    async def ask(body: Mapping[str, Any], *, old_from: int) -> Mapping[str, Any]:
        if registry.asked >= old_from:
            told = await registry.request("agents", {})
            return {"agents": told["agents"], "hearing": False}
        return await registry.request("agents", body)

    for old_from in (0, 1, 2):
        registry.asked = 0
        told = await all_agents(partial(ask, old_from=old_from))
        assert sorted(one["id"] for one in told["agents"]) == [f"agent-{n:03}" for n in range(500)]
        assert told["hearing"] is False


@pytest.mark.parametrize("following", ["", "a", 7, ["b"]])
async def test_an_answer_that_leads_nowhere_is_an_error(following: Any) -> None:
    async def ask(_: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"agents": [{"id": "a"}], "next": following}

    with pytest.raises(RequestFailed, match="invalid_response"):
        async for _ in pages(ask):
            pass


@pytest.mark.parametrize("agents", [None, "a", {"a": 1}])
async def test_an_answer_without_a_list_is_an_error(agents: Any) -> None:
    async def ask(_: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"agents": agents}

    with pytest.raises(RequestFailed, match="no list of agents"):
        await all_agents(ask)


@pytest.mark.parametrize("op", ["agents", "failed"])
async def test_a_page_after_something_that_is_no_id_is_refused(op: str) -> None:
    with pytest.raises(RequestFailed, match="invalid_request"):
        await Registry().request(op, {"after": 3})


async def test_failed_agents_are_told_page_by_page_and_at_once_to_who_knows_no_pages() -> None:
    registry = Registry()
    names = [f"agent-{number:04}" for number in range(FAILED_PAGE + 10)]
    for name in names:
        registry.fail(name)
    registry.hear("well")
    found: list[str] = []
    async for told in pages(registry.ask("failed")):
        assert len(told["failed"]) <= FAILED_PAGE
        found += told["failed"]
    assert found == names
    assert json.dumps(await registry.request("failed", {})) == json.dumps(
        {"failed": dict.fromkeys(names, "1")}
    )
