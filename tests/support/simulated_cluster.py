"""Registries and agents in virtual time: the product's own, on a simulated broker and Consul.

A registry is what its composition root builds. An agent has only what decides about its life:
heartbeats, fence and commands; in place of its work there is whether something exclusive runs.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable
from functools import cache
from types import SimpleNamespace, TracebackType
from typing import Any, Self

import structlog

import maniple_registry.heartbeat_consumer
import maniple_registry.wiring
import maniple_runtime.consumers
from maniple.timings import Fencing
from maniple.topology import lane_queues
from maniple_agent.commands import AgentCommands
from maniple_agent.consumers import consumers_of
from maniple_agent.domain.confirmation import Confirmation
from maniple_agent.fencing import Fence
from maniple_agent.heartbeat import Heartbeats
from maniple_agent.heartbeat import Self as Told
from maniple_agent.task_watch import TaskWatch
from maniple_registry.domain.agent_record import AgentState
from maniple_registry.handlers import RegistryHandlers
from maniple_registry.management import Closed
from maniple_registry.settings import RegistrySettings
from maniple_runtime.consul.registration import TtlHeartbeat
from maniple_runtime.control.messages import COMMANDS, AgentDescription, Command
from maniple_runtime.control.routing_keys import control_keys
from maniple_runtime.events import AgentFailed
from maniple_runtime.health import Health
from maniple_runtime.runtime import Runtime
from maniple_runtime.telemetry import Metrics
from simulated_broker import (
    Broker,
    Delay,
    SimulatedInspector,
    SimulatedLink,
    SimulatedListener,
    SimulatedPlane,
    SimulatedPublisher,
)
from simulated_consul import Servers, SimulatedConsul
from virtual_time import Process, World

TTL_REFRESH = 2.0
QUICK = 0.05


@cache
def metrics() -> Metrics:
    """All processes count together: making so many metrics takes longer than the rest."""
    return Metrics()


class Cluster:
    """A broker, a Consul, and the processes that are started; the world's random numbers."""

    def __init__(self, world: World, delay: Delay | None = None) -> None:
        self.world = world
        self.broker = Broker(world, delay or (lambda: world.between(0.001, QUICK)))
        self.consul = Servers(world)
        self.registries: list[Registry] = []
        self.agents: list[Agent] = []
        self.handlers: dict[Process, RegistryHandlers] = {}
        self._patch = world.patch

    def __enter__(self) -> Self:
        plane = type("Plane", (SimulatedPlane,), {"broker": self.broker})
        link = type("Link", (SimulatedLink,), {"broker": self.broker})
        wiring, hearing = maniple_registry.wiring, maniple_registry.heartbeat_consumer
        for module, name, stand_in in (
            (wiring, "ControlPlane", plane),
            (wiring, "prepare_broker", _nothing),
            (wiring, "Management", lambda _url, _tls: self),
            (wiring, "RegistryHandlers", self._kept),
            (hearing, "AmqpConnection", link),
            (hearing, "Publisher", SimulatedPublisher),
            (maniple_runtime.consumers, "Listener", SimulatedListener),
            (hearing, "Inspector", SimulatedInspector),
            (hearing, "new_id", self.world.new_id),
        ):
            self._patch.setattr(module, name, stand_in)
        self.plane = plane
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def _kept(self, *parts: Any, **more: Any) -> RegistryHandlers:
        process: Any = asyncio.get_running_loop()
        self.handlers[process] = RegistryHandlers(*parts, **more)
        return self.handlers[process]

    def registry(self, name: str) -> "Registry":
        """Start a registry."""
        started = Registry(self, name)
        self.registries.append(started)
        return started

    def agent(self, name: str, **fields: Any) -> "Agent":
        """Start an agent."""
        started = Agent(self, name, **fields)
        self.agents.append(started)
        return started

    def begun(self, agents: int) -> "Registry":
        """Start a registry and agents, and return it when it has heard them for a while."""
        registry = self.registry("r0")
        for number in range(agents):
            self.agent(f"a{number}", fenced=False)
        self.world.run(5.0 + self.world.between(0.0, 3.0))
        return registry

    def failures(self) -> dict[str, float]:
        """Return when each agent was first reported to have failed."""
        found: dict[str, float] = {}
        for at, event in self.broker.events:
            if isinstance(event, AgentFailed):
                found.setdefault(event.agent, at)
        return found

    async def close_connections(
        self, names: Collection[str], prefixes: Collection[str] = ()
    ) -> Closed:
        """Stand in for RabbitMQ's management API."""
        await asyncio.sleep(self.world.between(0.01, 0.3))
        found = [
            wire
            for wire in self.broker.wires
            if wire.up and (wire.name in names or wire.name.startswith(tuple(prefixes)))
        ]
        for wire in found:
            wire.lose()
        return Closed(len(found), frozenset(wire.name for wire in found))


