"""Declaring what `maniple.topology` describes."""

import asyncio
import logging
from itertools import chain

from maniple.amqp.wire.amqp_errors import PreconditionFailed
from maniple.amqp.wire.broker_connection import Connection
from maniple.amqp.wire.channel import Channel
from maniple.topology import EXCHANGES, QUEUES, Exchange, Queue

_log = logging.getLogger(__name__)


async def declare_exchange(channel: Channel, exchange: Exchange) -> None:
    """Declare one exchange."""
    await channel.exchange_declare(
        exchange.name,
        exchange_type=exchange.kind,
        durable=True,
        internal=exchange.internal,
        arguments={**exchange.arguments},
    )


async def declare_queue(channel: Channel, queue: Queue) -> None:
    """Declare one queue with its bindings."""
    await channel.queue_declare(queue.name, durable=True, arguments={**queue.all_arguments})
    await _bind(channel, queue)


async def _bind(channel: Channel, queue: Queue) -> None:
    for exchange, key in queue.bindings:
        await channel.queue_bind(queue.name, exchange, key)


async def declare(
    connection: Connection,
    exchanges: tuple[Exchange, ...] = (),
    queues: tuple[Queue, ...] = (),
    patience: float | None = None,
) -> tuple[str, ...]:
    """Declare exchanges, then queues, on a channel of their own.

    A queue that exists with other arguments is used as it is, and its name is returned: one queue
    that somebody else has declared must not keep a process from using the others. A queue that
    exists and does not answer within `patience` seconds is logged and skipped for the same reason.
    """
    channel = await connection.channel()
    for exchange in exchanges:
        await declare_exchange(channel, exchange)
    differing: list[str] = []
    for number, queue in enumerate(queues):
        try:
            async with asyncio.timeout(patience):
                await declare_queue(channel, queue)
        except TimeoutError:
            _log.warning("%s does not answer its declaration", queue.name)
            # Others may not answer either: side by side they are waited for once.
            found = (
                declare(connection, queues=(other,), patience=patience)
                for other in queues[number + 1 :]
            )
            return (*differing, *chain.from_iterable(await asyncio.gather(*found)))
        except PreconditionFailed:
            differing.append(queue.name)
            channel = await connection.channel()  # the broker has closed the other one
            await _bind(channel, queue)
    await channel.close()
    return tuple(differing)


async def declare_topology(
    connection: Connection, patience: float | None = None
) -> tuple[str, ...]:
    """Declare every exchange and queue that all processes share; see `declare`."""
    return await declare(connection, EXCHANGES, QUEUES, patience)
