"""Fixtures that start the real servers; without them tests skip, but fail in CI."""

import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import settings

from consul_server import ConsulServer as OwnConsul
from consul_server import own_consul
from local_servers import LocalServers, SharedServers, shared_servers
from maniple_cli.dev_cluster.cluster import Cluster, ClusterOptions
from needs import CONSUL, RABBITMQ, need
from outsider import Outsider
from paths import PYTHONPATH

# How long one example takes says how busy the machine is, and nothing of what is tested.
settings.register_profile("maniple", deadline=None)
settings.load_profile("maniple")

# What runs here, and on which servers, is for the tests to say, whatever the developer has set.
for name in tuple(os.environ):
    if name.startswith(("MANIPLE_", "OTEL_")) and not name.startswith("MANIPLE_SIM_"):
        del os.environ[name]

# A shell's background job ignores Ctrl-C, and so would the programs whose interruption is tested.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


CLUSTERS = {"cluster", "trio"}
"""Fixtures of which one for all tests suffices; to start one costs more than most tests do."""


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in its own
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep together, where tests run in several processes, a module and who shares a cluster."""
    clusters: dict[str, str] = {}
    for item in items:
        for name in CLUSTERS.intersection(getattr(item, "fixturenames", ())):
            if not hasattr(getattr(item, "module", None), name):  # one of its own
                clusters[module_of(item)] = name
    for item in items:
        module = module_of(item)
        item.add_marker(pytest.mark.xdist_group(clusters.get(module, module)))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse to run in several processes without the groups: each would start every cluster."""
    if getattr(session.config.option, "loadgroup", False):
        assert all("@" in item.nodeid for item in session.items), "xdist has not seen the groups"


def module_of(item: pytest.Item) -> str:
    """Return the path of a test's module."""
    return item.nodeid.partition("::")[0]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared() -> AsyncIterator[SharedServers]:
    """One RabbitMQ and one Consul for all tests of this process."""
    need(RABBITMQ, CONSUL)
    async with shared_servers() as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def servers(
    shared: SharedServers, request: pytest.FixtureRequest
) -> AsyncIterator[LocalServers]:
    """The shared servers, in an environment of the module's own."""
    async with shared.environment(request.module.__name__.rpartition(".")[2]) as servers:
        yield servers


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cluster(shared: SharedServers) -> AsyncIterator[Cluster]:
    """Three agents, two dispatchers, a registry and a policy service that nobody may hurt."""
    agents = {"PYTHONPATH": PYTHONPATH, "MANIPLE_PROCESSES": "1"}
    options = ClusterOptions(
        agents=3, dispatchers=2, handlers=("sample_handlers",), env={"agent": agents}
    )
    async with Cluster(options, broker=shared.broker("shared")) as running:
        yield running


@pytest.fixture
async def consul(tmp_path: Path) -> AsyncIterator[OwnConsul]:
    """A Consul of the test's own, to be killed and emptied."""
    async with own_consul(tmp_path) as own:
        yield own


@pytest.fixture
def outsider(cluster: Cluster) -> Iterator[Outsider]:
    """A plain AMQP client with a queue of its own."""
    with Outsider(cluster.ready_info()["broker_url"]) as client:
        yield client