async def _nothing(*_: object) -> None: ...


class Registry:
    """A registry in a process of its own."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.name = cluster, name
        self.process = Process(cluster.world, name)
        settings = RegistrySettings(instance=name, management_url="http://127.0.0.1:1")
        consul: Any = SimulatedConsul(cluster.consul, self.process)
        log = structlog.get_logger()
        self.health = Health("registry", name, clock=cluster.world.monotonic)
        stopping = asyncio.Event()
        self.runtime = Runtime(
            settings, self.health, metrics(), consul, log, stopping, clock=cluster.world.clock
        )
        cluster.consul.register(name, "maniple-registry", self.runtime.life)
        self.process.run(self._live())

    async def _live(self) -> None:
        self.process.create_task(self._refresh())
        async with maniple_registry.wiring.build(self.runtime):
            await asyncio.Event().wait()

    async def _refresh(self) -> None:
        while True:
            self.cluster.consul.passes(self.name)
            await asyncio.sleep(TTL_REFRESH)

    @property
    def handlers(self) -> RegistryHandlers:
        """What its composition root has put together."""
        return self.cluster.handlers[self.process]

    def state(self, agent: str) -> tuple[str, AgentState] | None:
        """Return the incarnation of an agent that it knows, and its state there."""
        record = self.handlers.fleet.get_record(agent)
        return None if record is None else (record.incarnation, record.state)


class Held:
    """In place of an agent's work: something exclusive, that runs until it is stopped."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.running: set[Any] = {self}
        self.stopped_at: float | None = None
        self.definition = SimpleNamespace(executor=None)
        self.announced, self.started_at = True, None
        self.waiting: tuple[Any, ...] = ()
        self.draining = False
        self.ingress = SimpleNamespace(last_delivery_at=None)
        self.slots = _Slots()

    def stop_exclusive(self) -> None:
        if self.stopped_at is None:
            self.stopped_at = self._world.now

    async def resume(self) -> None: ...
    def slots_free(self) -> None: ...
    def dissolve(self) -> None: ...


class _Slots(list[Any]):
    taken = 0

    def show_stuck(self, _health: object) -> None: ...


