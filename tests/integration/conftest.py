"""A whole cluster for the integration tests: three agents with `sample_handlers`."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from local_servers import skip_or_fail
from maniple.local.cluster import Cluster, ClusterOptions
from maniple.local.errors import ServerMissing
from outsider import Outsider

TESTS = Path(__file__).parent.parent


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
