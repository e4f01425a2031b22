"""The one FastStream connection of a process's control plane; `ControlPlane` speaks over it."""

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import aiormq
from aio_pika import RobustQueue
from aio_pika.exceptions import (
    AMQPError,
    ChannelInvalidStateError,
    DeliveryError,
    ProbableAuthenticationError,
    PublishError,
)
from faststream import AckPolicy
from faststream.rabbit import (
    Channel,
    ExchangeType,
    RabbitBroker,
    RabbitExchange,
    RabbitMessage,
    RabbitQueue,
)
from yarl import URL

from maniple.errors import BrokerUnavailable, PublishRefused
from maniple.topology import Exchange
from maniple.transport import declare_topology

HEARTBEAT = 10  # seconds; a dead peer is noticed after at most three of them
ATTEMPT_TIMEOUT = 5.0
CLOSE_TIMEOUT = 2.0
PREFETCH = 200
SERVE_PREFETCH = 32

# What aio-pika raises when a connection or channel is gone.
_LOST = (AMQPError, ChannelInvalidStateError, ConnectionError, OSError, RuntimeError)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message as it came."""

    body: bytes
    type: str | None
    reply_to: str | None
    correlation_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A message to publish, persistently."""

    exchange: Exchange
    key: str
    body: bytes
    type: str
    message_id: str
    reply_to: str | None = None
    correlation_id: str | None = None
    mandatory: bool = True


Receiver = Callable[[Arrival], Awaitable[None]]


async def prepare_broker(url: str) -> None:
    """Declare the shared topology over a connection of its own; raises `BrokerUnavailable`."""
    with _translated():
        async with asyncio.timeout(ATTEMPT_TIMEOUT):
            async with await aiormq.connect(url) as connection:
                await declare_topology(cast("aiormq.Connection", connection))


async def _undecoded(message: RabbitMessage) -> RabbitMessage:
    return message


