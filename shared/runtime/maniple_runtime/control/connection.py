"""The one FastStream connection of a process's control plane, under `ControlPlane`."""

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from aio_pika import RobustQueue
from aio_pika.exceptions import ChannelNotFoundEntity, DeliveryError, PublishError
from faststream import AckPolicy
from faststream.rabbit import Channel, RabbitMessage, RabbitQueue

from maniple.amqp import Connection, declare_topology
from maniple.amqp.refusal import refusal
from maniple.amqp.supervision import Supervised
from maniple.errors import BrokerUnavailable
from maniple.timings import Amqp
from maniple.topology import Exchange
from maniple_runtime.control.aiormq_errors import as_wire_errors, is_loss, translated, wire_error
from maniple_runtime.control.aiormq_socket import Socket
from maniple_runtime.control.amqp_messages import IncomingMessage, OutgoingMessage, Receiver
from maniple_runtime.control.cancellation import hear_cancellations
from maniple_runtime.control.faststream_broker import FastStreamBroker
from maniple_runtime.control.lenient_decoding import tolerate_foreign_bytes
from maniple_runtime.shared_queue import SharedQueue

DECLARE_TIMEOUT = 5.0
SERVE_PREFETCH = 32
STOP_TIMEOUT = 1.0
_LIBRARIES = (logging.getLogger("aiormq"), logging.getLogger("aio_pika"))


async def prepare_broker(url: str) -> None:
    """Declare the shared topology over a connection of its own; raises `BrokerUnavailable`."""
    with translated():
        async with asyncio.timeout(DECLARE_TIMEOUT):
            wire = Connection(url)
            await wire.open(DECLARE_TIMEOUT)
            try:
                # At most two of these pass: for the first queue without an answer, then for all.
                await declare_topology(wire, DECLARE_TIMEOUT / 3)
            finally:
                await wire.close()


@dataclass(slots=True)
class _Subscription:
    """A private queue that is consumed on each connection, bound by `keys`."""

    receive: Receiver
    purpose: str
    exchange: Exchange | None
    keys: Sequence[str]
    queue: str = ""
    """Its name on the present connection."""


