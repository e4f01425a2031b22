"""Listening to exchanges without acknowledgements, and inspecting queues."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from maniple.amqp.connection import AmqpConnection
from maniple.amqp.connection_errors import is_loss
from maniple.amqp.supervision import CLOSE_TIMEOUT
from maniple.amqp.wire.amqp_errors import NotFound
from maniple.amqp.wire.broker_connection import Connection
from maniple.amqp.wire.channel import Channel
from maniple.amqp.wire.requests import Message
from maniple.errors import BrokerUnavailable

LOOK_TIMEOUT = 3.0

Hear = Callable[[bytes, str, str], None]
"""Called with body, `type` and `message_id` (empty where the message has none)."""


class Listener:
    """An exclusive queue that receives `bindings`: pairs of exchange and routing key.

    The broker names the queue. Each connection declares a new one, so messages sent between two
    connections are missed. Nothing is acknowledged: this is for messages that lose their worth with
    age. `hear` must not raise.
    """

    def __init__(
        self, link: AmqpConnection, bindings: Sequence[tuple[str, str]], hear: Hear
    ) -> None:
        """Listen on `link`, which must not have been started yet."""
        self._link = link
        self._bindings = tuple(bindings)
        self._hear = hear
        link.add_endpoint(self)

    async def open(self, connection: Connection) -> Channel:
        """Declare, bind and consume."""
        channel = await connection.channel()
        queue = str((await channel.queue_declare("", exclusive=True)).queue)
        for exchange, key in self._bindings:
            await channel.queue_bind(queue, exchange, key)
        channel.on_cancelled.add(self._link.suspect)
        await channel.basic_consume(queue, self._take, no_ack=True)
        return channel

    def lost(self) -> None:
        """Do nothing: no state is kept of a connection."""

    def _take(self, message: Message) -> None:
        properties = message.properties
        self._hear(message.body, properties.message_type or "", properties.message_id or "")


@dataclass(frozen=True, slots=True)
class QueueView:
    """A queue's state now; one that is not `there` has neither messages nor consumers."""

    ready: int
    consumers: int
    there: bool = True


class Inspector:
    """Inspects queues over a connection by passive declaration."""

    def __init__(self, link: AmqpConnection) -> None:
        """Inspect over `link`, which must not have been started yet."""
        self._connection: Connection | None = None
        self._channel: Channel | None = None
        self._looking = asyncio.Lock()
        link.add_endpoint(self)

    async def open(self, connection: Connection) -> Channel:
        """Open a channel, by which the connection counts as up; inspections use another one."""
        # The broker closes a channel that asks for a queue that is not there.
        self._connection, self._channel = connection, None
        return await connection.channel()

    def lost(self) -> None:
        """Forget the connection."""
        self._connection = self._channel = None

    async def inspect_queue(self, queue: str) -> QueueView:
        """Inspect a queue. Raises `BrokerUnavailable`, also when the queue does not answer."""
        async with self._looking:
            try:
                async with asyncio.timeout(LOOK_TIMEOUT):
                    return await self._look(queue)
            except NotFound:
                self._channel = None
                return QueueView(0, 0, there=False)
            except (Exception, asyncio.CancelledError) as error:
                await self._abandon()
                if isinstance(error, BrokerUnavailable) or not (
                    isinstance(error, TimeoutError) or is_loss(error)
                ):
                    raise
                raise BrokerUnavailable(f"{queue} cannot be looked at: {error!r}") from error

    async def _abandon(self) -> None:
        """Close the channel: a late answer must not be taken for the next one's."""
        channel, self._channel = self._channel, None
        if channel is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await channel.close()

    async def _look(self, queue: str) -> QueueView:
        if self._connection is None:
            raise BrokerUnavailable("not connected")
        channel = self._channel
        if channel is None:
            channel = await self._connection.channel()
            self._channel = channel
        found = await channel.queue_declare(queue, passive=True)
        return QueueView(found.message_count or 0, found.consumer_count or 0)
