"""Every alert of infra/prometheus fires when what it is about really happens, and not before.

Times are shorter than in the rules themselves (`prometheus_server.FASTER`), and so are three limits
(`watched_world.EDITS`); tests/contract/test_alert_rules.py is about the real ones.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pika
import pytest
import yaml
from pika.adapters.blocking_connection import BlockingConnection

from holding import held, meanwhile
from maniple import topology
from maniple_cli.control import ask_over
from maniple_runtime.consul.client import Consul
from prometheus_server import SOURCE, alert_names
from rabbitmqctl import suspended
from waiting import wait_until
from watched_world import PATIENCE, Watched, steadily

pytestmark = pytest.mark.timeout(180)

BIG = "x" * 400_000
BIG_RESULTS = 60  # of which the record stream takes 24 MB
SLOW_TASKS = 700
MOMENTS = 10  # times that everything is scraped while nothing is wrong


@contextmanager
def channel_of(watched: Watched, role: str) -> Iterator[Any]:
    url = watched.world.cluster.servers.broker_url(role)
    connection: Any = BlockingConnection(pika.URLParameters(url))
    try:
        yield connection.channel()
    finally:
        connection.close()


def publish(watched: Watched, capability: str, count: int, **properties: Any) -> None:
    """Submit tasks as an outsider, one a message, that expire after 20 s."""
    with channel_of(watched, "outside") as channel:
        for _ in range(count):
            basic = pika.BasicProperties(**properties)
            channel.basic_publish("maniple.tasks", capability, b'{"payload": 1, "ttl": 20}', basic)


def declare_lane(channel: Any, capability: str, **arguments: Any) -> str:
    """Declare a lane that no agent reads; returns its queue."""
    lane, _ = topology.lane_queues(capability)
    channel.queue_declare(lane.name, durable=True, arguments={**lane.all_arguments, **arguments})
    channel.queue_bind(lane.name, *lane.bindings[0])
    return lane.name


async def test_nothing_fires_while_all_is_well(watched: Watched) -> None:
    prometheus = watched.prometheus

    async def scraped(times: int) -> bool:
        seen = await prometheus.value('min(count_over_time(up{job=~"maniple|rabbitmq.*"}[1m]))')
        return seen >= times

    # What is sent before the first time is in no average.
    await wait_until(partial(scraped, 2), PATIENCE)
    await watched.world.ends("work.echo", [1] * 200)
    await wait_until(partial(scraped, MOMENTS), PATIENCE)
    assert await watched.firing() == []
    assert await prometheus.alerts("pending") == []
    assert await prometheus.errors() == []
    down = await prometheus.query("up != 1")
    assert down == []
    found = {one.labels["instance"]: one.labels for one in await prometheus.query("maniple_ready")}
    for process in watched.world.cluster.processes:
        labels = found[process.instance]
        assert (labels["service"], labels["environment"]) == (process.service, "dev")


async def test_the_size_of_the_record_stream_is_estimated_well(watched: Watched) -> None:
    results = await watched.world.ends("work.echo", [BIG] * BIG_RESULTS)
    assert {result.status for result in results} == {"succeeded"}

    async def is_close() -> bool:
        estimated = await watched.prometheus.value("maniple:record_stream:bytes")
        return 0.8 < estimated / on_disk(watched) < 1.25

    await wait_until(is_close, PATIENCE)
    assert on_disk(watched) > BIG_RESULTS * len(BIG)


def on_disk(watched: Watched) -> int:
    """Return the bytes of the record stream's files."""
    data = Path(watched.broker.children[-1].spec.env["RABBITMQ_MNESIA_BASE"])
    segments = data.glob("**/stream/*maniple*records*/*.segment")
    return sum(segment.stat().st_size for segment in segments)


async def test_a_frozen_agent(watched: Watched) -> None:
    agent = watched.world.cluster.process("agent-2")
    with held(agent.pid):
        await asyncio.gather(
            watched.fires("ManipleProcessDown", instance="agent-2", service="agent"),
            watched.fires("ManipleAgentsUnreachable", environment="dev"),
            watched.fires("ManipleAgentsFailed", environment="dev"),
        )
    await watched.ceases("ManipleAgentsFailed")


