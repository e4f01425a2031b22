"""A lane with little room, more tasks for it than that, and a cluster that has to cope."""

import json
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingConnection

from maniple import topology
from maniple_cli.dev_cluster.cluster import Cluster, ClusterOptions
from maniple_runtime.metric_names import TASKS_DELAYED
from paths import PYTHONPATH
from rabbitmqctl import Commanded
from scraping import sample_name, scrape

ROOM = 100


def one_dispatcher() -> ClusterOptions:
    """Describe a cluster of one dispatcher, which must not be held up, and two agents."""
    env = {"agent": {"PYTHONPATH": PYTHONPATH, "MANIPLE_PROCESSES": "1"}}
    return ClusterOptions(agents=2, handlers=("sample_handlers",), env=env)


def declare_full(url: str, capability: str) -> None:
    """Declare a lane that has little room and no agent."""
    connection: Any = BlockingConnection(pika.URLParameters(url))
    lane, _ = topology.lane_queues(capability)
    arguments = {**lane.all_arguments, "x-max-length": ROOM}
    channel = connection.channel()
    channel.queue_declare(lane.name, durable=True, arguments=arguments)
    channel.queue_bind(lane.name, *lane.bindings[0])
    connection.close()


def flood(url: str, capability: str, *, messages: int, each: int) -> None:
    """Submit many tasks, in arrays of `each`."""
    connection: Any = BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.confirm_delivery()
    body = json.dumps([{"capability": capability, "ttl": 3600}] * each).encode()
    for _ in range(messages):
        channel.basic_publish("maniple.tasks", "batch", body)
    connection.close()


async def purge(broker: Commanded, vhost: str, *prefixes: str) -> None:
    """Purge the queues whose names start so; by default lanes and delays."""
    of = ", ".join(f'"{prefix}"' for prefix in prefixes or ("maniple.lane.", "maniple.delay."))
    await broker.control(
        "eval",
        f'[rabbit_amqqueue:purge(Q) || Q <- rabbit_amqqueue:list(<<"{vhost}">>), '
        "{resource, _, _, N} <- [amqqueue:get_name(Q)], "
        f"Prefix <- [{of}], "
        "string:prefix(N, Prefix) =/= nomatch].",
    )


def delayed(cluster: Cluster) -> float:
    """Return how often a dispatcher has delayed a task."""
    return scrape(cluster.of_service("dispatcher")).get(sample_name(TASKS_DELAYED), 0.0)
