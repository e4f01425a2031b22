"""Taking processes that are gone out of Consul's catalog."""

import asyncio
import time

from structlog.typing import FilteringBoundLogger

from maniple.errors import ManipleError
from maniple.service.catalog import Instance
from maniple.service.consul import Consul
from maniple_registry.domain.reaping import Reaping, all_critical

PERIOD = 2.0
SERVICES = "maniple-"


class Reaper:
    """Looks through the services of one environment every `PERIOD` seconds."""

    def __init__(self, consul: Consul, environment: str, log: FilteringBoundLogger) -> None:
        self._consul = consul
        self._environment = environment
        self._log = log
        self._reaping = Reaping()

    async def run(self) -> None:
        """Look until cancelled; goes on when Consul is away."""
        while True:
            try:
                await self.look(time.monotonic())
            except ManipleError as error:
                self._log.debug("catalog not read", reason=str(error))
            await asyncio.sleep(PERIOD)

    async def look(self, now: float) -> None:
        """Take out whatever has been critical in all its checks for too long."""
        critical = {i.id: i for i in await self._instances() if all_critical(i.checks)}
        for gone in self._reaping.observe(critical, now):
            await self._consul.remove(critical[gone])
            self._log.info("taken out of Consul", gone=gone, kind=critical[gone].service)

    async def _instances(self) -> list[Instance]:
        names = [name for name in await self._consul.services() if name.startswith(SERVICES)]
        found = [instance for name in names for instance in await self._consul.instances(name)]
        return [i for i in found if i.meta.get("environment") == self._environment]
