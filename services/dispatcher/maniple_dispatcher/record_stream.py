"""Reading along in the records, over a connection of its own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from maniple.amqp import AmqpConnection
from maniple.loops import cancel
from maniple_runtime.records import Batch, RecordReader
from maniple_runtime.records.reader import Decode
from maniple_runtime.runtime import Runtime

START_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Reading:
    """One time of reading along; `work` ends by itself only if it fails."""

    link: AmqpConnection
    reader: RecordReader
    work: asyncio.Task[None]


@asynccontextmanager
async def reading(
    runtime: Runtime,
    name: str,
    take: Callable[[Batch], Awaitable[None]],
    *,
    start: datetime | str,
    decode: Decode,
) -> AsyncIterator[Reading]:
    """Hand records from `start` on to `take` meanwhile; `name` is that of the connection.

    Raises `BrokerUnavailable` if it does not stand within 30 s.
    """
    settings = runtime.settings
    link = AmqpConnection(
        settings.broker_url, name=runtime.connection_name(name), times=settings.timings.amqp
    )
    reader = RecordReader(link, take, start=start, decode=decode)
    await link.start(START_TIMEOUT)
    work = asyncio.create_task(reader.read_records())
    try:
        yield Reading(link, reader, work)
    finally:
        await cancel([work])
        error = None if work.cancelled() else work.exception()
        if error is not None:  # tasks go on without it
            runtime.log.error("records are not read", connection=link.name, exc_info=error)
        await link.close()
