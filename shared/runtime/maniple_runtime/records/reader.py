"""Reading the stream `maniple.records` over connections that may be lost."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from maniple.amqp import AmqpConnection, Consumer, Delivery
from maniple.errors import InvalidMessage
from maniple.topology import RECORDS
from maniple_runtime.records.entries import Entry, decode_records

OFFSET = "x-stream-offset"
PREFETCH = 100
MAX_MESSAGES = 50
MAX_BYTES = 1024**2  # of a batch's messages, or one message
TURN_BYTES = 64 * 1024  # of messages that are decoded without letting others run

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Batch:
    """Records in the order of the stream. A reader that starts at `next_offset` continues after it.

    `unreadable` counts what cannot be decoded in it: records, and whole messages.
    """

    entries: tuple[Entry, ...]
    next_offset: int
    unreadable: int = 0


Take = Callable[[Batch], Awaitable[None]]
Decode = Callable[[str | None, bytes, int], Sequence[Entry | InvalidMessage]]


class RecordReader:
    """Passes the records from `start` on to `take`, batch by batch, each once.

    `start` is an offset, a time, or an age by the broker's own clock ("60s").

    `decode` returns the records in a message, or those of them that are wanted.

    It is an endpoint of `link`, to which it adds itself; after a lost connection it continues
    behind the last message that was passed on. The broker sends at most `prefetch` messages
    (bundles) ahead of `take`, and the rest of the chunk in which it stored the last of them;
    deliveries of an earlier connection are dropped. So a slow `take` costs no memory. Records that
    retention has removed before `start` are skipped.

    A stream that was deleted and declared anew counts from 0 again. A reader that has been further
    gets nothing from it, or another message than the one it had: then it is not `in_place`, and its
    user has to start again.
    """

    def __init__(
        self,
        link: AmqpConnection,
        take: Take,
        *,
        start: int | datetime | str = 0,
        prefetch: int = PREFETCH,
        decode: Decode = decode_records,
    ) -> None:
        """Describe the reader; `link.start` opens it and `read_records` reads."""
        self._take = take
        self._decode = decode
        self.next_offset = start if isinstance(start, int) else 0
        self._handed = self._expected = self.next_offset
        self._generation = 0
        self._last: tuple[int, str | None] | None = None  # offset and id of what was handed on
        self._placed = 0
        # Read again whenever the queue is consumed anew.
        self._arguments: dict[str, Any] = {OFFSET: start}
        self._arrived: deque[Delivery] = deque()
        self._news = asyncio.Event()
        self._consumer = Consumer(
            RECORDS.name,
            self._receive,
            prefetch=prefetch,
            owner=link,
            arguments=self._arguments,
        )
        link.add_endpoint(self._consumer)

    @property
    def in_place(self) -> bool:
        """Whether this connection has delivered again what was read last, as it should at once."""
        return self._last is None or self._placed == self._consumer.generation

    async def read_records(self) -> None:
        """Pass on batches until cancelled; raises what `take` raises.

        The batch is not lost then: a reader that starts again at `next_offset` gets it again.
        """
        while True:
            await self._news.wait()
            self._news.clear()
            while self._arrived:
                await self._hand_on()

    async def _hand_on(self) -> None:
        deliveries = self._some()
        last = deliveries[-1]
        # Before anything is awaited: a connection that is lost meanwhile goes on behind them.
        self._handed = _offset(last) + 1
        if self._last is None:
            self._placed = last.generation
        self._last = _offset(last), last.properties.message_id
        self._arguments[OFFSET] = _offset(last)
        batch = await _batch(deliveries, self._decode)
        await self._take(batch)
        self.next_offset = batch.next_offset
        for delivery in deliveries:
            delivery.ack()

    def _some(self) -> list[Delivery]:
        size, some = 0, list[Delivery]()
        while self._arrived and len(some) < MAX_MESSAGES:
            size += len(self._arrived[0].body)
            if some and size > MAX_BYTES:
                break
            some.append(self._arrived.popleft())
        return some

    def _receive(self, delivery: Delivery) -> None:
        offset = _offset(delivery)
        if delivery.generation != self._generation:
            self._generation = delivery.generation
            self._arrived.clear()  # it comes again
            self._expected = self._handed
            if self._last is not None and offset > self._last[0]:
                self._placed = delivery.generation  # retention has removed what was read last
        if (offset, delivery.properties.message_id) == self._last:
            self._placed = delivery.generation
        if offset < self._expected:
            delivery.ack()
            return
        self._expected = offset + 1
        self._arrived.append(delivery)
        self._news.set()


async def _batch(deliveries: list[Delivery], decode: Decode) -> Batch:
    entries: list[Entry] = []
    unreadable = size = 0
    for delivery in deliveries:
        offset = _offset(delivery)
        try:
            found = decode(delivery.properties.message_type, delivery.body, offset)
        except InvalidMessage as error:
            found = [error]
        for entry in found:
            if isinstance(entry, InvalidMessage):
                unreadable += 1
                _log.warning("a record at %d cannot be read: %s", offset, entry)
            else:
                entries.append(entry)
        size += len(delivery.body)
        if size >= TURN_BYTES:
            size = 0
            await asyncio.sleep(0)
    return Batch(tuple(entries), _offset(deliveries[-1]) + 1, unreadable)


def _offset(delivery: Delivery) -> int:
    return int(delivery.headers[OFFSET])
