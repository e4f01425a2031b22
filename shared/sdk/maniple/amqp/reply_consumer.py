"""Where a client receives results: a durable queue, or what its user may declare."""

import contextlib
from collections.abc import Callable

from maniple.amqp.connection import AmqpConnection
from maniple.amqp.connection_errors import LOST
from maniple.amqp.consumer import Consumer
from maniple.amqp.declare import declare_queue
from maniple.amqp.delivery import Delivery
from maniple.amqp.wire.amqp_errors import AccessRefused, NotFound
from maniple.amqp.wire.broker_connection import Connection
from maniple.amqp.wire.channel import Channel
from maniple.identifiers import new_secret
from maniple.topology import READS_COMPRESSED, REPLY_PREFIX, reply_queue


class ReplyConsumer(Consumer):
    """Declares a client's reply queue on each connection, and consumes it.

    Agents send bundles of results to the durable queue `maniple.replies.<client>`. A user who may
    not declare it (403) gets a queue named by the server instead, which ends with the connection
    and to which each result is sent by itself: `exclusive` is then true, and `queue` changes with
    each reconnection. `life` counts queues, including one of the same name that replaces one that
    was gone.

    Any submitter may name any queue as `reply_to`, and names of queues are no secret. So results
    carry a word that nobody can guess: in the `address`, or, where that is a queue's name, as the
    `correlation_id` of what is submitted. A result without it is ignored.
    """

    def __init__(
        self,
        link: AmqpConnection,
        client: str,
        handle: Callable[[Delivery], None],
        *,
        prefetch: int,
    ) -> None:
        """Describe it; add it to a connection by `add_endpoint`, which is not up without it."""
        self.secret = f"{READS_COMPRESSED}{new_secret()}"
        """What each result for this client carries: its routing key, or its `correlation_id`."""
        self.address = f"{REPLY_PREFIX}{self.secret}"
        """Where results are to be sent."""
        self.correlation_id: str | None = None
        """The `correlation_id` of results, if their address alone is not secret."""
        self._durable = reply_queue(client, self.secret)
        self.exclusive = False
        self.life = 0
        super().__init__(self._durable.name, handle, prefetch=prefetch, owner=link)

    def use_exclusive(self, queue: str) -> None:
        """Have results sent to the exclusive queue that the broker has named."""
        self.exclusive = True
        self.queue = self.address = queue
        self.correlation_id = self.secret

    async def open(self, connection: Connection) -> Channel:
        """Declare, then consume."""
        if not self.exclusive:
            is_new = self.life == 0 or not await self._is_there(connection)
            channel = await connection.channel()
            try:
                await declare_queue(channel, self._durable)
                await channel.close()
            except AccessRefused:
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

    async def _is_there(self, connection: Connection) -> bool:
        channel = await connection.channel()
        try:
            await channel.queue_declare(self._durable.name, passive=True)
        except NotFound:
            return False
        await channel.close()
        return True

    async def delete(self) -> None:
        """Delete the queue, as far as the connection still stands."""
        await self.pause()
        if self._channel is not None:
            with contextlib.suppress(*LOST):
                await self._channel.queue_delete(self.queue)
