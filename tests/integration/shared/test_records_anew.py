"""Readers of a stream that an operator deletes and declares anew."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import cast
from uuid import uuid4

import pika
import pytest
from pika.adapters.blocking_connection import BlockingConnection
from structlog.testing import capture_logs

from local_servers import SharedServers
from maniple.amqp import AmqpConnection, Outgoing, Publisher, declare_topology
from maniple.codec import encode
from maniple.messages import RESULTS_TYPE, Result, Status
from maniple.topology import RECORDS, RESULTS
from maniple_dispatcher import result_learning
from maniple_dispatcher.result_cache import ResultCache
from maniple_dispatcher.result_learning import ResultLearner
from maniple_runtime.policy_view import PolicyView
from reader_runtime import reader_runtime
from waiting import wait_until

USER = "ledger"


@pytest.fixture
async def url(shared: SharedServers) -> AsyncIterator[str]:
    """An environment of the test's own, whose stream it may delete."""
    async with shared.environment(f"anew-{uuid4().hex[:8]}") as own:
        yield own.rabbitmq.url(USER)


async def record(url: str, count: int) -> set[str]:
    """Record so many good results, each in a message of its own, and return their payloads."""
    payloads = [uuid4().hex for _ in range(count)]
    link = AmqpConnection(url, name=f"test.publish.{uuid4()}", prepare=declare_topology)
    publisher = Publisher(link)
    await link.start(10)
    for payload in payloads:
        result = Result(
            id=uuid4().hex, capability="c", status=Status.SUCCEEDED, agent="agent-1",
            payload_digest=payload, finished_at=datetime.now(UTC),
        )  # fmt: skip
        message = Outgoing(RESULTS.name, "c", encode([result]), str(uuid4()), RESULTS_TYPE)
        await publisher.publish(message)
    await link.close()
    return set(payloads)


def learned(good: ResultCache) -> set[str]:
    return {key.payload_digest for key in good._kept}


@pytest.mark.parametrize("more", [1, 20], ids=["and is shorter", "and is longer"])
async def test_good_results_are_learned_when_the_stream_begins_anew(
    url: str, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    monkeypatch.setattr(result_learning, "ASTRAY_AFTER", 2.0)
    good = ResultCache()
    policies = SimpleNamespace(current=SimpleNamespace(gives_last_good=True))
    old = await record(url, 10)
    with capture_logs() as lines:
        work = asyncio.create_task(
            ResultLearner(reader_runtime(url), cast("PolicyView", policies), good).learn_results()
        )
        await wait_until(lambda: learned(good) >= old, 30)
        with BlockingConnection(pika.URLParameters(url)) as connection:
            connection.channel().queue_delete(RECORDS.name)
        new = await record(url, more)
        await wait_until(lambda: learned(good) >= new, 60)
        work.cancel()
    assert learned(good) == old | new
    assert [line["reason"] for line in lines if "a few minutes ago" in line["event"]]
