"""`maniple doctor` against a real cluster: what is well, and what is wrong with it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingConnection

from maniple.amqp.probe import probe
from maniple.topology import LANES, Queue, lane_queues
from maniple_cli.checks import examine
from maniple_cli.checks.findings import CheckVerdict, Finding, Places
from maniple_cli.dev_cluster.cluster import Cluster
from maniple_runtime.consul.client import Consul
from waiting import wait_until

LANE, _ = lane_queues("test.nobody_serves_this")
CHECKS = [
    "broker", "topology", "consumers", "plugins", "alarms", "queue arguments", "streams", "lanes",
    "consul", "registry", "dispatcher", "policy", "agent", "health", "timings", "clocks",
    "policies", "membership", "echo task",
]  # fmt: skip


def places(cluster: Cluster, **more: Any) -> Places:
    info = cluster.ready_info()
    where = {"consul": info["consul_url"], "management": info["management_url"], **more}
    return Places(info["operator_url"], **where)


async def look(there: Places) -> dict[str, Finding]:
    return {finding.check: finding async for finding in examine(there)}


@asynccontextmanager
async def declared(cluster: Cluster, queue: Queue, body: bytes) -> AsyncIterator[None]:
    """Have a queue with one message in it."""

    def open_channel() -> tuple[Any, Any]:
        parameters = pika.URLParameters(cluster.servers.broker_url("agent"))
        connection: Any = BlockingConnection(parameters)
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare(queue.name, durable=True, arguments=queue.all_arguments)
        for exchange, key in queue.bindings:
            channel.queue_bind(queue.name, exchange, key)
            channel.basic_publish(exchange, key, body, mandatory=True)
        return connection, channel

    connection, channel = await asyncio.to_thread(open_channel)
    try:
        yield
    finally:
        channel.queue_delete(queue.name)
        connection.close()


async def test_a_sound_cluster_passes_every_check(cluster: Cluster) -> None:
    found: dict[str, Finding] = {}

    async def passes() -> bool:  # at one time at least: where the machine is busy, pages are late
        found.clear()
        found.update(await look(places(cluster)))
        return {check for check, one in found.items() if one.verdict is not CheckVerdict.OK} <= left

    # Other tests leave agents that failed and lanes that nobody serves; there is one broker.
    left = {"membership", "health", "lanes", "streams"}
    await wait_until(passes, every=1.0)
    assert list(found) == CHECKS
    assert {check for check, one in found.items() if one.verdict is CheckVerdict.FAILED} <= {
        "lanes"
    }


async def test_tasks_that_nobody_serves_are_told(cluster: Cluster) -> None:
    async with declared(cluster, LANE, b"[]"):
        found = (await look(places(cluster)))["lanes"]
    assert (found.verdict, f"1 messages wait in {LANE.name}" in found.found) == (
        CheckVerdict.FAILED,
        True,
    )


async def test_a_lane_that_was_declared_otherwise_is_told(cluster: Cluster) -> None:
    odd = Queue(LANE.name, arguments={"x-max-length": 7}, bindings=((LANES.name, "odd"),))
    async with declared(cluster, odd, b"[]"):
        found = (await look(places(cluster)))["queue arguments"]
    assert found.verdict is CheckVerdict.FAILED
    assert f"{LANE.name}: x-max-length is 7, not 1000000" in found.found


async def test_a_policy_that_cannot_be_used_is_told(cluster: Cluster) -> None:
    consul = Consul(cluster.servers.consul_url)
    key = f"maniple/{cluster.servers.environment}/policies/timeout/doctored"

    async def told() -> bool:
        found = (await look(places(cluster)))["policies"]
        return found.verdict is CheckVerdict.FAILED and "timeout/doctored" in found.found

    try:
        await consul.kv_put(key, b"{nonsense")
        await wait_until(told, 20)
    finally:
        await consul.kv_delete(key)
        consul.close()


@pytest.mark.parametrize(
    ("management", "verdict", "word"),
    [
        (None, CheckVerdict.SKIPPED, "MANIPLE_MANAGEMENT_URL"),
        ("http://127.0.0.1:1", CheckVerdict.FAILED, "cannot be reached"),
        ("outside", CheckVerdict.FAILED, "refuses this user"),
    ],
)
async def test_without_the_management_api_the_rest_is_still_examined(
    cluster: Cluster, management: str | None, verdict: CheckVerdict, word: str
) -> None:
    if management == "outside":
        management = cluster.servers.management_url("outside")
    found = await look(places(cluster, management=management))
    assert (found["management"].verdict, word in found["management"].found) == (verdict, True)
    assert found["echo task"].verdict is CheckVerdict.OK


@pytest.mark.parametrize(
    ("consul", "word"),
    [("management_url", "Consul is not what answers there: 404"), ("", "Consul cannot be reached")],
)
async def test_what_is_no_consul_is_not_taken_for_one(
    cluster: Cluster, consul: str, word: str
) -> None:
    url = cluster.ready_info().get(consul, "http://127.0.0.1:1")
    found = (await look(places(cluster, consul=url)))["consul"]
    assert (found.verdict, word in found.found) == (CheckVerdict.FAILED, True)
    assert found.advice.startswith("start Consul")
    assert "***" in found.advice or "@" not in found.advice


async def test_the_probe_counts_messages_and_consumers(cluster: Cluster) -> None:
    url = cluster.servers.broker_url("agent")
    async with declared(cluster, LANE, json.dumps([]).encode()):
        view = await probe(url, (), [LANE.name, "maniple.submit", "no.such.queue"])
    assert (view.messages[LANE.name], view.consumers[LANE.name]) == (1, 0)
    assert view.consumers["maniple.submit"] == 2  # the dispatchers of this cluster
    assert view.missing_queues == ("no.such.queue",)
