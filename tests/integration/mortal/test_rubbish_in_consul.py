"""A real cluster beside what anybody may write to Consul, or say among the heartbeats."""

import os
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial

import pytest
import structlog

from maniple import connect
from maniple_cli.dev_cluster.cluster import Cluster, ServiceProcess
from maniple_runtime.consul.client import Consul
from maniple_runtime.control.field_types import AgentId
from maniple_runtime.control.incarnations import Incarnation
from maniple_runtime.control.messages import Heartbeat
from maniple_runtime.control.plane import ControlPlane
from waiting import wait_until

KEYS = {
    "dispatchers/x": b'{"levels":{},"breakers":{"a":["open",Infinity,0]},"at":9e99}',
    "dispatchers/y": b"[" * 100_000,
    "agent-queues/" + "a" * 300: b"",
    "lanes/" + "l" * 300: b"",
    "policies/timeout/deep": b"[" * 100_000,
    "log-levels/all": b"\xff",
}
NOBODY = "no agent!"
MARKS, ENTRIES, FUTURE = (
    "markers of queues are ignored",
    "entries of agents in Consul are ignored",
    "an incarnation that begins in the future is refused",
)


@pytest.fixture
async def consul(trio: Cluster) -> AsyncIterator[Consul]:
    """Consul with rubbish in it, which is taken out afterwards."""
    consul, prefix = Consul(trio.servers.consul_url), f"maniple/{trio.servers.environment}/"
    for key, value in KEYS.items():
        await consul.kv_put(prefix + key, value)
    meta = {"environment": trio.servers.environment, "life": "l" * 500}
    await consul.register_service("maniple-agent", NOBODY, address="x", port=1, meta=meta)
    yield consul
    for key in KEYS:
        await consul.kv_delete(prefix + key)
    await consul.deregister_service(NOBODY)
    consul.close()


def logged(cluster: Cluster, instance: str, text: str) -> bool:
    """Whether a process has said that, in any of its lives."""
    return text in cluster.process(instance).child.spec.log.read_text()


def has_begun_anew(process: ServiceProcess, restarts: int) -> bool:
    return process.child.restarts == restarts


@pytest.mark.usefixtures("consul")
async def test_who_starts_beside_rubbish_in_consul_says_so_and_works(trio: Cluster) -> None:
    services = [p for p in trio.processes if p.service in {"dispatcher", "registry", "policy"}]
    restarts = {process.instance: process.child.restarts + 1 for process in services}
    for process in services:
        os.kill(process.pid, signal.SIGKILL)
    for process in services:
        await wait_until(partial(has_begun_anew, process, restarts[process.instance]), 30)
        await wait_until(process.ready, 30)
    for number in (1, 2):
        await wait_until(partial(logged, trio, f"dispatcher-{number}", MARKS), 60)
        await wait_until(partial(logged, trio, f"registry-{number}", ENTRIES), 60)
    async with connect(trio.ready_info()["client_url"]) as client:
        assert await (await client.submit("test.double", 21)).result(60) == 42
    assert {p.instance: p.child.restarts for p in services} == restarts


async def test_a_forged_life_of_the_future_moves_nobody_out_of_its_place(trio: Cluster) -> None:
    url, log = trio.servers.broker_url("agent"), structlog.get_logger()
    lives = trio.process("agent-1").child.restarts
    async with ControlPlane(url, name="forger", log=log) as plane:
        operator = ControlPlane(trio.servers.broker_url("operator"), name="asker", log=log)
        async with operator:
            before = await operator.request("registry", "agent", {"id": "agent-1"})
            forged = Heartbeat(
                agent=AgentId("agent-1"),
                incarnation=Incarnation("ffffffff-ffff-7fff-bfff-ffffffffffff"),
                sequence=1,
                sent_at=datetime.now(UTC),
                digest="",
            )
            await plane.heartbeat(forged, timeout=10)
            await wait_until(lambda: logged(trio, "registry-1", FUTURE), 30)
            await wait_until(lambda: logged(trio, "registry-2", FUTURE), 30)
            after = await operator.request("registry", "agent", {"id": "agent-1"})
    assert (after["state"], after["incarnation"]) == ("active", before["incarnation"])
    assert trio.process("agent-1").child.restarts == lives
