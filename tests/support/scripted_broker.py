"""A broker that says what a test has it say, and keeps what it is told."""

import asyncio
import contextlib
import ssl
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Self, TypeVar

from pamqp import body, commands, header, heartbeat
from pamqp import frame as pamqp_frame
from pamqp.base import Frame

from maniple.amqp.wire.broker_connection import Connection
from maniple.amqp.wire.channel import Channel

PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
SECONDS = 20.0  # within which nothing of this hangs, also on a busy machine
CAPABILITIES = {"publisher_confirms": True, "authentication_failure_close": True}

_SOME = {"bit": True, "short": 1, "long": 1, "longlong": 1, "shortstr": "x", "longstr": "x"}

F = TypeVar("F", bound=Frame)
Greet = Callable[["Peer"], Awaitable[None]]


def every_method() -> list[Frame]:
    """Return one of each method of AMQP 0-9-1."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Basic.RecoverAsync
        methods = [kind() for kind in commands.INDEX_MAPPING.values()]
    for method in methods:
        for name, value in dict(method).items():
            if value is None:
                setattr(method, name, _SOME[method.amqp_type(name)])
    return methods


def content(number: int, data: bytes, size: int | None = None, **properties: Any) -> bytes:
    """Return header and body of a message; `size` is what the header says of the body."""
    said = len(data) if size is None else size
    head = header.ContentHeader(body_size=said, properties=commands.Basic.Properties(**properties))
    frames = pamqp_frame.marshal(head, number)
    return frames + (pamqp_frame.marshal(body.ContentBody(data), number) if data else b"")


class Peer:
    """One connection, seen from the broker."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self.heartbeats = 0

    def send(self, method: Frame, number: int = 0) -> None:
        self.writer.write(pamqp_frame.marshal(method, number))

    def send_raw(self, data: bytes) -> None:
        self.writer.write(data)

    def deliver(self, consumer: str, tag: int, data: bytes, number: int = 1) -> None:
        self.send(commands.Basic.Deliver(consumer, tag, False, "x", "key"), number)
        self.send_raw(content(number, data))

    async def frame(self) -> tuple[int, Any]:
        """Return the next frame but heartbeats: its channel, and what it is."""
        while True:
            head = await self._reader.readexactly(7)
            rest = await self._reader.readexactly(int.from_bytes(head[3:], "big") + 1)
            _, number, frame = pamqp_frame.unmarshal(head + rest)
            if not isinstance(frame, heartbeat.Heartbeat):
                return number, frame
            self.heartbeats += 1

    async def expect(self, kind: type[F], number: int | None = None) -> F:
        """Return the next frame, which must be such a method."""
        of, frame = await self.frame()
        assert isinstance(frame, kind), f"{frame} comes in place of {kind.__name__}"
        assert number in {None, of}
        return frame

    async def published(self, number: int = 1) -> tuple[commands.Basic.Publish, Any, bytes]:
        """Return the next publish: its method, properties and body."""
        method = await self.expect(commands.Basic.Publish, number)
        _, head = await self.frame()
        assert isinstance(head, header.ContentHeader)
        data = b""
        while len(data) < head.body_size:
            _, part = await self.frame()
            assert isinstance(part, body.ContentBody)
            data += part.value
        return method, head.properties, data

    async def header(self) -> bytes:
        return await self._reader.readexactly(8)

    async def hang_up(self) -> None:
        self.writer.close()

    async def until_end(self) -> bytes:
        """Return what comes until the client has closed the socket."""
        with contextlib.suppress(ConnectionError):
            return await self._reader.read(-1)
        return b""

    async def start(self, mechanisms: str = "PLAIN AMQPLAIN", **capabilities: Any) -> None:
        """Greet, without waiting for the answer."""
        assert await self.header() == PROTOCOL_HEADER
        properties: dict[str, Any] = {"capabilities": {**CAPABILITIES, **capabilities}}
        self.send(commands.Connection.Start(0, 9, properties, mechanisms, "en_US"))

    async def shake_hands(
        self, *, channel_max: int = 2047, frame_max: int = 131_072, **capabilities: Any
    ) -> None:
        """Open the connection."""
        await self.start(**capabilities)
        await self.expect(commands.Connection.StartOk, 0)
        self.send(commands.Connection.Tune(channel_max, frame_max, 60))
        await self.expect(commands.Connection.TuneOk, 0)
        await self.expect(commands.Connection.Open, 0)
        self.send(commands.Connection.OpenOk())

    async def answer(self, kind: type[F], answer: Frame, number: int = 1) -> F:
        """Wait for a request and answer it."""
        asked = await self.expect(kind, number)
        self.send(answer, number)
        return asked


class ScriptedBroker:
    """Listens on loopback; `greet` says how it meets a connection, which `peer` then gives."""

    def __init__(self, greet: Greet | None = None, tls: ssl.SSLContext | None = None) -> None:
        self._greet = greet or Peer.shake_hands
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._met: asyncio.Queue[Peer] = asyncio.Queue()
        self._peers: list[Peer] = []
        self.failed: BaseException | None = None
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for peer in self._peers:
            peer.writer.transport.abort()
        if kind is None and self.failed is not None:
            raise self.failed

    def url(self, query: str = "heartbeat=0", login: str = "me:secret@") -> str:
        scheme = "amqp" if self._tls is None else "amqps"
        return f"{scheme}://{login}127.0.0.1:{self.port}/dev?{query}"

    async def peer(self) -> Peer:
        """Return the next connection, once it has been met."""
        return await self._met.get()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self._peers.append(peer)
        try:
            await self._greet(peer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client went before; the test sees what it makes of that
        except Exception as error:  # noqa: BLE001 - told at the end of the test
            self.failed = error
        self._met.put_nowait(peer)


@asynccontextmanager
async def connected(
    query: str = "heartbeat=0", **tuned: Any
) -> AsyncIterator[tuple[Connection, Peer]]:
    """Give an open connection and its broker; it is a failure if that takes too long."""
    async with (
        asyncio.timeout(SECONDS),
        ScriptedBroker(lambda peer: peer.shake_hands(**tuned)) as broker,
    ):
        connection = Connection(broker.url(query))
        await connection.open(SECONDS)
        try:
            yield connection, await broker.peer()
        finally:
            connection.abort()


async def opened(connection: Connection, peer: Peer, number: int = 1) -> Channel:
    """Open a channel with confirms."""
    opening = asyncio.create_task(connection.channel(publisher_confirms=True))
    await peer.answer(commands.Channel.Open, commands.Channel.OpenOk(), number)
    await peer.answer(commands.Confirm.Select, commands.Confirm.SelectOk(), number)
    return await opening


@asynccontextmanager
async def with_channel(
    query: str = "heartbeat=0", **tuned: Any
) -> AsyncIterator[tuple[Connection, Channel, Peer]]:
    """Give an open connection, a channel of it and the broker."""
    async with connected(query, **tuned) as (connection, peer):
        yield connection, await opened(connection, peer), peer
