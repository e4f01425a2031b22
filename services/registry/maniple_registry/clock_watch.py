"""Telling the time by which deadlines are judged, and whose clock differs from it."""

import asyncio
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Protocol

from structlog.typing import FilteringBoundLogger

from maniple.errors import BrokerUnavailable, ManipleError, PublishRefused
from maniple.timings import Clocks
from maniple_registry.domain.clock_skew import Leading, by_host, correction, told
from maniple_registry.handlers import RegistryHandlers
from maniple_runtime.cluster_time import ClusterTime
from maniple_runtime.control.field_types import AgentId
from maniple_runtime.control.messages import Command, Request, Time
from maniple_runtime.control.routing_keys import ALL_AGENTS
from maniple_runtime.health import Health
from maniple_runtime.runtime import Runtime

COMPONENT = "clocks"
SHOWN = 3
TOLD_A_SECOND = 2000  # agents; as for their reports
LATE = 2.0  # seconds after which what was to be told is not true any more


class ClockPlane(Protocol):
    """What is needed of `ControlPlane`."""

    async def command(self, key: str, command: Command, timeout: float) -> bool:
        """Publish a command."""

    async def request(
        self, service: str, op: str, body: None = None, timeout: float = LATE
    ) -> dict[str, Any]:
        """Ask a service."""


class ClockWatch:
    """Tells the cluster's time to all, from the registry that leads; from each, if none does.

    It goes on from what another registry told before, and never jumps forwards, which would end
    tasks too early: it is led to our own clock, or to that on which most hosts agree, see `slewed`.
    """

    def __init__(
        self,
        handlers: RegistryHandlers,
        plane: ClockPlane,
        runtime: Runtime,
        tells: Callable[[], bool],
    ) -> None:
        self._handlers = handlers
        self._plane = plane
        self._tells = tells
        self._source: str = runtime.settings.instance
        self._times: Clocks = runtime.settings.timings.clocks
        self._health: Health = runtime.health
        self._log: FilteringBoundLogger = runtime.log
        self._host = socket.gethostname()
        self._known: dict[AgentId, str] = {}
        self._clock = runtime.clock
        self._others = ClusterTime(runtime.clock, self._times)
        self._time = Leading(self._times.agree)
        self._most = 0.0

    async def watch_clocks(self) -> None:
        """Look and tell until cancelled; the more agents there are, the more seldom."""
        await self._learn()
        while True:
            self.compare_clocks()
            if self._tells():
                await self._tell()
            agents = self._handlers.fleet.size
            await asyncio.sleep(max(self._times.tell, agents / TOLD_A_SECOND))

    def record_clock(self, message: Time) -> None:
        """Take what a registry, perhaps this one, tells."""
        if message.source != self._source:
            self._others.on_time(message)

    async def time(self, _request: Request) -> dict[str, Any]:
        """Answer `time` as it is told."""
        return Time(at=self._now(), source=self._source).model_dump(mode="json")

    def compare_clocks(self) -> None:
        """Compare all clocks that are heard, and show whose differ."""
        handlers, fleet = self._handlers, self._handlers.fleet
        self._most = correction(by_host(fleet, self._host), self._times.agree)
        self._lead()
        handlers.correction = (self._now() - self._clock.now()).total_seconds()
        known = {
            record.agent: told(ahead)
            for record in fleet
            if (ahead := handlers.clock_ahead(record)) is not None
        }
        for agent in known.keys() - self._known.keys():
            self._log.warning("the clock of an agent is wrong", agent=agent, clock=known[agent])
        self._known = known
        wrong = [*self._own(), *(f"{agent}'s is {known[agent]}" for agent in list(known)[:SHOWN])]
        if len(known) > SHOWN:
            wrong.append(f"and {len(known) - SHOWN} more")
        self._health.set(COMPONENT, ok=not wrong, detail="; ".join(wrong))

    def _own(self) -> list[str]:
        """Say what is wrong about our own clock."""
        behind = self._handlers.correction
        by_time = abs(behind) > self._times.agree
        found = [f"ours is {told(-behind)} by the cluster's time"] if by_time else []
        return [*found, *([f"ours is {told(-self._most)} by most hosts"] if self._most else [])]

    def _now(self) -> datetime:
        """Return the cluster's time as it is to be told now."""
        if not self._follows() and self._time.ahead is None:
            self._lead()
        return datetime.fromtimestamp((self._time.ahead or 0.0) + self._clock.steady(), UTC)

    def _lead(self) -> None:
        """Lead the time, if it is for this registry to do; once a look, as looks are counted."""
        if not self._follows():
            now = self._clock.steady()
            self._time.lead(self._clock.now().timestamp() + self._most - now, now)

    def _follows(self) -> bool:
        """Go by what others tell, unless this registry leads; False if there is nothing."""
        leads = self._time.ahead is not None and self._tells()
        others = None if leads else self._others.known()
        if others is not None:
            now = self._clock.steady()
            self._time.follow(others.timestamp() - now, now)
        return others is not None

    async def _learn(self) -> None:
        """Ask another registry, if there is one."""
        try:
            answer = await self._plane.request("registry", "time", timeout=LATE)
            self.record_clock(Time.model_validate(answer))
        except (ManipleError, ValueError) as error:
            self._log.info("no other registry tells the time", reason=str(error))

    async def _tell(self) -> None:
        try:
            now = Time(at=self._now(), source=self._source)
            await self._plane.command(ALL_AGENTS, now, timeout=LATE)
        except (BrokerUnavailable, PublishRefused) as error:
            self._log.info("the cluster's time was not published", reason=str(error))
