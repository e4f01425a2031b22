"""Removing dead processes from Consul's catalog."""

import asyncio
from collections import defaultdict
from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from maniple.errors import ManipleError
from maniple_registry.domain.reaping import Reaping, all_critical
from maniple_runtime.consul.catalog import Ailing
from maniple_runtime.consul.client import Consul

PERIOD = 2.0
SERVICES = "maniple-"


class CatalogReaper:
    """Checks the services of one environment every `PERIOD` seconds.

    Only critical instances are asked for: all instances of a large fleet are many megabytes.
    """

    def __init__(
        self,
        consul: Consul,
        environment: str,
        log: FilteringBoundLogger,
        *,
        gone_after: float,
        monotonic: Callable[[], float],
    ) -> None:
        self._consul = consul
        self._environment = environment
        self._log = log
        self._monotonic = monotonic
        self._reaping: Reaping[Ailing] = Reaping(gone_after)

    async def watch_catalog(self) -> None:
        """Look until cancelled; goes on when Consul is away."""
        while True:
            try:
                await self.remove_dead_entries(self._monotonic())
            except ManipleError as error:
                self._log.debug("catalog not read", reason=str(error))
            await asyncio.sleep(PERIOD)

    async def remove_dead_entries(self, now: float) -> None:
        """Remove entries all of whose checks have been critical for too long."""
        ailing = await self._consul.ailing(SERVICES, self._environment)
        suspects: defaultdict[str, dict[tuple[str, str], frozenset[str]]] = defaultdict(dict)
        for one in self._reaping.observe(ailing, now):
            suspects[one.service][one.node, one.id] = one.critical
        for service, critical in suspects.items():
            for gone in await self._consul.some_instances(service, {name for _, name in critical}):
                ours = gone.meta.get("environment") == self._environment
                long = critical.get((gone.node, gone.id), frozenset())
                if ours and all_critical(gone.checks, long):
                    await self._consul.remove_instance(gone)
                    self._log.info("taken out of Consul", gone=gone.id, kind=gone.service)
