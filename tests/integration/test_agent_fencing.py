"""An agent whose network freezes or is cut: what it goes on doing, stops, and adopts."""

import time
from collections.abc import AsyncIterator, Awaitable

import pytest
import pytest_asyncio

from agent_inside import AgentInside, agent_inside
from fencing_handlers import most_together, started, stopped
from local_servers import servers_needed
from maniple.cli.control import ask
from maniple.local.cluster import Cluster, ClusterOptions
from maniple.service.consul import Consul, ttl_check
from maniple_agent import fence
from waiting import wait_until


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def alone() -> AsyncIterator[Cluster]:
    """A cluster without agents."""
    with servers_needed():
        async with Cluster(ClusterOptions(agents=0, registries=1)) as running:
            yield running


@pytest_asyncio.fixture(loop_scope="session")
async def agent(alone: Cluster) -> AsyncIterator[AgentInside]:
    async with agent_inside(alone) as inside:
        yield inside


async def test_a_short_freeze_costs_no_task_and_starts_none_twice(agent: AgentInside) -> None:
    await agent.after_a_heartbeat()
    slow = await agent.start("fencing.plain", 4.0)
    late = await agent.start("fencing.plain", 9.0)
    await agent.after_a_heartbeat()
    agent.network.freeze()
    await wait_until(lambda: agent.fenced, 8)
    agent.network.thaw()
    results = [await handle.outcome(timeout=60) for handle in (slow, late)]
    assert [(str(result.status), result.attempt) for result in results] == [("succeeded", 1)] * 2
    assert (started[slow.id], started[late.id]) == (1, 1)
    await wait_until(lambda: agent.runtime.health.ready, 10)


async def test_a_cut_connection_costs_no_task_and_starts_none_twice(agent: AgentInside) -> None:
    handles = [await agent.start("fencing.plain", 3.0) for _ in range(4)]
    agent.network.cut()
    results = [await handle.outcome(timeout=60) for handle in handles]
    assert {(str(result.status), result.lost) for result in results} == {("succeeded", 0)}
    assert {started[handle.id] for handle in handles} == {1}
    again = await (await agent.client.submit("fencing.plain", 0.0)).outcome(timeout=60)
    assert again.agent == agent.name


async def test_what_waited_when_the_connection_was_cut_runs_once(alone: Cluster) -> None:
    async with agent_inside(alone, slots=2) as agent:
        handles = [await agent.client.submit("fencing.plain", 0.4) for _ in range(10)]
        await wait_until(lambda: any(started[handle.id] for handle in handles))
        agent.network.cut()
        results = [await handle.outcome(timeout=60) for handle in handles]
    assert {str(result.status) for result in results} == {"succeeded"}
    assert all(result.lost == 0 for result in results if started[result.id] == 1)


async def test_what_is_exclusive_is_stopped_with_its_connection_and_runs_again(
    agent: AgentInside,
) -> None:
    handle = await agent.start("fencing.exclusive", 1.5)
    agent.network.cut()
    await wait_until(lambda: stopped[handle.id] == 1, 2)
    result = await handle.outcome(timeout=60)
    assert (str(result.status), result.lost, result.attempt) == ("succeeded", 1, 1)
    assert (started[handle.id], most_together[handle.id]) == (2, 1)


async def test_what_is_exclusive_is_stopped_before_the_agent_counts_as_failed(
    agent: AgentInside,
) -> None:
    await agent.after_a_heartbeat()
    exclusive = await agent.start("fencing.exclusive", 10.0)
    plain = await agent.start("fencing.plain", 10.0)
    silent_since = time.monotonic()
    agent.freeze_heartbeats()
    await wait_until(lambda: stopped[exclusive.id] == 1, 12)
    assert 7.0 < time.monotonic() - silent_since < 9.0
    agent.network.thaw()
    results = [await handle.outcome(timeout=60) for handle in (plain, exclusive)]
    assert [(str(result.status), result.lost) for result in results] == [
        ("succeeded", 0),
        ("succeeded", 1),
    ]
    assert [started[handle.id] for handle in (plain, exclusive)] == [1, 2]
    assert most_together[exclusive.id] == 1


async def test_a_fenced_agent_starts_nothing_and_is_critical_until_it_is_heard_again(
    alone: Cluster, agent: AgentInside
) -> None:
    consul = Consul(alone.servers.consul_url)

    async def status() -> str | None:
        found = [i for i in await consul.instances("maniple-agent") if i.id == agent.name]
        return found[0].checks.get(ttl_check(agent.name)) if found else None

    await wait_until(lambda: _equals(status(), "passing"), 5)
    await agent.after_a_heartbeat()
    agent.freeze_heartbeats()
    await wait_until(lambda: agent.fenced, 8)
    handle = await agent.client.submit("fencing.plain", 0.0)
    await wait_until(lambda: _equals(status(), "critical"), 3)
    await wait_until(lambda: _equals(state_of(alone, agent.name), "failed"), 6)
    assert started[handle.id] == 0
    agent.network.thaw()
    result = await handle.outcome(timeout=60)
    assert (str(result.status), result.lost, started[handle.id]) == ("succeeded", 0, 1)
    await wait_until(lambda: _equals(state_of(alone, agent.name), "active"), 15)
    consul.close()


async def test_an_agent_that_cannot_keep_more_results_stops_what_runs(
    agent: AgentInside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fence, "KEPT_BYTES", 100)
    small = await agent.start("fencing.plain", 4.0)
    endless = await agent.start("fencing.plain", 60.0)
    await agent.after_a_heartbeat()
    agent.network.freeze()
    await wait_until(lambda: stopped[endless.id] == 1, 12)
    agent.network.thaw()
    assert str((await small.outcome(timeout=60)).status) == "succeeded"
    assert started[small.id] == 1
    await wait_until(lambda: started[endless.id] == 2, 20)


async def state_of(cluster: Cluster, agent: str) -> str:
    answer = await ask(cluster.ready_info()["operator_url"], "registry", "agent", {"id": agent})
    return str(answer["state"])


async def _equals(answer: Awaitable[str | None], wanted: str) -> bool:
    return await answer == wanted
