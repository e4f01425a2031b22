"""Fixtures that start the real servers; without them tests skip, but fail in CI."""

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import settings

from consul_server import ConsulServer as OwnConsul
from local_servers import LocalServers, servers_needed
from maniple.local.cluster import Cluster, ClusterOptions
from maniple.local.consul import ConsulServer
from maniple.local.rabbitmq import RabbitMQServer
from maniple.local.reaper import Reaper
from outsider import Outsider
from paths import PYTHONPATH
from waiting import wait_until

THROWAWAY_SECONDS = 0.5

# How long one example takes says how busy the machine is, and nothing of what is tested.
settings.register_profile("maniple", deadline=None)
settings.load_profile("maniple")

# A shell's background job ignores Ctrl-C, and so would the programs whose interruption is tested.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
            with servers_needed():
                await asyncio.gather(rabbitmq.start(), consul.start())
            yield LocalServers(rabbitmq, consul)
        finally:
            await asyncio.gather(rabbitmq.stop(THROWAWAY_SECONDS), consul.stop(THROWAWAY_SECONDS))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cluster() -> AsyncIterator[Cluster]:
    """Three agents, two dispatchers, a registry and a policy service on servers of their own."""
    agents = {"PYTHONPATH": PYTHONPATH, "MANIPLE_PROCESSES": "1"}
    options = ClusterOptions(
        agents=3, dispatchers=2, handlers=("sample_handlers",), env={"agent": agents}
    )
    for name in ("MANIPLE_BROKER_URL", "MANIPLE_CONSUL_URL"):
        os.environ.pop(name, None)
    with servers_needed():
        async with Cluster(options) as running:
            yield running


@pytest.fixture
async def consul(tmp_path: Path) -> AsyncIterator[OwnConsul]:
    """A Consul of the test's own, to be killed and emptied."""
    own = OwnConsul(tmp_path).start()
    await wait_until(own.answers)
    yield own
    own.kill()


@pytest.fixture
def outsider(cluster: Cluster) -> Iterator[Outsider]:
    """A plain AMQP client with a queue of its own."""
    with Outsider(cluster.ready_info()["broker_url"]) as client:
        yield client
