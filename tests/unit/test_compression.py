"""Bundles that are compressed: read as they were, and no more memory taken than may be."""

import gzip
import tracemalloc
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.structs import replace

from maniple import ErrorCode, Status
from maniple.amqp import TASK_BYTES, ByteBudget
from maniple.amqp.byte_budget import ByteShare, weight_of
from maniple.client.carrier import AmqpCarrier
from maniple.client.handle import OutstandingHandles, TaskHandle
from maniple.codec import (
    decode_envelopes,
    decode_members,
    decode_results,
    encode,
    plain,
    plain_size,
)
from maniple.compression import GZIP, LEAST, MAGIC, MOST, MOST_A_MEMBER, compressed, decompressed
from maniple.errors import InvalidMessage
from maniple.messages import RESULTS_TYPE, Envelope, Result
from maniple.topology import READS_COMPRESSED, REPLY_PREFIX
from maniple_runtime.publish.batch_publisher import ResultPublisher
from maniple_runtime.telemetry import Metrics
from work_with_fakes import NOW, Delivery, FakePublisher

RESULT = Result(id="1", capability="a.task", status=Status.SUCCEEDED, finished_at=NOW)
MANY = 40


def results(number: int = MANY) -> list[Result]:
    return [replace(RESULT, id=str(one)) for one in range(number)]


@given(st.binary(min_size=1, max_size=LEAST))
def test_what_was_compressed_is_read_as_it_was(body: bytes) -> None:
    assert decompressed(compressed(body)) == body
    assert plain_size(compressed(body)) == len(body)


def test_every_reader_of_bundles_reads_compressed_ones() -> None:
    body = encode(results())
    packed = compressed(body)
    assert len(packed) < len(body) / 5
    assert decode_members(packed, Result) == decode_results(packed) == results()
    task = Envelope(id="1", capability="a", submitted_at=NOW, deadline=NOW)
    assert decode_envelopes(compressed(encode([task]))) == [task]


@given(st.binary(max_size=200))
def test_whatever_begins_as_if_compressed_is_undecodable(rest: bytes) -> None:
    with pytest.raises(InvalidMessage) as refused:
        decode_members(MAGIC + rest, Result)
    assert refused.value.code is ErrorCode.UNDECODABLE
    assert 0 <= plain_size(MAGIC + rest) <= MOST


PACKED = compressed(encode(results()))
DAMAGED = {
    "cut off": PACKED[:-1],
    "only its head": PACKED[:12],
    "with something behind it": PACKED + b" ",
    "two of them": PACKED + PACKED,
    "of another size than it tells": PACKED[:-4] + (1).to_bytes(4, "little"),
    "of no size": PACKED[:-4] + bytes(4),
    "with another byte within": PACKED[:30] + bytes([PACKED[30] ^ 0xFF]) + PACKED[31:],
}


@pytest.mark.parametrize("how", DAMAGED)
def test_what_is_damaged_is_undecodable(how: str) -> None:
    with pytest.raises(InvalidMessage) as refused:
        decode_members(DAMAGED[how], Result)
    assert refused.value.code is ErrorCode.UNDECODABLE
    assert refused.value.message


def test_what_would_be_too_large_is_refused_before_it_takes_memory() -> None:
    bomb = gzip.compress(bytes(64 * MOST))
    bombs = bomb, gzip.compress(bytes(MOST + 1)), bomb[:-4] + (100).to_bytes(4, "little")
    tracemalloc.start()
    try:
        for body in bombs:
            with pytest.raises(InvalidMessage) as refused:
                plain(body)
            assert refused.value.code is ErrorCode.UNDECODABLE
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < MOST / 2
    assert len(plain(compressed(bytes(MOST)))) == MOST
    assert plain_size(bomb) == MOST


def test_a_budget_counts_what_a_compressed_bundle_will_take() -> None:
    budget = ByteBudget(10 * MOST)
    share = ByteShare(budget, "q", lambda _: None, prefetch=lambda: 10, changed=None)
    delivery: Any = Delivery(body=compressed(bytes(100_000)))
    delivery.weight = 0
    share.count_delivery(delivery, 1)
    assert (budget.held, share.held) == (100_000, 100_000)
    share.count_settled(delivery)
    assert budget.held == 0
    assert weight_of(delivery.body) > 100_000 + 100 * TASK_BYTES


async def told(address: str, number: int) -> Any:
    """Return the one message by which so many results were sent to an address."""
    publisher = FakePublisher()
    outlet = ResultPublisher(publisher, Metrics(), replier=publisher)
    for result in results(number):
        outlet.report_result(result, address, None, lambda _: None)
    await outlet.drain_results()
    for record in publisher.to("maniple.results"):
        assert (record.encoding, record.body[:1]) == (None, b"[")
    (reply,) = [message for message in publisher.sent if message.exchange != "maniple.results"]
    return reply


async def test_a_client_is_sent_compressed_results_if_it_says_that_it_reads_them() -> None:
    carrier = AmqpCarrier("amqp://nowhere", OutstandingHandles(), None)
    reply = await told(carrier._replies.address, MANY)
    assert (reply.encoding, reply.properties().content_encoding) == (GZIP, GZIP)
    assert reply.routing_key == carrier._replies.secret
    assert decode_results(reply.body) == results()


async def test_an_earlier_client_is_sent_plain_results_and_so_is_who_gets_few() -> None:
    for address, number in (("c2VjcmV0", MANY), (f"{READS_COMPRESSED}c2VjcmV0", 3)):
        reply = await told(f"{REPLY_PREFIX}{address}", number)
        assert (reply.encoding, reply.properties().content_encoding) == (None, None)
        assert reply.body == encode(results(number))


async def test_what_has_large_members_is_sent_plain() -> None:
    publisher = FakePublisher()
    outlet = ResultPublisher(publisher, Metrics(), replier=publisher)
    for result in results():
        large = replace(result, output=Raw(b'"' + b"x" * MOST_A_MEMBER + b'"'))
        outlet.report_result(large, f"{REPLY_PREFIX}{READS_COMPRESSED}x", None, lambda _: None)
    await outlet.drain_results()
    assert [message.encoding for message in publisher.sent] == [None, None]


async def test_a_client_hears_compressed_results() -> None:
    outstanding = OutstandingHandles()
    carrier = AmqpCarrier("amqp://nowhere", outstanding, None)
    handle = TaskHandle("1", "default", "a.task", b"")
    outstanding.add_ticket(handle)
    delivery: Any = Delivery(body=PACKED)
    delivery.routing_key = carrier._replies.secret
    delivery.properties = SimpleNamespace(message_type=RESULTS_TYPE, correlation_id=None)
    carrier._on_delivery(delivery)
    assert (await handle.outcome(0)).status is Status.SUCCEEDED
