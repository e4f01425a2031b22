"""Waiting until a server or process really answers."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from operator import not_

from tenacity import AsyncRetrying, RetryError, retry_if_result, stop_after_delay, wait_fixed

from maniple_cli.dev_cluster.child import Child
from maniple_cli.dev_cluster.errors import StartFailed
from maniple_cli.dev_cluster.ports import LOOPBACK

POLL = 0.1
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
METHOD_FRAME = 1
HANDSHAKE_SECONDS = 2.0


async def listens(port: int) -> bool:
    """Tell whether something accepts connections on the port."""
    try:
        _, writer = await asyncio.open_connection(LOOPBACK, port)
    except OSError:
        return False
    writer.close()
    return True


async def amqp_answers(port: int) -> bool:
    """Tell whether the port speaks AMQP 0-9-1: it answers our header with `connection.start`."""
    try:
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            reader, writer = await asyncio.open_connection(LOOPBACK, port)
            try:
                writer.write(PROTOCOL_HEADER)
                return (await reader.readexactly(1))[0] == METHOD_FRAME
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return False


async def until_ready(
    what: str, ready: Callable[[], Awaitable[bool]], *, children: Sequence[Child], seconds: float
) -> None:
    """Poll `ready` until it is true; raises `StartFailed` when a child dies first or time is up."""

    async def is_ready() -> bool:
        if await ready():
            return True
        for child in children:
            if not child.running:
                raise StartFailed(f"{what} did not start. {child.describe()}")
        return False

    polling = AsyncRetrying(
        retry=retry_if_result(not_), wait=wait_fixed(POLL), stop=stop_after_delay(seconds)
    )
    try:
        await polling(is_ready)
    except RetryError:
        report = "\n".join(child.describe() for child in children)
        raise StartFailed(f"{what} was not ready after {seconds:g} s. {report}") from None
