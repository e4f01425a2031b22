"""What Consul's own command line shows of a cluster."""

import os
import shutil
import signal
import subprocess
from typing import Any

import msgspec

from dying import mortal
from maniple_cli.dev_cluster import programs
from maniple_cli.dev_cluster.cluster import Cluster
from maniple_cli.dev_cluster.http import fetch
from waiting import wait_until

SERVICES = {"registry": 2, "policy": 1, "dispatcher": 2, "agent": 3}


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


async def test_every_process_is_in_the_catalog_and_healthy(trio: Cluster) -> None:
    binary = str(programs.consul())
    assert shutil.which(binary)
    listed = subprocess.run(  # noqa: ASYNC221 - it answers at once
        [binary, "catalog", "services", f"-http-addr={trio.ready_info()['consul_url']}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert {f"maniple-{service}" for service in SERVICES} <= set(listed.stdout.split())
    for service, count in SERVICES.items():

        async def healthy(service: str = service, count: int = count) -> bool:
            found = await statuses(trio, service)
            return len(found) == count and set.union(*found.values()) == {"passing"}

        await wait_until(healthy, 15)


async def test_a_killed_process_turns_critical_and_then_goes(trio: Cluster) -> None:
    victim = trio.process("dispatcher-1")  # a registry would not wait to see an agent critical

    async def critical() -> bool:
        return "critical" in (await statuses(trio, "dispatcher")).get(victim.instance, set())

    async def gone() -> bool:
        return victim.instance not in await statuses(trio, "dispatcher")

    async with mortal(victim):
        os.kill(victim.pid, signal.SIGKILL)
        await wait_until(critical, 15)
        await wait_until(gone, 40)
