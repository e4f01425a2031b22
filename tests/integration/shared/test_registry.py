"""A registry on a real broker and a real Consul, with agents that are only a heartbeat."""

import time
from pathlib import Path

import pytest

from heartbeating_agents import (
    QUICK,
    agent_of,
    agreed,
    distinct,
    keys,
    passing,
    registry,
    settled,
    shown,
    told,
)
from local_servers import LocalServers
from maniple.errors import RequestFailed
from maniple.identifiers import new_id
from maniple_runtime.consul.client import Consul
from maniple_runtime.control.messages import AgentPhase, Announce, Retire
from waiting import wait_until


async def test_an_agent_is_asked_for_its_description_and_shown(
    servers: LocalServers, tmp_path: Path
) -> None:
    async with registry(servers, tmp_path), agent_of(servers) as (agent, events):
        await agent.beat(describe=False)
        await wait_until(lambda: Announce() in agent.told)
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
    async with (
        registry(servers, tmp_path, timings=QUICK) as runtime,
        agent_of(servers) as (agent, events),
    ):
        await agreed(runtime)
        await runtime.consul.register_service(
            "maniple-agent",
            agent.name,
            address="127.0.0.1",
            port=1,
            meta={"environment": servers.rabbitmq.environment},
        )
        async with passing(runtime.consul, agent):  # else the reaper may take it out
            await agent.beat(connections=())
            await wait_until(lambda: "agent.failed" in keys(events))
            assert keys(events) == ["agent.registered", "agent.unreachable", "agent.failed"]
            assert (await shown(agent))["state"] == "failed"
            await agent.beat(connections=())
            await wait_until(lambda: told(agent) == [Retire])
            await catalog_without(runtime.consul, agent.name)
        agent.incarnation, agent.sequence = new_id(), 0
        await agent.beat(connections=())
        await settled(agent, "active")


async def catalog_without(consul: Consul, instance: str) -> None:
    async def gone() -> bool:
        return instance not in [found.id for found in await consul.instances("maniple-agent")]

    await wait_until(gone)


async def test_a_failed_agents_connections_are_closed(
    servers: LocalServers, tmp_path: Path
) -> None:
    # The broker shows a connection's given name only some seconds after it was made.
    async with registry(servers, tmp_path, time_scale=0.8), agent_of(servers) as (agent, events):
        await agent.beat()
        await wait_until(lambda: "agent.failed" in keys(events), 15)
        await wait_until(lambda: agent.plane.reconnects == 1, 15)


async def test_an_agent_that_drains_and_leaves_is_not_failed(
    servers: LocalServers, tmp_path: Path
) -> None:
    async with (
        registry(servers, tmp_path, timings=QUICK) as runtime,
        agent_of(servers) as (agent, events),
    ):
        await agreed(runtime)
        await agent.beat()
        await agent.beat(state=AgentPhase.DRAINING)
        await agent.beat(state=AgentPhase.LEAVING)
        await wait_until(lambda: len(events) >= 3)
        # Silent for long enough to fail, and for the registry to have looked since.
        failed = time.monotonic() + 2 * QUICK.bounds.failed
        await wait_until(lambda: time.monotonic() >= failed)
        await settled(agent, "left")
        # Events that are under way together may come in any order.
        assert sorted(keys(events)) == ["agent.draining", "agent.left", "agent.registered"]


async def test_a_second_registry_knows_the_agents_too_and_tells_nothing_else(
    servers: LocalServers, tmp_path: Path
) -> None:
    async with (
        agent_of(servers) as (agent, events),
        registry(servers, tmp_path / "1", timings=QUICK) as first,
    ):
        async with registry(servers, tmp_path / "2", timings=QUICK) as second:
            await agreed(first, second)
            await agent.beat(connections=())
            await wait_until(lambda: "agent.failed" in keys(events))

            async def known_to_both() -> bool:
                answers = [await shown(agent) for _ in range(10)]
                return {answer["state"] for answer in answers} == {"failed"}

            await wait_until(known_to_both)
            # A standby would have acted half a second after the bound.
            acted = time.monotonic() + 1.0
            await wait_until(lambda: time.monotonic() >= acted)
        assert distinct(events) == ["agent.registered", "agent.unreachable", "agent.failed"]


async def test_a_registry_that_starts_late_calls_the_agents(
    servers: LocalServers, tmp_path: Path
) -> None:
    async with agent_of(servers) as (agent, _), registry(servers, tmp_path):
        assert Announce() in agent.told
        await agent.beat(describe=False)
        await settled(agent, "active")


async def test_what_failed_stays_failed_for_a_registry_that_starts_later(
    servers: LocalServers, tmp_path: Path
) -> None:
    async with (
        agent_of(servers) as (agent, events),
        registry(servers, tmp_path / "1", timings=QUICK) as first,
    ):
        await agreed(first)
        await agent.beat(connections=())
        await wait_until(lambda: "agent.failed" in keys(events))
        async with registry(servers, tmp_path / "2", timings=QUICK):

            async def known_to_both() -> bool:
                answers = [await agent.plane.request("registry", "failed") for _ in range(6)]
                return all(agent.name in answer["failed"] for answer in answers)

            await wait_until(known_to_both)
            await agent.beat(connections=())
            await wait_until(lambda: told(agent)[:1] == [Retire])
        assert distinct(events) == ["agent.registered", "agent.unreachable", "agent.failed"]
