"""What a real RabbitMQ said to one connection, and the connection to say it to again.

Record it anew with `python tests/support/recorded_broker.py`, from the repository's root.
"""

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from maniple.amqp.wire.amqp_errors import AmqpError, PublishReturned
from maniple.amqp.wire.broker_connection import Connection
from maniple.amqp.wire.channel import Channel
from maniple.amqp.wire.properties import Properties
from maniple.amqp.wire.requests import Message
from maniple_cli.dev_cluster.rabbitmq import RabbitMQServer

FILE = Path(__file__).parent.parent / "data" / "rabbitmq.amqp"
QUEUE = "maniple.agent.recorded"
QUIET = 0.5  # seconds after which the broker has said all that it has to
SECONDS = 20.0
TURNS = 6  # of the loop, in which what is sent is answered
Cut = Callable[[bytes], Iterable[bytes]]
TOLD = Properties(content_type="a/b", headers={"n": 1, "t": {"x": [True, None]}}, message_id="id")


async def scene(connection: Connection, quiet: Callable[[], Awaitable[None]]) -> list[object]:
    """Do some of everything; `quiet` waits until the broker has said all. Return what was seen."""
    seen: list[object] = []

    def take(message: Message) -> None:
        seen.append((message.tag, message.body, message.properties, message.redelivered))

    channel = await connection.channel(publisher_confirms=True)
    seen.append((await channel.queue_declare(QUEUE)).message_count)
    await channel.basic_qos(prefetch_count=10)
    seen.append(await channel.basic_consume(QUEUE, take))
    for body in (b"", b"body", bytes(range(256))):
        await publish(channel, QUEUE, body)
        await quiet()
    seen.append(await returned(channel))
    await quiet()
    channel.basic_reject(1, requeue=True)
    await quiet()
    channel.basic_ack(4, multiple=True)
    await channel.basic_cancel("1.1")
    await publish(channel, QUEUE, b"got")
    for _ in range(2):
        found = await channel.basic_get(QUEUE)
        seen.append(found and (found.tag, found.body, found.properties))
    await channel.queue_delete(QUEUE)
    seen.append(await refused(channel))
    await connection.close()
    return seen


async def publish(channel: Channel, key: str, body: bytes) -> None:
    await channel.publish(body, exchange="", routing_key=key, properties=TOLD, mandatory=True)


async def returned(channel: Channel) -> str:
    try:
        await publish(channel, "nowhere", b"returned")
    except PublishReturned as error:
        return str(error)
    return "not returned"


async def refused(channel: Channel) -> str:
    try:
        await channel.queue_declare(QUEUE, passive=True)
    except AmqpError as error:
        return repr(error)
    return "not refused"


class Recording(Connection):
    """Keeps what came: in one piece what came between two writes of ours."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.pieces = [b""]

    def _flush(self) -> None:
        self.pieces.append(b"")
        super()._flush()

    def data_received(self, data: bytes) -> None:
        self.pieces[-1] += data
        super().data_received(data)


class Replayed(asyncio.Transport):
    """Says the next of some pieces whenever something is written, as `cut` cuts it."""

    def __init__(self, connection: Connection, pieces: list[bytes], cut: Cut) -> None:
        super().__init__()
        self._connection, self._pieces, self._cut = connection, iter(pieces), cut
        self._closed = False
        connection.connection_made(self)

    def get_extra_info(self, name: str, default: object = None) -> Any:
        del name, default
        return self

    def fileno(self) -> int:
        """There is no socket."""
        return -1

    def write(self, data: bytes | bytearray | memoryview) -> None:
        del data
        asyncio.get_running_loop().call_soon(self._say)

    def _say(self) -> None:
        for part in self._cut(next(self._pieces, b"")):
            self._connection.data_received(part)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is no buffer."""

    def is_closing(self) -> bool:
        return self._closed

    def close(self) -> None:
        self._closed = True

    abort = close


async def replayed(cut: Cut) -> list[object]:
    """Return what is seen of the recording, if what comes is cut so."""
    connection = Connection("amqp://agent:secret@127.0.0.1:1/dev?heartbeat=0")
    transport: list[Replayed] = []

    async def connect(*_: object, **__: object) -> tuple[Replayed, Connection]:
        transport.append(Replayed(connection, list(pieces()), cut))
        return transport[0], connection

    async def quiet() -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)

    with patch.object(connection.loop, "create_connection", connect):
        await connection.open(SECONDS)
    return await scene(connection, quiet)


def pieces() -> Iterator[bytes]:
    """Read the recording: each piece after its length in four bytes."""
    data, at = FILE.read_bytes(), 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : end]
        at = end


async def record() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = RabbitMQServer(Path(folder) / "rabbitmq")
        await server.start()
        try:
            connection = Recording(f"{server.url('agent')}?heartbeat=0")
            await connection.open(10)
            await scene(connection, lambda: asyncio.sleep(QUIET))
        finally:
            await server.stop()
    parts = [len(piece).to_bytes(4, "big") + piece for piece in connection.pieces]
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_bytes(b"".join(parts))
    sys.stdout.write(f"{len(parts)} pieces, {sum(map(len, parts))} bytes\n")


if __name__ == "__main__":
    asyncio.run(record())
