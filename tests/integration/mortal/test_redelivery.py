"""A task that kills its agent ends, and its neighbours do not pay; nobody there costs nothing."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from full_lanes import delayed
from local_servers import SharedServers
from maniple import connect
from maniple.client import Client
from maniple.messages import Result
from maniple_cli.dev_cluster.cluster import Cluster, ClusterOptions
from maniple_cli.dev_cluster.http import fetch
from maniple_cli.dev_cluster.ports import free_ports
from paths import PYTHONPATH
from process_memory import resident
from waiting import wait_until

GOOD = 1000
WAITING = 500
HEAVY = "x" * 40_000  # of each of them: a dispatcher that kept them would grow by 20 MB
GROWTH = 10  # MB that it may have grown by, which one burst of them takes

pytestmark = pytest.mark.timeout(300)


@pytest_asyncio.fixture(loop_scope="session")
async def empty(shared: SharedServers) -> AsyncIterator[Cluster]:
    """A cluster without an agent."""
    env = {"agent": {"PYTHONPATH": PYTHONPATH}}
    options = ClusterOptions(agents=0, handlers=("killer_handlers",), env=env)
    async with Cluster(options, broker=shared.broker("empty")) as running:
        yield running


async def run_good(client: Client, count: int) -> list[Result]:
    handles = await asyncio.gather(
        *(client.submit("test.perhaps", {"good": n}) for n in range(count))
    )
    return [await handle.outcome(timeout=120) for handle in handles]


def runs(note: Path) -> int:
    """Return how often a killer has begun to run."""
    return len(note.read_text().splitlines()) if note.exists() else 0


async def test_a_killer_among_good_tasks_ends_alone(trio: Cluster, tmp_path: Path) -> None:
    note = tmp_path / "killer"
    async with connect(trio.ready_info()["client_url"]) as client:
        await run_good(client, GOOD)  # from now on tasks travel in bundles
        good = asyncio.create_task(run_good(client, GOOD))
        await asyncio.sleep(0)
        killer = await client.submit("test.perhaps", {"kill": str(note)})
        results = await good
        end = await killer.outcome(timeout=200)
    assert Counter(result.status.value for result in results) == {"succeeded": GOOD}
    assert end.error is not None
    assert (end.status.value, end.error.code.value) == ("failed", "agent_lost")
    assert end.lost == 7  # twice among others, five times among suspects
    # Of acknowledgements a quorum queue takes 32 from a channel at a time; what waits there when
    # the agent dies is forgotten, and leaves a copy, which ends in the same way.
    assert runs(note) >= end.lost
    await wait_until(lambda: is_quiet(trio), 60)


@pytest.mark.parametrize("capability", ["test.once", "test.once_at_home"])
async def test_a_task_that_may_run_once_runs_once(
    trio: Cluster, tmp_path: Path, capability: str
) -> None:
    note = tmp_path / "killer"
    async with connect(trio.ready_info()["client_url"]) as client:
        handle = await client.submit(capability, {"kill": str(note)}, affinity="somebody")
        end = await handle.outcome(timeout=60)
    assert end.error is not None
    assert (end.status.value, end.error.code.value) == ("failed", "agent_lost")
    assert (end.lost, runs(note)) == (1, 1)
    await wait_until(lambda: is_quiet(trio), 60)


async def is_quiet(cluster: Cluster) -> bool:
    """Whether all agents are there and no task is anywhere."""
    info = cluster.ready_info()
    _, body = await fetch(f"{info['management_url']}/api/queues/{info['environment']}")
    queues: list[dict[str, Any]] = msgspec.json.decode(body)
    held = sum(queue.get("messages", 1) for queue in queues if queue.get("type") == "quorum")
    return not held and all([await process.ready() for process in cluster.of_service("agent")])


async def test_tasks_without_an_agent_wait_in_the_broker_and_run_when_one_comes(
    empty: Cluster,
) -> None:
    [dispatcher] = empty.of_service("dispatcher")
    async with connect(empty.ready_info()["client_url"]) as client:
        tasks = [
            client.submit("test.perhaps", {"good": n, "weight": HEAVY}) for n in range(WAITING)
        ]
        handles = await asyncio.gather(*tasks)
        await wait_until(lambda: delayed(empty) >= 2 * WAITING, 60)
        before = resident(dispatcher.pid)
        await wait_until(lambda: delayed(empty) >= 5 * WAITING, 60)
        assert resident(dispatcher.pid) < before + GROWTH
        agent = empty._process("agent", "agent-late", port=free_ports(1)[0])
        empty.processes.append(agent)
        await agent.child.start_process()
        results = [await handle.outcome(timeout=100) for handle in handles]
    assert Counter(result.status.value for result in results) == {"succeeded": WAITING}
