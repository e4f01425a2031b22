"""What a process gives to what is built in it: settings, health, metrics, tasks, the time."""

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Generic

from structlog.typing import FilteringBoundLogger
from typing_extensions import TypeVar

from maniple.clock import SYSTEM_CLOCK, Clock
from maniple.loops import cancel
from maniple_runtime.consul.client import Consul
from maniple_runtime.consul.registration import TtlHeartbeat
from maniple_runtime.health import Health
from maniple_runtime.settings import ServiceSettings
from maniple_runtime.telemetry import Metrics
from maniple_runtime.telemetry.tracing import NO_TRACER, Tracer

S_co = TypeVar("S_co", bound=ServiceSettings, default=ServiceSettings, covariant=True)


@dataclass(frozen=True)
class Runtime(Generic[S_co]):
    """What a process's `build` gets, with the settings of its service.

    `stopping` is set when the process shall end. `life` distinguishes this run of the instance from
    others, in the names of its connections and in Consul. `ttl_heartbeat` refreshes the TTL check
    in Consul, if it is expected; otherwise the required components of `health` decide. Who
    needs the time reads `clock`, and nothing else.
    """

    settings: S_co
    health: Health
    metrics: Metrics
    consul: Consul
    log: FilteringBoundLogger
    stopping: asyncio.Event
    tracer: Tracer = NO_TRACER
    clock: Clock = SYSTEM_CLOCK
    http_url: str = ""
    life: str = field(default_factory=lambda: secrets.token_hex(3))
    ttl_heartbeat: TtlHeartbeat = field(default_factory=TtlHeartbeat)
    crashed: list[BaseException] = field(default_factory=list)
    before_leaving: list[Callable[[], Coroutine[Any, Any, None]]] = field(default_factory=list)
    """Run when the process stops, before it leaves Consul."""
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    def connection_name(self, purpose: str) -> str:
        """Return the name that the broker shows for a connection of this run."""
        return f"{self.settings.instance}.{self.life}.{purpose}"

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run `work` in the background, at most until `build` is left; a crash ends the process."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        self.log.error("background task crashed", task=task.get_name(), exc_info=error)
        if not self.stopping.is_set():
            self.crashed.append(error)
            self.stopping.set()

    async def cancel_spawned(self) -> None:
        """End every background task and wait for it."""
        await cancel(self._tasks - {asyncio.current_task()})

    @property
    def spawned(self) -> list[str]:
        """Names of the background tasks that have not ended."""
        return sorted(task.get_name() for task in self._tasks)
