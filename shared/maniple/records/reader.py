"""Tailing the stream `maniple.records` over connections that are lost."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from maniple.errors import InvalidMessage
from maniple.records.entries import Entry, decode_records
from maniple.topology import RECORDS
from maniple.transport import Consumer, Delivery, Link

OFFSET = "x-stream-offset"
PREFETCH = 100
MAX_MESSAGES = 50

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Batch:
    """Records in the order of the stream. A reader that starts at `next_offset` goes on after it.

    `unreadable` counts messages in it that nobody can decode.
    """

    entries: tuple[Entry, ...]
    next_offset: int
    unreadable: int = 0


Take = Callable[[Batch], Awaitable[None]]
Decode = Callable[[str | None, bytes, int], list[Entry]]


class RecordReader:
    """Hands the records from `start` (an offset or a time) on to `take`, batch by batch, each once.

    `decode` returns the records in a message, or those of them that are wanted.

    It lives on `link`, to which it adds itself; a lost connection goes on behind the last message
    that was handed on. The broker sends at most `prefetch` messages (bundles) ahead of `take`, and
    the rest of the chunk in which it stored the last of them; what an earlier connection brought is
    forgotten. So a slow one costs no memory. What retention has removed before `start` is passed
    over. Known weakness: a stream that was deleted and declared anew counts from 0 again, which a
    reader that has been further takes for old.
    """

    def __init__(
        self,
        link: Link,
        take: Take,
        *,
        start: int | datetime = 0,
        prefetch: int = PREFETCH,
        decode: Decode = decode_records,
    ) -> None:
        """Describe the reader; `link.start` opens it and `run` works."""
        self._take = take
        self._decode = decode
        self.next_offset = start if isinstance(start, int) else 0
        self._handed = self._expected = self.next_offset
        self._generation = 0
        # Read again whenever the queue is consumed anew.
        self._arguments: dict[str, Any] = {OFFSET: start}
        self._arrived: deque[Delivery] = deque()
        self._news = asyncio.Event()
        link.add(
            Consumer(
                link, RECORDS.name, self._receive, prefetch=prefetch, arguments=self._arguments
            )
        )

    async def run(self) -> None:
        """Hand on batches until cancelled; raises what `take` raises, whose batch then is not lost.

        Whoever starts again at `next_offset` gets it again.
        """
        while True:
            await self._news.wait()
            self._news.clear()
            while self._arrived:
                await self._hand_on()

    async def _hand_on(self) -> None:
        count = min(MAX_MESSAGES, len(self._arrived))
        deliveries = [self._arrived.popleft() for _ in range(count)]
        batch = _batch(deliveries, self._decode)
        self._handed = self._arguments[OFFSET] = batch.next_offset
        await self._take(batch)
        self.next_offset = batch.next_offset
        for delivery in deliveries:
            delivery.ack()

    def _receive(self, delivery: Delivery) -> None:
        if delivery.generation != self._generation:
            self._generation = delivery.generation
            self._arrived.clear()  # it comes again
            self._expected = self._handed
        offset = _offset(delivery)
        if offset < self._expected:
            delivery.ack()
            return
        self._expected = offset + 1
        self._arrived.append(delivery)
        self._news.set()


def _batch(deliveries: list[Delivery], decode: Decode) -> Batch:
    entries: list[Entry] = []
    unreadable = 0
    for delivery in deliveries:
        offset = _offset(delivery)
        try:
            entries += decode(delivery.properties.message_type, delivery.body, offset)
        except InvalidMessage as error:
            unreadable += 1
            _log.warning("record %d cannot be read: %s", offset, error)
    return Batch(tuple(entries), _offset(deliveries[-1]) + 1, unreadable)


def _offset(delivery: Delivery) -> int:
    return int(delivery.headers[OFFSET])
