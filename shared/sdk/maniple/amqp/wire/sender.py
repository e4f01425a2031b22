"""The sending side of a connection: what goes out together, and when it has to wait."""

import asyncio
from typing import cast

from maniple.amqp.wire import framing

WRITE_BUFFER = 1024**2  # bytes that wait for the broker to read, beyond which messages wait


class Sender(asyncio.Protocol):
    """Sends frames: those of one turn of the loop in one write.

    Messages are to wait while it is not `writable`; requests and acknowledgements need not, for
    they are few and small.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin without a socket."""
        self.loop = loop
        self.blocked = False
        """Whether a broker alarm (memory, disk) holds back what is published here."""
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._paused = False
        self._writers: dict[asyncio.Future[None], None] = {}

    @property
    def writable(self) -> bool:
        """Whether messages may be sent: the broker takes them, and our buffer is not full."""
        return not (self._paused or self.blocked)

    async def wait_writable(self, ended: asyncio.Future[None]) -> None:
        """Return when that may have changed, or `ended` is done."""
        if ended.done():
            return
        waiting: asyncio.Future[None] = self.loop.create_future()
        self._writers[waiting] = None
        try:
            await waiting
        finally:
            self._writers.pop(waiting, None)

    def wake_writers(self) -> None:
        """Have those who wait in `wait_writable` look again."""
        writers, self._writers = self._writers, {}
        for waiting in writers:
            if not waiting.done():
                waiting.set_result(None)

    def send(self, frames: bytes) -> None:
        """Send at the end of the loop's turn."""
        if not self._out:
            self.loop.call_soon(self._flush)
        self._out.append(frames)

    def send_heartbeat(self) -> None:
        """Send a heartbeat at once, besides those in their turn.

        While our buffer is full the broker reads nothing: it would not arrive.
        """
        if self._transport is not None and not self._paused and not self._transport.is_closing():
            self._transport.write(framing.HEARTBEAT_FRAME)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the socket."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER)

    def pause_writing(self) -> None:
        """Hold back messages: the peer does not read."""
        self._paused = True

    def resume_writing(self) -> None:
        """Send messages again: the peer reads."""
        self._paused = False
        self.wake_writers()
