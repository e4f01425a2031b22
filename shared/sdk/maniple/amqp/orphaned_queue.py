"""A queue whose reader is gone: other processes drain it, then remove it.

All of it happens on separate channels, so that a queue that another process removes meanwhile (by
doing the same) disturbs nothing else.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from maniple.amqp.byte_budget import ASSUMED, ByteBudget
from maniple.amqp.connection import AmqpConnection
from maniple.amqp.connection_errors import LOST, is_loss
from maniple.amqp.consumer import Consumer
from maniple.amqp.delivery import Delivery
from maniple.amqp.listener import QueueView
from maniple.amqp.wire.amqp_errors import NotFound
from maniple.amqp.wire.broker_connection import Connection
from maniple.amqp.wire.channel import Channel
from maniple.clock import SYSTEM_CLOCK
from maniple.errors import BrokerUnavailable
from maniple.topology import Queue

PREFETCH = 16
SETTLE_TIMEOUT = 5.0
POLL = 0.05


class OrphanedQueue:
    """One such queue; `leftover` makes it. Every method raises when the connection is lost."""

    def __init__(
        self,
        connection: Connection,
        queue: Queue,
        handle: Callable[[Delivery], None],
        budget: ByteBudget | None = None,
        monotonic: Callable[[], float] = SYSTEM_CLOCK.monotonic,
    ) -> None:
        """Pass the deliveries of `queue` to `handle`.

        A `budget` counts them but cannot hold them back: whoever removes a queue must be consuming
        it.
        """
        self._connection = connection
        self._queue = queue
        self._handle = handle
        self._monotonic = monotonic
        prefetch = PREFETCH if budget is None else min(PREFETCH, max(1, budget.floor // ASSUMED))
        self._consumer = Consumer(
            queue.name, self._take, prefetch=prefetch, owner=self, budget=budget, steady=True
        )
        self._channel: Channel | None = None
        self._touched = self._monotonic()
        self.lost = False

    def suspect(self) -> None:
        """Record that the broker has ended the consumer: somebody removed the queue."""
        self.lost = True

    @property
    def quiet(self) -> float:
        """Seconds since the last delivery came or was on its way."""
        return 0.0 if self._consumer.unsettled else self._monotonic() - self._touched

    async def inspect_queue(self) -> QueueView | None:
        """Return the queue's state; None if it does not exist."""
        channel = await self._connection.channel()
        try:
            declared = await channel.queue_declare(self._queue.name, passive=True)
        except NotFound:
            return None
        await channel.close()
        return QueueView(declared.message_count or 0, declared.consumer_count or 0)

    async def consume(self) -> None:
        """Begin to take what waits."""
        self._touched = self._monotonic()
        if self._channel is None:
            self._channel = await self._consumer.open(self._connection)
            self._channel.closing.add_done_callback(lambda _: self.suspect())
        else:
            await self._consumer.resume()

    async def pause(self) -> None:
        """Stop consuming, and settle what was taken, within 5 s; the rest stays in the queue."""
        await self._consumer.pause()
        deadline = self._monotonic() + SETTLE_TIMEOUT
        # An acknowledgement tells nobody that it was sent.
        while self._consumer.unsettled and not self.lost and self._monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(POLL)

    async def unbind(self) -> None:
        """Remove the queue's binding: what is published to it is returned as unroutable."""
        async with _channel(self._connection) as channel:
            for exchange, key in self._queue.bindings:
                await channel.queue_unbind(self._queue.name, exchange, key)

    async def bind(self) -> None:
        """Undo `unbind`, if the queue still exists."""
        channel = await self._connection.channel()
        try:
            for exchange, key in self._queue.bindings:
                await channel.queue_bind(self._queue.name, exchange, key)
        except NotFound:
            return
        await channel.close()

    async def remove_queue(self) -> None:
        """Delete the queue with its messages; deliveries to this consumer stay its own."""
        async with _channel(self._connection) as channel:
            await channel.queue_delete(self._queue.name)

    async def release_queue(self) -> None:
        """Close the channels; one that the broker does not answer is left."""
        if self._channel is not None:
            await self._consumer.flush()
            self._consumer.lost()
            await self._channel.close()

    def forget_queue(self) -> None:
        """Hold no deliveries any more."""
        self._consumer.retire()

    def _take(self, delivery: Delivery) -> None:
        self._touched = self._monotonic()
        self._handle(delivery)


@asynccontextmanager
async def _channel(connection: Connection) -> AsyncIterator[Channel]:
    channel = await connection.channel()
    yield channel
    await channel.close()


@asynccontextmanager
async def _closed(one: OrphanedQueue) -> AsyncIterator[None]:
    """Close the queue's channels at the end; after an error a lost connection is ignored."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(*LOST):
            await one.release_queue()
        raise
    await one.release_queue()


@asynccontextmanager
async def leftover(
    link: AmqpConnection,
    queue: Queue,
    handle: Callable[[Delivery], None],
    monotonic: Callable[[], float] = SYSTEM_CLOCK.monotonic,
) -> AsyncIterator[OrphanedQueue]:
    """Give an `OrphanedQueue` over the current connection of `link`.

    Raises `BrokerUnavailable` when that connection is lost meanwhile: start again then.
    """
    one = OrphanedQueue(await link.connection(), queue, handle, link.budget, monotonic)
    try:
        async with _closed(one):
            yield one
    except (Exception, asyncio.CancelledError) as error:
        if not is_loss(error):
            raise
        raise BrokerUnavailable(f"the connection {link.name} was lost: {error!r}") from error
    finally:
        one.forget_queue()
