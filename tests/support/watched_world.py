"""A cluster that a real Prometheus watches, for tests of alerts and dashboards."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holding import meanwhile
from maniple import connect
from maniple_cli.control import operator_plane
from maniple_cli.dev_cluster.cluster import Cluster, ClusterOptions, ServiceProcess
from maniple_cli.dev_cluster.rabbitmq import RabbitMQServer
from maniple_cli.dev_cluster.reaper import ProcessReaper
from paths import PYTHONPATH
from policy_handlers import BROKEN_VARIABLE
from policy_world import World
from prometheus_server import Labels, Prometheus
from span_collector import SpanCollector
from system.brokers import NativeBroker
from waiting import wait_until

PREFETCH = 8  # submissions that a dispatcher holds
SLOTS = 16
FAILED_AFTER = 12.0  # so that an agent is unreachable for long enough to be seen
PATIENCE = 60.0
# What would take too much: a minute of waiting, 800,000 messages, 40 GB.
EDITS = {
    "p99_5m > 60": "p99_5m > 1",
    "> 800000": "> 20",
    "fill > 0.8": "fill > 0.0004",
}


@dataclass
class Watched:
    """The cluster, who watches it, and the alerts that were seen to fire."""

    world: World
    broker: NativeBroker
    prometheus: Prometheus
    collector: SpanCollector
    fired: set[str] = field(default_factory=set)

    async def fires(self, alert: str, **labels: str) -> None:
        """Return once an alert with these labels fires."""
        wanted = {"alertname": alert, **labels}

        async def seen() -> bool:
            return any(wanted.items() <= one.items() for one in await self.prometheus.alerts())

        await wait_until(seen, PATIENCE)
        self.fired.add(alert)

    async def ceases(self, *alerts: str) -> None:
        """Return once none of these alerts fires."""

        async def quiet() -> bool:
            return not {one["alertname"] for one in await self.prometheus.alerts()} & set(alerts)

        await wait_until(quiet, PATIENCE)

    async def firing(self) -> list[Labels]:
        """Return the labels of what fires now."""
        return await self.prometheus.alerts()

    @asynccontextmanager
    async def gone(self, service: str) -> AsyncIterator[None]:
        """Kill the processes of a service, and start them again at the end."""
        processes = self.world.cluster.of_service(service)
        await asyncio.gather(*(process.child.stop(0.0) for process in processes))
        try:
            yield
        finally:
            await self._start(processes)

    async def _start(self, processes: Iterable[ServiceProcess]) -> None:
        for process in processes:
            await process.child.start_process()
            process.child.restart = True
            await wait_until(process.ready, PATIENCE)


@asynccontextmanager
async def steadily(
    world: World, capability: str, payload: Any, pause: float
) -> AsyncIterator[None]:
    """Submit one task after the other, however they end."""

    async def submit() -> None:
        while True:
            await world.client.submit(capability, payload)
            await asyncio.sleep(pause)

    async with meanwhile(submit()):
        yield


@asynccontextmanager
async def watched_world(folder: Path) -> AsyncIterator[Watched]:
    """Start one; raises `ServerMissing`."""
    broken = folder / "broken"
    collector = SpanCollector()
    env = {
        "agent": {
            "PYTHONPATH": PYTHONPATH,
            "MANIPLE_VARIANTS": "canary,lite,shadow",
            "MANIPLE_SLOTS": str(SLOTS),
            "MANIPLE_PROCESSES": "1",
            BROKEN_VARIABLE: str(broken),
        },
        "dispatcher": {
            "MANIPLE_PREFETCH": str(PREFETCH),
            "MANIPLE_OTLP_ENDPOINT": collector.url,
            "MANIPLE_TRACE_RATIO": "1",
        },
        "registry": {"MANIPLE_FAILED_AFTER": str(FAILED_AFTER)},
    }
    options = ClusterOptions(
        agents=2, dispatchers=2, handlers=("policy_handlers", "sample_handlers"), env=env
    )
    broker = NativeBroker(folder / "rabbitmq")
    async with AsyncExitStack() as stack:
        stack.enter_context(collector.serving())
        cluster = await stack.enter_async_context(Cluster(options, broker=broker))
        info = cluster.ready_info()
        client = await stack.enter_async_context(connect(info["client_url"]))
        plane = await stack.enter_async_context(operator_plane(info["operator_url"]))
        assert isinstance(broker._server, RabbitMQServer)
        prometheus = Prometheus(
            folder,
            consul_url=info["consul_url"],
            broker_port=broker._server.prometheus_port,
            edits=EDITS,
        )
        reaper = stack.enter_context(ProcessReaper())
        stack.push_async_callback(prometheus.stop)
        await prometheus.start(reaper)
        yield Watched(World(cluster, client, plane, broken), broker, prometheus, collector)
