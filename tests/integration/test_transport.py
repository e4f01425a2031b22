"""The supervised connections against a real broker, over a network that fails."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import aiormq
import msgspec
import pika
import pika.data
import pytest
from aiormq.abc import AbstractChannel

from conftest import LocalServers
from flaky_network import FlakyNetwork
from maniple.errors import BrokerUnavailable, PublishRefused
from maniple.local.http import fetch
from maniple.topology import Queue
from maniple.transport import Connection, Consumer, Delivery, Link, Outgoing, Publisher, declare
from maniple_registry.management import Management
from waiting import wait_until


@pytest.fixture
def queue() -> Queue:
    """A quorum queue of the test's own."""
    return Queue(f"maniple.agent.test-{uuid4()}", arguments={"x-delivery-limit": 100})


class Bench:
    """A link with a publisher, and what its consumers have received."""

    def __init__(self, url: str, queue: Queue) -> None:
        self.queue = queue
        self.link = Link(url, name=f"test.{queue.name}", prepare=self._declare)
        self.publisher = Publisher(self.link)
        self.consumers: list[Consumer] = []
        self.received: list[Delivery] = []
        self.handle: Callable[[Delivery], None] = Delivery.ack

    async def _declare(self, connection: Connection) -> None:
        await declare(connection, queues=(self.queue,))

    def consumer(self, prefetch: int = 100) -> Consumer:
        made = Consumer(self.link, self.queue.name, self._take, prefetch=prefetch)
        self.consumers.append(made)
        return made

    def _take(self, delivery: Delivery) -> None:
        self.received.append(delivery)
        self.handle(delivery)

    @property
    def bodies(self) -> list[bytes]:
        return [delivery.body for delivery in self.received]

    def message(self, number: int, exchange: str = "", key: str = "") -> Outgoing:
        body = str(number).encode()
        return Outgoing(exchange, key or self.queue.name, body, message_id=str(uuid4()), type="t")

    async def publish(self, numbers: range) -> None:
        await asyncio.gather(*(self.publisher.publish(self.message(n)) for n in numbers))

    async def lose(self, how: Callable[[], object]) -> None:
        """Lose the connection, with its acknowledgements sent, and wait until it stands again."""
        for consumer in self.consumers:
            await consumer.flush()
        before = self.link.reconnects
        how()
        await wait_until(lambda: self.link.reconnects > before and self.link.is_up)


@asynccontextmanager
async def bench(url: str, queue: Queue) -> AsyncIterator[Bench]:
    made = Bench(url, queue)
    try:
        yield made
    finally:
        await made.link.close()
        connection = await aiormq.connect(url)
        channel = await connection.channel()
        await channel.queue_delete(queue.name)
        await connection.close()


def channel_of(publisher: Publisher) -> AbstractChannel:
    assert publisher._channel is not None
    return publisher._channel


def numbers(count: int) -> set[bytes]:
    return {str(n).encode() for n in range(count)}


async def depth(servers: LocalServers, queue: Queue) -> tuple[int, int]:
    """Return (messages, consumers) as a passive declaration tells them: ready ones only."""
    connection = await aiormq.connect(servers.rabbitmq.url("operator"))
    channel = await connection.channel()
    declared = await channel.queue_declare(queue.name, passive=True)
    await connection.close()
    return int(declared.message_count or 0), int(declared.consumer_count or 0)


async def test_acknowledgements_in_any_order_settle_every_message_once(
    servers: LocalServers, queue: Queue
) -> None:
    async with bench(servers.rabbitmq.url("agent"), queue) as on:
        on.handle = lambda _: None
        consumer = on.consumer()
        on.link.add(consumer)
        await on.link.start(10)
        chance = random.Random(7)
        # Few at a time: of more than 32 a broker may forget some when the connection ends.
        for start in range(0, 480, 24):
            await on.publish(range(start, start + 24))
            await wait_until(lambda start=start: len(on.received) == start + 24)  # type: ignore[misc]
            for delivery in chance.sample(on.received[start:], 24):
                delivery.ack()
                delivery.ack()
                if chance.random() < 0.3:
                    await asyncio.sleep(0)  # so that flushes overlap
        await consumer.flush()
        assert on.link.reconnects == 0  # a tag acknowledged twice costs the channel
        await on.lose(on.link.suspect)
        assert await depth(servers, queue) == (0, 1)
        assert len(on.received) == 480


async def test_an_acknowledgement_over_a_lost_connection_is_abandoned(
    servers: LocalServers, queue: Queue
) -> None:
    async with bench(servers.rabbitmq.url("agent"), queue) as on:
        on.handle = lambda _: None
        on.link.add(on.consumer())
        await on.link.start(10)
        await on.publish(range(3))
        await wait_until(lambda: len(on.received) == 3)
        first = list(on.received)
        await on.lose(on.link.suspect)
        await wait_until(lambda: len(on.received) == 6)
        for delivery in first:
            assert not delivery.alive
            delivery.ack()
            delivery.reject()
        again = on.received[3:]
        assert all(delivery.redelivered and delivery.alive for delivery in again)
        for delivery in again:
            delivery.ack()
        await on.lose(on.link.suspect)
        assert await depth(servers, queue) == (0, 1)


