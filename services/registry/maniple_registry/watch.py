"""Watching over the fleet: silence, Consul's checks, lanes. Each class has a loop of its own."""

import asyncio
import math
import re
from collections.abc import Callable, Iterable
from functools import partial

from maniple.errors import ManipleError
from maniple.timings import Timings, Watching
from maniple_registry.domain.agent_record import Instant
from maniple_registry.domain.mass_silence import proven, threatens
from maniple_registry.handlers import RegistryHandlers
from maniple_registry.heartbeat_consumer import HeartbeatConsumer
from maniple_runtime.consul.catalog import Instance, service_name
from maniple_runtime.consul.client import Consul, http_check, ttl_check
from maniple_runtime.control.field_types import MOST_OF_A_LIFE, AgentId, is_agent_name
from maniple_runtime.control.plane import ControlPlane
from maniple_runtime.listing import pages
from maniple_runtime.metric_names import AGENTS, ECHOES

COUNT_PERIOD = 1.0
OWN_LOOKS = 20  # agents whose own queues are looked at in one turn
AGENT_SERVICE = service_name("agent")
CRITICAL = "critical"
_LIFE = rf"[A-Za-z0-9-]{{0,{MOST_OF_A_LIFE}}}"


class FailureDetector:
    """Judges who is silent; asks for our own echo when much of the fleet is, or one is to fail."""

    def __init__(
        self, handlers: RegistryHandlers, hearing: HeartbeatConsumer, watching: Watching
    ) -> None:
        self._handlers = handlers
        self._hearing = hearing
        self._times = watching
        self._echoed = -math.inf
        self._heard_before = True

    async def detect_failures(self) -> None:
        """Look until cancelled."""
        while True:
            await self._scan()
            await asyncio.sleep(self._times.scan)

    async def _scan(self) -> None:
        handlers, hears = self._handlers, self._hearing.hears
        handlers.clock.record_hearing(hearing=hears)
        if hears and not self._heard_before:
            # Who is alive need not be suspected until its next heartbeat is due.
            handlers.call_all()
        self._heard_before = hears
        if self._hearing.deaf:
            await self._prove()
        if not self._hearing.hears:
            return
        now = handlers.clock.now()
        overdue = handlers.fleet.overdue(now)
        if not overdue or await self._believes(overdue, now):
            handlers.judge(overdue, now)  # as of then: that much is proven
        else:
            handlers.fleet.postpone(overdue)

    async def _believes(self, overdue: list[AgentId], now: Instant) -> bool:
        """Whether it is their silence, and not that we do not hear."""
        fleet = self._handlers.fleet
        if fleet.condemns(overdue, now):
            # An echo from before its bound may be older than the heartbeat that we did not hear.
            return await self._prove()
        heard = proven(now.seconds, self._echoed, self._times.proof)
        return heard or not threatens(*fleet.silent(now)) or await self._prove()

    async def _prove(self) -> bool:
        """Whether our echo comes in time; if not, what we did not hear is held against nobody."""
        handlers, clock = self._handlers, self._handlers.clock
        asked = clock.seconds()
        if await self._hearing.echo():
            self._echoed = clock.seconds()
            handlers.metrics.counter(ECHOES, "heard").inc()
            return True
        heard = max(handlers.last_heard, self._echoed)
        clock.take_off(clock.seconds() - min(asked, heard))
        clock.record_hearing(hearing=False)
        if not self._hearing.deaf:
            handlers.log.warning("agents are silent, and our own echo does not come back")
        self._hearing.deaf = True
        handlers.metrics.counter(ECHOES, "late").inc()
        return False


async def act(handlers: RegistryHandlers, period: float) -> None:
    """Do what this registry has to do, until cancelled."""
    while True:
        handlers.actor.act(handlers.clock.seconds())
        await asyncio.sleep(period)


async def count(handlers: RegistryHandlers) -> None:
    """Show the number of agents by state, until cancelled."""
    while True:
        for state, number in handlers.fleet.counts().items():
            handlers.metrics.gauge(AGENTS, state).set(number)
        await asyncio.sleep(COUNT_PERIOD)


async def inherit(handlers: RegistryHandlers, plane: ControlPlane) -> None:
    """Ask another registry, if there is one, which incarnations have failed."""
    try:
        async for answer in pages(partial(plane.request, "registry", "failed")):
            handlers.inherit(answer.get("failed", {}))
    except ManipleError as error:
        handlers.log.info("no other registry to learn from", reason=str(error))


