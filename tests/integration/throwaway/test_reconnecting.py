"""A whole cluster that works on through every way in which its broker and network fail."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio

import faults
from maniple import Client, TaskHandle, connect, topology
from maniple.timings import Timings
from maniple_cli.dev_cluster.cluster import Cluster, ClusterOptions, ServiceProcess
from maniple_cli.dev_cluster.http import fetch
from maniple_runtime.metric_names import AGENTS, PUBLISHING_BLOCKED
from needs import CONSUL, RABBITMQ, need
from rabbitmqctl import Commanded
from scraping import scrape
from system.brokers import NativeBroker
from waiting import wait_until

PERIOD = 0.02
PATIENCE = 60.0  # a guard against hanging
TIME_SCALE = 0.5
NOTICED = Timings().scaled(TIME_SCALE).bounds.failed + 4


@dataclass
class World:
    """A cluster on a broker of its own, which it reaches over a network that can fail."""

    cluster: Cluster
    reached: faults.Reached
    whole: Counter[str] = field(default_factory=Counter)
    """How many consumers each queue has when nothing is wrong."""

    @property
    def broker(self) -> NativeBroker:
        assert isinstance(self.reached.broker, NativeBroker)
        return self.reached.broker

    async def unready(self) -> set[str]:
        processes = self.cluster.processes
        answers = await asyncio.gather(*(process.ready() for process in processes))
        return {one.instance for one, ok in zip(processes, answers, strict=True) if not ok}

    async def agents(self, state: str) -> float:
        """Return how many agents are in a state, says the registry."""
        (registry,) = self.cluster.of_service("registry")
        _, page = await fetch(f"{registry.http}/metrics")
        (found,) = re.findall(rf'^{AGENTS.name}\{{state="{state}"\}} (\S+)', page, re.MULTILINE)
        return float(found)

    async def works(self) -> bool:
        """Whether every process is ready and every agent active."""
        agents = self.cluster.of_service("agent")
        return not await self.unready() and await self.agents("active") == len(agents)

    async def has_all_consumers(self) -> bool:
        found = await faults.consumers(self.broker, "dev")
        return {queue: found[queue] for queue in self.whole} == self.whole  # a client has its own


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    broker = NativeBroker(Path(tmp_path_factory.mktemp("broker")))
    options = ClusterOptions(agents=2, dispatchers=2, registries=1, time_scale=TIME_SCALE)
    need(RABBITMQ, CONSUL)
    async with faults.Reached(broker) as reached, Cluster(options, broker=reached) as cluster:
        made = World(cluster, reached)
        made.whole = await faults.consumers(broker, "dev")
        each_once = consumed_by_each(cluster)
        assert {queue: made.whole[queue] for queue in each_once} == each_once
        yield made


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
    assert [await handle.result(PATIENCE) for handle in handles] == list(range(len(handles)))


async def restarted(world: World) -> None:
    await faults.restart_broker(world.broker)


async def killed(world: World) -> None:
    await faults.restart_broker(world.broker, kill=True)


async def closed(world: World) -> None:
    control = world.broker.control
    await control("close_all_connections", "--vhost", "dev", "by an operator")


async def acknowledged_wrongly(world: World) -> None:
    assert await faults.acknowledge_wrongly(world.broker) >= len(world.cluster.processes)


async def declared_wrongly(world: World) -> None:
    declared = await faults.declare_wrongly(world.broker, "maniple.submit")
    assert declared >= len(world.cluster.processes)


async def requests_deleted(world: World) -> None:
    await faults.delete_queue(world.broker, "dev", "maniple.requests.registry")


async def lane_deleted(world: World) -> None:
    await faults.delete_queue(world.broker, "dev", "maniple.lane.maniple.fail")


def held_back(processes: list[ServiceProcess]) -> float:
    """Return how many connections say that an alarm holds back what they publish."""
    return scrape(processes).get(PUBLISHING_BLOCKED.name, 0.0)


def alarmed(
    kind: Callable[[Commanded], AbstractAsyncContextManager[None]], *, until_fenced: bool
) -> Callable[[World], Awaitable[None]]:
    """An alarm that lasts until everybody who works has said so, or no agent takes anything more.

    One that is longer than a broker's silence may be is left to `test_amqp_silence.py`.
    """

    async def inject(world: World) -> None:
        agents = world.cluster.of_service("agent")
        work = [*agents, *world.cluster.of_service("dispatcher")]

        async def are_fenced() -> bool:
            return {agent.instance for agent in agents} <= await world.unready()

        assert held_back(work) == 0
        async with kind(world.broker):
            await wait_until(lambda: all(held_back([process]) > 0 for process in work))
            if until_fenced:
                await wait_until(are_fenced)
        await wait_until(lambda: held_back(work) == 0)
        assert await world.agents("failed") == 0

    return inject


async def cut(world: World) -> None:
    assert world.reached.network.cut() >= len(world.cluster.processes)


async def frozen(world: World) -> None:
    """Until everybody has noticed."""
    everybody = {process.instance for process in world.cluster.processes}

    async def has_been_noticed() -> bool:
        return await world.unready() == everybody

    async with faults.frozen(world.reached.network):
        await wait_until(has_been_noticed, NOTICED)


async def one_cut_off(world: World) -> None:
    """Until it has been declared failed."""

    async def has_failed() -> bool:
        return await world.agents("failed") == 1

    async def only_it_is_unready() -> bool:
        return await world.unready() == {"agent-1"}

    async with faults.frozen(world.reached.network, "agent-1"):
        await wait_until(has_failed, NOTICED)
        await wait_until(only_it_is_unready)


FAULTS: dict[str, Callable[[World], Awaitable[None]]] = {
    "broker restarted": restarted,
    "broker killed": killed,
    "connections closed": closed,
    "wrong acknowledgements": acknowledged_wrongly,
    "wrong declarations": declared_wrongly,
    "request queue deleted": requests_deleted,
    "lane deleted": lane_deleted,
    "memory alarm": alarmed(faults.memory_alarm, until_fenced=True),
    "disk alarm": alarmed(faults.disk_alarm, until_fenced=False),
    "network cut": cut,
    "network frozen": frozen,
    "one agent cut off": one_cut_off,
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_everything_works_again_after_the_end_of_a_fault(world: World, fault: str) -> None:
    pids = [process.pid for process in world.cluster.processes]
    async with (
        connect(world.cluster.ready_info()["client_url"]) as client,
        a_stream_of_tasks(client) as handles,
    ):
        await wait_until(lambda: len(handles) >= 20 and handles[-1].done)
        await FAULTS[fault](world)
        submitted = len(handles)
        await wait_until(world.works)
        await wait_until(lambda: len(handles) > submitted + 20 and handles[-10].done)
        await wait_until(world.has_all_consumers, every=0.2)
    assert [process.pid for process in world.cluster.processes] == pids
    assert world.cluster.deaths == []