async def test_a_dispatcher_that_does_not_hear_of_a_policy(watched: Watched) -> None:
    dispatcher = watched.world.cluster.process("dispatcher-2")
    document = {"kind": "timeout", "name": "lag", "spec": {"seconds": 9}}
    with held(dispatcher.pid):
        await ask_over(watched.world.plane, "policy", "policy.apply", {"document": document})
        await watched.fires("ManiplePolicyLag", state="lagging")
    await watched.ceases("ManiplePolicyLag")


async def test_no_dispatcher_is_left(watched: Watched) -> None:
    async with watched.gone("dispatcher"):
        publish(watched, "work.echo", 5)
        await asyncio.gather(
            watched.fires("ManipleServiceMissing", service="dispatcher"),
            watched.fires("ManipleNoConsumers", queue="maniple.submit"),
        )
    await watched.ceases("ManipleServiceMissing")


async def test_no_agent_is_left(watched: Watched) -> None:
    async with watched.gone("agent"):
        publish(watched, "work.echo", 5)
        await asyncio.gather(
            watched.fires("ManipleServiceMissing", service="agent"),
            watched.fires("ManipleNoConsumers", queue="maniple.lane.work.echo"),
        )
    await watched.ceases("ManipleServiceMissing")


async def test_what_goes_on_for_a_while(watched: Watched) -> None:
    """Failing handlers, long waits, nobody who runs or hears, and a broker short of room."""
    world = watched.world
    slow = [await world.client.submit("test.slow", 0.8) for _ in range(SLOW_TASKS)]
    publish(watched, "nobody.is.home", 3)
    async with steadily(world, "test.raise", 1, 0.2), unheard(watched), short_of_room(watched):
        await asyncio.gather(
            watched.fires("ManipleTasksFailing", capability="test.raise"),
            watched.fires("ManipleQueueAge", capability="test.slow"),
            watched.fires("ManipleNoAgent", environment="dev"),
            watched.fires("ManipleRepliesDropped", environment="dev"),
            watched.fires("ManipleBrokerMemoryHigh"),
            watched.fires("ManipleBrokerDiskLow"),
        )
    for handle in slow:
        await handle.outcome(timeout=60)


@asynccontextmanager
async def unheard(watched: Watched) -> AsyncIterator[None]:
    """Submit tasks whose replies go to a queue that does not exist."""

    async def submit() -> None:
        while True:
            await asyncio.to_thread(publish, watched, "work.echo", 5, reply_to="nobody")
            await asyncio.sleep(0.5)

    async with meanwhile(submit()):
        yield


@asynccontextmanager
async def short_of_room(watched: Watched) -> AsyncIterator[None]:
    """Have the broker's limits of memory and disk near to what it uses, and no alarm yet."""
    memory = await watched.prometheus.value("rabbitmq_process_resident_memory_bytes")
    disk = await watched.prometheus.value("rabbitmq_disk_space_available_bytes")
    control = watched.broker.control
    await control("set_vm_memory_high_watermark", "absolute", str(int(memory * 1.2)))
    await control("set_disk_free_limit", str(int(disk / 2)))
    try:
        yield
    finally:
        await control("set_vm_memory_high_watermark", "0.4")
        await control("set_disk_free_limit", "50MB")


async def test_a_full_lane(watched: Watched) -> None:
    with channel_of(watched, "agent") as channel:
        queue = declare_lane(channel, "full.lane", **{"x-max-length": 30})
        publish(watched, "full.lane", 200)
        await asyncio.gather(
            watched.fires("ManiplePublishesRefused", exchange="maniple.lanes"),
            watched.fires("ManipleQueueNearLimit", queue=queue),
        )
        channel.queue_delete(queue)


