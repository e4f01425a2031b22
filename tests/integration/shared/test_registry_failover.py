"""Registries that die, freeze, start late or go deaf, on a real broker and a real Consul."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
import requests

from heartbeating_agents import (
    QUICK,
    Agent,
    RegistryProcess,
    agent_of,
    beating,
    keys,
    passing,
    processes,
    registry,
    settled,
    shown,
    told,
)
from local_servers import LocalServers, SharedServers
from maniple.identifiers import new_id
from maniple.timings import Bounds, Fencing, Heartbeats, Timings
from maniple_runtime.consul.client import Consul, http_check
from maniple_runtime.control.messages import Retire
from waiting import wait_until

# The broker shows a connection's given name only some seconds after it was made.
TWO_THIRDS = 2 / 3
TWO_FIFTHS = 2 / 5
SLOW = Timings(
    heartbeats=Heartbeats(period=1.0, confirm=0.9),
    bounds=Bounds(unreachable=3.0, failed=6.0),
    fencing=Fencing(fenced=4.0, exclusive=5.0),
)
"""As silence is judged at two thirds; all else as ever."""
START_SECONDS = 60.0  # two processes start


@pytest_asyncio.fixture(loop_scope="session")
async def servers(shared: SharedServers) -> AsyncIterator[LocalServers]:
    """An environment for each test: the lock of a leader that was killed lapses late."""
    async with shared.environment(f"failover-{new_id()}") as servers:
        yield servers


async def leader_of(registries: list[RegistryProcess]) -> RegistryProcess:
    """Wait until all are ready and agree who leads."""

    by_claim = {f"{one.instance} leads": one for one in registries}
    agreed: list[RegistryProcess] = []

    async def agree() -> bool:
        said = {await one.leader() for one in registries}
        ready = [await one.ready() for one in registries]
        agreed[:] = [by_claim[claim] for claim in said if claim in by_claim]
        return all(ready) and len(said) == len(agreed) == 1

    await wait_until(agree, START_SECONDS)
    return agreed[0]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
async def test_a_leader_that_is_gone_right_before_the_bound_delays_no_eviction(
    servers: LocalServers, tmp_path: Path, number: int
) -> None:
    async with (
        agent_of(servers) as (agent, events),
        processes(servers, tmp_path, 2, time_scale=TWO_THIRDS) as registries,
    ):
        leader = await leader_of(registries)
        (standby,) = [one for one in registries if one is not leader]
        before = time.monotonic()
        await agent.beat()
        await wait_until(lambda: keys(events) == ["agent.registered", "agent.unreachable"])
        bound = before + SLOW.bounds.failed
        await wait_until(lambda: time.monotonic() >= bound - 0.1)
        leader.send(number)
        await wait_until(lambda: "agent.failed" in keys(events))
        assert time.monotonic() >= bound
        # It was not waited until somebody leads again, which takes as long as a lock lapses.
        assert await standby.leader() != f"{standby.instance} leads"
        # What it held is on its way to others; the broker may show its name only later.
        await wait_until(lambda: agent.plane.reconnects == 1)
        assert len({event.id for event in events}) == 3


async def test_another_registry_leads_when_the_leader_is_gone_and_when_it_comes_back(
    servers: LocalServers, tmp_path: Path
) -> None:
    async with processes(servers, tmp_path, 2) as registries:
        leader = await leader_of(registries)
        (standby,) = [one for one in registries if one is not leader]
        leader.send(signal.SIGSTOP)

        async def taken_over() -> bool:
            return (await standby.leader()) == f"{standby.instance} leads"

        await wait_until(taken_over, 40)
        leader.send(signal.SIGCONT)
        assert await leader_of(registries) is standby


async def test_a_registry_that_was_frozen_itself_fails_nobody(
    servers: LocalServers, tmp_path: Path
) -> None:
    async with (
        agent_of(servers) as (agent, events),
        beating([agent]),
        processes(servers, tmp_path, 1, time_scale=0.2) as (lone,),
    ):
        await leader_of([lone])
        lone.send(signal.SIGSTOP)
        thawed = time.monotonic() + 3
        await wait_until(lambda: time.monotonic() >= thawed)
        lone.send(signal.SIGCONT)
        sequence = agent.sequence
        await wait_until(lambda: agent.sequence > sequence + 10)
        await settled(agent, "active")
        assert "agent.failed" not in keys(events)


async def set_http_check(servers: LocalServers, agent: Agent, status: str) -> None:
    """Have Consul say this of the agent's HTTP check, and not look itself."""
    check = {"ID": http_check(agent.name), "Name": "HTTP", "ServiceID": agent.name, "TTL": "1h"}

    def put(path: str, **body: str) -> None:
        url = f"{servers.consul.url}/v1/agent/check/{path}"
        requests.put(url, json=body, timeout=3).raise_for_status()

    await asyncio.to_thread(put, f"deregister/{check['ID']}")
    await asyncio.to_thread(put, "register", **check, Status=status)


