"""Publishing against a real broker: what it refuses, and what foreign clients send."""

import asyncio
from typing import Any
from uuid import uuid4

import pika
import pika.data
import pytest

from flaky_network import FlakyNetwork
from link_bench import bench, new_queue
from local_servers import LocalServers
from maniple.errors import BrokerUnavailable, PublishRefused
from maniple.topology import Queue
from waiting import wait_until


@pytest.fixture
def queue() -> Queue:
    return new_queue()


async def test_what_the_broker_refuses_is_told_apart(servers: LocalServers) -> None:
    name = f"maniple.agent.test-{uuid4()}"
    small = Queue(name, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    async with bench(servers.rabbitmq.url("agent"), small) as on:
        await on.link.start(10)
        with pytest.raises(PublishRefused) as nowhere:
            await on.publisher.publish(on.message(0, key="no-such-queue"))
        assert nowhere.value.unroutable

        async def full() -> bool:  # a quorum queue finds its limit a little late
            try:
                await on.publisher.publish(on.message(0))
            except PublishRefused as error:
                return not error.unroutable
            return False

        await wait_until(full)
        assert on.link.reconnects == 0


FOREIGN: dict[str, dict[str, Any]] = {
    "correlation id": {"correlation_id": b"\xff\xfe"},
    "reply_to": {"reply_to": b"\x80" * 255},
    "user header": {"headers": {"name": b"\xff"}},
    "timestamp": {"timestamp": 2**63},
    "nested header": {"headers": {"deep": 3000}},
}


@pytest.mark.parametrize("name", FOREIGN)
async def test_foreign_bytes_cost_neither_connection_nor_message(
    servers: LocalServers, queue: Queue, name: str
) -> None:
    async with bench(servers.rabbitmq.url("agent"), queue) as on:
        on.consumer()
        await on.link.start(10)
        await asyncio.to_thread(publish_foreign, servers, queue, FOREIGN[name])
        await on.publish(range(1))
        await wait_until(lambda: sorted(on.bodies) == [b"0", b"foreign"])
        assert on.link.reconnects == 0


def publish_foreign(servers: LocalServers, queue: Queue, given: dict[str, Any]) -> None:
    """Publish with properties whose short strings are bytes, and a header nested `deep`."""
    original = pika.data.encode_short_string

    def short_string(pieces: list[bytes], value: Any) -> int:
        if not isinstance(value, bytes):
            return int(original(pieces, value))
        pieces += [bytes([len(value)]), value]
        return len(value) + 1

    def table(pieces: list[bytes], headers: dict[str, Any]) -> int:
        encoded = nested(headers["deep"]) if "deep" in headers else b"\x04\xff\xfe\xfd\xfcV"
        pieces.append(len(encoded).to_bytes(4, "big") + encoded)
        return len(encoded) + 4

    properties = pika.BasicProperties(**given)
    with (
        pytest.MonkeyPatch.context() as patch,
        pika.BlockingConnection(pika.URLParameters(servers.rabbitmq.url("agent"))) as connection,
    ):
        channel = connection.channel()
        patch.setattr(pika.data, "encode_short_string", short_string)
        patch.setattr(pika.data, "encode_table", table)
        channel.basic_publish("", queue.name, b"foreign", properties)


def nested(depth: int) -> bytes:
    """Return a table in a table in a table…"""
    encoded = b""
    for _ in range(depth):
        encoded = b"\x01aF" + len(encoded).to_bytes(4, "big") + encoded
    return encoded


async def test_a_publish_with_a_timeout_says_that_the_broker_did_not_confirm(
    servers: LocalServers, queue: Queue
) -> None:
    async with (
        FlakyNetwork(servers.rabbitmq.url("agent")) as network,
        bench(network.url, queue) as on,
    ):
        await on.link.start(10)
        network.freeze()
        with pytest.raises(BrokerUnavailable, match="did not confirm"):
            await on.publisher.publish(on.message(1), timeout=0.2)
        network.thaw()
        await on.publish(range(3))
        assert on.link.reconnects == 0
