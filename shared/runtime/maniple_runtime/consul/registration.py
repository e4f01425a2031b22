"""A process's own entry in Consul: registered, refreshed, and removed at the end."""

import asyncio
import contextlib
import random

import structlog

from maniple.errors import ManipleError
from maniple_runtime.consul.catalog import service_name
from maniple_runtime.consul.client import Consul
from maniple_runtime.health import Health
from maniple_runtime.settings import ServiceSettings

LOOK_AFTER = 5  # refreshes without proof before looking whether the entry is still there
FIRST_SHARE = 0.25  # of a refresh, after which one that failed is tried again
LAST_WORD = 4.0  # seconds that the deregistration may take

log = structlog.get_logger("maniple.presence")


class TtlHeartbeat:
    """Signs of life from outside the process: of an agent, heartbeats the broker confirmed."""

    def __init__(self) -> None:
        """Expect no beats."""
        self.expected = False
        self._beaten = False
        self._wake = asyncio.Event()

    def expect(self) -> None:
        """Make the TTL check depend on `beat`, and on nothing else."""
        self.expected = True

    def beat(self) -> None:
        """Report a sign of life: it refreshes the TTL check once, now."""
        self._beaten = True
        self._wake.set()

    def take_beat(self) -> bool:
        """Return whether there was a beat since the last call."""
        beaten, self._beaten = self._beaten, False
        return beaten

    def wake(self) -> None:
        """End a `rest`."""
        self._wake.set()

    async def rest(self, seconds: float) -> None:
        """Wait so long, or until there is a beat."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()


class Registration:
    """Keeps a process registered while it runs, as this one `life` of its instance.

    The TTL check is refreshed at each beat of `ttl_heartbeat`, so that it lapses when the TTL has
    passed since the last one; without one it is refreshed repeatedly as long as every required
    component is ok (this code running at all shows that the loop is alive). What Consul has lost is
    registered again. `port` is the one that is really bound.
    """

    def __init__(  # noqa: PLR0913 - what an entry says comes from all over the process
        self,
        consul: Consul,
        settings: ServiceSettings,
        health: Health,
        *,
        port: int,
        life: str = "",
        ttl_heartbeat: TtlHeartbeat | None = None,
    ) -> None:
        self._consul = consul
        self._settings = settings
        self._times = settings.timings.catalog
        self._health = health
        self._port = port
        self._life = life
        self._ttl_heartbeat = ttl_heartbeat or TtlHeartbeat()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._registered = False
        self._failures = 0
        self._unproven = 0

    def register(self) -> None:
        """Register, and refresh in the background; waits while Consul is unavailable."""
        self._task = asyncio.create_task(self._keep(), name="presence")

    async def deregister(self) -> None:
        """Deregister, after the refresh under way: it might register again afterwards."""
        self._stopping.set()
        self._ttl_heartbeat.wake()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORD):
                if self._task is not None:
                    await self._task
                await self._deregister()

    async def _deregister(self) -> None:
        try:
            await self._consul.deregister_service(self._settings.instance)
            log.info("deregistered from Consul")
        except ManipleError as error:
            log.warning("not deregistered from Consul", reason=str(error))

    async def _keep(self) -> None:
        while not self._stopping.is_set():
            await self._tick()
            if not self._stopping.is_set():
                await self._ttl_heartbeat.rest(self._pause())

    def _pause(self) -> float:
        if self._failures == 0:
            return self._times.refresh * random.uniform(0.9, 1.1)
        # Never longer than a refresh, so that one failure does not let the TTL pass. (A heartbeat
        # that Consul did not take is not used again; the next one may come after the TTL.)
        share = min(1.0, FIRST_SHARE * 2.0 ** (min(self._failures, 8) - 1))
        return random.uniform(0.5, 1.0) * share * self._times.refresh

    async def _tick(self) -> None:
        try:
            await self._refresh()
        except Exception as error:  # noqa: BLE001 - whatever it is, the process goes on and tries again
            if self._failures == 0:
                log.warning("Consul is away; going on without it", reason=str(error))
            self._failures += 1
            self._health.set("consul", ok=False, detail=str(error))
        else:
            if self._failures:
                log.info("Consul is back")
            self._failures = 0
            self._health.set("consul", ok=True)

    async def _refresh(self) -> None:
        """Register or refresh, whichever Consul needs now."""
        instance = self._settings.instance
        # A beat that Consul does not take now is not used again: by then it is too old.
        proven = (
            self._ttl_heartbeat.take_beat() if self._ttl_heartbeat.expected else self._health.sound
        )
        if not self._registered:
            await self._register()
        if proven:
            self._unproven = 0
            if not await self._consul.pass_ttl(instance):
                log.warning("Consul has lost this process; registering again")
                await self._register()
                await self._consul.pass_ttl(instance)
            return
        self._unproven += 1
        if self._failures or self._unproven % LOOK_AFTER == 0:
            self._registered = await self._consul.registered(instance)

    async def _register(self) -> None:
        settings = self._settings
        self._registered = False
        name = service_name(settings.service)
        await self._consul.register_service(
            name,
            settings.instance,
            address=settings.address,
            port=self._port,
            tags=["maniple", settings.environment],
            meta={"environment": settings.environment, "life": self._life},
            times=self._times,
        )
        self._registered = True
        log.info("registered at Consul", name=name)
