"""A cluster on RabbitMQ 4.0 in a container; skipped where none can be started, in CI too."""

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingConnection

from maniple import Client, connect, topology
from maniple.messages import Result
from maniple_cli.dev_cluster.cluster import Cluster, ClusterOptions
from maniple_registry.management import REASON
from needs import need
from outsider import Outsider
from paths import PYTHONPATH
from system.brokers import ContainerBroker
from system.docker import FOR_CONTAINER

TASKS = 200
DEFAULT_LIMIT = 20  # of deliveries, from 4.0, where a queue has none of its own


@dataclass(frozen=True)
class On4:
    """A cluster, and the broker under it."""

    broker: ContainerBroker
    cluster: Cluster

    def connect(self) -> AbstractAsyncContextManager[Client]:
        return connect(self.cluster.ready_info()["client_url"])


@pytest.fixture(scope="module")
async def on_4() -> AsyncIterator[On4]:
    """Three agents and two dispatchers on a container of this module's own."""
    await asyncio.to_thread(need, *FOR_CONTAINER)
    agents = {"PYTHONPATH": PYTHONPATH, "MANIPLE_PROCESSES": "1"}
    options = ClusterOptions(
        agents=3, dispatchers=2, handlers=("sample_handlers",), env={"agent": agents}
    )
    broker = ContainerBroker()
    async with Cluster(options, broker=broker) as cluster:
        yield On4(broker, cluster)


async def slow_results(on_4: On4, client: Client, victim: str, number: signal.Signals) -> list[Any]:
    """Submit a minute of work, send a signal to one agent, and return all results."""
    handles = [await client.submit("test.slow", 1.0) for _ in range(60)]
    os.kill(on_4.cluster.process(victim).pid, number)
    return [await handle.outcome(timeout=60) for handle in handles]


def migrated(results: list[Result]) -> int:
    return sum(result.lost > 0 for result in results)


async def test_tasks_run_end_to_end(on_4: On4) -> None:
    assert (await on_4.broker.control("version")).startswith("4.0.")
    async with on_4.connect() as client:
        outputs = [output async for output in client.map("test.double", range(TASKS))]
    assert outputs == [n * 2 for n in range(TASKS)]


async def test_tasks_of_a_killed_agent_run_elsewhere(on_4: On4) -> None:
    async with on_4.connect() as client:
        results = await slow_results(on_4, client, "agent-1", signal.SIGKILL)
    assert {str(result.status) for result in results} == {"succeeded"}
    assert migrated(results)


async def test_tasks_of_a_frozen_agent_run_elsewhere_once_it_is_evicted(on_4: On4) -> None:
    frozen = on_4.cluster.process("agent-2").pid
    try:
        async with on_4.connect() as client:
            results = await slow_results(on_4, client, "agent-2", signal.SIGSTOP)
    finally:
        os.kill(frozen, signal.SIGCONT)
    assert {str(result.status) for result in results} == {"succeeded"}
    assert migrated(results)
    assert REASON in broker_log(on_4)


async def test_nothing_is_lost_when_the_broker_is_killed(on_4: On4) -> None:
    async with on_4.connect() as client:
        handles = [await client.submit("test.slow", 0.5) for _ in range(40)]
        await on_4.broker.kill()
        await on_4.broker.come_back()
        results = [await handle.outcome(timeout=60) for handle in handles]
    assert {str(result.status) for result in results} == {"succeeded"}
    assert not on_4.cluster.deaths[1:]  # the first is the agent that was killed


def test_a_task_over_the_delivery_limit_of_its_lane_ends_failed(on_4: On4) -> None:
    lane, _ = topology.lane_queues("test.refused")
    url, times = on_4.cluster.ready_info()["broker_url"], topology.LANE_DELIVERIES + 1
    with Outsider(url) as outsider, channel_of(on_4) as channel:
        declare(channel, lane)
        sent = outsider.send("test.refused", {"id": "over the limit"})
        assert hand_back(channel, lane.name, times) == times
        result = outsider.wait(sent)[0]
    assert (result["id"], result["status"]) == ("over the limit", "failed")
    assert result["error"]["code"] == "agent_lost"


def test_what_dispatchers_are_to_end_outlives_the_default_delivery_limit(on_4: On4) -> None:
    probe = topology.Queue("maniple.agent.probe", arguments=topology.DEAD_BROKER.arguments)
    with channel_of(on_4) as channel:
        declare(channel, probe)
        channel.basic_publish("", probe.name, b"[]", mandatory=True)
        assert hand_back(channel, probe.name, DEFAULT_LIMIT * 2) == DEFAULT_LIMIT * 2


def test_no_process_uses_what_a_later_broker_refuses(on_4: On4) -> None:
    used = set(re.findall(r"Deprecated features: `(\w+)`", broker_log(on_4)))
    # The management plugin itself collects the metrics: that one shows that such lines are found.
    assert used == {"management_metrics_collection"}


def broker_log(on_4: On4) -> str:
    return on_4.broker.children[-1].spec.log.read_text()


@contextmanager
def channel_of(on_4: On4) -> Iterator[Any]:
    """An agent's channel."""
    parameters = pika.URLParameters(on_4.cluster.servers.broker_url("agent"))
    connection: Any = BlockingConnection(parameters)
    channel = connection.channel()
    channel.confirm_delivery()
    yield channel
    connection.close()


def declare(channel: Any, queue: topology.Queue) -> None:
    channel.queue_declare(queue.name, durable=True, arguments=queue.all_arguments)
    for exchange, key in queue.bindings:
        channel.queue_bind(queue.name, exchange, key)


def hand_back(channel: Any, queue: str, times: int) -> int:
    """Take the message of a queue and return it, up to `times`; return how often it came."""
    came, deadline = 0, time.monotonic() + 20
    while came < times and time.monotonic() < deadline:
        method, _, _ = channel.basic_get(queue)
        if method is not None:
            came += 1
            channel.basic_nack(method.delivery_tag, requeue=True)
    return came
