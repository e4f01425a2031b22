"""One leader among the replicas of a service: a lock in Consul, bound to the leader's own check.

The lock only avoids double work. A holder may lose it without knowing for a while, so whatever a
leader does must tolerate being done by two.
"""

import asyncio
import contextlib
import math
import random

from maniple.errors import ManipleError
from maniple_runtime.consul.client import Consul, ttl_check
from maniple_runtime.metric_names import LEADS
from maniple_runtime.runtime import Runtime

LAST_WORD = 1.0
COMPONENT = "leader"
MOST_OF_A_NAME = 100  # of an instance, see `ServiceSettings`
SOMEBODY = "somebody who is none of ours"


class Leadership:
    """Holds or waits for the lock of a service; nobody leads while Consul is unavailable."""

    def __init__(self, runtime: Runtime) -> None:
        """Describe the lock; `hold_leadership` takes it."""
        settings = runtime.settings
        self._runtime = runtime
        self._monotonic = runtime.clock.monotonic
        self._consul: Consul = runtime.consul
        self._instance = settings.instance
        self._times = settings.timings.leading
        self._key = f"{settings.consul_prefix}/{settings.service}/leader"
        self._session: str | None = None
        self._confirmed = -math.inf
        self._reported: str | None = None
        self._stopped = False
        self._turn = asyncio.Lock()

    @property
    def leads(self) -> bool:
        """Whether this process leads, as far as it can know."""
        return self._monotonic() - self._confirmed <= self._times.lease

    @property
    def led(self) -> bool:
        """Whether this process or another one led at the last check."""
        return bool(self._reported)

    async def hold_leadership(self) -> None:
        """Hold or wait for the lock until the process stops; then release it."""
        self._runtime.before_leaving.append(self._give_back)
        try:
            while not self._stopped:
                await self._look()
                await asyncio.sleep(self._times.look * random.uniform(0.9, 1.1))
        finally:
            await self._give_back()

    async def _look(self) -> None:
        async with self._turn:
            if not self._stopped:
                await self._look_now()

    async def _look_now(self) -> None:
        asked = self._monotonic()
        try:
            leader = await self._ask()
        except ManipleError as error:
            self._confirmed = -math.inf
            self._report("", str(error))
            return
        self._confirmed = asked if leader == self._instance else -math.inf
        self._report(leader, f"{leader} leads" if leader else "nobody leads yet")

    async def _ask(self) -> str:
        """Return the leader, after trying to become it if there is none."""
        entry = await self._consul.kv_get(self._key)
        if entry is None or entry.session is None:
            return self._instance if await self._acquire() else ""
        if entry.session == self._session:
            return self._instance
        holder = _name(entry.value)
        if holder != self._instance:
            return holder
        # An earlier life of ours, or a session whose beginning we were not told.
        await self._consul.destroy_session(entry.session)
        return ""

    async def _acquire(self) -> bool:
        try:
            if self._session is None:
                self._session = await self._consul.create_session(
                    f"{self._instance} leads",
                    lock_delay=self._times.lock_delay,
                    checks=[ttl_check(self._instance)],
                )
            return await self._consul.acquire(self._key, self._instance.encode(), self._session)
        except ManipleError:
            self._session = None  # it has ended, or our check does not pass yet
            raise

    def _report(self, leader: str, detail: str) -> None:
        self._runtime.metrics.gauge(LEADS).set(leader == self._instance)
        self._runtime.health.set(COMPONENT, ok=bool(leader), detail=detail)
        if leader != self._reported:
            self._runtime.log.info("leader changed", leader=leader or None, reason=detail)
            self._reported = leader

    async def _give_back(self) -> None:
        self._stopped = True
        self._confirmed = -math.inf
        with contextlib.suppress(ManipleError, TimeoutError):
            async with asyncio.timeout(LAST_WORD), self._turn:
                session, self._session = self._session, None
                if session is not None:
                    # A lock that is released has no lock-delay; one whose session ends has, and it
                    # ends with our check.
                    await self._consul.release(self._key, session)
                    await self._consul.destroy_session(session)


def _name(value: bytes) -> str:
    """Return the name of a lock's holder, from the lock's value."""
    name = value.decode("utf-8", "replace")
    return name if name.isprintable() and 0 < len(name) <= MOST_OF_A_NAME else SOMEBODY
