"""Consumers against a real broker: acknowledging, refusing, pausing."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from link_bench import bench, depth, is_left, new_queue, numbers
from local_servers import LocalServers
from maniple.amqp import Delivery
from maniple.amqp import consumer as transport_consumer
from maniple.topology import Queue
from waiting import wait_until


@pytest.fixture
def queue() -> Queue:
    return new_queue()


@pytest.fixture
async def dead(servers: LocalServers) -> AsyncIterator[Queue]:
    """A queue for what is rejected."""
    queue = new_queue()
    async with bench(servers.rabbitmq.url("agent"), queue) as there:
        await there.link.start(10)
        yield queue


async def test_acknowledgements_in_any_order_settle_every_message_once(
    servers: LocalServers, queue: Queue
) -> None:
    async with bench(servers.rabbitmq.url("agent"), queue) as on:
        on.handle = lambda _: None
        consumer = on.consumer()
        await on.link.start(10)
        chance = random.Random(7)
        for start in range(0, 480, 24):
            await on.publish(range(start, start + 24))
            await wait_until(lambda start=start: len(on.received) == start + 24)  # type: ignore[misc]
            for delivery in chance.sample(on.received[start:], 24):
                delivery.ack()
                delivery.ack()
                if chance.random() < 0.3:
                    await asyncio.sleep(0)  # so that flushes overlap
        await consumer.settle_delivery()
        assert on.link.reconnects == 0  # a tag acknowledged twice costs the channel
        await on.lose(on.link.suspect)
        assert await depth(servers, queue) == (0, 0)
        assert len(on.received) == 480


async def test_an_acknowledgement_over_a_lost_connection_is_abandoned(
    servers: LocalServers, queue: Queue
) -> None:
    async with bench(servers.rabbitmq.url("agent"), queue) as on:
        on.handle = lambda _: None
        on.consumer()
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
        # Those have the same tags as what has come since, and settle none of it.
        await on.lose(on.link.suspect)
        await wait_until(lambda: len(on.received) == 9)
        again = on.received[6:]
        assert all(delivery.redelivered and delivery.alive for delivery in again)
        for delivery in again:
            delivery.ack()
        assert await on.remaining(servers) == 0


async def test_a_rejected_delivery_is_not_acknowledged_with_its_neighbours(
    servers: LocalServers, dead: Queue
) -> None:
    queue = new_queue(x_dead_letter_exchange="", x_dead_letter_routing_key=dead.name)
    async with bench(servers.rabbitmq.url("agent"), queue) as on:

        def handle(delivery: Delivery) -> None:
            (delivery.reject if delivery.body == b"3" else delivery.ack)()
            delivery.ack()

        on.handle = handle
        on.consumer()
        await on.link.start(10)
        await on.publish(range(20))
        await wait_until(lambda: len(on.received) == 20)
        assert await on.remaining(servers) == 0
        assert on.link.reconnects == 1
        await wait_until(lambda: is_left(servers, dead, 1))


async def test_a_delivery_that_cannot_be_handled_is_rejected(
    servers: LocalServers, dead: Queue
) -> None:
    queue = new_queue(x_dead_letter_exchange="", x_dead_letter_routing_key=dead.name)
    async with bench(servers.rabbitmq.url("agent"), queue) as on:

        def handle(delivery: Delivery) -> None:
            if delivery.body == b"1":
                raise RuntimeError("a bug")
            delivery.ack()

        on.handle = handle
        on.consumer(1)
        await on.link.start(10)
        await on.publish(range(3))
        await wait_until(lambda: set(on.bodies) == numbers(3))
        assert await on.remaining(servers) == 0
        await wait_until(lambda: is_left(servers, dead, 1))


async def test_pausing_and_resizing_neither_lose_nor_return_a_delivery(
    servers: LocalServers, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What set out before must have arrived by then, also from a busy broker.
    monkeypatch.setattr(transport_consumer, "QUIET", 0.5)
    async with bench(servers.rabbitmq.url("agent"), queue) as on:
        consumer = on.consumer(5)
        await consumer.pause()
        await on.link.start(10)
        await on.publish(range(1000))
        for prefetch in (50, 3):
            await consumer.resume()
            await consumer.resize(prefetch)
            await consumer.pause()
            seen = len(on.received)
            assert (await depth(servers, queue))[1] == 0
            assert len(on.received) == seen
        await consumer.resize(200)
        await consumer.resume()
        await wait_until(lambda: len(on.received) >= 1000)
        # A quorum queue takes back what is under way to a consumer that is cancelled.
        assert not any(delivery.redelivered for delivery in on.received)
        assert set(on.bodies) == numbers(1000)
        assert (on.link.reconnects, await depth(servers, queue)) == (0, (0, 1))


async def test_changes_while_the_connection_comes_and_goes_end_as_last_wanted(
    servers: LocalServers, queue: Queue
) -> None:
    async with bench(servers.rabbitmq.url("agent"), queue) as on:
        consumer = on.consumer(5)
        await on.link.start(10)
        chance = random.Random(3)
        for _ in range(6):
            on.link.suspect()
            for _ in range(8):
                await asyncio.sleep(chance.random() * 0.03)  # anywhere in the connecting
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


@pytest.mark.parametrize("paused", [False, True])
async def test_many_single_acknowledgements_are_applied_before_a_link_closes(
    servers: LocalServers, queue: Queue, monkeypatch: pytest.MonkeyPatch, paused: bool
) -> None:
    # Without a subscription whose end tells that they are, all that helps is time.
    monkeypatch.setattr(transport_consumer, "APPLY", 1.0)
    async with bench(servers.rabbitmq.url("agent"), queue) as on:
        on.handle = lambda _: None
        consumer = on.consumer(600)
        await on.link.start(10)
        await on.publish(range(600))
        await wait_until(lambda: len(on.received) == 600)
        if paused:
            await consumer.pause()
        for delivery in on.received[1::2]:
            delivery.ack()
        await consumer.settle_delivery()
        await on.link.close()
        await wait_until(lambda: is_left(servers, queue, 300))
