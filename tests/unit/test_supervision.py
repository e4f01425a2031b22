"""How a connection is tried again, with a server that takes nobody."""

import asyncio

from maniple.timings import Amqp
from maniple.transport import Link
from waiting import wait_until


async def test_what_does_not_open_is_tried_as_often_as_its_times_say() -> None:
    tried = 0

    def refuse(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tried
        tried += 1
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        link = Link(f"amqp://127.0.0.1:{port}/", name="refused", times=Amqp(backoff=0.02))
        starting = asyncio.create_task(link.start())
        try:
            await wait_until(lambda: tried > 40)  # at the default of 2 s that takes a minute
        finally:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
