"""Where a client hears results: a durable queue of its own, or what its user may have."""

import contextlib
from collections.abc import Callable

import aiormq
from aiormq.abc import AbstractChannel

from maniple.amqp.connection import AmqpConnection
from maniple.amqp.connection_errors import LOST
from maniple.amqp.consumer import Consumer
from maniple.amqp.declare import declare_queue
from maniple.amqp.delivery import Delivery
from maniple.identifiers import new_secret
from maniple.topology import REPLY_PREFIX, reply_queue


class ReplyConsumer(Consumer):
    """Declares the reply queue of a client on each connection, and consumes it.

    Agents send bundles of results to the durable queue `maniple.replies.<client>`. A user who may
    not declare it (403) gets a server-named queue instead, which ends with the connection and to
    which each result comes alone: `exclusive` then is true and `queue` changes on reconnecting.
    `life` counts queues: also one of the same name, if the one before it was gone.

    Whoever submits may name any queue as `reply_to`, and names of queues are no secret. So results
    come under a word that nobody can guess: as a part of the `address`, or, where that is a queue's
    name, as the `correlation_id` of what is submitted. What comes without it is not ours.
    """

    def __init__(
        self,
        link: AmqpConnection,
        client: str,
        handle: Callable[[Delivery], None],
        *,
        prefetch: int,
    ) -> None:
        """Describe it; `link.add_endpoint` puts it to work: without it the link is not up."""
        self.secret = new_secret()
        """What comes with each result that is ours: its routing key, or its `correlation_id`."""
        self.address = f"{REPLY_PREFIX}{self.secret}"
        """Where results are to be sent."""
        self.correlation_id: str | None = None
        """What results are to bear, if their address alone says nothing."""
        self._durable = reply_queue(client, self.secret)
        self.exclusive = False
        self.life = 0
        super().__init__(self._durable.name, handle, prefetch=prefetch, owner=link)

    def use_exclusive(self, queue: str) -> None:
        """Have results sent to a queue that the broker has named, and that is ours alone."""
        self.exclusive = True
        self.queue = self.address = queue
        self.correlation_id = self.secret

    async def open(self, connection: aiormq.Connection) -> AbstractChannel:
        """Declare, then consume."""
        if not self.exclusive:
            is_new = self.life == 0 or not await self._is_there(connection)
            channel = await connection.channel()
            try:
                await declare_queue(channel, self._durable)
                await channel.close()
            except aiormq.exceptions.ChannelAccessRefused:
                self.exclusive = True
            else:
                self.life += is_new
        if self.exclusive:
            channel = await connection.channel()
            declared = await channel.queue_declare("", exclusive=True)
            self.use_exclusive(str(declared.queue))
            self.life += 1
            await channel.close()
        return await super().open(connection)

    async def _is_there(self, connection: aiormq.Connection) -> bool:
        channel = await connection.channel()
        try:
            await channel.queue_declare(self._durable.name, passive=True)
        except aiormq.exceptions.ChannelNotFoundEntity:
            return False
        await channel.close()
        return True

    async def delete(self) -> None:
        """Delete the queue, as far as the connection still stands."""
        await self.pause()
        if self._channel is not None:
            with contextlib.suppress(*LOST):
                await self._channel.queue_delete(self.queue)
