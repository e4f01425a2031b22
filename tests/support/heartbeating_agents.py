"""Agents that do nothing but send heartbeats, and registries that receive them."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import structlog

from holding import meanwhile
from local_servers import LocalServers
from maniple.errors import ManipleError
from maniple.identifiers import new_id
from maniple.timings import Amqp, Bounds, Catalog, Fencing, Heartbeats, Timings, Watching
from maniple.topology import CONTROL, EVENTS
from maniple_cli.dev_cluster.child import Child, ChildSpec
from maniple_cli.dev_cluster.http import fetch
from maniple_cli.dev_cluster.ports import free_ports
from maniple_cli.dev_cluster.reaper import ProcessReaper
from maniple_registry.settings import RegistrySettings
from maniple_registry.wiring import build
from maniple_runtime.consul.client import Consul
from maniple_runtime.control.messages import (
    COMMANDS,
    AgentDescription,
    Announce,
    Command,
    Heartbeat,
    Time,
)
from maniple_runtime.control.plane import ControlPlane, prepare_broker
from maniple_runtime.control.routing_keys import control_keys
from maniple_runtime.events import AGENT_EVENTS, AgentEvent
from maniple_runtime.leadership import COMPONENT as LEADER
from maniple_runtime.process import running
from maniple_runtime.runtime import Runtime
from timed import timed
from waiting import wait_until

LOG = structlog.get_logger()


class Agent:
    """An agent that does nothing but send heartbeats."""

    def __init__(self, plane: ControlPlane, name: str) -> None:
        self.plane, self.name = plane, name
        self.incarnation, self.sequence = new_id(), 0
        self.told: list[Command] = []

    async def beat(self, *, describe: bool = True, **changes: Any) -> None:
        self.sequence += 1
        who = {"agent": self.name, "incarnation": self.incarnation}
        now = datetime.now(UTC)
        static = {"host": "h", "pid": 1, "capabilities": ["x.y"], "lanes": ["x.y"]}
        description = AgentDescription.model_validate(who | static | {"started_at": now})
        fields = {"sequence": self.sequence, "sent_at": now, "digest": "d", "slots": 4}
        fields |= {"connections": self.plane.connections, "hungry": []}
        shown = {"description": description} if describe else {}
        await self.plane.heartbeat(Heartbeat.model_validate(who | fields | shown | changes))


@asynccontextmanager
async def agent_of(
    servers: LocalServers, life: str = "0"
) -> AsyncIterator[tuple[Agent, list[AgentEvent]]]:
    """An agent on the wire, its connection named as a real one's, and all events about it."""
    url = servers.rabbitmq.url("agent")
    await prepare_broker(url)
    events: list[AgentEvent] = []
    name = f"agent-{new_id()}"
    async with (
        ControlPlane(url, name=f"{name}.{life}.control", log=LOG) as plane,
        ControlPlane(url, name=f"watcher-{new_id()}", log=LOG) as watcher,
    ):
        agent = Agent(plane, name)
        told = tuple(one for one in COMMANDS if one is not Time)
        await plane.subscribe(CONTROL, control_keys(name, []), told, agent.told.append)

        def note(event: AgentEvent) -> None:
            if event.agent == name:
                events.append(event)

        await watcher.subscribe(EVENTS, ("agent.*",), AGENT_EVENTS, note)
        yield agent, events


@asynccontextmanager
async def beating(agents: list[Agent], period: float = 0.2, **fields: Any) -> AsyncIterator[None]:
    """Send the agents' heartbeats."""

    async def beat() -> None:
        while True:
            await asyncio.gather(*(agent.beat(**fields) for agent in agents))
            await asyncio.sleep(period)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def passing(consul: Consul, *agents: Agent) -> AsyncIterator[None]:
    """Refresh the TTL checks of agents in the catalog, as heartbeats would.

    Without that any registry's reaper removes them from Consul.
    """

    async def refresh() -> None:
        while True:
            for agent in agents:
                with contextlib.suppress(ManipleError):  # the next time
                    await consul.pass_ttl(agent.name)
            await asyncio.sleep(Catalog().refresh)

    await asyncio.gather(*(consul.pass_ttl(agent.name) for agent in agents))
    async with meanwhile(refresh()):
        yield


