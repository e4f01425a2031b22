"""Dispatchers that are stopped or killed under load lose nothing."""

import asyncio
import os
import signal
from collections import Counter

import pytest

from maniple import connect
from maniple.client.core import Client
from maniple_cli.dev_cluster.cluster import Cluster
from waiting import wait_until

TASKS = 2000


async def submit_all(client: Client) -> list[str]:
    """Return how each task ended; a handle is there once the broker has confirmed."""
    handles = await asyncio.gather(*(client.submit("test.double", n) for n in range(TASKS)))
    return [(await handle.outcome(timeout=60)).status.value for handle in handles]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
async def test_a_dispatcher_that_ends_under_load_loses_nothing(
    trio: Cluster, number: signal.Signals
) -> None:
    victim = trio.process("dispatcher-2")
    before = victim.child.restarts
    async with connect(trio.ready_info()["client_url"]) as client:
        outcomes = asyncio.create_task(submit_all(client))
        warm = await client.submit("test.double", 1)
        await warm.result(timeout=60)
        os.kill(victim.pid, number)
        assert Counter(await outcomes) == {"succeeded": TASKS}
    await wait_until(lambda: victim.child.restarts > before, 20)
    await wait_until(victim.ready, 20)
