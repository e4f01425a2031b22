"""What became of tasks that come again is found in the real stream."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from local_servers import LocalServers
from maniple.amqp import AmqpConnection, Outgoing, Publisher, declare_topology
from maniple.codec import encode
from maniple.messages import ACCEPTED_TYPE, RESULTS_TYPE, Result, Status, TaskAccepted
from maniple.topology import ACCEPTED_KEY, EVENTS, RESULTS
from maniple_dispatcher.ingress import record_lookup
from maniple_dispatcher.ingress.record_lookup import RecordLookup
from maniple_runtime.records import Record, TaskKey
from reader_runtime import reader_runtime
from waiting import wait_until

NOW = datetime(2026, 11, 29, 18, 0, tzinfo=UTC)
MANY = 300


class RecordedLookups:
    """A dispatcher's lookups, and a publisher to record what they find."""

    def __init__(self, url: str) -> None:
        self.link = AmqpConnection(url, name=f"test.publish.{uuid4()}", prepare=declare_topology)
        self.publisher = Publisher(self.link)
        self.lookups = RecordLookup(reader_runtime(url), self.publisher, lambda: 0.0)
        self.found: dict[str, list[Record | None]] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator["RecordedLookups"]:
        await self.link.start(10)
        work = asyncio.create_task(self.lookups.answer_lookups())
        try:
            yield self
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            await self.link.close()

    async def accept(self, *names: str) -> None:
        accepted = [
            TaskAccepted(
                id=name, capability="c", lane="c", submitted_at=NOW, dispatched_at=NOW, deadline=NOW
            )
            for name in names
        ]
        await self.publisher.publish(
            Outgoing(EVENTS.name, ACCEPTED_KEY, encode(accepted), str(uuid4()), ACCEPTED_TYPE)
        )

    async def end(self, *names: str) -> None:
        ends = [
            Result(id=name, capability="c", status=Status.REJECTED, finished_at=NOW)
            for name in names
        ]
        await self.publisher.publish(
            Outgoing(RESULTS.name, "c", encode(ends), str(uuid4()), RESULTS_TYPE)
        )

    def ask(self, *names: str) -> None:
        for name in names:
            key = TaskKey("default", name)
            self.lookups.ask(key, self.found.setdefault(name, []).append)

    async def answers(self) -> list[Any]:
        """Return what kinds of record were found, or why none, once all are there."""
        await wait_until(lambda: all(self.found.values()), 30)
        return [one[0] and type(one[0]) for one in self.found.values()]


@pytest.fixture
async def recorded(servers: LocalServers) -> AsyncIterator[RecordedLookups]:
    async with RecordedLookups(servers.rabbitmq.url("ledger")).running() as made:
        yield made


def names(count: int) -> list[str]:
    run = uuid4()
    return [f"{run}-{number}" for number in range(count)]


async def test_what_was_just_recorded_is_found_and_what_was_not_is_known_not_to_be(
    recorded: RecordedLookups,
) -> None:
    accepted, ended, unknown = names(3)
    await recorded.accept(accepted, ended)
    await recorded.end(ended)
    recorded.ask(accepted, ended, unknown)
    assert await recorded.answers() == [TaskAccepted, Result, None]


async def test_all_that_ask_at_a_time_are_answered_by_one_reading(
    recorded: RecordedLookups,
) -> None:
    ended = names(MANY)
    for first in range(0, MANY, 10):
        await recorded.end(*ended[first : first + 10])
    with capture_logs() as lines:
        recorded.ask(*ended)
        assert await recorded.answers() == [Result] * MANY
    assert [line["ended"] for line in lines if line["event"] == "tasks are redelivered"] == [MANY]


async def test_what_cannot_be_read_is_looked_up_again_until_it_can(
    recorded: RecordedLookups, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_lookup, "LIMIT", 0.0)
    (ended,) = names(1)
    await recorded.end(ended)
    with capture_logs() as lines:
        recorded.ask(ended)
        await wait_until(lambda: any("cannot be read" in line["event"] for line in lines))
    assert not any(recorded.found.values())
    monkeypatch.undo()
    assert await recorded.answers() == [Result]


async def test_what_happened_longer_ago_is_found_if_that_is_asked_for(
    recorded: RecordedLookups, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_lookup, "BACK", 0.0)
    ended, other = names(2)
    await recorded.end(ended)
    await asyncio.sleep(2.0)  # chunks bear the broker's time, and "0s" is now
    await recorded.end(other)
    recorded.lookups.ask(
        TaskKey("default", ended), recorded.found.setdefault(ended, []).append, since=60.0
    )
    assert await recorded.answers() == [Result]
