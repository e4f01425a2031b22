"""One message as the broker delivered it, and how those of a consumer are settled."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from maniple.amqp.wire.amqp_errors import AmqpError
from maniple.amqp.wire.channel import Channel
from maniple.amqp.wire.requests import Message

if TYPE_CHECKING:
    from maniple.amqp.byte_budget import ByteShare

_log = logging.getLogger(__name__)


class Receiver(Protocol):
    """What a delivery came to."""

    @property
    def generation(self) -> int:
        """Counts connections."""
        ...

    def ack(self, delivery: "Delivery") -> None:
        """Settle a delivery."""
        ...

    def reject(self, delivery: "Delivery") -> None:
        """Refuse a delivery."""
        ...

    def lighten(self, delivery: "Delivery", weight: int) -> None:
        """Count less for a delivery that is worked on."""
        ...

    async def flush(self) -> None:
        """Send the acknowledgements that wait."""
        ...


class Delivery:
    """One message as delivered. Settle it with `ack`, once; later calls do nothing."""

    __slots__ = (
        "_receiver",
        "body",
        "generation",
        "properties",
        "redelivered",
        "routing_key",
        "tag",
        "weight",
    )

    def __init__(self, receiver: Receiver, message: Message, generation: int) -> None:
        """Take over what was delivered."""
        self._receiver = receiver
        self.body = message.body
        self.properties = message.properties
        self.redelivered = message.redelivered
        self.routing_key = message.routing_key
        self.tag = message.tag
        self.generation = generation
        self.weight = 0
        """What a `ByteBudget` counts for it while it is worked on."""

    @property
    def headers(self) -> dict[str, Any]:
        """AMQP headers."""
        return self.properties.headers or {}

    @property
    def alive(self) -> bool:
        """Whether the connection that delivered it still stands, so that an ack can arrive."""
        return self.generation == self._receiver.generation

    def ack(self) -> None:
        """Acknowledge soon; idempotent; abandoned when the connection has been lost since."""
        self._receiver.ack(self)

    def lighten(self, weight: int) -> None:
        """Say that it takes less than could be seen before it was read; others get the room."""
        self._receiver.lighten(self, weight)

    async def flushed(self) -> None:
        """Return once acknowledgements until now are written, or their connection is lost."""
        await self._receiver.flush()

    def reject(self) -> None:
        """Refuse for good: the broker dead-letters it with its bytes."""
        self._receiver.reject(self)


class UnsettledDeliveries:
    """The deliveries of one consumer that are not settled, and their acknowledgements.

    Acknowledgements of one turn of the loop travel together: one frame for the contiguous head,
    one for each that overtook a slower one. `generation` counts connections.
    """

    def __init__(self, queue: str, handle: Callable[[Delivery], None]) -> None:
        """Begin without a channel; `handle` gets what comes from the queue."""
        self._queue = queue
        self._handle = handle
        self._share: ByteShare | None = None
        self.channel: Channel | None = None
        self.generation = 0
        self.unsettled: dict[int, Delivery] = {}
        """By delivery tag, in the order in which they came."""
        self._settled: set[int] = set()
        self._rejected: list[int] = []
        self._flush_scheduled = False
        self.flushing = asyncio.Lock()
        """Held while acknowledgements are written; whoever has it keeps them back."""

    def use_channel(self, channel: Channel) -> None:
        """Settle on a new channel what it will deliver."""
        self.generation += 1
        self.channel = channel

    def lost(self) -> None:
        """Abandon the channel and every delivery tag of it."""
        self.generation += 1
        self.channel = None
        self.unsettled.clear()
        self._settled.clear()
        self._rejected.clear()

    def count_by(self, share: "ByteShare") -> None:
        """Count what is not settled by a share of a budget, which tells what is to be handled."""
        self._share = share

    def taker(self) -> Callable[[Message], None]:
        """Return what takes the messages of one subscription, as long as its channel stands."""
        generation = self.generation

        def take(message: Message) -> None:
            if generation != self.generation:
                return
            delivery = Delivery(self, message, generation)
            self.unsettled[delivery.tag] = delivery
            share = self._share
            if share is None or share.count_delivery(delivery, len(self.unsettled)):
                self.hand(delivery)

        return take

    def hand(self, delivery: Delivery) -> None:
        """Have a delivery handled; one on which that raises is refused."""
        try:
            self._handle(delivery)
        except Exception:  # noqa: BLE001 - a message must not be held for ever, whatever is wrong
            _log.exception("a delivery from %s cannot be handled", self._queue)
            delivery.reject()

    def ack(self, delivery: Delivery) -> None:
        """Settle a delivery; see `Delivery.ack`."""
        if self._may_settle(delivery):
            self._settled.add(delivery.tag)
            self._schedule_flush()

    def reject(self, delivery: Delivery) -> None:
        """Refuse a delivery; see `Delivery.reject`."""
        if self._may_settle(delivery):
            self._end(delivery.tag)
            self._rejected.append(delivery.tag)
            self._schedule_flush()

    def lighten(self, delivery: Delivery, weight: int) -> None:
        """Count less for a delivery; see `Delivery.lighten`."""
        share = self._share
        if share is None or not self._may_settle(delivery) or weight >= delivery.weight:
            return
        share.lighten(delivery, weight)
        # Not within what handles this one, which may be one of many that wait.
        asyncio.get_running_loop().call_soon(share.hand_on)

    def _end(self, tag: int) -> None:
        delivery = self.unsettled.pop(tag)
        if self._share is not None:
            self._share.count_settled(delivery)

    def _may_settle(self, delivery: Delivery) -> bool:
        return (
            delivery.generation == self.generation
            and delivery.tag in self.unsettled
            and delivery.tag not in self._settled
        )

    def _schedule_flush(self) -> None:
        if not self._flush_scheduled:
            self._flush_scheduled = True
            asyncio.get_running_loop().call_soon(self._start_flush)

    def _start_flush(self) -> None:
        if not self.flushing.locked():
            self._send_settled()
            return
        task = asyncio.get_running_loop().create_task(self.flush())
        task.add_done_callback(raise_error)

    async def flush(self) -> None:
        """Send the acknowledgements that wait."""
        async with self.flushing:
            self._send_settled()

    def _send_settled(self) -> None:
        self._flush_scheduled = False
        if self.channel is not None:
            with contextlib.suppress(AmqpError):
                self._send(self.channel)

    def _send(self, channel: Channel) -> None:
        settled, self._settled = self._settled, set()
        rejected, self._rejected = self._rejected, []
        head = 0
        for tag in list(self.unsettled):
            if tag not in settled:
                break
            head = tag
            settled.discard(tag)
            self._end(tag)
        for tag in settled:
            self._end(tag)
        if self._share is not None:
            self._share.hand_on()
        for tag in rejected:
            channel.basic_reject(tag, requeue=False)
        if head:
            channel.basic_ack(head, multiple=True)
        for tag in sorted(settled):
            channel.basic_ack(tag)


def raise_error(task: asyncio.Task[None]) -> None:
    """Raise the error of a task that has failed: the loop tells of it."""
    if not task.cancelled() and (error := task.exception()):
        raise error
