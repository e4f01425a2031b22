"""How much of a broker users may take who are not ours."""

from collections.abc import AsyncIterator
from typing import Any

import pika
import pika.exceptions
import pytest
from pika.adapters.blocking_connection import BlockingConnection

from maniple import topology
from maniple_cli.dev_cluster.definitions import rendered
from maniple_cli.dev_cluster.rabbitmq import RabbitMQServer
from needs import CONSUL, RABBITMQ, need
from rabbitmqctl import Installed

ENVIRONMENT = "quotas"
THROWAWAY_SECONDS = 0.5
TOO_LARGE = 406
DEFINITIONS = rendered(ENVIRONMENT, {})


@pytest.fixture(scope="module")
async def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RabbitMQServer]:
    """A broker of this module's own, whose limits are used up."""
    need(RABBITMQ, CONSUL)
    server = RabbitMQServer(tmp_path_factory.mktemp("rabbitmq"), environment=ENVIRONMENT)
    await server.start()
    yield server
    await server.stop(THROWAWAY_SECONDS)


def connected(rabbitmq: RabbitMQServer, role: str) -> Any:
    return BlockingConnection(pika.URLParameters(rabbitmq.url(role)))


def test_an_outsider_has_so_many_channels_and_no_more(rabbitmq: RabbitMQServer) -> None:
    (outside,) = (user for user in DEFINITIONS["users"] if user["name"] == "outside")
    most = outside["limits"]["max-channels"]
    with connected(rabbitmq, "outside") as connection:
        for _ in range(most):
            connection.channel()
        with connected(rabbitmq, "outside") as more, pytest.raises(pika.exceptions.AMQPError):
            more.channel()
    with connected(rabbitmq, "dispatcher") as ours:
        assert ours.channel().is_open


@pytest.mark.parametrize("role", ["outside", "client"])
def test_no_message_is_larger_than_the_largest_of_ours_by_far(
    rabbitmq: RabbitMQServer, role: str
) -> None:
    arguments = topology.TASKS.arguments
    with connected(rabbitmq, "dispatcher") as ours:
        ours.channel().exchange_declare("maniple.tasks", "topic", durable=True, arguments=arguments)
    with connected(rabbitmq, role) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish("maniple.tasks", "a.b", b"x" * 2 * 1024**2)
        with pytest.raises(pika.exceptions.ChannelClosedByBroker) as refused:
            channel.basic_publish("maniple.tasks", "a.b", b"x" * 17 * 1024**2)
    assert refused.value.reply_code == TOO_LARGE


async def test_what_outsiders_can_fill_is_bounded_in_bytes(rabbitmq: RabbitMQServer) -> None:
    queues = (topology.SUBMIT, topology.UNROUTED_QUEUE, topology.RETRY_QUEUE)
    with connected(rabbitmq, "dispatcher") as ours:
        channel = ours.channel()
        channel.exchange_declare("maniple.dead", "topic", durable=True)
        for queue in queues:
            channel.queue_declare(queue.name, durable=True, arguments=queue.all_arguments)
    said = await Installed(rabbitmq).control(
        "list_queues", "--vhost", ENVIRONMENT, "name", "policy"
    )
    in_force = dict(line.split("\t") for line in said.splitlines() if line.startswith("maniple."))
    bounds = {
        one["name"] for one in DEFINITIONS["policies"] if "max-length-bytes" in one["definition"]
    }
    assert {queue.name: in_force[queue.name] in bounds for queue in queues} == {
        queue.name: True for queue in queues
    }


async def test_there_are_so_many_queues_in_an_environment_and_no_more(
    rabbitmq: RabbitMQServer,
) -> None:
    (limits,) = (one["value"] for one in DEFINITIONS["parameters"])
    broker = Installed(rabbitmq)
    said = await broker.control("list_vhost_limits", "--vhost", ENVIRONMENT)
    assert str(limits["max-queues"]) in said
    await broker.control("set_vhost_limits", "--vhost", ENVIRONMENT, '{"max-queues": 30}')
    with connected(rabbitmq, "outside") as connection:
        channel = connection.channel()
        arguments = {"x-queue-type": "quorum"}
        for number in range(27):  # and three of ours
            channel.queue_declare(f"mine.{number}", durable=True, arguments=arguments)
        with pytest.raises(pika.exceptions.AMQPError):
            channel.queue_declare("mine.too", durable=True, arguments=arguments)
