"""A whole cluster that works on through every way in which its broker and network fail."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

import faults
from local_servers import servers_needed
from maniple import Client, TaskHandle, connect, topology
from maniple.local.cluster import Cluster, ClusterOptions
from maniple.service.names import PUBLISHING_BLOCKED
from scraping import scrape
from system.brokers import NativeBroker
from waiting import wait_until

BACK_WITHIN = 10.0
PERIOD = 0.02


@dataclass
class World:
    """A cluster on a broker of its own, which it reaches over a network that can fail."""

    cluster: Cluster
    reached: faults.Reached

    @property
    def broker(self) -> NativeBroker:
        assert isinstance(self.reached.broker, NativeBroker)
        return self.reached.broker

    async def ready(self) -> bool:
        answers = await asyncio.gather(*(process.ready() for process in self.cluster.processes))
        return all(answers)

    async def consumers(self) -> Counter[str]:
        return await faults.consumers(self.broker, "dev")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    broker = NativeBroker(Path(tmp_path_factory.mktemp("broker")))
    options = ClusterOptions(agents=2, dispatchers=2, registries=1)
    with servers_needed():
        async with faults.Reached(broker) as reached, Cluster(options, broker=reached) as cluster:
            yield World(cluster, reached)


@asynccontextmanager
async def a_stream_of_tasks(client: Client) -> AsyncIterator[list[TaskHandle]]:
    """Submit a task every 20 ms; in the end every one of them must have succeeded."""
    handles: list[TaskHandle] = []

    async def submit() -> None:
        while True:
            handles.append(await client.submit("maniple.echo", len(handles)))
            await asyncio.sleep(PERIOD)

    submitting = asyncio.create_task(submit())
    try:
        yield handles
    finally:
        submitting.cancel()
        await asyncio.gather(submitting, return_exceptions=True)
    assert [await handle.result(30) for handle in handles] == list(range(len(handles)))


async def last(fault: AbstractAsyncContextManager[object], seconds: float) -> None:
    async with fault:
        await asyncio.sleep(seconds)


async def cut(world: World) -> None:
    assert world.reached.network.cut() >= len(world.cluster.processes)


FAULTS: dict[str, Callable[[World], Awaitable[object]]] = {
    "broker restarted": lambda world: faults.restart_broker(world.broker),
    "broker killed": lambda world: faults.restart_broker(world.broker, kill=True, away=2.0),
    "connections closed": lambda world: faults.close_connections(world.broker),
    "wrong acknowledgements": lambda world: faults.acknowledge_wrongly(world.broker),
    "wrong declarations": lambda world: faults.declare_wrongly(world.broker, "maniple.submit"),
    "request queue deleted": lambda world: faults.delete_queue(
        world.broker, "dev", "maniple.requests.registry"
    ),
    "lane deleted": lambda world: faults.delete_queue(
        world.broker, "dev", "maniple.lane.maniple.fail"
    ),
    "memory alarm": lambda world: last(faults.memory_alarm(world.broker), 12.0),
    "disk alarm": lambda world: last(faults.disk_alarm(world.broker), 3.0),
    "network cut": cut,
    "network frozen": lambda world: last(faults.frozen(world.reached.network), 12.0),
    "one agent cut off": lambda world: last(faults.frozen(world.reached.network, "agent-1"), 12.0),
}


def consumed_by_each(cluster: Cluster) -> dict[str, int]:
    """Return how many consumers shared queues have if each process that should has exactly one."""
    lanes = [topology.lane_queues(f"maniple.{name}") for name in ("echo", "sleep", "fail")]
    queues = {
        "dispatcher": ["submit", "retry", "unrouted", "dead.broker"],
        "agent": [queue.name.removeprefix("maniple.") for pair in lanes for queue in pair],
        "registry": ["requests.registry"],
        "policy": ["requests.policy"],
    }
    return {
        f"maniple.{queue}": len(cluster.of_service(service))
        for service, names in queues.items()
        for queue in names
    }


@pytest.mark.parametrize("fault", FAULTS)
async def test_everything_works_again_ten_seconds_after_the_end_of_a_fault(
    world: World, fault: str
) -> None:
    pids = [process.pid for process in world.cluster.processes]
    async with (
        connect(world.cluster.ready_info()["client_url"]) as client,
        a_stream_of_tasks(client) as handles,
    ):
        await wait_until(lambda: len(handles) >= 20 and handles[-1].done)
        before = await world.consumers()
        each_once = consumed_by_each(world.cluster)
        assert {queue: before[queue] for queue in each_once} == each_once
        await FAULTS[fault](world)

        async def as_before() -> bool:
            return await world.consumers() == before

        async with asyncio.timeout(BACK_WITHIN):
            submitted = len(handles)
            await wait_until(world.ready)
            await wait_until(lambda: len(handles) > submitted + 20 and handles[-10].done)
            await wait_until(as_before)
    assert [process.pid for process in world.cluster.processes] == pids
    assert world.cluster.deaths == []


async def test_who_is_held_back_by_an_alarm_says_so(world: World) -> None:
    def held_back() -> float:
        return scrape(world.cluster.processes)[PUBLISHING_BLOCKED.name]

    async with (
        connect(world.cluster.ready_info()["client_url"]) as client,
        a_stream_of_tasks(client) as handles,
    ):
        await wait_until(lambda: len(handles) >= 20 and handles[-1].done)
        assert held_back() == 0
        async with faults.disk_alarm(world.broker):
            await wait_until(lambda: held_back() > 0)
        await wait_until(lambda: held_back() == 0)
