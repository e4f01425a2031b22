"""Policy services and their followers, in virtual time: the product's own."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, Self

import structlog

import maniple_policy.records_on_disk
import maniple_runtime.policy_view
from followed_policies import follow_policies
from maniple.errors import BrokerUnavailable
from maniple.timings import Timings
from maniple_policies import PolicySet, parse_policy
from maniple_policy.consumers import consumers_of
from maniple_policy.domain.changes import Wanted
from maniple_policy.domain.records import Revision
from maniple_policy.errors import StoreUnavailable, UnknownPolicy
from maniple_policy.handlers import PolicyHandlers
from maniple_policy.live_processes import LiveProcesses
from maniple_policy.queries import PolicyQueries, count
from maniple_policy.store import Store
from maniple_runtime.consul.catalog import CatalogEntry
from maniple_runtime.control.requests import Asked
from maniple_runtime.events import PolicyChanged
from maniple_runtime.health import Health
from maniple_runtime.policy_view import PolicyView
from simulated_broker import Broker, SimulatedPlane
from simulated_cluster import metrics
from simulated_consul import Servers, SimulatedConsul
from virtual_time import Process, World

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Disk:
    """In place of `PolicyCache`: survives its process."""

    kept: dict[Path, PolicySet]

    def __init__(self, path: Path, _where: object) -> None:
        self._path = path

    def load(self) -> PolicySet | None:
        return self.kept.get(self._path)

    def store(self, policies: PolicySet) -> None:
        self.kept[self._path] = policies


class Service:
    """A replica of the policy service."""

    def __init__(self, policies: "Policies", name: str) -> None:
        self.policies, self.name = policies, name
        self.process = Process(policies.world, name)
        self.consul = SimulatedConsul(policies.consul, self.process)
        self.process.run(self._live())

    async def _live(self) -> None:
        plane = self.policies.plane("", name=f"{self.name}.0.control")
        consul: Any = self.consul

        async def announce(event: PolicyChanged) -> None:
            try:
                await plane.emit(event)
            except BrokerUnavailable:
                return

        self.health = Health("policy", self.name)
        self.store = Store(
            consul,
            "maniple/dev",
            Path(self.name),
            health=self.health,
            metrics=metrics(),
            announce=announce,
            now=lambda: NOW,
        )
        clock = self.policies.world.monotonic
        answers = PolicyQueries(self.store, LiveProcesses(plane, consul, "dev", clock), clock)
        async with plane:
            consumers = consumers_of(PolicyHandlers(answers, lambda: NOW), answers)
            await consumers.subscribe(plane)
            await consumers.respond(plane, "policy")
            self.process.create_task(count(answers, metrics()))
            await self.store.keep()

    def change(self, document: dict[str, Any], *, deleted: bool = False) -> None:
        """Store a version of a policy, if Consul can be reached; of what is gone no tombstone."""
        revision = Revision(policy=parse_policy(document), author="a", at=NOW, deleted=deleted)
        wanted = Wanted(revision)

        async def work() -> None:
            try:
                await self.store.change(Asked(op=""), [revision.policy.key], lambda: [wanted])
            except (StoreUnavailable, UnknownPolicy):
                return

        self.policies.world.after(0.0, lambda: self.process.create_task(work()), self.process)


class Follower:
    """A process that evaluates policies; a later one of the same name finds its disk."""

    def __init__(self, policies: "Policies", name: str) -> None:
        self.policies, self.name = policies, name
        self.process = Process(policies.world, name)
        self.process.run(self._live())

    async def _live(self) -> None:
        plane: Any = self.policies.plane("", name=f"{self.name}.0.control")
        settings = SimpleNamespace(
            instance=self.name,
            region="",
            service="dispatcher",
            data_dir=Path(self.name),
            environment="dev",
            timings=Timings(),
        )
        runtime: Any = SimpleNamespace(
            settings=settings,
            health=Health("dispatcher", self.name),
            metrics=metrics(),
            log=structlog.get_logger(),
            spawn=lambda work, _name: self.process.create_task(work),
            clock=self.policies.world.clock,
        )
        self.view = PolicyView(runtime, plane)
        async with plane:
            await follow_policies(self.view, plane)
            await asyncio.Event().wait()


class Policies:
    """Replicas of the policy service, and their followers."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.broker = Broker(world, lambda: world.between(0.001, 0.05))
        self.consul = Servers(world)
        self.services: list[Service] = []
        self.followers: list[Follower] = []
        self.plane = type("Plane", (SimulatedPlane,), {"broker": self.broker})
        self._patch = world.patch

    def __enter__(self) -> Self:
        disk = type("Disk", (Disk,), {"kept": {}})
        self._patch.setattr(maniple_runtime.policy_view, "PolicyCache", disk)
        self._patch.setattr(maniple_policy.records_on_disk, "write_atomically", lambda *_: None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def start(self, services: int, followers: int) -> None:
        """Start as many."""
        self.services = [Service(self, f"p{number}") for number in range(services)]
        self.followers = [Follower(self, f"d{number}") for number in range(followers)]

    def restart(self, follower: Follower) -> None:
        """Kill one; another life of it starts at once."""
        self.broker.kill(follower.process)
        self.followers[self.followers.index(follower)] = Follower(self, follower.name)

    def lose(self, kept: dict[str, CatalogEntry]) -> None:
        """Kill all replicas with their disks; others find no more in Consul than was `kept`."""
        for service in self.services:
            self.broker.kill(service.process)
        self.consul.keys = dict(kept)
        self.consul.index += 1
        self.services = [Service(self, f"{service.name}-2") for service in self.services]

    def digests(self) -> set[str]:
        """Return the digests of what is in force anywhere."""
        stores = {service.store.policies.digest for service in self.services}
        return stores | {follower.view.current.digest for follower in self.followers}