async def test_a_rejected_delivery_is_not_acknowledged_with_its_neighbours(
    servers: LocalServers, queue: Queue
) -> None:
    async with bench(servers.rabbitmq.url("agent"), queue) as on:

        def handle(delivery: Delivery) -> None:
            (delivery.reject if delivery.body == b"3" else delivery.ack)()
            delivery.ack()

        on.handle = handle
        on.link.add(on.consumer())
        await on.link.start(10)
        await on.publish(range(20))
        await wait_until(lambda: len(on.received) == 20)
        await on.lose(on.link.suspect)
        assert await depth(servers, queue) == (0, 1)
        assert on.link.reconnects == 1


async def test_a_delivery_that_cannot_be_handled_is_rejected(
    servers: LocalServers, queue: Queue
) -> None:
    async with bench(servers.rabbitmq.url("agent"), queue) as on:

        def handle(delivery: Delivery) -> None:
            if delivery.body == b"1":
                raise RuntimeError("a bug")
            delivery.ack()

        on.handle = handle
        on.link.add(on.consumer(1))
        await on.link.start(10)
        await on.publish(range(3))
        await wait_until(lambda: set(on.bodies) == numbers(3))
        await on.lose(on.link.suspect)
        assert await depth(servers, queue) == (0, 1)


@pytest.mark.parametrize("how", ["cut", "suspect", "channel"])
async def test_publishes_are_sent_again_over_a_lost_connection(
    servers: LocalServers, queue: Queue, how: str
) -> None:
    async with (
        FlakyNetwork(servers.rabbitmq.url("agent")) as network,
        bench(network.url, queue) as on,
    ):
        lost: dict[str, Callable[[], object]] = {
            "cut": network.cut,
            "suspect": on.link.suspect,
            "channel": lambda: channel_of(on.publisher).close(),
        }
        on.link.add(on.consumer())
        await on.link.start(10)
        publishing = asyncio.create_task(on.publish(range(3000)))
        for wanted in (300, 900):
            await wait_until(lambda wanted=wanted: len(set(on.bodies)) >= wanted)  # type: ignore[misc]
            await wait_until(lambda: on.link.is_up)
            before = on.link.reconnects
            closing = lost[how]()
            if asyncio.iscoroutine(closing):
                await closing
            await wait_until(lambda before=before: on.link.reconnects > before)  # type: ignore[misc]
        await asyncio.wait_for(publishing, 20)
        await wait_until(lambda: set(on.bodies) == numbers(3000))
        await wait_until(lambda: on.link.is_up)


async def test_a_connection_closed_by_an_operator_is_built_anew(
    servers: LocalServers, queue: Queue
) -> None:
    management = Management(servers.rabbitmq.management_url("agent"))
    async with bench(servers.rabbitmq.url("agent"), queue) as on:
        on.link.add(on.consumer())
        await on.link.start(10)
        closed = 0

        async def close() -> bool:
            nonlocal closed
            closed += await management.close_connections([on.link.name])
            return closed > 0

        await wait_until(close, 15)  # the broker shows a connection's name after some seconds
        await wait_until(lambda: on.link.reconnects == 1 and on.link.is_up)
        await on.publish(range(10))
        await wait_until(lambda: set(on.bodies) == numbers(10))
        assert await depth(servers, queue) == (0, 1)


async def test_a_frozen_network_leaves_no_second_connection(
    servers: LocalServers, queue: Queue
) -> None:
    async with (
        FlakyNetwork(servers.rabbitmq.url("agent")) as network,
        bench(network.url, queue) as on,
    ):
        on.link.add(on.consumer())
        await on.link.start(10)
        network.freeze()
        publishing = asyncio.create_task(on.publish(range(5)))
        on.link.suspect()
        await wait_until(lambda: network.accepted == 2)
        network.thaw()
        await asyncio.wait_for(publishing, 15)
        await wait_until(lambda: network.open == 1)
        await wait_until(lambda: set(on.bodies) == numbers(5))
        before = on.link.reconnects
        await on.publish(range(5, 10))
        assert (on.link.reconnects, on.link.is_up) == (before, True)
        assert await depth(servers, queue) == (0, 1)


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


async def test_pausing_and_resizing_neither_lose_nor_return_a_delivery(
    servers: LocalServers, queue: Queue
) -> None:
    async with bench(servers.rabbitmq.url("agent"), queue) as on:
        consumer = on.consumer(5)
        on.link.add(consumer)
        await consumer.pause()
        await on.link.start(10)
        await on.publish(range(3000))
        await consumer.resume()
        for prefetch in (50, 3, 200):
            await consumer.resize(prefetch)
            await consumer.pause()
            seen = len(on.received)
            assert (await depth(servers, queue))[1] == 0
            assert len(on.received) == seen
            await consumer.resume()
        await wait_until(lambda: len(on.received) >= 3000)
        # A quorum queue takes back what is under way to a consumer that is cancelled.
        assert not any(delivery.redelivered for delivery in on.received)
        assert set(on.bodies) == numbers(3000)
        assert (on.link.reconnects, await depth(servers, queue)) == (0, (0, 1))


