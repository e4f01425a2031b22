"""FastStream's broker and aio-pika's connection, over our socket, for `ControlConnection`."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from aio_pika import Connection as OnceConnected
from aio_pika import RobustConnection
from aio_pika.abc import UnderlayConnection
from aio_pika.tools import OneShotCallback
from faststream.rabbit import (
    Channel,
    ExchangeType,
    RabbitBroker,
    RabbitExchange,
    RabbitMessage,
    RabbitQueue,
)
from yarl import URL

from maniple.loops import left_alone
from maniple.timings import Amqp
from maniple.topology import REQUESTS, Exchange
from maniple_runtime.control.aiormq_socket import Socket
from maniple_runtime.control.amqp_messages import OutgoingMessage

PREFETCH = 200


async def _undecoded(message: RabbitMessage) -> RabbitMessage:
    return message


class _UnrepairedConnection(RobustConnection):
    """The connection that FastStream wants, over our socket; `ControlConnection` rebuilds it.

    aio-pika's own repair would hold exclusive queues by names that the broker still refuses (405),
    retry all processes in step, and swallow cancellation.
    """

    wire: Socket

    async def connect(self, timeout: float | None = None) -> None:
        self.wire = Socket(str(self.url))
        await self.wire.open(timeout or Amqp().connect)
        callback = OneShotCallback(partial(OnceConnected._on_connection_close, self))  # noqa: SLF001 - as its own `connect` does
        self.wire.closing.add_done_callback(callback)
        self.transport = UnderlayConnection(connection=self.wire, close_callback=callback)
        self.connected.set()

    def __del__(self) -> None:
        """Do nothing: the socket's owner closes it, and there may be no loop any more."""


class _Found(RabbitExchange):
    """An exchange as declared on one channel, over which messages to it are published."""

    __eq__ = object.__eq__  # else FastStream has one for all channels
    __hash__ = object.__hash__


class FastStreamBroker(RabbitBroker):
    """FastStream's broker during one connection."""

    def __init__(
        self, url: URL, on_opened: Callable[["FastStreamBroker", Channel], Awaitable[None]]
    ) -> None:
        self._on_opened = on_opened
        super().__init__(
            str(url),
            default_channel=Channel(on_return_raises=True),
            decoder=_undecoded,
            apply_types=False,
            graceful_timeout=0,
            logger=logging.getLogger("faststream"),
            log_level=logging.DEBUG,  # of a line for each message; failures are errors anyway
        )
        self.link = _UnrepairedConnection(url)
        # Replies have a channel of their own: listeners may wait for them.
        self.replies = Channel(prefetch_count=PREFETCH)
        self.listening = Channel(prefetch_count=PREFETCH)
        self.consumers: list[Any] = []  # FastStream itself keeps them by weak reference only
        self._looked_up: dict[tuple[str, str], asyncio.Task[RabbitExchange]] = {}

    async def _connect(self) -> RobustConnection:
        self.config.connect(self.link)
        self._channel = await self.config.channel_manager.get_channel()
        return self.link

    async def exchange(self, message: OutgoingMessage) -> RabbitExchange:
        """Return the exchange of a message as FastStream wants it, looked up before the publish.

        FastStream looks it up within the first publish, which may be cancelled; aiormq closes the
        channel of a cancelled call, which all publishes share, and what they send after that costs
        the connection.
        """
        asked = message.key if message.exchange.name == REQUESTS.name else ""
        place = message.exchange.name, asked
        looking = self._looked_up.get(place)
        if looking is None:
            looking = left_alone(asyncio.create_task(self._look_up(message.exchange, asked)))
            self._looked_up[place] = looking
        return await asyncio.shield(looking)

    def forget(self, queue: RabbitQueue) -> None:
        """Have a queue looked up anew: FastStream keeps it, with the channel it was found on."""
        declarer: Any = self.config.declarer
        declarer._queues.pop(queue, None)  # noqa: SLF001 - there is no other way

    async def _look_up(self, exchange: Exchange, asked: str) -> RabbitExchange:
        known = _Found(exchange.name, type=ExchangeType(exchange.kind), declare=False)
        # Questions have a channel for each service: one stands that publishes first to a queue
        # without a leader.
        channel = Channel(on_return_raises=True) if asked else None
        await self.config.declarer.declare_exchange(known, channel=channel)
        if channel is not None:
            await self._on_opened(self, channel)
        return known
