"""Taking messages from a queue without consuming it, over separate connections.

A queue that loses its leader during a `basic.get` may cost the whole connection (RabbitMQ answers
with a connection error, or not at all). So a connection takes from one queue at a time and carries
nothing else.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from maniple.amqp.connection import AmqpConnection
from maniple.amqp.connection_errors import is_loss
from maniple.amqp.consumer import APPLY
from maniple.amqp.delivery import Delivery
from maniple.amqp.listener import Inspector, QueueView
from maniple.amqp.wire.channel import Channel
from maniple.errors import BrokerUnavailable
from maniple.timings import Amqp

MOST_BYTES = 4 * 1024**2  # of one queue; a single message may have more


class Pull:
    """Takes messages from one queue, one by one; `Pulls.open` makes it.

    An answer that takes the broker longer than `answer` seconds raises `BrokerUnavailable`.
    """

    def __init__(self, channel: Channel, queue: str, answer: float) -> None:
        """Use a channel that nothing else uses."""
        self._channel = channel
        self._queue = queue
        self._answer = answer
        self.generation = 0
        self._open: dict[int, int] = {}  # bytes of each that is not settled
        self._acked: list[int] = []
        self._rejected: list[int] = []
        self._news = asyncio.Event()

    async def take(self) -> Delivery | None:
        """Return the next message; None if the queue is empty.

        Deliveries that are not settled return to the queue when the pull ends, as redelivered.
        """
        await self.flush()
        async with asyncio.timeout(self._answer):
            message = await self._channel.basic_get(self._queue)
        if message is None:
            return None
        delivery = Delivery(self, message, self.generation)
        self._open[delivery.tag] = len(delivery.body)
        return delivery

    async def room(self, most: int, seconds: float) -> bool:
        """Wait until fewer than `most` deliveries, and less than `MOST_BYTES`, are unsettled.

        Returns False if that takes longer than `seconds`.
        """
        try:
            async with asyncio.timeout(seconds):
                while len(self._open) >= most or sum(self._open.values()) >= MOST_BYTES:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return False
        return True

    async def finish(self) -> None:
        """Have the acknowledgements applied: a channel that closes forgets those that are not."""
        await self.flush()
        await asyncio.sleep(APPLY)

    def ack(self, delivery: Delivery) -> None:
        """Settle a delivery; see `Delivery.ack`."""
        self._settle(delivery, self._acked)

    def lighten(self, delivery: Delivery, weight: int) -> None:
        """Do nothing: pulled deliveries are not counted in a budget."""

    def reject(self, delivery: Delivery) -> None:
        """Refuse a delivery; see `Delivery.reject`."""
        self._settle(delivery, self._rejected)

    async def flush(self) -> None:
        """Send the acknowledgements that wait."""
        acked, self._acked = self._acked, []
        rejected, self._rejected = self._rejected, []
        for tag in acked:
            self._channel.basic_ack(tag)
        for tag in rejected:
            self._channel.basic_reject(tag, requeue=False)

    def lost(self) -> None:
        """Forget what is not settled: it is the queue's again, and goes to others."""
        self.generation += 1
        self._open.clear()
        self._news.set()

    def _settle(self, delivery: Delivery, tags: list[int]) -> None:
        if delivery.alive and self._open.pop(delivery.tag, None) is not None:
            tags.append(delivery.tag)
            self._news.set()


class Pulls:
    """Inspects queues and takes from them, over connections of its own.

    One connection is for inspections, while it is `up`; those for taking are opened when needed and
    kept until `trim`.
    """

    def __init__(
        self, url: str, name: str, *, times: Amqp, answer: float, lookers: int = 1
    ) -> None:
        """Name the connections `name` and a number; `answer` is passed to `Pull`.

        `lookers` is how many queues are inspected at a time.
        """
        self._url = url
        self._name = name
        self._times = times
        self._answer = answer
        self._spare: list[AmqpConnection] = []
        self._made = 0
        self._looking = AmqpConnection(url, name=name, times=times)
        self._inspectors = asyncio.Queue[Inspector]()
        for _ in range(lookers):
            self._inspectors.put_nowait(Inspector(self._looking))

    @asynccontextmanager
    async def up(self, timeout: float) -> AsyncIterator[None]:
        """Keep a connection for inspections open; raises as `AmqpConnection.start`."""
        await self._looking.start(timeout)
        try:
            yield
        finally:
            await self.trim()
            await self._looking.close()

    async def inspect_queue(self, queue: str) -> QueueView:
        """Return a queue's state, as soon as an inspector is free.

        Raises `BrokerUnavailable`, also when the queue does not answer.
        """
        inspector = await self._inspectors.get()
        try:
            return await inspector.inspect_queue(queue)
        finally:
            self._inspectors.put_nowait(inspector)

    @asynccontextmanager
    async def open(self, queue: str) -> AsyncIterator[Pull]:
        """Give a `Pull`; raises `BrokerUnavailable` when queue or broker does not answer."""
        link = self._spare.pop() if self._spare else await self._connect()
        try:
            async with asyncio.timeout(self._answer):
                channel = await (await link.connection()).channel()
            pull = Pull(channel, queue, self._answer)
            channel.closing.add_done_callback(lambda _: pull.lost())
            yield pull
            async with asyncio.timeout(self._answer):
                await channel.close()
        except (Exception, asyncio.CancelledError) as error:
            # Whatever it was: what is not settled is given back with the connection.
            await link.close()
            if not (isinstance(error, TimeoutError) or is_loss(error)):
                raise
            raise BrokerUnavailable(f"{queue} cannot be taken from: {error!r}") from error
        self._spare.append(link)

    async def trim(self) -> None:
        """Close the connections that nobody uses now."""
        spare, self._spare = self._spare, []
        for link in spare:
            await link.close()

    async def _connect(self) -> AmqpConnection:
        self._made += 1
        link = AmqpConnection(
            self._url, name=f"{self._name}-{self._made}", times=self._times, holds=True
        )
        await link.start(self._answer)
        return link