@asynccontextmanager
async def registry(
    servers: LocalServers, folder: Path, timings: Timings | None = None, **settings: Any
) -> AsyncIterator[Runtime]:
    """A registry in this process; with these times, or with those of its settings."""
    configured = RegistrySettings.model_validate(
        {
            "broker_url": servers.rabbitmq.url("registry"),
            "consul_url": servers.consul.url,
            "management_url": servers.rabbitmq.management_url("agent"),
            "data_dir": folder,
        }
        | settings
    )
    async with running(timed(configured, timings), build) as runtime:
        yield runtime


async def agreed(*registries: Runtime) -> None:
    """Wait until registries in this process agree which of them leads.

    Until then each acts for itself, half a second late, and events come from all of them.
    """
    claims = {f"{one.settings.instance} leads" for one in registries}

    def agree() -> bool:
        said = {_leader_of(one) for one in registries}
        return len(said) == 1 and said <= claims

    await wait_until(agree, 60)


def _leader_of(runtime: Runtime) -> str:
    components: dict[str, dict[str, Any]] = runtime.health.snapshot()["components"]
    return str(components.get(LEADER, {}).get("detail", ""))


QUICK = Timings(
    heartbeats=Heartbeats(period=0.2, confirm=0.1),
    bounds=Bounds(unreachable=0.6, failed=1.2),
    fencing=Fencing(fenced=0.7, exclusive=0.8),
    watching=Watching(longest_step=0.3, echo=1.0),
    amqp=Amqp(backoff=0.4),
)
"""For agents that send five heartbeats a second."""


class RegistryProcess:
    """A registry in a process of its own, known to the reaper, to be killed or frozen."""

    def __init__(
        self, servers: LocalServers, folder: Path, reaper: ProcessReaper, **settings: float
    ) -> None:
        self.instance = f"registry-{new_id()}"
        (port,) = free_ports(1)
        self.http = f"http://127.0.0.1:{port}"
        environ = {
            "MANIPLE_BROKER_URL": servers.rabbitmq.url("registry"),
            "MANIPLE_CONSUL_URL": servers.consul.url,
            "MANIPLE_MANAGEMENT_URL": servers.rabbitmq.management_url("agent"),
            "MANIPLE_INSTANCE": self.instance,
            "MANIPLE_HTTP_PORT": str(port),
        } | {f"MANIPLE_{name.upper()}": str(value) for name, value in settings.items()}
        command, log = (sys.executable, "-m", "maniple_registry"), folder / f"{self.instance}.log"
        self._child = Child(ChildSpec(self.instance, command, log, environ), reaper)

    async def start(self) -> None:
        """Start it."""
        await self._child.start_process()

    async def ready(self) -> bool:
        """Whether it reports to be ready."""
        status, _ = await fetch(f"{self.http}/ready")
        return status == 200

    async def leader(self) -> str:
        """Return the leader that it reports."""
        status, body = await fetch(f"{self.http}/health")
        if status != 200:
            return ""
        return str(msgspec.json.decode(body)["components"].get(LEADER, {}).get("detail", ""))

    def send(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self._child.pid, number)

    async def end(self) -> None:
        """Kill it."""
        await self._child.stop(0)


@asynccontextmanager
async def processes(
    servers: LocalServers, folder: Path, number: int, **settings: float
) -> AsyncIterator[list[RegistryProcess]]:
    """Registries in processes of their own."""
    with ProcessReaper() as reaper:
        made = [RegistryProcess(servers, folder, reaper, **settings) for _ in range(number)]
        try:
            for process in made:
                await process.start()
            yield made
        finally:
            for process in made:
                await process.end()


async def shown(agent: Agent) -> dict[str, Any]:
    """Return what a registry answers about an agent."""
    return await agent.plane.request("registry", "agent", {"id": agent.name})


async def settled(agent: Agent, state: str) -> None:
    """Wait until a registry shows this state: heartbeats and requests travel separately."""

    async def as_told() -> bool:
        return bool((await shown(agent))["state"] == state)

    await wait_until(as_told)


def keys(events: list[AgentEvent]) -> list[str]:
    """Return the routing keys of events."""
    return [event.KEY for event in events]


def distinct(events: list[AgentEvent]) -> list[str]:
    """Return the routing keys of events, of those with one id only the first.

    A standby that receives the leader's event late publishes the same under the same id.
    """
    return list({event.id: event.KEY for event in events}.values())


def told(agent: Agent) -> list[type[Command]]:
    """Return the commands that an agent got, except calls to all."""
    return [type(command) for command in agent.told if not isinstance(command, Announce)]
