"""An agent on its way out: the catalog first, then what runs, then nobody waits for it."""

import asyncio
import os
import signal
import sys
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from agent_inside import agent_inside
from ending import launched
from fencing_handlers import held, release, started, stopped
from maniple import connect
from maniple.errors import RequestFailed
from maniple_cli.control import ask
from maniple_cli.dev_cluster.cluster import Cluster
from maniple_runtime.consul.client import Consul
from paths import PYTHONPATH
from waiting import wait_until


async def in_catalog(cluster: Cluster, agent: str) -> bool:
    consul = Consul(cluster.servers.consul_url)
    found = [instance.id for instance in await consul.instances("maniple-agent")]
    consul.close()
    return agent in found


async def test_an_agent_leaves_the_catalog_first_and_finishes_what_runs(cluster: Cluster) -> None:
    async with agent_inside(cluster, drain_timeout=10) as agent:
        await wait_until(lambda: in_catalog(cluster, agent.name))
        handle = await agent.start_held("fencing.plain")
        agent.runtime.stopping.set()

        async def gone() -> bool:
            return not await in_catalog(cluster, agent.name)

        await wait_until(gone)
        assert not handle.done
        release(handle)
        result = await handle.outcome(timeout=60)
    assert (str(result.status), result.lost, started[handle.id]) == ("succeeded", 0, 1)


async def test_what_runs_for_too_long_is_stopped_and_handed_on(cluster: Cluster) -> None:
    async with connect(cluster.ready_info()["client_url"]) as client:
        async with agent_inside(cluster, drain_timeout=0.5) as leaving:
            handle = await client.submit("fencing.plain", 2.0)
            held.add(handle.id)
            await wait_until(lambda: started[handle.id] == 1)
            leaving.runtime.stopping.set()
            await wait_until(lambda: stopped[handle.id] == 1)
            release(handle)
        async with agent_inside(cluster):
            result = await handle.outcome(timeout=60)
    assert (str(result.status), result.lost, started[handle.id]) == ("succeeded", 0, 2)


@pytest.mark.parametrize(("signals", "code"), [(1, 0), (2, 1)])
async def test_a_second_sigterm_ends_an_agent_at_once(
    cluster: Cluster, signals: int, code: int
) -> None:
    info, name = cluster.ready_info(), f"told-{signals}"

    async def is_seen(**wanted: Any) -> bool:
        try:
            agent = await ask(info["operator_url"], "registry", "agent", {"id": name})
        except RequestFailed:
            return False
        return all(agent[key] == value for key, value in wanted.items())

    drain = "4" if signals == 1 else "100"
    flags = {"handlers": "fencing_handlers", "drain-timeout": drain, "instance": name}
    async with started_with(cluster, flags) as process, connect(info["client_url"]) as client:
        await wait_until(lambda: is_seen(state="active"), 20)
        await client.submit("fencing.plain", 60.0, ttl=12.0)
        await wait_until(lambda: is_seen(in_flight=1), 10)
        for _ in range(signals):
            process.send_signal(signal.SIGTERM)
            await wait_until(lambda: process.returncode is not None or is_seen(state="draining"))
        # The task goes on: one that was told twice would else drain for longer than this.
        async with asyncio.timeout(30):
            assert await process.wait() == code


def started_with(
    cluster: Cluster, flags: dict[str, str]
) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
    """Have an agent in a process of its own, with these flags."""
    urls = {
        "broker-url": cluster.servers.broker_url("agent"),
        "consul-url": cluster.servers.consul_url,
    }
    arguments = [f"--{name}={value}" for name, value in {**flags, **urls}.items()]
    return launched(
        *(sys.executable, "-m", "maniple_agent", *arguments),
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        stderr=asyncio.subprocess.DEVNULL,
    )
