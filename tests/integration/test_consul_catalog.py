"""What Consul's own command line shows of a cluster."""

import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest_asyncio

from local_servers import skip_or_fail
from maniple.local import programs
from maniple.local.cluster import Cluster, ClusterOptions
from maniple.local.errors import ServerMissing
from maniple.local.http import fetch
from waiting import wait_until

SERVICES = {"registry": 1, "policy": 1, "dispatcher": 1, "agent": 1}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def mortal() -> AsyncIterator[Cluster]:
    """One process of each kind, where the dead stay dead."""
    try:
        async with Cluster(ClusterOptions(agents=1, restart=False)) as running:
            yield running
    except ServerMissing as missing:
        skip_or_fail(str(missing))


async def statuses(cluster: Cluster, service: str) -> dict[str, set[str]]:
    """Return the states of the checks of each instance of a service."""
    consul = cluster.ready_info()["consul_url"]
    _, body = await fetch(f"{consul}/v1/health/service/maniple-{service}")
    entries: list[dict[str, Any]] = msgspec.json.decode(body)
    return {
        entry["Service"]["ID"]: {
            check["Status"] for check in entry["Checks"] if check.get("ServiceID")
        }
        for entry in entries
    }


async def test_every_process_is_in_the_catalog_and_healthy(mortal: Cluster) -> None:
    binary = str(programs.consul())
    assert shutil.which(binary)
    listed = subprocess.run(  # noqa: ASYNC221 - it answers at once
        [binary, "catalog", "services", f"-http-addr={mortal.ready_info()['consul_url']}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert {f"maniple-{service}" for service in SERVICES} <= set(listed.stdout.split())
    for service, count in SERVICES.items():

        async def healthy(service: str = service, count: int = count) -> bool:
            found = await statuses(mortal, service)
            return len(found) == count and set.union(*found.values()) == {"passing"}

        await wait_until(healthy, 15)


async def test_a_killed_process_turns_critical_and_then_goes(mortal: Cluster) -> None:
    victim = mortal.process("agent-1")
    os.kill(victim.pid, signal.SIGKILL)

    async def critical() -> bool:
        return "critical" in (await statuses(mortal, "agent")).get("agent-1", set())

    async def gone() -> bool:
        return "agent-1" not in await statuses(mortal, "agent")

    await wait_until(critical, 15)
    await wait_until(gone, 40)
