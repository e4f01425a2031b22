"""A message that is to be published."""

import asyncio
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from maniple.amqp.first_publish import Place
from maniple.amqp.wire.amqp_errors import PublishReturned
from maniple.amqp.wire.channel import Channel
from maniple.amqp.wire.properties import Properties
from maniple.errors import PublishRefused


class Outgoing(Struct, frozen=True):
    """One message to publish. `exchange` may be "" for the default exchange.

    A `reply_to` or `correlation_id` that changes with the connection is a function, called at each
    send. `again` are additional headers for a message that is sent once more after a lost
    connection. With `once` it is not sent again: it fails with `BrokerUnavailable`, so that its
    sender can decide anew. `encoding` says how its `body` is compressed.
    """

    exchange: str
    routing_key: str
    body: bytes
    message_id: str
    type: str
    correlation_id: str | Callable[[], str | None] | None = None
    reply_to: str | Callable[[], str] | None = None
    headers: dict[str, Any] | None = None
    persistent: bool = True
    mandatory: bool = True
    again: dict[str, Any] | None = None
    once: bool = False
    encoding: str | None = None

    @property
    def place(self) -> Place:
        """Exchange and routing key."""
        return self.exchange, self.routing_key

    def properties(self, *, repeated: bool = False) -> Properties:
        """AMQP properties of the message; `repeated` if it may have arrived before."""
        headers = self.headers
        if repeated and self.again is not None:
            headers = {**(headers or {}), **self.again}
        return Properties(
            content_type="application/json",
            content_encoding=self.encoding,
            delivery_mode=2 if self.persistent else 1,
            message_id=self.message_id,
            message_type=self.type,
            correlation_id=_now(self.correlation_id),
            reply_to=_now(self.reply_to),
            headers=headers,
        )


def _now(value: str | Callable[[], str | None] | None) -> str | None:
    return value() if callable(value) else value


async def send_outgoing(channel: Channel, message: Outgoing, properties: Properties) -> None:
    """Publish a message on a channel, once, and wait for its confirm; see `Channel.publish`.

    While the peer reads nothing, or an alarm holds back what is published, this waits before it
    sends.
    """
    await channel.wait_writable()
    await post_outgoing(channel, message, properties)


def post_outgoing(
    channel: Channel, message: Outgoing, properties: Properties
) -> asyncio.Future[None]:
    """Publish a message on a channel at once, and return a future of its confirm."""
    return channel.publish(
        message.body,
        exchange=message.exchange,
        routing_key=message.routing_key,
        properties=properties,
        mandatory=message.mandatory,
    )


def refused(message: Outgoing, error: Exception | None = None) -> PublishRefused:
    """Return the error of a publish that the broker refused, with what it said."""
    unroutable = isinstance(error, PublishReturned)
    found = PublishRefused(message.exchange, message.routing_key, unroutable=unroutable)
    found.__cause__ = error
    return found
