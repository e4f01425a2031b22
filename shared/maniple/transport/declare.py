"""Declaring what `maniple.topology` describes."""

import aiormq
from aiormq.abc import AbstractChannel

from maniple.topology import EXCHANGES, QUEUES, Exchange, Queue


async def declare_exchange(channel: AbstractChannel, exchange: Exchange) -> None:
    """Declare one exchange."""
    await channel.exchange_declare(
        exchange.name,
        exchange_type=exchange.kind,
        durable=True,
        internal=exchange.internal,
        arguments={**exchange.arguments},
    )


async def declare_queue(channel: AbstractChannel, queue: Queue) -> None:
    """Declare one queue with its bindings."""
    await channel.queue_declare(queue.name, durable=True, arguments={**queue.all_arguments})
    for exchange, key in queue.bindings:
        await channel.queue_bind(queue.name, exchange, key)


async def declare(
    connection: aiormq.Connection,
    exchanges: tuple[Exchange, ...] = (),
    queues: tuple[Queue, ...] = (),
) -> None:
    """Declare exchanges, then queues, on a channel of their own."""
    channel = await connection.channel()
    for exchange in exchanges:
        await declare_exchange(channel, exchange)
    for queue in queues:
        await declare_queue(channel, queue)
    await channel.close()


async def declare_topology(connection: aiormq.Connection) -> None:
    """Declare every exchange and queue that all processes share."""
    await declare(connection, EXCHANGES, QUEUES)
