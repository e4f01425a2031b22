"""One cluster for all tests here; each leaves it as it found it."""

from collections.abc import AsyncIterator

import pytest_asyncio

from dying import QUIET, SLOTS
from local_servers import servers_needed
from maniple.local.cluster import Cluster, ClusterOptions
from paths import PYTHONPATH


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def trio() -> AsyncIterator[Cluster]:
    """Three agents of four slots and two dispatchers, which remove queues after three seconds."""
    env = {
        "agent": {
            "PYTHONPATH": PYTHONPATH,
            "MANIPLE_SLOTS": str(SLOTS),
            "MANIPLE_DRAIN_TIMEOUT": "10",
        },
        "dispatcher": {"MANIPLE_LEFTOVER_QUIET": str(QUIET)},
    }
    handlers = ("killer_handlers", "sample_handlers")
    options = ClusterOptions(agents=3, dispatchers=2, handlers=handlers, env=env)
    with servers_needed():
        async with Cluster(options) as running:
            yield running