@asynccontextmanager
async def in_consul(servers: LocalServers, agent: Agent, life: str) -> AsyncIterator[Consul]:
    """Have an agent in the catalog, its TTL check critical as at its start.

    Its HTTP check passes, so that no reaper takes it out.
    """
    consul = Consul(servers.consul.url)
    environment = servers.rabbitmq.environment
    meta = {"environment": environment, "life": life}
    await consul.register_service(
        "maniple-agent",
        agent.name,
        address="127.0.0.1",
        port=1,
        meta=meta,
        tags=["maniple", environment],
    )
    await set_http_check(servers, agent, "passing")  # there is no page to be checked
    yield consul
    await consul.deregister_service(agent.name)
    consul.close()


async def test_a_fresh_registry_evicts_an_agent_that_froze_before_it_was_there(
    servers: LocalServers, tmp_path: Path
) -> None:
    life = new_id()[-6:]
    async with agent_of(servers, life) as (agent, events), in_consul(servers, agent, life) as c:
        await c.pass_ttl(agent.name)
        async with registry(servers, tmp_path, time_scale=5 / 9):
            await wait_until(lambda: agent.plane.reconnects == 1)
            await wait_until(lambda: "agent.failed" in keys(events))
            await wait_until(lambda: _gone(c, agent))
            await agent.beat()
            await wait_until(lambda: len(told(agent)) == 1)


async def _gone(consul: Consul, agent: Agent) -> bool:
    return agent.name not in [found.id for found in await consul.instances("maniple-agent")]


async def test_an_agent_whose_ttl_check_has_lapsed_fails_the_earlier(
    servers: LocalServers, tmp_path: Path
) -> None:
    async with (
        agent_of(servers) as (agent, events),
        agent_of(servers) as (other, of_other),
        in_consul(servers, agent, "1"),
        in_consul(servers, other, "1") as consul,
        passing(consul, other),
        registry(servers, tmp_path, time_scale=TWO_THIRDS),
    ):
        await wait_until(lambda: "agent.failed" in keys(events))
        assert "agent.failed" not in keys(of_other)
        await wait_until(lambda: "agent.failed" in keys(of_other))


async def test_an_agent_that_answers_a_fresh_registry_is_not_suspected(
    servers: LocalServers, tmp_path: Path
) -> None:
    async with (
        agent_of(servers) as (agent, events),
        in_consul(servers, agent, "1"),
        beating([agent]),
        registry(servers, tmp_path),
    ):
        sequence = agent.sequence
        await wait_until(lambda: agent.sequence > sequence + 10)
        assert {(event.KEY, event.reason) for event in events} == {("agent.registered", "")}


async def test_a_critical_health_check_suspects_until_it_passes_and_fails_nobody(
    servers: LocalServers, tmp_path: Path
) -> None:
    async with (
        agent_of(servers) as (agent, events),
        in_consul(servers, agent, "1") as consul,
        passing(consul, agent),
        beating([agent]),
        registry(servers, tmp_path, time_scale=TWO_FIFTHS),
    ):
        unwell = Timings().scaled(TWO_FIFTHS).bounds.unwell
        begun = time.monotonic()  # a check cannot have failed three times before
        await wait_until(lambda: time.monotonic() > begun + unwell, unwell + 5)
        await set_http_check(servers, agent, "critical")
        await wait_until(lambda: "agent.unreachable" in keys(events))
        assert (await shown(agent))["doubts"] == ["health check critical"]
        sequence = agent.sequence
        await wait_until(lambda: agent.sequence > sequence + 25)  # for longer than silence may last
        assert keys(events)[-1] == "agent.unreachable"
        await set_http_check(servers, agent, "passing")
        await wait_until(lambda: keys(events)[-1] == "agent.recovered")


async def test_an_agent_that_failed_before_the_only_registry_restarted_stays_failed(
    servers: LocalServers, tmp_path: Path
) -> None:
    async with agent_of(servers) as (agent, events):
        async with registry(servers, tmp_path, timings=QUICK):
            await agent.beat(connections=())
            await wait_until(lambda: "agent.failed" in keys(events))
        async with registry(servers, tmp_path):
            await agent.beat(overdue=True)
            await wait_until(lambda: told(agent) == [Retire])
            assert (await shown(agent))["state"] == "failed"
            agent.incarnation = new_id()
            await agent.beat()
            await settled(agent, "active")


async def test_a_process_whose_id_was_taken_while_it_was_frozen_is_told_to_leave(
    servers: LocalServers, tmp_path: Path
) -> None:
    async with agent_of(servers) as (agent, events), registry(servers, tmp_path):
        frozen = agent.incarnation
        await agent.beat(connections=())
        await wait_until(lambda: keys(events) == ["agent.registered"])
        agent.incarnation = successor = new_id()
        await agent.beat(connections=())
        await wait_until(lambda: "agent.failed" in keys(events))
        await agent.beat(incarnation=frozen, connections=())
        await wait_until(lambda: told(agent) == [Retire])
        assert agent.told[-1] == Retire.model_validate({"incarnation": frozen, "replaced": True})
        assert (await shown(agent))["incarnation"] == successor