class Connection:
    """Queues consumed and letters sent over one connection that repairs itself.

    `name` is what the broker shows as the connection's name; `on_state(up)` is told of each change.
    After a loss everything is declared, bound and consumed again, exclusive queues under new names.
    """

    def __init__(self, url: str, *, name: str, on_state: Callable[[bool], None]) -> None:
        self._on_state = on_state
        self._up = asyncio.Event()
        self._closing = False
        self._private: list[tuple[str, RobustQueue]] = []
        self._subscribers: list[Any] = []  # FastStream itself keeps them by weak reference only
        self._exchanges: dict[str, RabbitExchange] = {}
        self._listening = Channel(prefetch_count=PREFETCH)
        self._serving = Channel(prefetch_count=SERVE_PREFETCH)
        self._broker = RabbitBroker(
            str(URL(url).update_query(name=name, heartbeat=HEARTBEAT)),
            # Without jitter all processes come back in the same instant.
            reconnect_interval=random.uniform(1.0, 2.0),
            on_close=[self._on_close],
            on_reconnected=[self._on_reconnected],
            default_channel=Channel(on_return_raises=True),
            decoder=_undecoded,
            apply_types=False,
            graceful_timeout=0,
            logger=logging.getLogger("faststream"),
            log_level=logging.DEBUG,  # of a line for each message; failures are errors anyway
        )

    @property
    def up(self) -> bool:
        """Whether the connection stands and everything is consumed on it."""
        return self._up.is_set()

    async def wait_up(self) -> None:
        """Return as soon as the connection stands."""
        await self._up.wait()

    async def open(self, patience: float) -> None:
        """Connect, trying again for `patience` seconds; raises `BrokerUnavailable`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        while True:
            try:
                async with asyncio.timeout(ATTEMPT_TIMEOUT):
                    await self._broker.start()
            except ProbableAuthenticationError as error:
                raise BrokerUnavailable(f"RabbitMQ refused the credentials: {error}") from error
            except (*_LOST, TimeoutError) as error:
                if loop.time() >= deadline:
                    raise BrokerUnavailable(f"RabbitMQ cannot be reached: {error}") from error
                await asyncio.sleep(random.uniform(0.2, 0.6))
            else:
                self._up.set()
                self._on_state(True)
                return

    async def stop_consuming(self) -> None:
        """Take nothing more; letters can still be sent."""
        self._closing = True
        for subscriber in self._subscribers:
            with contextlib.suppress(*_LOST, TimeoutError):
                async with asyncio.timeout(1.0):
                    await subscriber.stop()

    async def close(self) -> None:
        """Close within `CLOSE_TIMEOUT` seconds."""
        self._closing = True
        self._up.clear()
        with contextlib.suppress(*_LOST, TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._broker.stop()

    def _on_close(self, _connection: Any, _error: BaseException | None) -> None:
        if self._closing:
            return
        # After a network cut the broker holds the old exclusive queues until it misses our
        # heartbeats, and would refuse them by their old names (405).
        for purpose, queue in self._private:
            queue.name = _private_name(purpose)
        if self._up.is_set():
            self._up.clear()
            self._on_state(False)

    def _on_reconnected(self, _connection: Any) -> None:
        self._up.set()
        self._on_state(True)

    async def listen(
        self, purpose: str, receive: Receiver, exchange: Exchange | None, keys: Sequence[str]
    ) -> Callable[[], str]:
        """Consume an exclusive queue named `purpose` and a suffix, bound to `exchange` by `keys`.

        Returns a function that tells the queue's present name.
        """
        # Replies have a channel of their own: listeners may wait for them.
        channel = Channel(prefetch_count=PREFETCH) if exchange is None else self._listening
        declared = RabbitQueue(_private_name(purpose), durable=False, exclusive=True)
        with _translated():
            declarer = self._broker.config.declarer
            queue = cast("RobustQueue", await declarer.declare_queue(declared, channel=channel))
            self._private.append((purpose, queue))
            if exchange is not None:
                for key in keys or ("",):
                    await queue.bind(exchange.name, key)
            await self._consume(declared, receive, channel)
        return lambda: queue.name

    async def serve(self, queue: str, receive: Receiver) -> None:
        """Consume a queue that is there, in competition with others."""
        with _translated():
            await self._consume(RabbitQueue(queue, declare=False), receive, self._serving)

    async def _consume(self, queue: RabbitQueue, receive: Receiver, channel: Channel) -> None:
        async def take(message: RabbitMessage) -> None:
            raw = message.raw_message
            await receive(Arrival(raw.body, raw.type, raw.reply_to, raw.correlation_id))

        subscriber = self._broker.subscriber(
            queue, channel=channel, ack_policy=AckPolicy.ACK, no_reply=True, persistent=False
        )
        subscriber(take)
        self._subscribers.append(subscriber)
        await subscriber.start()

    async def send(self, letter: Letter, timeout: float) -> None:
        """Publish and wait for the confirm, over a reconnection if there is time for it.

        Raises `PublishRefused`, or `BrokerUnavailable`, after which it may or may not have arrived.
        """
        with _translated(letter.exchange.name, letter.key):
            async with asyncio.timeout(timeout):
                await self._up.wait()
                await self._broker.publish(
                    letter.body,
                    exchange=self._exchange(letter.exchange),
                    routing_key=letter.key,
                    mandatory=letter.mandatory,
                    persist=True,
                    content_type="application/json",
                    message_type=letter.type,
                    message_id=letter.message_id,  # aiormq would stamp one for each attempt
                    reply_to=letter.reply_to,
                    correlation_id=letter.correlation_id,
                )

    def _exchange(self, exchange: Exchange) -> RabbitExchange:
        known = self._exchanges.get(exchange.name)
        if known is None:
            kind = ExchangeType(exchange.kind)
            known = RabbitExchange(exchange.name, type=kind, declare=False)
            self._exchanges[exchange.name] = known
        return known


def _private_name(purpose: str) -> str:
    return f"{purpose}.{secrets.token_hex(6)}"


@contextlib.contextmanager
def _translated(exchange: str = "", key: str = "") -> Iterator[None]:
    try:
        yield
    except PublishError as error:
        raise PublishRefused(exchange, key, unroutable=True) from error
    except DeliveryError as error:
        raise PublishRefused(exchange, key, unroutable=False) from error
    except TimeoutError as error:
        raise BrokerUnavailable(f"RabbitMQ did not confirm {exchange}/{key} in time") from error
    except _LOST as error:
        raise BrokerUnavailable(f"the connection to RabbitMQ was lost: {error!r}") from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # aiormq cancels what waits for a confirm when it loses the channel.
        raise BrokerUnavailable("the connection to RabbitMQ was lost") from error
