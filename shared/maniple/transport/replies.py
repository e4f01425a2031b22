"""Where a client hears results: a durable queue of its own, or what its user may have."""

import contextlib
from collections.abc import Callable

import aiormq
from aiormq.abc import AbstractChannel

from maniple.topology import reply_queue
from maniple.transport.consumer import Consumer, Delivery
from maniple.transport.declare import declare_queue
from maniple.transport.link import LOST, Link


class ReplyConsumer(Consumer):
    """Declares the reply queue of a client on each connection, and consumes it.

    Agents send bundles of results to the durable queue `maniple.replies.<client>`. A user who may
    not declare it (403) gets a server-named queue instead, which ends with the connection and to
    which each result comes alone: `exclusive` then is true and `queue` changes on reconnecting.
    """

    def __init__(
        self, link: Link, client: str, handle: Callable[[Delivery], None], *, prefetch: int
    ) -> None:
        """Describe the consumer; `link.add` puts it to work."""
        self._durable = reply_queue(client)
        self.exclusive = False
        super().__init__(link, self._durable.name, handle, prefetch=prefetch)

    async def open(self, connection: aiormq.Connection) -> AbstractChannel:
        """Declare, then consume."""
        if not self.exclusive:
            channel = await connection.channel()
            try:
                await declare_queue(channel, self._durable)
                await channel.close()
            except aiormq.exceptions.ChannelAccessRefused:
                self.exclusive = True
        if self.exclusive:
            channel = await connection.channel()
            declared = await channel.queue_declare("", exclusive=True)
            self.queue = str(declared.queue)
            await channel.close()
        return await super().open(connection)

    async def delete(self) -> None:
        """Delete the queue, as far as the connection still stands."""
        await self.pause()
        if self._channel is not None:
            with contextlib.suppress(*LOST):
                await self._channel.queue_delete(self.queue)
