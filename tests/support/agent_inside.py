"""An agent inside the test's own process, behind a network that fails, in a real cluster."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from fencing_handlers import started
from flaky_network import FlakyNetwork
from maniple import Client, TaskHandle, connect
from maniple.local.cluster import Cluster
from maniple.service.names import HEARTBEATS_SENT, CounterName
from maniple.service.runner import Runtime, running
from maniple_agent.settings import AgentSettings
from maniple_agent.wiring import build
from waiting import wait_until


@dataclass(frozen=True)
class AgentInside:
    """The agent, its network, and a client of the cluster."""

    name: str
    runtime: Runtime
    network: FlakyNetwork
    client: Client

    @property
    def fenced(self) -> bool:
        return "fenced" in str(self.component("fence").get("detail"))

    def component(self, name: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.runtime.health.snapshot()["components"].get(name, {})
        return found

    def freeze_heartbeats(self) -> None:
        """Freeze the connection of the control plane; tasks and results still travel."""
        self.network.freeze(self.runtime.connection_name("control"))

    async def after_a_heartbeat(self) -> None:
        """Return when the broker has just confirmed a heartbeat."""
        before = self.sample(HEARTBEATS_SENT)
        await wait_until(lambda: self.sample(HEARTBEATS_SENT) > before, 10)

    def sample(self, counter: CounterName, **labels: str) -> float:
        found = self.runtime.metrics.registry.get_sample_value(f"{counter.name}_total", labels)
        return found or 0.0

    async def start(self, capability: str, seconds: float) -> TaskHandle:
        """Submit a task and return when its handler runs."""
        handle = await self.client.submit(capability, seconds)
        await wait_until(lambda: started[handle.id] > 0)
        return handle


@asynccontextmanager
async def agent_inside(cluster: Cluster, **changes: Any) -> AsyncIterator[AgentInside]:
    """Run an agent in this process until the block is left; then everything is let through."""
    name = f"inside-{uuid4().hex[:8]}"
    broker = cluster.servers.broker_url("agent")
    async with (
        FlakyNetwork(broker) as network,
        connect(cluster.ready_info()["client_url"]) as client,
    ):
        settings = AgentSettings(
            broker_url=network.url,
            consul_url=cluster.servers.consul_url,
            instance=name,
            handlers=("fencing_handlers",),
            **{"drain_timeout": 2.0, **changes},
        )
        async with running(settings, build) as runtime:
            try:
                yield AgentInside(name, runtime, network, client)
            finally:
                network.thaw()
