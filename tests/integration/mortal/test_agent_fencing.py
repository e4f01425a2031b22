"""An agent whose network freezes or is cut: what it goes on doing, stops, and adopts."""

import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pytest
import pytest_asyncio

from agent_inside import AgentInside, agent_inside
from fencing_handlers import most_together, release, started, stopped, stopped_at, together
from local_servers import SharedServers
from maniple.timings import Fencing
from maniple_agent import fencing
from maniple_agent.jobs import Bundle, Job
from maniple_cli.control import ask
from maniple_cli.dev_cluster.cluster import Cluster, ClusterOptions
from maniple_runtime.consul.client import Consul, ttl_check
from waiting import wait_until


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def alone(shared: SharedServers) -> AsyncIterator[Cluster]:
    """A cluster without agents, whose times are those that are published."""
    options = ClusterOptions(agents=0, registries=1)
    async with Cluster(options, broker=shared.broker("fencing")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def agent(alone: Cluster) -> AsyncIterator[AgentInside]:
    async with agent_inside(alone) as inside:
        yield inside


@pytest.fixture
def adopted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each attempt has been adopted: brought again while it was there."""
    seen: Counter[str] = Counter()
    adopt = Job.adopted_by

    def counted(job: Job, bundle: Bundle) -> None:
        seen[job.envelope.id] += 1
        adopt(job, bundle)

    monkeypatch.setattr(Job, "adopted_by", counted)
    return seen


async def test_a_short_freeze_costs_no_task_and_starts_none_twice(agent: AgentInside) -> None:
    during, after = [await agent.start_held("fencing.plain") for _ in range(2)]
    agent.network.freeze()
    await wait_until(lambda: agent.fenced)
    release(during)
    await wait_until(lambda: together[during.id] == 0)
    assert not during.done
    agent.network.thaw()
    results = [await during.outcome(timeout=60)]
    release(after)
    results += [await after.outcome(timeout=60)]
    assert [(str(result.status), result.attempt) for result in results] == [("succeeded", 1)] * 2
    assert (started[during.id], started[after.id]) == (1, 1)
    await wait_until(lambda: agent.runtime.health.ready)


async def test_a_cut_connection_costs_no_task_and_starts_none_twice(
    agent: AgentInside, adopted: Counter[str]
) -> None:
    handles = [await agent.start_held("fencing.plain") for _ in range(4)]
    agent.network.cut()
    await wait_until(lambda: all(adopted[handle.id] for handle in handles))
    release(*handles)
    results = [await handle.outcome(timeout=60) for handle in handles]
    assert {(str(result.status), result.lost) for result in results} == {("succeeded", 0)}
    assert {started[handle.id] for handle in handles} == {1}
    again = await (await agent.client.submit("fencing.plain", 0.0)).outcome(timeout=60)
    assert again.agent == agent.name


async def test_what_waited_when_the_connection_was_cut_runs_once(
    alone: Cluster, adopted: Counter[str]
) -> None:
    async with agent_inside(alone, slots=2) as agent:
        running = [await agent.start_held("fencing.plain") for _ in range(2)]
        others = [await agent.client.submit("fencing.plain", 0.0) for _ in range(8)]
        await wait_until(lambda: len(agent.waiting) > 0)
        waited = agent.waiting
        agent.network.cut()
        await wait_until(lambda: all(adopted[handle.id] for handle in running))
        release(*running)
        results = [await handle.outcome(timeout=60) for handle in running + others]
    assert {str(result.status) for result in results} == {"succeeded"}
    assert all(result.lost == 0 for result in results if result.id in waited)
    assert {started[result.id] for result in results} == {1}


async def test_what_is_exclusive_is_stopped_with_its_connection_and_runs_again(
    agent: AgentInside,
) -> None:
    handle = await agent.start_held("fencing.exclusive")
    agent.network.cut()
    await wait_until(lambda: stopped[handle.id] == 1)
    assert not agent.fenced
    release(handle)
    result = await handle.outcome(timeout=60)
    assert (str(result.status), result.lost, result.attempt) == ("succeeded", 1, 1)
    assert (started[handle.id], most_together[handle.id]) == (2, 1)


async def test_what_is_exclusive_is_stopped_before_the_agent_counts_as_failed(
    alone: Cluster, agent: AgentInside, adopted: Counter[str]
) -> None:
    """Of the published 8 s and 9 s, in real time."""
    await agent.after_a_heartbeat()
    exclusive, plain = [
        await agent.start_held(capability) for capability in ("fencing.exclusive", "fencing.plain")
    ]
    agent.freeze_heartbeats()
    await wait_until(lambda: stopped[exclusive.id] == 1)
    silent = stopped_at[exclusive.id] - agent.confirmed_at
    assert silent > Fencing().exclusive
    failed_at = await time_of_failure(alone, agent.name)
    assert stopped_at[exclusive.id] < failed_at, (silent, failed_at - agent.confirmed_at)
    agent.network.thaw()
    # Its connections were closed: had the plain one ended by now, it would run again.
    await wait_until(lambda: adopted[plain.id] == 1)
    release(plain, exclusive)
    results = [await handle.outcome(timeout=60) for handle in (plain, exclusive)]
    assert [(str(result.status), result.lost) for result in results] == [
        ("succeeded", 0),
        ("succeeded", 1),
    ]
    assert [started[handle.id] for handle in (plain, exclusive)] == [1, 2]
    assert most_together[exclusive.id] == 1


async def time_of_failure(cluster: Cluster, agent: str) -> float:
    """Wait until a registry has declared an agent failed; return when, by the steady clock."""
    latest = 0.0

    async def failed() -> bool:
        nonlocal latest
        shown = await shown_of(cluster, agent)
        latest = time.monotonic() - float(shown["since_seconds"])
        return str(shown["state"]) == "failed"

    await wait_until(failed)
    return latest


async def test_a_fenced_agent_starts_nothing_and_is_critical_until_it_is_heard_again(
    alone: Cluster, agent: AgentInside
) -> None:
    consul = Consul(alone.servers.consul_url)

    async def status() -> str | None:
        found = [i for i in await consul.instances("maniple-agent") if i.id == agent.name]
        return found[0].checks.get(ttl_check(agent.name)) if found else None

    await wait_until(lambda: _equals(status(), "passing"))
    await agent.after_a_heartbeat()
    agent.freeze_heartbeats()
    await wait_until(lambda: agent.fenced)
    handle = await agent.client.submit("fencing.plain", 0.0)
    await wait_until(lambda: _equals(status(), "critical"))
    await wait_until(lambda: _equals(state_of(alone, agent.name), "failed"))
    assert started[handle.id] == 0
    agent.network.thaw()
    result = await handle.outcome(timeout=60)
    # It may have come before the agent stopped taking, and so have been lost with the connection.
    assert (str(result.status), started[handle.id]) == ("succeeded", 1)
    assert result.lost <= 1
    await wait_until(lambda: _equals(state_of(alone, agent.name), "active"))
    consul.close()


async def test_an_agent_that_cannot_keep_more_results_stops_what_runs(
    agent: AgentInside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fencing, "KEPT_BYTES", 100)
    small, endless = [await agent.start_held("fencing.plain") for _ in range(2)]
    agent.network.freeze()
    await wait_until(lambda: agent.fenced)
    assert stopped[endless.id] == 0
    release(small)
    await wait_until(lambda: stopped[endless.id] == 1)
    agent.network.thaw()
    assert str((await small.outcome(timeout=60)).status) == "succeeded"
    assert started[small.id] == 1
    await wait_until(lambda: started[endless.id] == 2)
    release(endless)


async def shown_of(cluster: Cluster, agent: str) -> dict[str, Any]:
    return await ask(cluster.ready_info()["operator_url"], "registry", "agent", {"id": agent})


async def state_of(cluster: Cluster, agent: str) -> str:
    return str((await shown_of(cluster, agent))["state"])


async def _equals(answer: Awaitable[str | None], wanted: str) -> bool:
    return await answer == wanted
