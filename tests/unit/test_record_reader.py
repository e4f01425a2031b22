"""`RecordReader`: what it hands on at once, and what it lets run meanwhile."""

import asyncio
from types import SimpleNamespace
from typing import cast

from maniple.amqp import AmqpConnection, Delivery
from maniple_runtime.records import Batch, Entry, RecordReader
from maniple_runtime.records.reader import MAX_BYTES, OFFSET, TURN_BYTES
from waiting import wait_until

MESSAGES = 40


def delivery(offset: int, size: int) -> Delivery:
    properties = SimpleNamespace(message_type=None, message_id=str(offset))
    headers = {OFFSET: offset}
    made = SimpleNamespace(
        generation=0, headers=headers, body=bytes(size), properties=properties, ack=lambda: None
    )
    return cast("Delivery", made)


async def test_a_reader_that_catches_up_lets_others_run_between_large_messages() -> None:
    turn, decoded_in, batches = 0, list[int](), list[int]()

    async def count_turns() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    def decode(_kind: str | None, _body: bytes, _offset: int) -> list[Entry]:
        decoded_in.append(turn)
        return []

    async def take(batch: Batch) -> None:
        batches.append(batch.next_offset)

    link = cast("AmqpConnection", SimpleNamespace(add_endpoint=lambda _: None))
    reader = RecordReader(link, take, decode=decode)
    for offset in range(MESSAGES):
        reader._receive(delivery(offset, TURN_BYTES))
    tasks = [asyncio.create_task(count_turns()), asyncio.create_task(reader.read_records())]
    await wait_until(lambda: reader.next_offset == MESSAGES)
    for task in tasks:
        task.cancel()
    assert len(set(decoded_in)) == MESSAGES
    assert batches[0] == MAX_BYTES // TURN_BYTES
