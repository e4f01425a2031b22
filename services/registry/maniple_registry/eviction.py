"""Evicting failed agents: closing their connections, removing their entries from the catalog.

Both may be repeated, by any replica: it finds what is left of them. The names of connections appear
some seconds after they were made, so those not found are looked for once more.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from structlog.typing import FilteringBoundLogger

from maniple.errors import ManipleError
from maniple_registry.domain.agent_record import AgentRecord
from maniple_registry.domain.eviction_target import Target
from maniple_registry.management import Management
from maniple_runtime.consul.catalog import service_name
from maniple_runtime.consul.client import Consul
from maniple_runtime.control.field_types import AgentId

PATIENCE = 10.0  # seconds for which a failed eviction is tried again
FIRST_PAUSE = 0.25
LONGEST_PAUSE = 2.0
NAMES_SHOW = 5.0  # seconds after which the broker shows the name of a connection at the latest
AGENT_SERVICE = service_name("agent")

Work = Callable[[Sequence[AgentRecord]], Awaitable[object]]


class Evictor:
    """Evicts in the background; without `management` connections end by AMQP heartbeats only.

    `target` returns what is left to be removed of a failed agent: it may have come back meanwhile.
    """

    def __init__(  # noqa: PLR0913 - what it stands on, as values
        self,
        consul: Consul,
        management: Management | None,
        *,
        environment: str,
        target: Callable[[AgentRecord], Target],
        log: FilteringBoundLogger,
        monotonic: Callable[[], float],
    ) -> None:
        self._consul = consul
        self._management = management
        self._environment = environment
        self._target = target
        self._log = log
        batches = partial(Batches, log=log, monotonic=monotonic)
        self._closing = batches(self._close_first, "connections not closed")
        self._closing_again = batches(self._close, "connections not closed", delay=NAMES_SHOW)
        self._delisting = batches(self._delist, "not taken out of Consul")

    def evict(self, failed: AgentRecord) -> None:
        """Evict one incarnation."""
        if self._management is not None:
            self._closing.schedule(failed)
        self._delisting.schedule(failed)

    async def run_evictions(self) -> None:
        """Evict until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._closing.run_batches())
            group.create_task(self._closing_again.run_batches())
            group.create_task(self._delisting.run_batches())

    async def _close_first(self, records: Sequence[AgentRecord]) -> None:
        seen = await self._close(records)
        for record in records:
            target = self._target(record)
            # A successor that was heard uses what it names; nobody's would be left.
            if target.listed and not target.is_found_in(seen):
                self._closing_again.schedule(record)

    async def _close(self, records: Sequence[AgentRecord]) -> frozenset[str]:
        """Close their connections, and return the names that were found."""
        assert self._management is not None  # noqa: S101 - nothing is added otherwise
        targets = [t for t in map(self._target, records) if t.names or t.prefix]
        if not targets:
            return frozenset()
        closed = await self._management.close_connections(
            frozenset().union(*(target.names for target in targets)),
            [target.prefix for target in targets if target.prefix],
        )
        self._log.info("connections closed", agents=[t.agent for t in targets], count=closed.count)
        return closed.names

    async def _delist(self, records: Sequence[AgentRecord]) -> None:
        targets = {t.agent: t for t in map(self._target, records) if t.listed}
        if not targets:
            return
        for instance in await self._consul.some_instances(AGENT_SERVICE, targets):
            target = targets.get(AgentId(instance.id))
            ours = instance.meta.get("environment") == self._environment
            if target is not None and ours and target.owns(instance.meta.get("life", "")):
                await self._consul.remove_instance(instance)
                self._log.info("taken out of Consul", agent=instance.id)


class Batches:
    """Handles everything that waits for it in one batch; a failure is retried with backoff.

    Nothing is handled before `delay` seconds.
    """

    def __init__(
        self,
        work: Work,
        failure: str,
        *,
        log: FilteringBoundLogger,
        monotonic: Callable[[], float],
        delay: float = 0.0,
    ) -> None:
        self._work = work
        self._failure = failure
        self._log = log
        self._delay = delay
        self._monotonic = monotonic
        self._waiting: deque[tuple[float, AgentRecord]] = deque()  # with the time of its beginning
        self._added = asyncio.Event()

    def schedule(self, record: AgentRecord) -> None:
        """Have it done soon, or after the delay."""
        self._waiting.append((self._monotonic() + self._delay, record))
        self._added.set()

    async def run_batches(self) -> None:
        """Handle batches until cancelled."""
        while True:
            await self._added.wait()
            self._added.clear()
            pause = FIRST_PAUSE
            while self._waiting:
                await asyncio.sleep(max(0.0, self._waiting[0][0] - self._monotonic()))
                if await self._attempt():
                    pause = FIRST_PAUSE
                    continue
                await asyncio.sleep(pause)
                pause = min(LONGEST_PAUSE, 2 * pause)

    async def _attempt(self) -> bool:
        now = self._monotonic()
        batch: list[tuple[float, AgentRecord]] = []
        while self._waiting and self._waiting[0][0] <= now:
            batch.append(self._waiting.popleft())
        try:
            await self._work([record for _, record in batch])
        except ManipleError as error:
            self._again(batch, str(error))
            return False
        except Exception as error:  # noqa: BLE001 - one eviction must not end the registry
            self._again(batch, repr(error))
            return False
        return True

    def _again(self, batch: list[tuple[float, AgentRecord]], reason: str) -> None:
        oldest = self._monotonic() - PATIENCE
        late = [record.agent for begun, record in batch if begun <= oldest]
        if late:
            self._log.warning(self._failure, agents=late, reason=reason)
        self._waiting.extendleft((b, record) for b, record in reversed(batch) if b > oldest)