class ControlConnection(Supervised[Socket]):
    """Queues consumed and messages sent over one connection that is rebuilt when it is lost.

    Then everything is declared, bound and consumed again, exclusive queues under new names: after a
    network cut the broker holds the old ones until it misses our heartbeats. Queues that are shared
    with other processes are not waited for; `on_silent` is called with the names of those that do
    not answer.
    """

    def __init__(  # noqa: PLR0913 - what a connection is told, and whom it tells
        self,
        url: str,
        *,
        name: str,
        on_state: Callable[[bool], None] | None = None,
        on_blocked: Callable[[bool], None] | None = None,
        on_silent: Callable[[frozenset[str]], None] | None = None,
        times: Amqp | None = None,
    ) -> None:
        super().__init__(url, name, on_state, on_blocked, times=times)
        self._plain_url = url
        self._on_silent = on_silent
        self._shared: list[tuple[SharedQueue, Receiver]] = []
        self._silent: frozenset[str] = frozenset()
        self._subscriptions: list[_Subscription] = []
        self._broker: FastStreamBroker | None = None

    async def start(self, timeout: float | None = None) -> None:
        """Connect and wait until everything is up; raises as `Supervised.start`."""
        tolerate_foreign_bytes()
        hear_cancellations()
        for logger in _LIBRARIES:
            if logger.level == logging.NOTSET:
                # They log each loss with a traceback; we say it in one line.
                logger.setLevel(logging.CRITICAL)
        await super().start(timeout)

    def suspect(self, error: BaseException | None = None) -> None:
        """Rebuild the connection: something on it does not answer as it should."""
        super().suspect(None if error is None else wire_error(error))

    async def _build(self) -> None:
        with as_wire_errors():
            await self._build_all()

    async def _build_all(self) -> None:
        broker = FastStreamBroker(self._url, self._hear_of_channel)
        await broker.link.connect(self.times.connect)
        self._broker = broker
        self._keep(broker.link.wire, broker.link.close)
        await broker.start()
        await self._hear_of_channel(broker, None)
        try:
            for subscription in self._subscriptions:
                await self._begin(broker, subscription)
        except ChannelNotFoundEntity:
            # Somebody has deleted what all share.
            with contextlib.suppress(BrokerUnavailable):
                await prepare_broker(self._plain_url)
            raise
        for shared, receive in self._shared:
            shared.attach(partial(self._begin_shared, broker, shared.name, receive))

    def _forget(self) -> None:
        self._broker = None
        for shared, _ in self._shared:
            shared.on_lost()

    def _tick(self) -> None:
        silent = frozenset([shared.name for shared, _ in self._shared if shared.is_silent()])
        if silent != self._silent:
            self._silent = silent
            if self._on_silent is not None:
                self._on_silent(silent)

    async def _hear_of_channel(self, broker: FastStreamBroker, channel: Channel | None) -> None:
        opened = await broker.config.channel_manager.get_channel(channel)
        underlay = await opened.get_underlay_channel()
        self._hear_of(broker.link.wire, underlay)
        underlay.on_consumer_cancel_callbacks.add(lambda _: self._on_cancelled(broker))

    def _on_cancelled(self, broker: FastStreamBroker) -> None:
        if broker is self._broker:
            self.suspect(BrokerUnavailable("the broker cancelled a consumer"))

    async def stop_consuming(self) -> None:
        """Stop consuming; messages can still be sent."""
        self._subscriptions.clear()
        for shared, _ in self._shared:
            shared.on_lost()
        self._shared.clear()
        subscribers = self._broker.consumers if self._broker else ()
        if stopping := [asyncio.create_task(_stop(one)) for one in subscribers]:
            # Not cancelled: see `FastStreamBroker.exchange`. The end of the connection ends them.
            await asyncio.wait(stopping, timeout=STOP_TIMEOUT)

    async def listen(
        self, purpose: str, receive: Receiver, exchange: Exchange | None, keys: Sequence[str]
    ) -> Callable[[], str]:
        """Consume an exclusive queue named `purpose` and a suffix, bound to `exchange` by `keys`.

        Returns a function that returns the queue's present name.
        """
        subscription = _Subscription(receive, purpose, exchange, keys)
        with translated():
            await self._begin(self._present_broker(), subscription)
        self._subscriptions.append(subscription)
        return lambda: subscription.queue

    async def serve(self, queue: str, receive: Receiver) -> None:
        """Consume an existing queue, in competition with other processes.

        If it does not answer for `Amqp.answer` seconds, it is waited for in the background.
        """
        broker, shared = self._present_broker(), SharedQueue(queue, self.times)
        self._shared.append((shared, receive))
        shared.attach(partial(self._begin_shared, broker, queue, receive))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.times.answer):
                await shared.served.wait()

    def _present_broker(self) -> FastStreamBroker:
        if self._broker is None or not self.is_up:
            raise BrokerUnavailable("the connection to RabbitMQ was lost")
        return self._broker

    async def _begin(self, broker: FastStreamBroker, subscription: _Subscription) -> None:
        subscription.queue = f"{subscription.purpose}.{secrets.token_hex(6)}"
        queue = RabbitQueue(subscription.queue, durable=False, exclusive=True)
        channel = broker.listening if subscription.exchange else broker.replies
        await _declare(broker, queue, channel, subscription)
        await self._consume(broker, queue, channel, subscription.receive)
        await self._hear_of_channel(broker, channel)

    async def _begin_shared(self, broker: FastStreamBroker, name: str, receive: Receiver) -> None:
        queue = RabbitQueue(name, declare=False)
        broker.forget(queue)
        channel = Channel(prefetch_count=SERVE_PREFETCH)  # the one before is closed
        opened = await broker.config.channel_manager.get_channel(channel)
        try:
            await self._consume(broker, queue, channel, receive)
        except BaseException as error:
            # Else aio-pika would open it anew.
            with contextlib.suppress(Exception, asyncio.CancelledError):
                async with asyncio.timeout(STOP_TIMEOUT):
                    await opened.close()
            if isinstance(error, ChannelNotFoundEntity):  # somebody has deleted what all share
                with contextlib.suppress(BrokerUnavailable):
                    await prepare_broker(self._plain_url)
            raise
        await self._hear_of_channel(broker, channel)

    async def _consume(
        self, broker: FastStreamBroker, queue: RabbitQueue, channel: Channel, receive: Receiver
    ) -> None:
        async def take(message: RabbitMessage) -> None:
            raw = message.raw_message
            arrival = IncomingMessage(
                raw.body,
                type=raw.type,
                reply_to=raw.reply_to,
                correlation_id=raw.correlation_id,
                message_id=raw.message_id,
                redelivered=bool(raw.redelivered),
            )
            await receive(arrival)

        subscriber = broker.subscriber(
            queue, channel=channel, ack_policy=AckPolicy.ACK, no_reply=True, persistent=False
        )
        subscriber(take)
        broker.consumers.append(subscriber)
        try:
            await subscriber.start()
        except BaseException:
            broker.consumers.remove(subscriber)
            raise

    async def consumers(self, queue: str, timeout: float) -> int:
        """Return a queue's number of consumers, 0 if it is missing. Raises `BrokerUnavailable`."""
        with translated(key=queue):
            async with asyncio.timeout(timeout):
                channel = await self._present_broker().link.wire.channel()
                try:
                    declared = await channel.queue_declare(queue, passive=True)
                except ChannelNotFoundEntity:  # the broker has closed the channel
                    return 0
                await channel.close()
                return declared.consumer_count or 0

    async def send_message(self, message: OutgoingMessage, timeout: float) -> None:
        """Publish and wait for the confirm, over a reconnection if there is time for it.

        A message that may be `repeated` is sent again, under the same id, when the connection is
        lost before the confirm. Raises `PublishRefused`, or `BrokerUnavailable`, after which it may
        or may not have arrived.
        """
        with translated(message.exchange.name, message.key):
            async with asyncio.timeout(timeout):
                while not await self._sent(message):
                    pass

    async def _sent(self, message: OutgoingMessage) -> bool:
        await self.wait_up()
        broker = self._broker
        if broker is None:
            await asyncio.sleep(0)
            return False
        publishing = asyncio.create_task(self._publish(broker, message))
        lost = asyncio.create_task(self._lost.wait())
        try:
            await asyncio.wait({publishing, lost}, return_when=asyncio.FIRST_COMPLETED)
            if not publishing.done():
                raise self._end()  # noqa: TRY301 - handled as what the broker raises
            await publishing
        except (DeliveryError, PublishError):
            raise
        except (Exception, asyncio.CancelledError) as error:
            if not message.repeated or not is_loss(error):
                raise
            if broker is self._broker:
                self.suspect(error)
            await asyncio.sleep(random.uniform(0.05, 0.1))
            return False
        finally:
            publishing.cancel()
            lost.cancel()
        return True

    def _end(self) -> BaseException:
        """Return why publishes under way are not confirmed any more."""
        if self.last_error is not None and refusal(self.last_error) is not None:
            return self.last_error
        return ConnectionError("lost before the confirm")  # as aio-pika would say it

    async def _publish(self, broker: FastStreamBroker, message: OutgoingMessage) -> None:
        await broker.publish(
            message.body,
            exchange=await broker.exchange(message),
            routing_key=message.key,
            mandatory=message.mandatory,
            persist=True,
            content_type="application/json",
            message_type=message.type,
            message_id=message.message_id,  # aiormq would stamp one for each attempt
            reply_to=message.reply_to,
            correlation_id=message.correlation_id,
        )


async def _stop(subscriber: Any) -> None:
    with contextlib.suppress(Exception):  # of a connection that is lost, or closed meanwhile
        await subscriber.stop()


async def _declare(
    broker: FastStreamBroker, queue: RabbitQueue, channel: Channel, subscription: _Subscription
) -> None:
    declared = await broker.config.declarer.declare_queue(queue, channel=channel)
    if subscription.exchange is not None:
        for key in subscription.keys or ("",):
            await cast("RobustQueue", declared).bind(subscription.exchange.name, key)
