"""Fixtures that start the real servers; without them tests skip, but fail in CI."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from local_servers import skip_or_fail
from maniple.local.cluster import Cluster, ClusterOptions
from maniple.local.consul import ConsulServer
from maniple.local.errors import ServerMissing
from maniple.local.rabbitmq import RabbitMQServer
from maniple.local.reaper import Reaper
from outsider import Outsider

TESTS = Path(__file__).parent
THROWAWAY_SECONDS = 0.5


@dataclass(frozen=True)
class LocalServers:
    """A RabbitMQ and a Consul of this test session's own."""

    rabbitmq: RabbitMQServer
    consul: ConsulServer


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def servers() -> AsyncIterator[LocalServers]:
    """Both servers, started once for the session on free ports."""
    with (
        Reaper() as reaper,
        tempfile.TemporaryDirectory(prefix="maniple-tests-", ignore_cleanup_errors=True) as folder,
    ):
        reaper.watch_folder(Path(folder))
        rabbitmq = RabbitMQServer(Path(folder) / "rabbitmq", reaper=reaper)
        consul = ConsulServer(Path(folder) / "consul", reaper=reaper)
        try:
            await asyncio.gather(rabbitmq.start(), consul.start())
            yield LocalServers(rabbitmq, consul)
        except ServerMissing as missing:
            skip_or_fail(str(missing))
        finally:
            await asyncio.gather(rabbitmq.stop(THROWAWAY_SECONDS), consul.stop(THROWAWAY_SECONDS))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cluster() -> AsyncIterator[Cluster]:
    """Three agents, two dispatchers, a registry and a policy service on servers of their own."""
    agents = {"PYTHONPATH": str(TESTS), "MANIPLE_PROCESSES": "1"}
    options = ClusterOptions(
        agents=3, dispatchers=2, handlers=("sample_handlers",), env={"agent": agents}
    )
    for name in ("MANIPLE_BROKER_URL", "MANIPLE_CONSUL_URL"):
        os.environ.pop(name, None)
    try:
        async with Cluster(options) as running:
            yield running
    except ServerMissing as missing:
        skip_or_fail(str(missing))


@pytest.fixture
def outsider(cluster: Cluster) -> Iterator[Outsider]:
    """A plain AMQP client with a queue of its own."""
    with Outsider(cluster.ready_info()["broker_url"]) as client:
        yield client
