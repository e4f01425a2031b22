"""A registry on a real broker and a real Consul, with agents that are only a heartbeat."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog

from conftest import LocalServers
from maniple.control import (
    AgentDescription,
    AgentPhase,
    Announce,
    Command,
    Heartbeat,
    Retire,
    control_keys,
)
from maniple.errors import RequestFailed
from maniple.events import AGENT_EVENTS, AgentEvent
from maniple.identifiers import new_id
from maniple.service.broker import ControlPlane, prepare_broker
from maniple.service.consul import Consul
from maniple.service.runner import Runtime, running
from maniple.topology import CONTROL, EVENTS
from maniple_registry.settings import RegistrySettings
from maniple_registry.wiring import build
from waiting import wait_until

LOG = structlog.get_logger()
FAST = {"unreachable_after": 0.6, "failed_after": 1.2}


class Agent:
    """An agent that does nothing but say that it is there."""

    def __init__(self, plane: ControlPlane, name: str) -> None:
        self.plane, self.name = plane, name
        self.incarnation, self.sequence = new_id(), 0
        self.told: list[Command] = []

    async def beat(self, *, describe: bool = True, **changes: Any) -> None:
        self.sequence += 1
        who = {"agent": self.name, "incarnation": self.incarnation}
        now = datetime.now(UTC)
        static = {"host": "h", "pid": 1, "capabilities": ["x.y"], "started_at": now}
        description = AgentDescription.model_validate(who | static)
        fields = {"sequence": self.sequence, "sent_at": now, "digest": "d", "slots": 4}
        fields |= {"connections": self.plane.connections}
        shown = {"description": description} if describe else {}
        await self.plane.heartbeat(Heartbeat.model_validate(who | fields | shown | changes))


@asynccontextmanager
async def registry(servers: LocalServers, folder: Path, **settings: Any) -> AsyncIterator[Runtime]:
    configured = RegistrySettings(
        broker_url=servers.rabbitmq.url("registry"),
        consul_url=servers.consul.url,
        management_url=servers.rabbitmq.management_url("agent"),
        data_dir=folder,
        **settings,
    )
    async with running(configured, build) as runtime:
        yield runtime


@asynccontextmanager
async def agent_of(servers: LocalServers) -> AsyncIterator[tuple[Agent, list[AgentEvent]]]:
    """An agent on the wire, and all events about it."""
    url = servers.rabbitmq.url("agent")
    await prepare_broker(url)
    events: list[AgentEvent] = []
    async with (
        ControlPlane(url, name=f"agent-{new_id()}", log=LOG) as plane,
        ControlPlane(url, name=f"watcher-{new_id()}", log=LOG) as watcher,
    ):
        agent = Agent(plane, f"agent-{new_id()}")
        commands = (Announce, Retire)
        await plane.subscribe(CONTROL, control_keys(agent.name, []), commands, agent.told.append)

        def note(event: AgentEvent) -> None:
            if event.agent == agent.name:
                events.append(event)

        await watcher.subscribe(EVENTS, ("agent.*",), AGENT_EVENTS, note)
        yield agent, events


async def shown(agent: Agent) -> dict[str, Any]:
    return await agent.plane.request("registry", "agent", {"id": agent.name})


def keys(events: list[AgentEvent]) -> list[str]:
    return [event.KEY for event in events]


async def test_an_agent_is_asked_for_its_description_and_shown(
    servers: LocalServers, tmp_path: Path
) -> None:
    async with registry(servers, tmp_path), agent_of(servers) as (agent, events):
        await agent.beat(describe=False)
        await wait_until(lambda: agent.told == [Announce()])
        await agent.beat()
        await wait_until(lambda: keys(events) == ["agent.registered"])
        found = await shown(agent)
        assert (found["state"], found["capabilities"]) == ("active", ["x.y"])
        assert (found["slots"], found["pid"], found["host"]) == (4, 1, "h")
        assert 0 <= found["heartbeat_age"] < 4.5
        listed = await agent.plane.request("registry", "agents")
        assert agent.name in [one["id"] for one in listed["agents"]]
        with pytest.raises(RequestFailed, match="unknown_agent"):
            await agent.plane.request("registry", "agent", {"id": "nobody"})


async def test_a_silent_agent_fails_and_is_told_to_retire_when_it_speaks(
    servers: LocalServers, tmp_path: Path
) -> None:
    async with registry(servers, tmp_path, **FAST) as runtime, agent_of(servers) as (agent, events):
        await runtime.consul.register_service(
            "maniple-agent", agent.name, address="127.0.0.1", port=1
        )
        await agent.beat(connections=())
        await wait_until(lambda: "agent.failed" in keys(events))
        assert keys(events) == ["agent.registered", "agent.unreachable", "agent.failed"]
        assert (await shown(agent))["state"] == "failed"
        await agent.beat(connections=())
        await wait_until(lambda: [type(told) for told in agent.told] == [Retire])
        await catalog_without(runtime.consul, agent.name)
        agent.incarnation, agent.sequence = new_id(), 0
        await agent.beat(connections=())
        assert await settled(agent, "active")


async def catalog_without(consul: Consul, instance: str) -> None:
    async with asyncio.timeout(10):
        while instance in [found.id for found in await consul.instances("maniple-agent")]:  # noqa: ASYNC110 - a server's state
            await asyncio.sleep(0.05)


async def settled(agent: Agent, state: str) -> bool:
    """Wait until the registry shows this state: heartbeats and questions travel apart."""
    async with asyncio.timeout(10):
        while (await shown(agent))["state"] != state:  # noqa: ASYNC110 - a server's state
            await asyncio.sleep(0.05)
    return True


async def test_a_failed_agents_connections_are_closed(
    servers: LocalServers, tmp_path: Path
) -> None:
    # The broker shows a connection's given name only some seconds after it was made.
    slow = {"unreachable_after": 6.0, "failed_after": 7.0}
    async with registry(servers, tmp_path, **slow), agent_of(servers) as (agent, events):
        await agent.beat()
        await wait_until(lambda: "agent.failed" in keys(events), 15)
        await wait_until(lambda: agent.plane.reconnects == 1, 15)


async def test_an_agent_that_drains_and_leaves_is_not_failed(
    servers: LocalServers, tmp_path: Path
) -> None:
    async with registry(servers, tmp_path, **FAST), agent_of(servers) as (agent, events):
        await agent.beat()
        await agent.beat(state=AgentPhase.DRAINING)
        await agent.beat(state=AgentPhase.LEAVING)
        await wait_until(lambda: len(events) == 3)
        assert keys(events) == ["agent.registered", "agent.draining", "agent.left"]
        assert (await shown(agent))["state"] == "left"


async def test_a_second_registry_knows_the_agents_too(
    servers: LocalServers, tmp_path: Path
) -> None:
    async with agent_of(servers) as (agent, events):
        async with registry(servers, tmp_path / "1"), registry(servers, tmp_path / "2"):
            await agent.beat()
            await wait_until(lambda: len(events) == 2)
            assert len({event.id for event in events}) == 1
        async with registry(servers, tmp_path / "3"):
            await agent.beat(describe=False)
            assert await settled(agent, "active")
            assert Announce() in agent.told
