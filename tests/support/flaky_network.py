"""A TCP proxy that can cut and freeze connections."""

import asyncio
import contextlib
from collections.abc import Callable
from time import monotonic
from typing import Self
from urllib.parse import urlsplit

CHUNK = 1 << 16
NAME_KEY = b"connection_name"


class FlakyNetwork:
    """A proxy between clients and the server of `url`; `self.url` leads through it.

    `cut` and `freeze` apply to all connections, or to those of one owner: whose name, as an AMQP
    client gives it, starts with the owner's. A frozen connection stays open and carries nothing;
    new ones are accepted and freeze too. `url` may be a function, if the server is not known yet.
    """

    def __init__(self, url: str | Callable[[], str]) -> None:
        self._url = url
        self._wires: set[_Wire] = set()
        self._frozen: set[str] = set()
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self.accepted = 0
        self.said = 0
        """Bytes from clients that have passed."""
        self.said_at = 0.0
        """When the last of them passed, by `monotonic`."""
        self.held = 0
        """How many pieces of data wait because their connection is frozen."""
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        self.thaw()

    @property
    def url(self) -> str:
        """The server's URL by way of this network."""
        return self.leading(self._target)

    def leading(self, url: str) -> str:
        """Return a URL of the same server by way of this network."""
        parts = urlsplit(url)
        return parts._replace(
            netloc=parts.netloc.replace(f":{parts.port}", f":{self.port}")
        ).geturl()

    @property
    def open(self) -> int:
        """The open connections."""
        return sum(not wire.closing for wire in self._wires)

    def cut(self, owner: str = "") -> int:
        """Reset connections; return how many."""
        found = [wire for wire in self._wires if wire.of(owner)]
        for wire in found:
            wire.abort()
        return len(found)

    def sever(self) -> None:
        """Reset every connection on the client's side only; the server's side stays open."""
        for wire in self._wires:
            wire.sever()

    def freeze(self, owner: str = "") -> int:
        """Block all traffic, and close nothing; return how many connections are affected."""
        self._frozen.add(owner)
        return sum(wire.of(owner) and not wire.closing for wire in self._wires)

    def thaw(self) -> None:
        """Pass all traffic again."""
        self._frozen.clear()
        self._changed.set()
        self._changed = asyncio.Event()

    @property
    def _target(self) -> str:
        return self._url() if callable(self._url) else self._url

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        parts = urlsplit(self._target)
        try:
            there, out = await asyncio.open_connection(parts.hostname, parts.port)
        except OSError:
            writer.transport.abort()
            return
        wire = _Wire(writer, out)
        self._wires.add(wire)
        await asyncio.gather(self._pipe(reader, out, wire), self._pipe(there, writer, wire))
        if not wire.severed:
            self._wires.discard(wire)

    async def _pipe(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wire: "_Wire"
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                wire.read_name(data)
                await self._passable(wire)
                if wire.of_client(writer):
                    self.said, self.said_at = self.said + len(data), monotonic()
                writer.write(data)
                await writer.drain()
            await self._passable(wire)
        if not wire.severed:
            writer.close()

    async def _passable(self, wire: "_Wire") -> None:
        self.held += 1
        try:
            while any(wire.of(owner) for owner in self._frozen):
                await self._changed.wait()
        finally:
            self.held -= 1


class _Wire:
    """One connection through the proxy."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._writers = (client, server)
        self._name: str | None = None
        self.severed = False

    @property
    def closing(self) -> bool:
        return any(writer.is_closing() for writer in self._writers)

    def of_client(self, writer: asyncio.StreamWriter) -> bool:
        """Whether `writer` sends to the server, and so carries the client's data."""
        return writer is self._writers[1]

    def of(self, owner: str) -> bool:
        return (self._name or "").startswith(owner)

    def read_name(self, data: bytes) -> None:
        # A long string in the client's properties: its key, an S, four bytes of length.
        if self._name is None and (start := data.find(NAME_KEY)) >= 0:
            start += len(NAME_KEY) + 5
            length = int.from_bytes(data[start - 4 : start], "big")
            self._name = data[start : start + length].decode()

    def sever(self) -> None:
        self.severed = True
        self._writers[0].transport.abort()

    def abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