async def test_changes_while_the_connection_comes_and_goes_end_as_last_wanted(
    servers: LocalServers, queue: Queue
) -> None:
    async with bench(servers.rabbitmq.url("agent"), queue) as on:
        consumer = on.consumer(5)
        on.link.add(consumer)
        await on.link.start(10)
        chance = random.Random(3)
        for _ in range(6):
            on.link.suspect()
            for _ in range(8):
                await asyncio.sleep(chance.random() * 0.03)
                change = chance.choice([consumer.pause, consumer.resume])
                await asyncio.gather(consumer.resize(chance.randint(1, 50)), change())
        await consumer.pause()
        await wait_until(lambda: on.link.is_up)
        assert (await depth(servers, queue))[1] == 0
        await asyncio.gather(consumer.resume(), consumer.resize(7))
        assert (await depth(servers, queue))[1] == 1
        on.handle = lambda _: None
        await on.publish(range(20))
        await wait_until(lambda: len(on.received) >= 7)
        assert await depth(servers, queue) == (13, 1)


async def test_an_endpoint_attached_to_a_running_link_works_and_comes_back(
    servers: LocalServers, queue: Queue
) -> None:
    async with bench(servers.rabbitmq.url("agent"), queue) as on:
        await on.link.start(10)
        await on.link.attach(on.consumer())
        await on.publish(range(10))
        await wait_until(lambda: set(on.bodies) == numbers(10))
        await on.lose(on.link.suspect)
        await on.publish(range(10, 20))
        await wait_until(lambda: set(on.bodies) == numbers(20))
        on.link.suspect()
        await on.link.attach(on.consumer())
        await wait_until(lambda: on.link.is_up)
        await wait_until(lambda: on.link.reconnects >= 2 and on.link.is_up)
        assert (await depth(servers, queue))[1] == 2


async def test_a_queue_that_is_deleted_is_declared_and_consumed_again(
    servers: LocalServers, queue: Queue
) -> None:
    async with bench(servers.rabbitmq.url("agent"), queue) as on:
        on.link.add(on.consumer())
        await on.link.start(10)
        connection = await aiormq.connect(servers.rabbitmq.url("agent"))
        await (await connection.channel()).queue_delete(queue.name)
        await connection.close()
        await wait_until(lambda: on.link.reconnects == 1 and on.link.is_up)
        await on.publish(range(3))
        await wait_until(lambda: set(on.bodies) == numbers(3))


async def test_closing_a_link_releases_who_waits_for_it(queue: Queue) -> None:
    on = Bench("amqp://nobody:x@127.0.0.1:1/dev", queue)
    waiting = asyncio.create_task(on.publisher.publish(on.message(1)))
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1/dev"):
        await on.link.start(0.3)
    with pytest.raises(BrokerUnavailable, match="closed"):
        await asyncio.wait_for(waiting, 5)
    assert not on.link.is_up
    with pytest.raises(BrokerUnavailable):
        await on.publisher.publish(on.message(2), timeout=1)


async def test_closing_a_link_fails_the_publishes_under_way(
    servers: LocalServers, queue: Queue
) -> None:
    async with (
        FlakyNetwork(servers.rabbitmq.url("agent")) as network,
        bench(network.url, queue) as on,
    ):
        await on.link.start(10)
        network.freeze()
        publishing = [asyncio.create_task(on.publisher.publish(on.message(n))) for n in range(20)]
        await asyncio.sleep(0)
        started = time.monotonic()
        await on.link.close()
        outcomes = await asyncio.wait_for(asyncio.gather(*publishing, return_exceptions=True), 5)
        assert Counter(map(type, outcomes)) == {BrokerUnavailable: 20}
        assert time.monotonic() - started < 5
        network.thaw()


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


async def test_a_wrong_password_is_said(servers: LocalServers, queue: Queue) -> None:
    parts = servers.rabbitmq.url("agent").rpartition("@")
    on = Bench(f"amqp://agent:wrong@{parts[2]}", queue)
    with pytest.raises(BrokerUnavailable, match=r"(?i)refused|login|auth"):
        await on.link.start(1.0)


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
        on.link.add(on.consumer())
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


async def test_the_broker_shows_a_connection_by_its_name(
    servers: LocalServers, queue: Queue
) -> None:
    async with bench(servers.rabbitmq.url("agent"), queue) as on:
        await on.link.start(10)

        async def shown() -> bool:
            url = f"{servers.rabbitmq.management_url('operator')}/api/connections"
            _, body = await fetch(f"{url}?columns=user_provided_name")
            names = [entry.get("user_provided_name") for entry in msgspec.json.decode(body)]
            return names.count(on.link.name) == 1

        await wait_until(shown, 15)