async def test_a_message_that_the_broker_gives_up(watched: Watched) -> None:
    with channel_of(watched, "agent") as channel:
        queue = declare_lane(channel, "given.up")
        publish(watched, "given.up", 1)
        taken: list[Any] = []

        def arrived() -> bool:
            taken[:] = channel.basic_get(queue)
            return taken[0] is not None

        await wait_until(arrived)
        channel.basic_reject(taken[0].delivery_tag, requeue=False)
        await watched.fires("ManipleDeadLetters", reason="rejected")
        channel.queue_delete(queue)


async def test_a_breaker_that_opens(watched: Watched) -> None:
    world = watched.world
    match = {"capability": "work.fragile"}
    world.broken.touch()
    async with world.policy("circuit_breaker", "fragile", {"consecutive": 3}, match=match):
        await world.ends("work.fragile", range(5))
        await watched.fires("ManipleBreakerOpen", lane="work.fragile")
    world.broken.unlink()
    await watched.ceases("ManipleBreakerOpen")  # its policy has gone


async def test_a_policy_that_cannot_be_used(watched: Watched) -> None:
    consul = Consul(watched.world.cluster.servers.consul_url)
    key = "maniple/dev/policies/timeout/spoiled"
    await consul.kv_put(key, b"{")
    try:
        await watched.fires("ManiplePoliciesInvalid", environment="dev")
    finally:
        await consul.kv_delete(key)
        consul.close()


async def test_a_memory_alarm_before_full_queues(watched: Watched) -> None:
    dispatchers = [process.pid for process in watched.world.cluster.of_service("dispatcher")]
    control = watched.broker.control
    with held(*dispatchers):
        publish(watched, "work.echo", 300)
        await control("set_vm_memory_high_watermark", "0.00001")
    try:
        await asyncio.gather(
            watched.fires("ManiplePublishingBlocked", environment="dev"),
            watched.fires("ManipleSubmissionsWait", environment="dev"),
        )
    finally:
        await control("set_vm_memory_high_watermark", "0.4")
    await watched.ceases("ManiplePublishingBlocked", "ManipleSubmissionsWait")


async def test_a_lane_that_answers_nobody(watched: Watched) -> None:
    async with suspended(watched.broker, watched.broker.environment, "maniple.lane.work.plain"):
        await watched.fires("ManipleLaneStuck", environment="dev")


async def test_a_frozen_consul(watched: Watched) -> None:
    (consul,) = [
        child for child in watched.world.cluster.servers.children if child.spec.name == "consul"
    ]
    with held(consul.pid):
        await asyncio.gather(
            watched.fires("ManipleRegistryWithoutLeader", environment="dev"),
            watched.fires("ManipleDegraded", component="consul", service="dispatcher"),
        )
    await watched.ceases("ManipleRegistryWithoutLeader", "ManipleDegraded")


async def test_a_broker_that_takes_no_connections(watched: Watched) -> None:
    control = watched.broker.control
    cut = ("close_all_connections", "--vhost", "dev", "a test")
    await control("suspend_listeners")
    try:
        await control(*cut)
        await watched.fires("ManipleNotReady", service="dispatcher")
    finally:
        await control("resume_listeners")
    await watched.ceases("ManipleNotReady")
    await control(*cut)
    await watched.fires("ManipleConnectionsLost", service="dispatcher")


async def test_a_frozen_broker(watched: Watched) -> None:
    await watched.broker.freeze()
    try:
        await watched.fires("ManipleBrokerDown")
    finally:
        await watched.broker.unfreeze()
    await watched.ceases("ManipleBrokerDown")


async def test_nobody_takes_spans(watched: Watched) -> None:
    assert watched.collector.spans
    watched.collector.stop()
    async with steadily(watched.world, "work.echo", 1, 0.1):
        await watched.fires("ManipleSpansDropped", service="dispatcher")


async def test_the_record_stream_has_been_near_its_limit_for_long(watched: Watched) -> None:
    await watched.fires("ManipleRecordStreamNearLimit", environment="dev")


def test_every_alert_has_fired(watched: Watched) -> None:
    declared = set(alert_names(yaml.safe_load((SOURCE / "rules" / "alerts.yml").read_text())))
    assert watched.fired == declared
