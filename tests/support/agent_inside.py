"""An agent within the test's process, behind a network that fails, in a real cluster."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import pytest

from fencing_handlers import held, started
from flaky_network import FlakyNetwork
from maniple import Client, TaskHandle, connect
from maniple.clock import SYSTEM_CLOCK, Clock
from maniple.identifiers import new_id
from maniple_agent import wiring
from maniple_agent.fencing import Fence
from maniple_agent.settings import AgentSettings
from maniple_agent.wiring import build
from maniple_cli.dev_cluster.cluster import Cluster
from maniple_runtime.metric_names import HEARTBEATS_SENT
from maniple_runtime.process import running
from maniple_runtime.runtime import Runtime
from scraping import counted
from waiting import wait_until


@dataclass(frozen=True)
class AgentInside:
    """The agent, its network, and a client of the cluster."""

    name: str
    runtime: Runtime
    network: FlakyNetwork
    client: Client
    fence: Fence

    @property
    def fenced(self) -> bool:
        return "fenced" in str(self.component("fence").get("detail"))

    @property
    def confirmed_at(self) -> float:
        """When the last confirmed heartbeat was sent, by the steady clock."""
        return self.fence._confirmation.sent_at

    @property
    def waiting(self) -> set[str]:
        """Tasks that the agent has received and not started."""
        return {job.envelope.id for job in self.fence._work.waiting}

    def component(self, name: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.runtime.health.snapshot()["components"].get(name, {})
        return found

    def freeze_heartbeats(self) -> None:
        """Freeze the connection of the control plane; tasks and results still travel."""
        self.network.freeze(self.runtime.connection_name("control"))

    async def after_a_heartbeat(self) -> None:
        """Return when the broker has just confirmed a heartbeat."""
        metrics = self.runtime.metrics
        before = counted(metrics, HEARTBEATS_SENT)
        await wait_until(lambda: counted(metrics, HEARTBEATS_SENT) > before, 10)

    async def start(self, capability: str, seconds: float) -> TaskHandle:
        """Submit a task and return when its handler runs."""
        handle = await self.client.submit(capability, seconds)
        await wait_until(lambda: started[handle.id] > 0)
        return handle

    async def start_held(self, capability: str) -> TaskHandle:
        """The same; the handler runs until its task is released."""
        task_id = new_id()
        held.add(task_id)
        handle = await self.client.submit(capability, 0.0, id=task_id)
        await wait_until(lambda: started[handle.id] > 0)
        return handle


@asynccontextmanager
async def agent_inside(
    cluster: Cluster, *, clock: Clock = SYSTEM_CLOCK, **changes: Any
) -> AsyncIterator[AgentInside]:
    """Run an agent in this process until the block is left; then everything is let through."""

    def build_with(runtime: Runtime[AgentSettings]) -> AbstractAsyncContextManager[None]:
        return build(replace(runtime, clock=clock))

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
        async with AsyncExitStack() as stack:
            with _made() as fences:
                runtime = await stack.enter_async_context(running(settings, build_with))
            try:
                yield AgentInside(name, runtime, network, client, fences[-1])
            finally:
                network.thaw()


@contextmanager
def _made() -> Iterator[list[Fence]]:
    """Yield the fences of the agents that are built in the block."""
    made: list[Fence] = []

    def make(*parts: Any, **named: Any) -> Fence:
        made.append(Fence(*parts, **named))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wiring, "Fence", make)
        yield made
