"""One channel: publishes with confirms, deliveries to consumers, and what the broker says of it."""

import asyncio
import logging
from collections.abc import Callable
from itertools import takewhile
from typing import TYPE_CHECKING

from pamqp import commands
from pamqp.base import Frame

from maniple.amqp.wire import framing
from maniple.amqp.wire.amqp_errors import (
    AmqpError,
    ChannelLost,
    ProtocolError,
    PublishFailed,
    PublishImpossible,
    PublishReturned,
    channel_closed,
)
from maniple.amqp.wire.properties import Properties, read_properties
from maniple.amqp.wire.requests import Message, Requests

if TYPE_CHECKING:
    from maniple.amqp.wire.broker_connection import Connection

_Sent = tuple[str | None, str, str]
"""Id, exchange and routing key of a message."""

_log = logging.getLogger(__name__)


class Channel(Requests):
    """One channel of a connection; `Connection.channel` opens it.

    What is delivered is handed on by `Connection.pass_on`.
    """

    def __init__(self, connection: "Connection", number: int) -> None:
        """Own this number on a connection."""
        super().__init__(connection, number)
        self.on_cancelled: set[Callable[[], object]] = set()
        """Called when the broker has ended a consumer: its queue is gone, or moved."""
        self._flows = True
        # A message that has not come whole: its method, then what its header said.
        self._method: bytes | commands.Basic.Return | None = None
        self._properties: Properties | None = None
        self._missing = 0
        self._parts: list[bytes] = []
        self._published = 0
        # In order of sending: the future of each confirm, and what a return of it would say.
        self._confirms: dict[int, tuple[asyncio.Future[None], _Sent]] = {}

    @property
    def writable(self) -> bool:
        """Whether messages may be published now: the peer reads, and no alarm holds them back."""
        return self._flows and self._connection.writable

    async def wait_writable(self) -> None:
        """Return when messages may be published; raises as `publish` once the channel is gone."""
        while not self.writable:
            self._must_be_open()
            await self._connection.wait_writable(self.closing)

    def publish(
        self,
        body: bytes,
        *,
        exchange: str,
        routing_key: str,
        properties: Properties,
        mandatory: bool = False,
    ) -> asyncio.Future[None]:
        """Publish now, and return a future that is done when the broker has taken the message over.

        It has `PublishReturned` if the message is `mandatory` and nothing is bound, `PublishFailed`
        when a queue refuses it, `ChannelLost` or `ConnectionLost` once the channel is gone: which
        this itself raises if it is gone already, and `PublishImpossible`. The channel must have
        been opened with confirms.
        """
        self._must_be_open()
        connection = self._connection
        try:
            method = framing.publish_method(exchange, routing_key, mandatory=mandatory)
            frames = framing.message_frames(
                self.number, method, properties.to_bytes(), body, connection.frame_max
            )
        except (TypeError, ValueError) as error:
            raise PublishImpossible(f"AMQP cannot carry the message: {error}") from error
        connection.send(frames)
        self._published = number = self._published + 1
        confirm: asyncio.Future[None] = connection.loop.create_future()
        self._confirms[number] = confirm, (properties.message_id, exchange, routing_key)
        return confirm

    def basic_ack(self, tag: int, *, multiple: bool = False) -> None:
        """Acknowledge a delivery, or all up to it; sent at the end of the loop's turn."""
        self._settle(framing.ACK, tag, multiple)

    def basic_reject(self, tag: int, *, requeue: bool) -> None:
        """Refuse a delivery; sent at the end of the loop's turn."""
        self._settle(framing.REJECT, tag, requeue)

    def _settle(self, method: int, tag: int, flag: bool) -> None:  # noqa: FBT001 - of both methods
        self._must_be_open()
        frame = framing.SETTLING.pack(
            framing.METHOD, self.number, framing.SETTLING_SIZE, method, tag, flag, framing.END
        )
        self._connection.send(frame)

    def receive(self, kind: int, payload: bytes) -> None:
        """Take a frame of the broker. Raises `ProtocolError` for one that may not come now."""
        if self._method is not None:
            self._receive_content(self._method, kind, payload)
            return
        if kind != framing.METHOD:
            raise ProtocolError("the content of a message comes without its method")
        number = framing.method_number(payload)
        if number in (framing.DELIVER, framing.GET_OK):
            self._method = payload
        elif number in (framing.ACK, framing.NACK):
            self._on_confirm(number, payload)
        else:
            self._on_method(framing.read_method(payload)[1])

    def end_all(self, error: AmqpError) -> None:
        """End everything that waits here: the channel is gone."""
        if self.closing.done():
            return
        self.closing.set_exception(error)
        self.closing.exception()  # who wants to know has a callback
        waiting = [future for _, future in self._requests]
        waiting += [confirm for confirm, _ in self._confirms.values()]
        self._requests.clear()
        self._confirms.clear()
        self._consumers.clear()
        for future in waiting:
            if not future.done():
                future.set_exception(error)
                future.exception()  # the caller may have been cancelled meanwhile
        self._connection.wake_writers()

    def _receive_content(
        self, method: bytes | commands.Basic.Return, kind: int, payload: bytes
    ) -> None:
        properties = self._properties
        if properties is None:
            if kind != framing.HEADER:
                raise ProtocolError("a message's method comes without its header")
            self._missing, data = framing.read_header(payload)
            self._properties = properties = read_properties(data)
        else:
            if kind != framing.BODY or len(payload) > self._missing:
                raise ProtocolError("a message's body is not as long as its header said")
            self._missing -= len(payload)
            self._parts.append(payload)
        if self._missing:
            return
        parts = self._parts
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        self._method, self._properties, self._parts = None, None, []
        if self._close_sent:
            return  # it is the queue's again
        if isinstance(method, commands.Basic.Return):
            self._on_return(method, properties)
        elif framing.method_number(method) == framing.DELIVER:
            self._on_delivery(method, properties, body)
        else:
            found = framing.read_got(method)
            self._answer(commands.Basic.GetOk.name, Message(*found, properties, body))

    def _on_delivery(self, method: bytes, properties: Properties, body: bytes) -> None:
        consumer, tag, redelivered, exchange, key = framing.read_deliver(method)
        deliver = self._consumers.get(consumer)
        if deliver is None:  # nobody could settle it: so it is the queue's again
            self.abandon()
            return
        message = Message(tag, redelivered, exchange, key, properties, body)
        self._connection.pass_on(self, deliver, message)

    def _on_confirm(self, number: int, payload: bytes) -> None:
        tag, multiple = framing.read_confirm(payload)
        confirms = self._confirms
        if not multiple:
            if tag in confirms:
                _end(confirms.pop(tag)[0], number)
            return
        # All at once: to look for the first anew after each is quadratic, in a dict.
        for known in list(takewhile(lambda known: not tag or known <= tag, confirms)):
            _end(confirms.pop(known)[0], number)

    def _on_return(self, returned: commands.Basic.Return, properties: Properties) -> None:
        """Tell who published: the confirm that follows would say that all is well."""
        of = properties.message_id, returned.exchange, returned.routing_key
        for tag, (confirm, sent) in self._confirms.items():
            if sent == of:
                del self._confirms[tag]  # given up or not: the next of that id is another publish
                if not confirm.done():
                    place = f"{returned.exchange}/{returned.routing_key}"
                    confirm.set_exception(PublishReturned(f"{returned.reply_text}: {place}"))
                return

    def _on_method(self, method: Frame) -> None:
        match method:
            case commands.Channel.Close():
                self._on_close(method)
            case commands.Channel.CloseOk():
                self._connection.free(self.number)
                self.end_all(ChannelLost("closed"))
            case commands.Basic.Return():
                self._method = method  # also while we close: its content follows
            case _ if self._close_sent:
                pass
            case commands.Basic.Cancel():
                self._on_cancel(method)
            case commands.Channel.Flow():
                self._flows = bool(method.active)
                answer = commands.Channel.FlowOk(active=self._flows)
                self._connection.send(framing.method_frame(self.number, answer))
                self._connection.wake_writers()
            case commands.Basic.GetEmpty():
                self._answer(method.name, None)
            case _:
                self._answer(method.name, method)

    def _on_close(self, close: commands.Channel.Close) -> None:
        self._connection.send(framing.method_frame(self.number, commands.Channel.CloseOk()))
        if not self._close_sent:  # else the number is ours until the broker answers us, too
            self._connection.free(self.number)
        self.end_all(channel_closed(close.reply_code or 0, str(close.reply_text)))

    def _on_cancel(self, cancel: commands.Basic.Cancel) -> None:
        known = self._consumers.pop(str(cancel.consumer_tag), None)
        if known is not None and self._connection.answers_cancels:
            answer = commands.Basic.CancelOk(consumer_tag=cancel.consumer_tag)
            self._connection.send(framing.method_frame(self.number, answer))
        for callback in list(self.on_cancelled):
            try:
                callback()
            except Exception:  # noqa: BLE001 - the reader of the connection must go on
                _log.exception("a cancelled consumer was not told of")


def _end(confirm: asyncio.Future[None], number: int) -> None:
    if confirm.done():  # no longer waited for
        return
    if number == framing.ACK:
        confirm.set_result(None)
    else:
        confirm.set_exception(PublishFailed("the queue refused the message"))
