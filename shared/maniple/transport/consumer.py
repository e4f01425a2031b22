"""Consuming one queue, with acknowledgements that travel together."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import aiormq
from aiormq.abc import AbstractChannel, DeliveredMessage
from pamqp import commands

from maniple.transport.link import LOST, Link


class Delivery:
    """One message as delivered. Settle it with `ack`, once; later calls do nothing."""

    __slots__ = (
        "_consumer",
        "body",
        "generation",
        "properties",
        "redelivered",
        "routing_key",
        "tag",
    )

    def __init__(self, consumer: "Consumer", message: DeliveredMessage, generation: int) -> None:
        """Take over what aiormq delivered."""
        delivery = message.delivery
        assert isinstance(delivery, commands.Basic.Deliver)  # noqa: S101 - what consumers get
        self._consumer = consumer
        self.body = message.body
        self.properties = message.header.properties
        self.redelivered = bool(delivery.redelivered)
        self.routing_key = str(delivery.routing_key or "")
        self.tag = int(delivery.delivery_tag or 0)
        self.generation = generation

    @property
    def headers(self) -> dict[str, Any]:
        """AMQP headers."""
        return self.properties.headers or {}

    @property
    def alive(self) -> bool:
        """Whether the connection that delivered it still stands, so that an ack can arrive."""
        return self.generation == self._consumer.generation

    def ack(self) -> None:
        """Acknowledge soon; idempotent; abandoned when the connection has been lost since."""
        self._consumer.ack(self)

    def reject(self) -> None:
        """Refuse for good: the broker dead-letters it with its bytes."""
        self._consumer.reject(self)


class Consumer:
    """Consumes one queue on a channel of its own; `handle` is called with each delivery.

    Acknowledgements of one turn of the loop travel together: one frame for the contiguous head,
    one for each that overtook a slower one. `generation` counts connections.
    """

    def __init__(
        self,
        link: Link,
        queue: str,
        handle: Callable[[Delivery], None],
        *,
        prefetch: int,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        """Describe the consumer; `link.add` or `link.attach` puts it to work."""
        self._link = link
        self.queue = queue
        self._handle = handle
        self.prefetch = prefetch
        self._arguments = arguments
        self._channel: AbstractChannel | None = None
        self._consumer_tag: str | None = None
        self.generation = 0
        self._unsettled: dict[int, None] = {}
        self._settled: set[int] = set()
        self._flush_scheduled = False
        self._paused = False

    async def open(self, connection: aiormq.Connection) -> AbstractChannel:
        """Open the channel and consume."""
        channel = await connection.channel(publisher_confirms=False)
        self.generation += 1
        self._channel = channel
        channel.on_consumer_cancel_callbacks.add(lambda _: self._link.suspect())
        if not self._paused:
            await self._consume(channel)
        return channel

    def lost(self) -> None:
        """Abandon the channel and every delivery tag of it."""
        self.generation += 1
        self._channel = None
        self._consumer_tag = None
        self._unsettled.clear()
        self._settled.clear()

    async def resize(self, prefetch: int) -> None:
        """Change how many unacknowledged messages the broker lets this consumer have."""
        self.prefetch = prefetch
        channel = self._channel
        if channel is None or self._consumer_tag is None:
            return
        try:
            await self._cancel(channel)
            if not self._paused:
                await self._consume(channel)
        except LOST:
            self._link.suspect()

    async def pause(self) -> None:
        """Take nothing more; what was delivered stays to be settled."""
        self._paused = True
        channel = self._channel
        if channel is not None and self._consumer_tag is not None:
            with contextlib.suppress(*LOST):
                await self._cancel(channel)

    async def resume(self) -> None:
        """Take again after `pause`."""
        self._paused = False
        channel = self._channel
        if channel is not None and self._consumer_tag is None:
            with contextlib.suppress(*LOST):
                await self._consume(channel)

    async def _cancel(self, channel: AbstractChannel) -> None:
        tag, self._consumer_tag = self._consumer_tag, None
        await channel.basic_cancel(str(tag))

    async def _consume(self, channel: AbstractChannel) -> None:
        await channel.basic_qos(prefetch_count=self.prefetch)
        generation = self.generation

        async def deliver(message: DeliveredMessage) -> None:
            if generation == self.generation:
                delivery = Delivery(self, message, generation)
                self._unsettled[delivery.tag] = None
                self._handle(delivery)

        result = await channel.basic_consume(
            self.queue, deliver, no_ack=False, arguments=self._arguments
        )
        self._consumer_tag = str(result.consumer_tag)

    def ack(self, delivery: Delivery) -> None:
        """Settle a delivery; see `Delivery.ack`."""
        if delivery.generation != self.generation or delivery.tag not in self._unsettled:
            return
        self._settled.add(delivery.tag)
        if not self._flush_scheduled:
            self._flush_scheduled = True
            asyncio.get_running_loop().call_soon(self._start_flush)

    def reject(self, delivery: Delivery) -> None:
        """Refuse a delivery; see `Delivery.reject`."""
        channel = self._channel
        if delivery.generation == self.generation and channel is not None:
            self._unsettled.pop(delivery.tag, None)
            task = asyncio.ensure_future(channel.basic_reject(delivery.tag, requeue=False))
            task.add_done_callback(_ended)

    def _start_flush(self) -> None:
        task = asyncio.get_running_loop().create_task(self._flush())
        task.add_done_callback(_ended)

    async def flush(self) -> None:
        """Send the acknowledgements that wait; used before closing."""
        await self._flush()

    async def _flush(self) -> None:
        self._flush_scheduled = False
        channel, settled = self._channel, self._settled
        if channel is None or not settled:
            return
        self._settled = set()
        head = 0
        for tag in list(self._unsettled):
            if tag not in settled:
                break
            head = tag
            settled.discard(tag)
            del self._unsettled[tag]
        for tag in settled:
            self._unsettled.pop(tag, None)
        with contextlib.suppress(*LOST):
            if head:
                await channel.basic_ack(head, multiple=True)
            for tag in sorted(settled):
                await channel.basic_ack(tag)


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        raise error