class Agent:
    """An agent in a process of its own; `open_lanes` are those of which it would take more.

    `unconsumed` are the places where it was asked to consume anew, and the queue is silent.
    """

    def __init__(
        self, cluster: Cluster, name: str, *, fenced: bool = True, **described: Any
    ) -> None:
        self.cluster, self.name = cluster, name
        self._fenced = fenced
        self.process = Process(cluster.world, name)
        self.work = Held(cluster.world)
        self.told: list[tuple[float, Command]] = []
        self.open_lanes: tuple[str, ...] = ()
        self.unconsumed: tuple[str, ...] = ()
        self.slots = 4
        self.reconnects: Callable[[], object] = lambda: None
        self.lives: list[str] = []
        self.confirmed_at = cluster.world.now
        self.died_at: float | None = None
        life = cluster.world.new_id()[-6:]
        self._connection = f"{name}.{life}.control"
        cluster.consul.register(name, "maniple-agent", life)
        who: dict[str, Any] = {"agent": name, "incarnation": cluster.world.new_id()}
        static = {"host": "h", "pid": 1, "started_at": cluster.world.now_utc()}
        self._described = AgentDescription.model_validate(who | static | described)
        self.heartbeats: Heartbeats | None = None
        self.process.run(self._live())

    @property
    def incarnation(self) -> str:
        """Its present life."""
        return self._self.description.incarnation

    async def _live(self) -> None:
        world = self.cluster.world
        plane = self.cluster.plane("", name=self._connection)
        self._self = Told(
            self._described,
            self.slots,
            lambda: plane.connections,
            lambda: self.open_lanes,
            lambda: self.unconsumed,
        )
        work: Any = self.work
        confirmation = Confirmation(world.now)
        hot: Any = SimpleNamespace(
            stop_consuming=lambda: None,
            resume=lambda: None,
            blocked=False,
            up=False,
            publishes=False,
        )
        runtime: Any = SimpleNamespace(
            health=Health("agent", self.name, clock=world.monotonic),
            ttl_heartbeat=TtlHeartbeat(),
            spawn=lambda task, _name: self.process.create_task(task),
            clock=world.clock,
        )
        kept: Any = SimpleNamespace(kept_bytes=0, redirect_overdue=lambda **_: None)
        self.fence = fence = Fence(
            runtime,
            confirmation,
            work,
            agent_publisher=kept,
            hot=hot,
            plane=plane,
        )

        def confirmed(sent_at: float) -> None:
            self.confirmed_at = max(self.confirmed_at, sent_at)
            fence.confirm(sent_at)
            self.cluster.consul.passes(self.name)

        self.heartbeats = Heartbeats(
            plane,
            self._self,
            work,
            confirmed=confirmed,
            health=runtime.health,
            metrics=metrics(),
            clock=world.clock,
        )
        ending: Any = SimpleNamespace(begin_leaving=lambda _seconds: self.kill())
        commands = consumers_of(
            AgentCommands(
                self.heartbeats,
                ending,
                self._reconnect,
                self._renew,
                world.new_id,
                world.monotonic,
            ),
            control_keys(self.name, ()),
        )
        (one,) = commands.messages

        def obey(command: Command) -> None:
            self.told.append((world.now, command))
            one.take(command)

        async with plane:
            await plane.subscribe(one.exchange, one.keys, COMMANDS, obey)
            confirmation.confirm_heartbeat(world.now)
            await self.heartbeats.send_heartbeat()
            if self._fenced:
                self.process.create_task(
                    TaskWatch(work, kept, self.name, period=Fencing().look).watch_tasks(
                        fence, metrics(), runtime.health, world.now_utc
                    )
                )
            await self.heartbeats.send_heartbeats()

    def runs(self) -> bool:
        """Whether something exclusive runs in it now."""
        process = self.process
        return self.work.stopped_at is None and not process.dead and not process.frozen

    def lives_known(self) -> set[str]:
        """Return its lives that some registry takes for active."""
        seen = [r.state(self.name) for r in self.cluster.registries if not r.process.dead]
        return {one[0] for one in seen if one is not None and one[1] is AgentState.ACTIVE}

    def _reconnect(self) -> None:
        self.reconnects()

    def _renew(self, places: Iterable[str]) -> None:
        """Consume anew; of a queue that does not answer it then reports not to consume it."""
        silent = {
            lane for lane in places if lane_queues(lane)[0].name in self.cluster.broker.silent
        }
        self.open_lanes = tuple(lane for lane in self.open_lanes if lane not in silent)
        self.unconsumed = (*self.unconsumed, *silent)

    def ate(self) -> None:
        """Make it take something from a lane."""
        self.work.ingress.last_delivery_at = self.cluster.world.now_utc()

    # --- what may be done to it ----------------------------------------------------------

    def kill(self) -> None:
        self._dies()
        self.cluster.broker.kill(self.process)

    def freeze(self, seconds: float) -> None:
        self._dies()
        self.cluster.broker.freeze(self.process, seconds)

    def cut(self, seconds: float) -> None:
        self._dies()
        self.cluster.broker.cut(self.process, seconds)

    def _dies(self) -> None:
        if self.died_at is None:
            self.died_at = self.cluster.world.now
