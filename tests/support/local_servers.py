"""The real servers of a test process."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from environments import Environments, OnSharedBroker
from maniple_cli.dev_cluster.consul import ConsulServer
from maniple_cli.dev_cluster.rabbitmq import RabbitMQServer
from maniple_cli.dev_cluster.reaper import ProcessReaper

THROWAWAY_SECONDS = 0.5  # nobody needs the clean end of a broker whose folder goes


@dataclass(frozen=True)
class LocalServers:
    """A RabbitMQ, seen in an environment that nobody else is in, and a Consul."""

    rabbitmq: RabbitMQServer
    consul: ConsulServer


class SharedServers:
    """One RabbitMQ and one Consul for all tests of a process.

    Each module has an environment of its own: a vhost, and a prefix in Consul.
    """

    def __init__(self, folder: Path, reaper: ProcessReaper) -> None:
        self.rabbitmq = RabbitMQServer(folder / "rabbitmq", reaper=reaper)
        self._consul = ConsulServer(folder / "consul", reaper=reaper)
        self.environments = Environments(self.rabbitmq)

    async def __aenter__(self) -> Self:
        """Start both. Raises `LocalError`, with nothing left running."""
        try:
            await asyncio.gather(self.rabbitmq.start(), self._consul.start())
            await self.environments.prepare()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(
            *(one.stop(THROWAWAY_SECONDS) for one in (self.rabbitmq, self._consul))
        )

    def broker(self, environment: str) -> OnSharedBroker:
        """Return the broker for a `Cluster(broker=…)`, in an environment that lives as long."""
        return OnSharedBroker(self.environments, environment)

    @asynccontextmanager
    async def environment(self, name: str) -> AsyncIterator[LocalServers]:
        """Have an environment of that name for the time of the block."""
        async with self.environments.made(name) as rabbitmq:
            yield LocalServers(rabbitmq, self._consul)


@asynccontextmanager
async def shared_servers() -> AsyncIterator[SharedServers]:
    """Start them in a temporary folder; nothing is left of them, however this process ends."""
    with (
        ProcessReaper() as reaper,
        tempfile.TemporaryDirectory(prefix="maniple-tests-", ignore_cleanup_errors=True) as folder,
    ):
        reaper.watch_folder(Path(folder))
        async with SharedServers(Path(folder), reaper) as started:
            yield started
