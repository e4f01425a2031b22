"""One connection to a broker: its socket, what is agreed on it, and its channels.

What is sent within one turn of the loop goes out in one write. The socket's bytes become frames
here, and go to the channels within the same turn.
"""

import asyncio
import logging
from typing import Any

from pamqp import commands
from pamqp.base import Frame

from maniple.amqp.wire import framing
from maniple.amqp.wire.amqp_errors import (
    ACCESS_REFUSED,
    AmqpError,
    ConnectionLost,
    ConnectionRefused,
    LoginRefused,
    ProtocolError,
)
from maniple.amqp.wire.channel import Channel
from maniple.amqp.wire.handshake import (
    MOST_CHANNELS,
    address_of,
    start_ok,
    tls_context,
    tune_ok,
)
from maniple.amqp.wire.requests import Deliver, Message
from maniple.amqp.wire.sender import Sender
from maniple.forks import keep_from_children

CLOSE_TIMEOUT = 2.0

_log = logging.getLogger(__name__)


class Connection(Sender):
    """A connection to a broker; `open` opens it, once.

    `closing` is done when it is gone, and its exception tells why. Whether the broker still lives
    is judged by others, from `heard`: this only sends heartbeats in its turn.
    """

    def __init__(self, url: str) -> None:
        """Describe the connection; must be called within a running loop."""
        super().__init__(asyncio.get_running_loop())
        self.closing: asyncio.Future[None] = self.loop.create_future()
        self.heard = 0
        """How often something has been received."""
        self.channel_max = MOST_CHANNELS
        self.frame_max = framing.LEAST_FRAME_MAX
        self.server_properties: dict[str, Any] = {}
        self.answers_cancels = False
        """Whether the broker waits for our answer when it ends a consumer (RabbitMQ 4.3.7)."""
        self._address = address_of(url)
        self._reader = framing.FrameReader()
        self._channels: dict[int, Channel] = {}
        self._expected: asyncio.Future[Frame] | None = None  # of the handshake
        self._delivered: list[tuple[Channel, Deliver, Message]] = []
        self._heartbeats: asyncio.TimerHandle | None = None
        self._close_sent = False

    # ---- life

    async def open(self, timeout: float) -> None:
        """Connect within `timeout` seconds; nothing is left open when that fails.

        Raises `ConnectionLost`, `LoginRefused`, `ConnectionRefused` (no such vhost), `TimeoutError`
        and, for a file of TLS, `maniple.errors.ConfigurationError`.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._connect()
        except BaseException:
            self.abort()
            raise

    async def _connect(self) -> None:
        address = self._address
        context = await tls_context(address)
        try:
            transport, _ = await self.loop.create_connection(
                lambda: self, address.host, address.port, ssl=context
            )
        except OSError as error:
            raise ConnectionLost(f"no connection: {error}") from error
        keep_from_children(transport.get_extra_info("socket").fileno())
        transport.write(framing.PROTOCOL_HEADER)
        start = await self._answer(commands.Connection.Start)
        self.server_properties = dict(start.server_properties or {})
        capabilities = self.server_properties.get("capabilities")
        if isinstance(capabilities, dict):
            self.answers_cancels = bool(capabilities.get("accept_consumer_cancel_ok"))
        self._send_method(start_ok(address, start))
        tuned = tune_ok(address, await self._tuned())
        self.channel_max, self.frame_max = tuned.channel_max, tuned.frame_max
        self._reader.largest = tuned.frame_max
        self._send_method(tuned)
        self._send_method(commands.Connection.Open(virtual_host=address.vhost))
        await self._answer(commands.Connection.OpenOk)
        if self.closing.done():  # lost in the very turn in which it was open
            raise self._reason()
        if tuned.heartbeat:
            self._beat(tuned.heartbeat / 2)

    async def _tuned(self) -> commands.Connection.Tune:
        try:
            tune: commands.Connection.Tune = await self._answer(commands.Connection.Tune)
        except ConnectionRefused as error:
            if error.code != ACCESS_REFUSED:
                raise
            raise LoginRefused(error.text) from error
        return tune

    async def _answer(self, kind: type[Any]) -> Any:
        """Return the next method of the handshake, which must be of this kind."""
        if self.closing.done():
            raise self._reason()
        self._expected = self.loop.create_future()
        method = await self._expected
        if not isinstance(method, kind):
            error = ProtocolError(f"{method.name} comes in place of {kind.__name__}")
            self._fail(error)
            raise error
        return method

    async def close(self) -> None:
        """Close it and return when the broker has, or after a while; idempotent."""
        transport = self._transport
        if transport is None or self.closing.done():
            self.abort()
            return
        if not self._close_sent:
            self._close_sent = True
            self._send_method(
                commands.Connection.Close(
                    reply_code=200, reply_text="closed", class_id=0, method_id=0
                )
            )
        await asyncio.wait([self.closing], timeout=CLOSE_TIMEOUT)
        self.abort()

    def abort(self) -> None:
        """Drop the connection without closing it at the broker; idempotent."""
        if self._transport is not None:
            self._transport.abort()
        self._end(ConnectionLost("dropped"))

    async def channel(self, *, publisher_confirms: bool = False) -> Channel:
        """Open a channel, with confirms of what is published on it if that is wanted.

        Raises `ConnectionLost` also if the broker allows no more channels.
        """
        if self.closing.done():
            raise self._reason()
        number = 1
        while number in self._channels:
            number += 1
        if number > self.channel_max:
            raise ConnectionLost(f"all {self.channel_max} channels of the connection are in use")
        channel = self._channels[number] = Channel(self, number)
        try:
            await channel.request(commands.Channel.Open(), answer=commands.Channel.OpenOk)
            if publisher_confirms:
                await channel.confirm_select()
        except BaseException:
            channel.abandon()
            raise
        return channel

    def free(self, number: int) -> None:
        """Release a number for another channel: the broker is done with it."""
        self._channels.pop(number, None)

    def pass_on(self, channel: Channel, deliver: Deliver, message: Message) -> None:
        """Call `deliver` behind all that has just been read: what it does must not hold that up."""
        if not self._delivered:
            self.loop.call_soon(self._hand_out)
        self._delivered.append((channel, deliver, message))

    def _hand_out(self) -> None:
        delivered, self._delivered = self._delivered, []
        for channel, deliver, message in delivered:
            if channel.is_closed:  # it is the queue's again
                continue
            try:
                deliver(message)
            except Exception:  # noqa: BLE001 - one message must not cost the others
                _log.exception("a delivery was not handled")

    async def is_blocked(self) -> bool:
        """Whether a broker alarm holds back what is published here."""
        return self.blocked

    # ---- sending

    def _send_method(self, method: Frame) -> None:
        self.send(framing.method_frame(0, method))

    def _beat(self, interval: float) -> None:
        if not self.closing.done():
            self.send_heartbeat()
            self._heartbeats = self.loop.call_later(interval, self._beat, interval)

    # ---- the socket's callbacks

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        self.heard += 1
        try:
            for kind, number, payload in self._reader.feed(data):
                channel = self._channels.get(number)
                if channel is not None:
                    channel.receive(kind, payload)
                else:
                    self._receive(kind, number, payload)
        except ProtocolError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - a defect of ours must not leave a deaf connection
            _log.exception("what the broker sent was not handled")
            self._fail(ProtocolError(f"what the broker sent was not handled: {error!r}"))

    def eof_received(self) -> bool:
        """Close our side, too."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everybody."""
        lost = ConnectionLost(str(exc) if exc else "the broker closed the socket")
        lost.__cause__ = exc
        self._end(lost)

    # ---- what the broker says of the connection

    def _receive(self, kind: int, number: int, payload: bytes) -> None:
        if (kind == framing.HEARTBEAT and number == 0) or self.closing.done():
            return
        if kind != framing.METHOD:
            raise ProtocolError(f"a frame of kind {kind} on channel {number}, which is not open")
        _, method = framing.read_method(payload)
        if number != 0:
            if not isinstance(method, commands.Channel.CloseOk):
                raise ProtocolError(f"{method.name} on channel {number}, which is not open")
            return
        self._on_method(method)

    def _on_method(self, method: Frame) -> None:
        match method:
            case commands.Connection.Close():
                self._on_close(method)
            case commands.Connection.CloseOk() if self._close_sent:
                self._end(None)
                self._drop()
            case commands.Connection.Blocked():
                self.blocked = True
            case commands.Connection.Unblocked():
                self.blocked = False
                self.wake_writers()
            case _ if self._expected is not None and not self._expected.done():
                self._expected.set_result(method)
            case _:
                raise ProtocolError(f"{method.name} comes, which answers nothing")

    def _on_close(self, close: commands.Connection.Close) -> None:
        self._send_method(commands.Connection.CloseOk())
        self._flush()
        self._end(ConnectionRefused(close.reply_code or 0, str(close.reply_text)))
        self._drop()

    def _fail(self, error: AmqpError) -> None:
        """Drop the connection, which cannot be used any more."""
        _log.warning("a connection to RabbitMQ is dropped: %s", error)
        self._end(error)
        if self._transport is not None:
            self._transport.abort()

    def _drop(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _end(self, error: AmqpError | None) -> None:
        """Tell everybody, once, that the connection is gone; None if we closed it."""
        if self.closing.done():
            return
        reason = error or ConnectionLost("closed")
        if error is None:
            self.closing.set_result(None)
        else:
            self.closing.set_exception(error)
            self.closing.exception()  # who wants to know has a callback
        if self._heartbeats is not None:
            self._heartbeats.cancel()
        if self._expected is not None and not self._expected.done():
            self._expected.set_exception(reason)
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel.end_all(reason)
        self.wake_writers()

    def _reason(self) -> AmqpError:
        error = self.closing.exception() if self.closing.done() else None
        return (
            error.with_traceback(None) if isinstance(error, AmqpError) else ConnectionLost("closed")
        )
