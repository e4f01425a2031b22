"""Inspecting a broker from outside: whether it answers, its version, what has been declared."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from pamqp import commands

from maniple.amqp.connection_errors import LOST
from maniple.amqp.refusal import refusal, why_away
from maniple.amqp.wire.amqp_errors import NotFound
from maniple.amqp.wire.broker_connection import Connection
from maniple.amqp.wire.channel import Channel
from maniple.errors import BrokerRefused, BrokerUnavailable
from maniple.urls import place_of

T = TypeVar("T")


@dataclass(frozen=True)
class BrokerView:
    """A broker's product and version, the names that it does not have, and what its queues hold.

    `messages` (those that wait) and `consumers` are counts by queue name.
    """

    product: str
    version: str
    missing_exchanges: tuple[str, ...]
    missing_queues: tuple[str, ...]
    messages: Mapping[str, int] = field(default_factory=dict)
    consumers: Mapping[str, int] = field(default_factory=dict)


async def probe(
    url: str, exchanges: Iterable[str], queues: Iterable[str], *, timeout: float = 10.0
) -> BrokerView:
    """Connect once and look these names up; declares nothing.

    Raises `BrokerUnavailable` with the reason, `BrokerRefused` for a wrong password or vhost.
    """
    where = place_of(url)
    try:
        async with asyncio.timeout(timeout):
            return await _look(url, tuple(exchanges), tuple(queues), timeout)
    except TimeoutError as error:
        raise BrokerUnavailable(f"{where} did not answer within {timeout:g} s") from error
    except LOST as error:
        if (refused := refusal(error)) is not None:
            raise BrokerRefused(f"{where} {refused}") from error
        raise BrokerUnavailable(f"{where}: {why_away(error)}") from error


async def _look(
    url: str, exchanges: tuple[str, ...], queues: tuple[str, ...], timeout: float
) -> BrokerView:
    connection = Connection(url)
    try:
        await connection.open(timeout)
        properties = connection.server_properties
        known = await _found(connection, exchanges, _exchange)
        there = await _found(connection, queues, _queue)
        return BrokerView(
            product=_text(properties.get("product")),
            version=_text(properties.get("version")),
            missing_exchanges=tuple(name for name in exchanges if name not in known),
            missing_queues=tuple(name for name in queues if name not in there),
            messages={name: answer.message_count or 0 for name, answer in there.items()},
            consumers={name: answer.consumer_count or 0 for name, answer in there.items()},
        )
    finally:
        with contextlib.suppress(*LOST):
            await connection.close()


async def _exchange(channel: Channel, name: str) -> None:
    await channel.exchange_declare(name, passive=True)


async def _queue(channel: Channel, name: str) -> commands.Queue.DeclareOk:
    return await channel.queue_declare(name, passive=True)


async def _found(
    connection: Connection,
    names: tuple[str, ...],
    declare: Callable[[Channel, str], Awaitable[T]],
) -> dict[str, T]:
    found = {}
    channel: Channel | None = None
    for name in names:
        channel = channel or await connection.channel()
        try:
            found[name] = await declare(channel, name)
        except NotFound:
            channel = None  # the broker has closed it
    return found


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")
