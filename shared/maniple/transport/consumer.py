"""Consuming one queue, with acknowledgements that travel together."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol

import aiormq
from aiormq.abc import AbstractChannel, DeliveredMessage
from pamqp import commands

from maniple.transport.loss import is_loss

QUIET = 0.05
APPLY = 0.2

_log = logging.getLogger(__name__)


class Owner(Protocol):
    """What a consumer lives on: a link."""

    def suspect(self) -> None:
        """Take that something does not answer as it should, or that the queue is gone."""
        ...


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

    async def flushed(self) -> None:
        """Return once acknowledgements until now are written, or their connection is lost."""
        await self._consumer.flush()

    def reject(self) -> None:
        """Refuse for good: the broker dead-letters it with its bytes."""
        self._consumer.reject(self)


class Consumer:
    """Consumes one queue on a channel of its own; `handle` is called with each delivery.

    Acknowledgements of one turn of the loop travel together: one frame for the contiguous head,
    one for each that overtook a slower one. `generation` counts connections. A delivery that
    `handle` raises on is rejected, so that it cannot be held for ever.
    """

    def __init__(
        self,
        link: Owner,
        queue: str,
        handle: Callable[[Delivery], None],
        *,
        prefetch: int,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        """Describe the consumer; `link.add` puts it to work."""
        self._link = link
        self.queue = queue
        self._handle = handle
        self.prefetch = prefetch
        self._arguments = arguments
        self._channel: AbstractChannel | None = None
        self._consumer_tag = ""
        self._in_force: int | None = None  # the prefetch that the broker knows, while we consume
        self._fitting = asyncio.Lock()
        self.generation = 0
        self._unsettled: dict[int, None] = {}
        self._settled: set[int] = set()
        self._rejected: list[int] = []
        self._flush_scheduled = False
        self._flushing = asyncio.Lock()
        self._paused = False

    @property
    def hungry(self) -> bool:
        """Whether it would take more now: not paused, and fewer unsettled than its prefetch."""
        return not self._paused and len(self._unsettled) < self.prefetch

    async def open(self, connection: aiormq.Connection) -> AbstractChannel:
        """Open the channel and consume."""
        channel = await connection.channel(publisher_confirms=False)
        self.generation += 1
        self._channel = channel
        channel.on_consumer_cancel_callbacks.add(lambda _: self._link.suspect())
        await self._fit()
        return channel

    @property
    def unsettled(self) -> int:
        """Deliveries that are neither acknowledged nor refused."""
        return len(self._unsettled)

    def lost(self) -> None:
        """Abandon the channel and every delivery tag of it."""
        self.generation += 1
        self._channel = None
        self._in_force = None
        self._unsettled.clear()
        self._settled.clear()
        self._rejected.clear()

    async def resize(self, prefetch: int) -> None:
        """Change how many unacknowledged messages the broker lets this consumer have."""
        self.prefetch = prefetch
        await self._refit()

    async def pause(self) -> None:
        """Take nothing more; what was delivered stays to be settled."""
        self._paused = True
        await self._refit()

    async def resume(self) -> None:
        """Take again after `pause`."""
        self._paused = False
        await self._refit()

    async def settle(self) -> None:
        """Take nothing more and have the acknowledgements applied; used before closing.

        A quorum queue takes 32 single ones from a channel at a time. What then waits in the channel
        is forgotten when that closes (3.10), and delivered again. The end of a subscription is
        applied in turn, behind them; if there is none, all that helps is time.
        """
        await self.flush()
        if self._paused:
            await asyncio.sleep(APPLY)
        else:
            await self.pause()

    async def _refit(self) -> None:
        channel = self._channel
        try:
            await self._fit()
        except (Exception, asyncio.CancelledError) as error:
            if not is_loss(error):
                raise
            if channel is not None and channel is self._channel:
                self._link.suspect()

    async def _fit(self) -> None:
        """Bring what the broker does to what is wanted, also when that changes meanwhile."""
        async with self._fitting:
            while (channel := self._channel) is not None and self._in_force != self._wanted:
                if self._in_force is None:
                    await self._consume(channel)
                else:
                    await self._cancel(channel)

    async def _cancel(self, channel: AbstractChannel) -> None:
        # What is under way to a consumer that is cancelled comes back as redelivered, as if we had
        # died with it (rabbitmq-server 3746); while nothing is acknowledged, nothing new sets out.
        async with self._flushing:
            await asyncio.sleep(QUIET)
            if channel is self._channel:
                self._in_force = None
                await channel.basic_cancel(self._consumer_tag)

    @property
    def _wanted(self) -> int | None:
        return None if self._paused else self.prefetch

    async def _consume(self, channel: AbstractChannel) -> None:
        prefetch, generation = self.prefetch, self.generation
        await channel.basic_qos(prefetch_count=prefetch)

        async def deliver(message: DeliveredMessage) -> None:
            if generation == self.generation:
                self._take(Delivery(self, message, generation))

        result = await channel.basic_consume(
            self.queue, deliver, no_ack=False, arguments=self._arguments
        )
        if channel is self._channel:
            self._consumer_tag = str(result.consumer_tag)
            self._in_force = prefetch

    def _take(self, delivery: Delivery) -> None:
        self._unsettled[delivery.tag] = None
        try:
            self._handle(delivery)
        except Exception:  # noqa: BLE001 - a message must not be held for ever, whatever is wrong
            _log.exception("a delivery from %s cannot be handled", self.queue)
            self.reject(delivery)

    def ack(self, delivery: Delivery) -> None:
        """Settle a delivery; see `Delivery.ack`."""
        if self._may_settle(delivery):
            self._settled.add(delivery.tag)
            self._schedule_flush()

    def reject(self, delivery: Delivery) -> None:
        """Refuse a delivery; see `Delivery.reject`."""
        if self._may_settle(delivery):
            del self._unsettled[delivery.tag]
            self._rejected.append(delivery.tag)
            self._schedule_flush()

    def _may_settle(self, delivery: Delivery) -> bool:
        return (
            delivery.generation == self.generation
            and delivery.tag in self._unsettled
            and delivery.tag not in self._settled
        )

    def _schedule_flush(self) -> None:
        if not self._flush_scheduled:
            self._flush_scheduled = True
            asyncio.get_running_loop().call_soon(self._start_flush)

    def _start_flush(self) -> None:
        task = asyncio.get_running_loop().create_task(self.flush())
        task.add_done_callback(_ended)

    async def flush(self) -> None:
        """Send the acknowledgements that wait."""
        # One at a time: an ack up to some tag must not overtake the single acks below it.
        async with self._flushing:
            self._flush_scheduled = False
            channel = self._channel
            if channel is None:
                return
            try:
                await self._send_settled(channel)
            except (Exception, asyncio.CancelledError) as error:
                if not is_loss(error):
                    raise

    async def _send_settled(self, channel: AbstractChannel) -> None:
        settled, self._settled = self._settled, set()
        rejected, self._rejected = self._rejected, []
        head = 0
        for tag in list(self._unsettled):
            if tag not in settled:
                break
            head = tag
            settled.discard(tag)
            del self._unsettled[tag]
        for tag in settled:
            del self._unsettled[tag]
        for tag in rejected:
            await channel.basic_reject(tag, requeue=False)
        if head:
            await channel.basic_ack(head, multiple=True)
        for tag in sorted(settled):
            await channel.basic_ack(tag)


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        raise error
