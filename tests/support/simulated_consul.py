"""Consul in virtual time: TTL checks, sessions bound to them, one lock, and what is registered."""

import asyncio
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from maniple.timings import Catalog
from maniple_runtime.consul.catalog import Ailing, CatalogEntry, Instance, Put
from maniple_runtime.consul.client import ConsulUnavailable, http_check, ttl_check
from virtual_time import Process, World

CALL = (0.001, 0.02)
WATCH = 0.02


@dataclass
class Registered:
    """An instance: its service and life, since when its TTL check lapses, its HTTP check."""

    service: str
    life: str
    lapses: float
    well: bool = True


class Servers:
    """What Consul knows; while it is `away` no request is answered."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.away_until = 0.0
        self.instances: dict[str, Registered] = {}
        self.sessions: dict[str, tuple[str, float]] = {}
        """The instance of each session, by id."""
        self.holder: tuple[str, bytes] | None = None
        self.unlocked_at = 0.0
        self.removed: list[str] = []
        self.keys: dict[str, CatalogEntry] = {}
        self.index = 1
        self._ids = itertools.count()
        world.every(0.5, self._look)

    def register(self, instance: str, service: str, life: str) -> None:
        """Register; the TTL check is critical until it passes."""
        self.instances[instance] = Registered(service, life, self.world.now)

    def passes(self, instance: str) -> None:
        """Pass a TTL check."""
        if instance in self.instances and self.world.now >= self.away_until:
            self.instances[instance].lapses = self.world.now + Catalog().ttl

    def lapsed(self, instance: str) -> bool:
        """Whether the TTL check is critical."""
        known = self.instances.get(instance)
        return known is None or self.world.now > known.lapses

    def begin_session(self, instance: str, lock_delay: float) -> str:
        """Start a session bound to the instance's check."""
        if self.lapsed(instance):
            raise ConsulUnavailable("its check is critical")
        session = f"session-{next(self._ids)}"
        self.sessions[session] = instance, lock_delay
        return session

    def end_session(self, session: str) -> None:
        """End a session; its lock is free after its delay."""
        _, lock_delay = self.sessions.pop(session, ("", 0.0))
        if self.holder is not None and self.holder[0] == session:
            self.holder = None
            self.unlocked_at = self.world.now + lock_delay

    def _look(self) -> None:
        for session, (instance, _) in tuple(self.sessions.items()):
            if self.lapsed(instance):
                self.end_session(session)


class SimulatedConsul:
    """One process's `Consul`; it may be away for this process alone."""

    def __init__(self, servers: Servers, process: Process) -> None:
        self._servers, self._process = servers, process
        self.away_until = 0.0

    async def _call(self) -> None:
        await asyncio.sleep(self._servers.world.between(*CALL))
        self._reach()

    async def _answer(self) -> None:
        """Return the result of a request, unless Consul is away by then."""
        await asyncio.sleep(self._servers.world.between(*CALL))
        self._reach()

    def _reach(self) -> None:
        if self._servers.world.now < max(self._servers.away_until, self.away_until):
            raise ConsulUnavailable("away")

    async def kv_list(self, prefix: str) -> tuple[int, list[CatalogEntry]]:
        await self._call()
        servers = self._servers
        found = [entry for key, entry in servers.keys.items() if key.startswith(prefix)]
        return servers.index, found

    async def watch(self, prefix: str, index: int, wait: float) -> tuple[int, list[CatalogEntry]]:
        until = self._servers.world.now + wait
        while self._servers.index == index and self._servers.world.now < until:
            await asyncio.sleep(WATCH)
            self._reach()
        return await self.kv_list(prefix)

    async def kv_put(self, key: str, value: bytes, *, cas: int | None = None) -> bool:
        return await self.transaction([Put(key, value, cas)])

    async def kv_delete(self, key: str, *, cas: int | None = None) -> bool:
        await self._call()
        entry = self._servers.keys.get(key)
        if entry is not None and cas in (None, entry.index):
            self._servers.index += 1
            del self._servers.keys[key]
        return True

    async def transaction(self, puts: Sequence[Put]) -> bool:
        await self._call()
        servers = self._servers
        known = [servers.keys.get(put.key) for put in puts]
        indices = [entry.index if entry else 0 for entry in known]
        if any(put.cas not in (None, at) for put, at in zip(puts, indices, strict=True)):
            return False
        servers.index += 1
        for put in puts:
            servers.keys[put.key] = CatalogEntry(put.key, put.value, servers.index)
        await self._answer()
        return True

    async def kv_get(self, key: str) -> CatalogEntry | None:
        await self._call()
        if key in self._servers.keys:
            return self._servers.keys[key]
        holder = self._servers.holder
        return None if holder is None else CatalogEntry(key, holder[1], 1, holder[0])

    async def create_session(self, _name: str, *, lock_delay: float, checks: Sequence[str]) -> str:
        del checks
        await self._call()
        session = self._servers.begin_session(self._process.name, lock_delay)
        await self._answer()
        return session

    async def destroy_session(self, session: str) -> None:
        await self._call()
        self._servers.end_session(session)
        await self._answer()

    async def acquire(self, _key: str, value: bytes, session: str) -> bool:
        await self._call()
        servers = self._servers
        if session not in servers.sessions:
            raise ConsulUnavailable("no such session")
        if servers.holder is None and servers.world.now >= servers.unlocked_at:
            servers.holder = session, value
        await self._answer()
        return servers.holder is not None and servers.holder[0] == session

    async def release(self, _key: str, session: str) -> bool:
        await self._call()
        if self._servers.holder is not None and self._servers.holder[0] == session:
            self._servers.holder = None
        await self._answer()
        return True

    async def instances(self, service: str) -> list[Instance]:
        await self._call()
        return self._shown(service, self._servers.instances)

    async def some_instances(self, service: str, ids: Iterable[str]) -> list[Instance]:
        await self._call()
        return self._shown(service, ids)

    def _shown(self, service: str, ids: Iterable[str]) -> list[Instance]:
        found = []
        for instance in list(ids):
            known = self._servers.instances.get(instance)
            if known is None or known.service != service:
                continue
            status = "critical" if self._servers.lapsed(instance) else "passing"
            checks = {ttl_check(instance): status}
            checks[http_check(instance)] = "passing" if known.well else "critical"
            meta = {"environment": "dev", "life": known.life}
            found.append(Instance(instance, service, "n", "h", 1, status, checks, meta=meta))
        return found

    async def ailing(self, prefix: str, _tag: str) -> list[Ailing]:
        await self._call()
        found = []
        for instance, known in self._servers.instances.items():
            critical = {ttl_check(instance)} if self._servers.lapsed(instance) else set()
            critical |= set() if known.well else {http_check(instance)}
            if critical and known.service.startswith(prefix):
                found.append(Ailing(instance, known.service, "n", frozenset(critical)))
        return found

    async def remove_instance(self, instance: Instance) -> None:
        await self._call()
        self._servers.instances.pop(instance.id, None)
        self._servers.removed.append(instance.id)

    async def registered(self, instance: str) -> bool:
        await self._call()
        return instance in self._servers.instances
