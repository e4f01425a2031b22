"""An AMQP connection of aiormq whose liveness we judge ourselves."""

import asyncio
from collections.abc import Iterable
from typing import Any, SupportsIndex, cast

import aiormq
from aiormq.connection import FrameReceiver, TransportFactory
from aiormq.exceptions import AMQPConnectionError, ConnectionClosed, InvalidFrameError
from pamqp import commands, frame
from pamqp.base import Frame
from pamqp.heartbeat import Heartbeat
from yarl import URL

from maniple.amqp.wire.handshake import address_of, tls_context
from maniple.forks import keep_from_children

MOST_CHANNELS = 65535  # of the protocol
_ask = aiormq.Connection._rpc  # noqa: SLF001 - nothing else tells what the broker answered
_HEARTBEAT = frame.marshal(Heartbeat(), 0)


class Socket(aiormq.Connection):
    """A connection that counts what it receives, and that can be dropped at once.

    aiormq itself would drop a connection that an alarm blocks as soon as its buffers are full (it
    cannot send heartbeats then), and a dead one only after half a minute: `Liveness` judges
    instead.
    """

    HEARTBEAT_GRACE_MULTIPLIER = 1_000_000

    def __init__(self, url: str) -> None:
        """Describe the connection; `open` opens it."""
        self._socket = _Socket()
        super().__init__(url, transport_factory=self._socket)

    @staticmethod
    async def _rpc(
        request: Frame,
        writer: asyncio.StreamWriter,
        frame_receiver: Any,
        wait_response: bool = True,  # noqa: FBT001, FBT002 - aiormq's own signature
    ) -> Any:
        # aiormq's own looks whether an answer is among the expected ones before it looks whether
        # the broker has closed instead, and so loses what that says: no such vhost, say.
        answers = _Answers(frame_receiver)
        try:
            return await _ask(request, writer, cast("FrameReceiver", answers), wait_response)
        except InvalidFrameError as error:
            if isinstance(answers.last, commands.Connection.Close):
                raise ConnectionClosed(answers.last.reply_code, answers.last.reply_text) from error
            raise

    async def open(self, timeout: float) -> None:
        """Connect within `timeout` seconds; nothing is left open when that fails."""
        try:
            async with asyncio.timeout(timeout):
                await self.connect()
        except BaseException:
            self.abort()
            raise

    @property
    def heard(self) -> int:
        """How many frames have been received."""
        return self._socket.heard

    @property
    def channel_max(self) -> int:
        """How many channels the broker lets it have."""
        return self.connection_tune.channel_max or MOST_CHANNELS

    async def is_blocked(self) -> bool:
        """Whether a broker alarm holds back what is published here."""
        try:
            async with asyncio.timeout(0):
                await self.ready()
        except TimeoutError:
            return True
        return False

    def send_heartbeat(self) -> None:
        """Send an AMQP heartbeat at once, besides those of aiormq."""
        transport = self._socket.transport
        if transport is not None and not transport.is_closing():
            transport.write(_HEARTBEAT)

    def abort(self) -> None:
        """Drop the connection without closing it at the broker; idempotent."""
        if self._socket.transport is not None:
            self._socket.transport.abort()


class _Answers:
    """Reads frames as aiormq's receiver does, and keeps the last one."""

    def __init__(self, receiver: Any) -> None:
        self._receiver = receiver
        self.last: object = None

    async def get_frame(self) -> Any:
        weight, channel, self.last = await self._receiver.get_frame()
        return weight, channel, self.last


class _Socket(TransportFactory):
    """Opens the socket as aiormq's own factories do, and keeps it."""

    def __init__(self) -> None:
        self.heard = 0
        self.transport: asyncio.WriteTransport | None = None

    async def create(
        self, url: URL, **options: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        del options["ssl_context_provider"]
        secure = await tls_context(address_of(str(url)))
        loop = asyncio.get_running_loop()
        reader = _Reader(self)
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            self.transport, _ = await loop.create_connection(
                lambda: protocol, url.host or "", url.port or 0, ssl=secure, **options
            )
        except OSError as error:
            raise AMQPConnectionError(*error.args) from error
        keep_from_children(self.transport.get_extra_info("socket").fileno())
        return reader, asyncio.StreamWriter(self.transport, protocol, reader, loop)


class _Reader(asyncio.StreamReader):
    def __init__(self, socket: _Socket) -> None:
        super().__init__()
        self._socket = socket

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        self._socket.heard += 1
        super().feed_data(data)