class StalledLaneWatch:
    """Looks, again and again, at the lanes of agents that say they would take more.

    Not soon after our own link was lost: the agents' may have been lost too, and what they did not
    take says nothing about them.
    """

    def __init__(
        self,
        handlers: RegistryHandlers,
        hearing: HeartbeatConsumer,
        watching: Watching,
        *,
        monotonic: Callable[[], float],
    ) -> None:
        self._handlers = handlers
        self._hearing = hearing
        self._times = watching
        self._monotonic = monotonic
        self._reconnects = hearing.link.reconnects
        self._settled_at = float("-inf")

    async def watch_lanes(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(self._times.look)
            try:
                await self._look()
            except Exception:
                self._handlers.log.exception("lanes not inspected")

    async def _look(self) -> None:
        fleet, now = self._handlers.fleet, self._monotonic()
        if self._reconnects != self._hearing.link.reconnects:
            self._reconnects = self._hearing.link.reconnects
            self._settled_at = now + self._times.settling
        if not self._hearing.link.is_up:
            self._settled_at = now + self._times.settling
        elif now < self._settled_at:
            self._handlers.on_queue_views({})  # all doubts begin anew
        else:
            lanes, addressed = sorted(fleet.open_lanes()), fleet.addressed(OWN_LOOKS)
            self._handlers.on_queue_views(await self._hearing.inspect_queues(lanes, addressed))


class ConsulWatch:
    """The second detector: HTTP checks, and who should be there when a registry starts."""

    def __init__(
        self, handlers: RegistryHandlers, consul: Consul, environment: str, timings: Timings
    ) -> None:
        self._handlers = handlers
        self._times = timings.watching
        self._ttl = timings.catalog.ttl
        self._consul = consul
        self._environment = environment
        self._seeded = False
        self._away = False

    async def watch_checks(self) -> None:
        """Look until cancelled; while Consul is away it says nothing."""
        while True:
            await asyncio.sleep(self._times.look)
            try:
                if not self._seeded:
                    self._seed(await self._listed(), self._handlers.clock.seconds())
                ailing = await self._consul.ailing(AGENT_SERVICE, self._environment)
            except ManipleError as error:
                if not self._away:
                    self._handlers.log.warning(
                        "health checks not read from Consul", reason=str(error)
                    )
                self._away = True
                ailing = []
            else:
                self._away = False
            self._handlers.on_checks(
                {one.id for one in ailing if http_check(one.id) in one.critical}
            )

    async def seed(self) -> None:
        """Call all agents and wait, for a while, until all that stand in Consul are heard.

        Those that are not are taken as heard at the start.
        """
        started = self._handlers.clock.seconds()
        self._handlers.call_all()
        listed: list[Instance] = []
        try:
            async with asyncio.timeout(self._times.seeding):
                listed = await self._listed()
                self._seeded = True
                await asyncio.sleep(self._times.answering)  # of those that Consul has lost
                while not self._all_heard(listed):  # noqa: ASYNC110 - heartbeats have no event of their own
                    await asyncio.sleep(self._times.scan)
        except (ManipleError, TimeoutError) as error:
            self._handlers.log.info("not all agents have sent a heartbeat yet", reason=str(error))
        if self._seeded:
            self._seed(listed, started)

    async def _listed(self) -> list[Instance]:
        found = await self._consul.instances(AGENT_SERVICE)
        ours = [one for one in found if one.meta.get("environment") == self._environment]
        agents = [one for one in ours if is_agent_name(one.id) and _life(one) is not None]
        if len(agents) < len(ours):
            odd = len(ours) - len(agents)
            self._handlers.log.warning("entries of agents in Consul are ignored", number=odd)
        return agents

    def _all_heard(self, listed: Iterable[Instance]) -> bool:
        return all(self._handlers.fleet.hears(one.id) for one in listed)

    def _seed(self, listed: Iterable[Instance], heard: float) -> None:
        self._seeded = True
        now = self._handlers.clock.now()
        for one in listed:
            # Its checks say that no heartbeat of its was confirmed for that long.
            lapsed = self._ttl if one.checks.get(ttl_check(one.id)) == CRITICAL else 0.0
            self._handlers.fleet.seed(one.id, _life(one) or "", heard - lapsed, now)


def _life(agent: Instance) -> str | None:
    """Return which life of an agent an entry is of, empty for one that does not say.

    None if it says what is none: connections are closed by what begins as it.
    """
    life = agent.meta.get("life", "")
    return life if re.fullmatch(_LIFE, life) else None
