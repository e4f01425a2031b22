"""A TCP proxy that can cut and freeze what goes through it."""

import asyncio
import contextlib
from typing import Self
from urllib.parse import urlsplit


class FlakyNetwork:
    """Stands between a client and the server of `url`; `self.url` leads through it."""

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self._writers: set[asyncio.StreamWriter] = set()
        self._moves = asyncio.Event()
        self._moves.set()
        self._server: asyncio.Server | None = None
        self.accepted = 0
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        netloc = self._parts.netloc.replace(f":{self._parts.port}", f":{port}")
        self.url = self._parts._replace(netloc=netloc).geturl()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self._moves.set()
        self.cut()

    @property
    def open(self) -> int:
        """Connections that stand."""
        return sum(not writer.is_closing() for writer in self._writers) // 2

    def cut(self) -> None:
        """Reset every connection."""
        for writer in self._writers:
            writer.transport.abort()

    def freeze(self) -> None:
        """Let nothing through, and close nothing."""
        self._moves.clear()

    def thaw(self) -> None:
        """Let everything through again."""
        self._moves.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        there, out = await asyncio.open_connection(self._parts.hostname, self._parts.port)
        self._writers |= {writer, out}
        await asyncio.gather(self._pipe(reader, out), self._pipe(there, writer))

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                await self._moves.wait()
                writer.write(data)
                await writer.drain()
        writer.close()
