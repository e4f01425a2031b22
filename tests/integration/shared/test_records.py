"""Tailing the real stream over connections that are lost."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from local_servers import LocalServers
from maniple.amqp import AmqpConnection, Outgoing, Publisher, declare_topology
from maniple.codec import encode
from maniple.messages import RESULTS_TYPE, Result, Status
from maniple.topology import RESULTS
from maniple_runtime.records import Batch, FirstWins, RecordReader, TaskKey
from waiting import wait_until

NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)


class Tail:
    """A reader with what it handed on."""

    def __init__(self, url: str, start: int = 0, prefetch: int = 100) -> None:
        self.ledger = FirstWins()
        self.offsets: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Event()
        """Set once a batch has been handed on, whether or not the gate lets it pass."""
        self.link = AmqpConnection(url, name=f"test.records.{uuid4()}", prepare=declare_topology)
        self.reader = RecordReader(self.link, self.take, start=start, prefetch=prefetch)

    async def take(self, batch: Batch) -> None:
        self.asked.set()
        await self.gate.wait()
        for entry in batch.entries:
            self.offsets.append(entry.position.offset)
            self.ledger.take(entry)

    def has_new_ones(self) -> bool:
        """Whether the present connection has brought something that waits."""
        return bool(self.reader._arrived) and self.reader._arrived[-1].alive

    def has(self, *tasks: str) -> bool:
        return all(self.ledger.get(TaskKey("default", task)) for task in tasks)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Tail"]:
        work = asyncio.create_task(self.reader.read_records())
        try:
            await self.link.start(10)
            yield self
        finally:
            await self.link.close()
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work


@pytest.fixture
def url(servers: LocalServers) -> str:
    return servers.rabbitmq.url("ledger")


async def publish(url: str, *tasks: str) -> None:
    """Record the ends of tasks, each in a message of its own."""
    link = AmqpConnection(url, name=f"test.publish.{uuid4()}", prepare=declare_topology)
    publisher = Publisher(link)
    await link.start(10)
    for task in tasks:
        body = encode([Result(id=task, capability="c", status=Status.SUCCEEDED, finished_at=NOW)])
        await publisher.publish(Outgoing(RESULTS.name, "c", body, str(uuid4()), RESULTS_TYPE))
    await link.close()


def names(count: int) -> list[str]:
    run = uuid4()
    return [f"{run}-{number}" for number in range(count)]


async def test_a_reader_goes_on_behind_what_it_has_read_when_its_connection_is_lost(
    url: str,
) -> None:
    tasks = names(60)
    async with Tail(url).running() as tail:
        await publish(url, *tasks[:30])
        await wait_until(lambda: tail.has(*tasks[:30]))
        tail.link.suspect()
        await wait_until(lambda: tail.link.reconnects == 1 and tail.link.is_up)
        await publish(url, *tasks[30:])
        await wait_until(lambda: tail.has(*tasks))
        assert tail.offsets == sorted(set(tail.offsets))
        assert tail.ledger.repeated == 0


async def test_a_reader_that_starts_at_an_offset_reads_nothing_before_it(url: str) -> None:
    old, new = names(3), names(3)
    async with Tail(url).running() as first:
        await publish(url, *old)
        await wait_until(lambda: first.has(*old))
        stopped_at = first.reader.next_offset
    await publish(url, *new)
    async with Tail(url, start=stopped_at).running() as second:
        await wait_until(lambda: second.has(*new))
        assert not second.has(old[-1])
        assert min(second.offsets) == stopped_at


async def test_a_slow_reader_is_sent_no_more_than_its_prefetch(url: str) -> None:
    first, *tasks = names(41)
    await publish(url, first)
    async with Tail(url).running() as earlier:
        await wait_until(lambda: earlier.has(first))
    # The broker sends whole chunks, and those of other tests may hold several messages.
    await publish(url, *tasks)
    tail = Tail(url, prefetch=5, start=earlier.reader.next_offset)
    tail.gate.clear()
    async with tail.running():
        await wait_until(tail.asked.is_set)
        # However often the connection is lost while it is slow.
        for _ in range(3):
            before = tail.link.reconnects
            tail.link.suspect()
            await wait_until(lambda before=before: tail.link.reconnects > before)  # type: ignore[misc]
            await wait_until(tail.has_new_ones)
            await wait_until(lambda: len(tail.reader._arrived) >= 5)
            assert len(tail.reader._arrived) == 5
        tail.gate.set()
        await wait_until(lambda: tail.has(*tasks))
        assert tail.offsets == sorted(set(tail.offsets))


async def test_a_batch_that_cannot_be_taken_is_read_again_from_next_offset(url: str) -> None:
    (task,) = names(1)

    async def refuse(_batch: Batch) -> None:
        raise OSError("the disk is full")

    link = AmqpConnection(url, name=f"test.records.{uuid4()}", prepare=declare_topology)
    reader = RecordReader(link, refuse)
    await publish(url, task)
    await link.start(10)
    with pytest.raises(OSError, match="disk is full"):
        await reader.read_records()
    await link.close()
    assert reader.next_offset == 0
    async with Tail(url, start=reader.next_offset).running() as tail:
        await wait_until(lambda: tail.has(task))
