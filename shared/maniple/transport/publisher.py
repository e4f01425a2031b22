"""Publishing with confirms."""

import asyncio
from dataclasses import dataclass
from typing import Any

import aiormq
from aiormq.abc import AbstractChannel
from pamqp import commands

from maniple.errors import BrokerUnavailable, PublishRefused
from maniple.transport.link import FIRST_BACKOFF, Link, is_loss

CONFIRM_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message to publish. `exchange` may be "" for the default exchange."""

    exchange: str
    routing_key: str
    body: bytes
    message_id: str
    type: str
    correlation_id: str | None = None
    reply_to: str | None = None
    headers: dict[str, Any] | None = None
    persistent: bool = True
    mandatory: bool = True

    def properties(self) -> commands.Basic.Properties:
        """AMQP properties of the message."""
        return commands.Basic.Properties(
            content_type="application/json",
            delivery_mode=2 if self.persistent else 1,
            message_id=self.message_id,
            message_type=self.type,
            correlation_id=self.correlation_id,
            reply_to=self.reply_to,
            headers=self.headers,
        )


class Publisher:
    """Publishes with confirms on a channel of its own, over reconnections if need be."""

    def __init__(self, link: Link) -> None:
        """Publish on `link`, which must not have been started yet."""
        self._link = link
        self._channel: AbstractChannel | None = None
        link.add(self)

    async def open(self, connection: aiormq.Connection) -> AbstractChannel:
        """Open the channel with confirms on."""
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        self._channel = channel
        return channel

    def lost(self) -> None:
        """Forget the channel; waiting publishes are sent again on the next one."""
        self._channel = None

    async def publish(self, message: Outgoing, *, timeout: float | None = None) -> None:
        """Publish and return when the broker has confirmed.

        A lost connection means sending again, under the same id. Raises `PublishRefused` when a
        queue refuses or nothing is bound, `BrokerUnavailable` after `timeout` seconds (None: never)
        or when the link is closed.
        """
        if timeout is None:
            await self._publish(message)
            return
        try:
            await asyncio.wait_for(self._publish(message), timeout)
        except TimeoutError as error:
            raise BrokerUnavailable(
                f"RabbitMQ did not confirm a message to {message.exchange}/{message.routing_key} "
                f"within {timeout:g} s: {self._link.last_error or 'no answer'}"
            ) from error

    async def _publish(self, message: Outgoing) -> None:
        while True:
            await self._link.wait_up()
            channel = self._channel
            if channel is None:
                await asyncio.sleep(0)
                continue
            try:
                await self._publish_once(channel, message)
            except aiormq.exceptions.PublishError as error:
                raise _refused(message, unroutable=True) from error
            except aiormq.exceptions.DeliveryError as error:
                raise _refused(message, unroutable=False) from error
            except (Exception, asyncio.CancelledError) as error:
                # Also a TimeoutError, for a confirm that never comes: only a new connection tells
                # what became of it.
                if not is_loss(error):
                    raise
                await self._after_loss(channel)
            else:
                return

    async def _after_loss(self, channel: AbstractChannel) -> None:
        if self._channel is channel:
            self._link.suspect()
            await asyncio.sleep(FIRST_BACKOFF)

    async def _publish_once(self, channel: AbstractChannel, message: Outgoing) -> None:
        async with asyncio.timeout(CONFIRM_TIMEOUT):
            await channel.basic_publish(
                message.body,
                exchange=message.exchange,
                routing_key=message.routing_key,
                properties=message.properties(),
                mandatory=message.mandatory,
            )


def _refused(message: Outgoing, *, unroutable: bool) -> PublishRefused:
    """Return the error of a publish that the broker refused."""
    return PublishRefused(message.exchange, message.routing_key, unroutable=unroutable)
