"""A connection with a queue of its own, and what it publishes and receives."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

from local_servers import LocalServers
from maniple.amqp import (
    AmqpConnection,
    Connection,
    Consumer,
    Delivery,
    Outgoing,
    Publisher,
    declare,
)
from maniple.amqp.wire.channel import Channel
from maniple.timings import Amqp
from maniple.topology import Queue
from waiting import wait_until

CONFIRMED_WITHIN = 20.0
OPENED_WITHIN = 10.0


def new_queue(**arguments: str) -> Queue:
    """Describe a quorum queue of the test's own."""
    dashed = {name.replace("_", "-"): value for name, value in arguments.items()}
    return Queue(f"maniple.agent.test-{uuid4()}", arguments={"x-delivery-limit": 100, **dashed})


class Bench:
    """A connection with a publisher, and what its consumers have received."""

    def __init__(self, url: str, queue: Queue, times: Amqp | None = None) -> None:
        self.queue = queue
        self.link = AmqpConnection(
            url, name=f"test.{queue.name}", prepare=self._declare, times=times, holds=True
        )
        self.publisher = Publisher(self.link)
        self.consumers: list[Consumer] = []
        self.received: list[Delivery] = []
        self.sent: set[str] = set()
        self.handle: Callable[[Delivery], None] = Delivery.ack

    async def _declare(self, connection: Connection) -> None:
        await declare(connection, queues=(self.queue,))

    def consumer(self, prefetch: int = 100) -> Consumer:
        """Consume the queue, which is declared anew each time."""
        made = Consumer(self.queue.name, self._take, prefetch=prefetch)
        self.link.consume(made, self._declare)
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
        message_id = str(uuid4())
        self.sent.add(message_id)
        return Outgoing(exchange, key or self.queue.name, body, message_id=message_id, type="t")

    async def publish(self, numbers: range) -> None:
        await asyncio.gather(*(self.publisher.publish(self.message(n)) for n in numbers))

    def publishing(self, numbers: range) -> asyncio.Task[None]:
        """Publish beside what the test does."""
        return asyncio.create_task(self.publish(numbers))

    async def lose(self, how: Callable[[], object]) -> None:
        """Lose the connection, once its acknowledgements are sent, and wait for the next one."""
        for consumer in self.consumers:
            await consumer.flush()
        before = self.link.reconnects
        how()
        await wait_until(lambda: self.link.reconnects > before and self.stands)

    @property
    def stands(self) -> bool:
        """Tell whether it is up and consumes."""
        return self.link.is_up and self.link.consumes

    async def remaining(self, servers: LocalServers) -> int:
        """Return how many messages are unsettled, once deliveries have stopped."""
        for consumer in self.consumers:
            await consumer.pause()
        await self.lose(self.link.suspect)
        return (await depth(servers, self.queue))[0]


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    """Open a connection that nobody supervises, and close it in the end."""
    connection = Connection(url)
    await connection.open(OPENED_WITHIN)
    try:
        yield connection
    finally:
        await connection.close()


async def done(publishing: asyncio.Task[None]) -> None:
    """Return when everything has been confirmed, over however many connections."""
    await wait_until(publishing.done, CONFIRMED_WITHIN)
    await publishing


@asynccontextmanager
async def bench(url: str, queue: Queue, times: Amqp | None = None) -> AsyncIterator[Bench]:
    made = Bench(url, queue, times)
    try:
        yield made
    finally:
        await made.link.close()
        async with connected(url) as connection:
            await (await connection.channel()).queue_delete(queue.name)


def channel_of(one: Publisher | Consumer) -> Channel:
    assert one._channel is not None
    return one._channel


def numbers(count: int) -> set[bytes]:
    return {str(n).encode() for n in range(count)}


async def depth(servers: LocalServers, queue: Queue) -> tuple[int, int]:
    """Return (messages, consumers) of a queue on the tests' own broker; see `depth_at`."""
    return await depth_at(servers.rabbitmq.url("operator"), queue.name)


async def is_left(
    servers: LocalServers, queue: Queue, messages: int = 0, *, consumers: int = 0
) -> bool:
    """Tell whether this many messages and consumers of a queue are left; see `depth_at`."""
    return await depth(servers, queue) == (messages, consumers)


async def depth_at(url: str, queue: str) -> tuple[int, int]:
    """Return (messages, consumers) as a passive declaration tells them: ready ones only."""
    async with connected(url) as connection:
        channel = await connection.channel()
        declared = await channel.queue_declare(queue, passive=True)
    return int(declared.message_count or 0), int(declared.consumer_count or 0)
