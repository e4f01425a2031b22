"""A lane that is full, stuck or missing delays no other, and loses nothing."""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from statistics import median
from typing import Any

import pika
import pytest
import pytest_asyncio
from pika.adapters.blocking_connection import BlockingConnection

from broker_control import control, suspended
from flat_out import carried
from local_servers import servers_needed
from maniple import connect, topology
from maniple.client import Client
from maniple.local.cluster import Cluster, ClusterOptions
from maniple.service.names import TASKS_DELAYED
from outsider import Outsider
from paths import PYTHONPATH
from scraping import sample_name, scrape
from waiting import wait_until

ROOM = 100
FLOOD = 20_000
RATE = 2000.0
SHARE = 0.3  # of what the machine carries flat out, where that is less
SECONDS = 4.0
STUCK = 600  # single messages, more than a dispatcher holds

pytestmark = pytest.mark.timeout(240)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def one() -> AsyncIterator[Cluster]:
    """One dispatcher, which must not be held up, and two agents."""
    env = {"agent": {"PYTHONPATH": PYTHONPATH, "MANIPLE_PROCESSES": "1"}}
    options = ClusterOptions(agents=2, handlers=("sample_handlers",), env=env)
    with servers_needed():
        async with Cluster(options) as running:
            yield running


def declare_full(url: str, capability: str) -> None:
    """Declare a lane that has little room and no agent."""
    connection: Any = BlockingConnection(pika.URLParameters(url))
    lane, _ = topology.lane_queues(capability)
    arguments = {**lane.all_arguments, "x-max-length": ROOM}
    channel = connection.channel()
    channel.queue_declare(lane.name, durable=True, arguments=arguments)
    channel.queue_bind(lane.name, *lane.bindings[0])
    connection.close()


def flood(url: str, capability: str) -> None:
    """Submit many tasks, in arrays."""
    connection: Any = BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.confirm_delivery()
    body = json.dumps([{"capability": capability, "ttl": 3600}] * 100).encode()
    for _ in range(FLOOD // 100):
        channel.basic_publish("maniple.tasks", "batch", body)
    connection.close()


async def pace(client: Client, rate: float) -> tuple[float, float]:
    """Submit at a fixed rate; return the median latency and the time of the last result, in s."""
    started = time.perf_counter()

    async def due() -> AsyncIterator[int]:
        for number in range(int(rate * SECONDS)):
            early = started + number / rate - time.perf_counter()
            if early > 0:
                await asyncio.sleep(early)
            yield number

    latencies = [
        time.perf_counter() - started - doubled / 2 / rate
        async for doubled in client.map("test.double", due(), window=100_000, ordered=False)
    ]
    assert len(latencies) == int(rate * SECONDS)
    return median(latencies), time.perf_counter() - started


async def test_a_full_lane_does_not_delay_others(one: Cluster) -> None:
    info = one.ready_info()
    declare_full(one.servers.broker_url("agent"), "test.full")
    async with connect(info["client_url"]) as client:
        rate = min(RATE, SHARE * await carried(client, "test.double", int(RATE * SECONDS)))
        alone, alone_last = min([await pace(client, rate) for _ in range(2)])
        await asyncio.to_thread(flood, info["broker_url"], "test.full")
        await wait_until(lambda: delayed(one) >= FLOOD - 2 * ROOM, 60)

        async def as_fast() -> bool:  # in one run at least: the machine may be busy otherwise
            looked = delayed(one)
            beside, beside_last = await pace(client, rate)
            assert delayed(one) > looked  # the flood is not over
            shown = f"{alone:.3f} {alone_last:.2f} {beside:.3f} {beside_last:.2f}"
            sys.stdout.write(f"{rate:.0f} {shown}\n")
            return beside < 2 * alone + 0.2 and beside_last < alone_last + SECONDS / 4

        await wait_until(as_fast, 45)


def delayed(cluster: Cluster) -> float:
    """Return how many times a dispatcher has sent a task to wait."""
    return scrape(cluster.of_service("dispatcher")).get(sample_name(TASKS_DELAYED), 0.0)


async def test_a_lane_that_confirms_nothing_holds_up_nobody_and_loses_nothing(
    one: Cluster,
) -> None:
    info = one.ready_info()
    with Outsider(info["broker_url"]) as outsider:
        assert outsider.ask("test.threaded", {"payload": [7]})["output"] == 7
        queue, broker = topology.lane_queues("test.threaded")[0].name, one.servers.children[1]
        async with suspended(broker, one.servers.environment, queue):
            stuck = [outsider.send("test.threaded", {"payload": [n]}) for n in range(STUCK)]
            async with connect(info["client_url"]) as client:
                for number in range(20):
                    handle = await client.submit("test.double", number)
                    assert await handle.result(timeout=60) == 2 * number
            assert len(outsider.replies) == 1  # nothing has run since
        results = [outsider.wait(one_of_them, seconds=90)[0] for one_of_them in stuck]
    assert [result["output"] for result in results] == list(range(STUCK))


async def test_a_task_that_waits_is_never_ended_for_want_of_room(one: Cluster) -> None:
    info = one.ready_info()
    with Outsider(info["broker_url"]) as outsider:
        waiting = [outsider.send("nobody.serves.this", {"ttl": 12}) for _ in range(200)]
        await wait_until(lambda: delayed(one) >= 200, 30)
        limit = ("tiny", r"^maniple\.delay\.", '{"max-length": 1}', "--apply-to", "queues")
        vhost = ("-p", info["environment"])
        await control(one.servers.children[1], "set_policy", *vhost, *limit)
        try:
            late = [outsider.send("nobody.serves.this", {"ttl": 1}) for _ in range(40)]
            codes = Counter(outsider.wait(sent, seconds=30)[0]["error"]["code"] for sent in late)
            assert outsider.ask("test.double", {"payload": 4})["output"] == 8
        finally:
            await control(one.servers.children[1], "clear_policy", *vhost, "tiny")
        ends = Counter(outsider.wait(sent, seconds=90)[0]["status"] for sent in waiting)
    assert codes["overloaded"] > 0
    assert ends == {"expired": len(waiting)}
