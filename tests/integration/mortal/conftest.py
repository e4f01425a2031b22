"""One cluster for all tests here; each leaves it as it found it."""

from collections.abc import AsyncIterator

import pytest_asyncio

from dying import QUIET, SLOTS, TIME_SCALE
from local_servers import SharedServers
from maniple_cli.dev_cluster.cluster import Cluster, ClusterOptions
from paths import PYTHONPATH


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def trio(shared: SharedServers) -> AsyncIterator[Cluster]:
    """Three agents of four slots and two dispatchers, which remove queues as soon as they may."""
    quiet = {"MANIPLE_LEFTOVER_QUIET": str(QUIET)}
    agent = {
        "PYTHONPATH": PYTHONPATH,
        "MANIPLE_SLOTS": str(SLOTS),
        "MANIPLE_THREADS": str(SLOTS),
        "MANIPLE_DRAIN_TIMEOUT": "10",
    }
    env = dict.fromkeys(("registry", "dispatcher", "policy"), quiet)
    env["agent"] = quiet | agent
    handlers = ("killer_handlers", "sample_handlers")
    options = ClusterOptions(
        agents=3, dispatchers=2, handlers=handlers, env=env, time_scale=TIME_SCALE
    )
    async with Cluster(options, broker=shared.broker("mortal")) as running:
        yield running
