"""What the broker gives up by itself still ends in a terminal result."""

import json
import time
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingConnection

from maniple import topology
from maniple_cli.dev_cluster.cluster import Cluster
from outsider import Outsider, find_in_stream


def test_a_task_that_the_broker_gives_up_ends_failed(cluster: Cluster, outsider: Outsider) -> None:
    servers = cluster.servers
    lane, _ = topology.lane_queues("test.given_up")
    connection = BlockingConnection(pika.URLParameters(servers.broker_url("agent")))
    channel: Any = connection.channel()
    channel.queue_declare(lane.name, durable=True, arguments=lane.all_arguments)
    channel.queue_bind(lane.name, *lane.bindings[0])
    sent = outsider.send("test.given_up", {"id": "given-up"})
    reject_one(channel, lane.name)
    result = outsider.wait(sent)[0]
    connection.close()
    assert (result["id"], result["status"]) == ("given-up", "failed")
    assert result["error"]["code"] == "agent_lost"
    assert lane.name in result["error"]["message"]
    url = cluster.ready_info()["operator_url"]
    find_in_stream(url, "maniple.dead.log", lambda _, body: b"given-up" in body)


def reject_one(channel: Any, queue: str) -> None:
    """Take a message as an agent would, and refuse it for good."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        method, _, _ = channel.basic_get(queue)
        if method is not None:
            channel.basic_reject(method.delivery_tag, requeue=False)
            return
    raise AssertionError(f"nothing came to {queue}")


def test_members_of_a_submission_that_nobody_took_end_each(
    cluster: Cluster, outsider: Outsider
) -> None:
    """The broker's own words for it are `rejected`: a dispatcher that cannot go on refuses."""
    connection: Any = BlockingConnection(
        pika.URLParameters(cluster.servers.broker_url("dispatcher"))
    )
    channel = connection.channel()
    members = [{"id": "dead-1", "capability": "maniple.echo"}, {"id": "dead-2"}]
    properties = pika.BasicProperties(reply_to=outsider.reply_to, correlation_id="dead")
    channel.basic_publish(
        topology.DEAD.name, "broker.maniple.submit", json.dumps(members).encode(), properties
    )
    results = outsider.wait("dead", count=2)
    connection.close()
    assert {(r["id"], r["status"]) for r in results} == {
        ("dead-1", "rejected"),
        ("dead-2", "rejected"),
    }
