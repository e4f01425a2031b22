"""Every item added to an outlet hears of its end, once."""

import asyncio
from collections import Counter

import pytest
from msgspec import Raw
from msgspec.structs import replace

from maniple.amqp import Outgoing, Publisher
from maniple.codec import encode
from maniple.errors import (
    BrokerUnavailable,
    ErrorCode,
    InvalidMessage,
    ManipleError,
    PublishRefused,
)
from maniple.messages import MAX_BODY, Result, Status
from maniple.topology import LANES, REPLY_PREFIX, RESULTS
from maniple_runtime.metric_names import REPLIES_DROPPED
from maniple_runtime.publish import batch_publisher, confirm, refused_log
from maniple_runtime.publish.batch_options import BatchOptions
from maniple_runtime.publish.batch_publisher import MAX_KEYS, BatchPublisher, ResultPublisher
from maniple_runtime.publish.refused_log import RefusedLog
from maniple_runtime.telemetry import Metrics
from started_in_tasks import StartedInTasks

RESULT = Result(id="1", capability="text.stats", status=Status.SUCCEEDED)


class FakePublisher(StartedInTasks, Publisher):
    """Keeps what is published; raises `errors[key]` while there are any for a routing key."""

    def __init__(self) -> None:
        self.sent: list[Outgoing] = []
        self.errors: dict[str, list[Exception]] = {}
        self.gate = asyncio.Event()
        self.gate.set()

    async def publish(self, message: Outgoing, *, timeout: float | None = None) -> None:
        del timeout
        await self.gate.wait()
        if errors := self.errors.get(message.routing_key):
            raise errors.pop(0)
        self.sent.append(message)


class Ends:
    """Counts the calls of the `done` it makes, with what they were told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, ManipleError | None]] = []

    def of(self, name: str) -> confirm.ConfirmCallback:
        return lambda error: self.told.append((name, error))

    def ended_well(self, count: int) -> bool:
        once = Counter(name for name, _ in self.told)
        return len(once) == len(self.told) == count and not any(error for _, error in self.told)


def refused(key: str) -> PublishRefused:
    return PublishRefused("x", key, unroutable=False)


@pytest.fixture
def publisher() -> FakePublisher:
    return FakePublisher()


async def test_items_of_a_key_travel_together_and_each_is_told(publisher: FakePublisher) -> None:
    outlet, ends = BatchPublisher(publisher, LANES, "t"), Ends()
    for number in range(6):
        outlet.add_item("ab"[number % 2], str(number).encode(), ends.of(str(number)))
    await outlet.drain()
    bodies = {message.routing_key: message.body for message in publisher.sent}
    assert bodies == {"a": b"[0,2,4]", "b": b"[1,3,5]"}
    assert ends.ended_well(6)


async def test_a_refused_bundle_is_told_to_each_of_its_items(publisher: FakePublisher) -> None:
    outlet, ends = BatchPublisher(publisher, LANES, "t"), Ends()
    publisher.errors["full"] = [refused("full")]
    for number in range(3):
        outlet.add_item("full", b"0", ends.of(str(number)))
    outlet.add_item("other", b"0", ends.of("other"))
    await outlet.drain()
    errors = {name: error for name, error in ends.told if error is not None}
    assert sorted(errors) == ["0", "1", "2"]
    assert all(isinstance(error, PublishRefused) for error in errors.values())
    assert len(ends.told) == 4


async def test_an_outlet_that_insists_publishes_until_it_is_taken(
    publisher: FakePublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_publisher, "REFUSED_PAUSE", 0.001)
    outlet, ends = BatchPublisher(publisher, RESULTS, "t", BatchOptions(insist=True)), Ends()
    publisher.errors["k"] = [refused("k") for _ in range(3)]
    outlet.add_item("k", b"0", ends.of("it"))
    await outlet.drain()
    assert ends.ended_well(1)
    assert len({message.message_id for message in publisher.sent}) == 1


@pytest.mark.parametrize("error", [BrokerUnavailable("closed"), ValueError("too long")])
async def test_whatever_a_publish_raises_is_told(
    publisher: FakePublisher, error: Exception
) -> None:
    outlet, ends = BatchPublisher(publisher, LANES, "t"), Ends()
    publisher.errors["k"] = [error]
    outlet.add_item("k", b"0", ends.of("first"))
    outlet.add_item("k", b"1", ends.of("second"))
    await outlet.drain()
    assert [(name, isinstance(told, ManipleError)) for name, told in ends.told] == [
        ("first", True),
        ("second", True),
    ]


async def test_an_item_whose_end_raises_does_not_keep_the_others_waiting(
    publisher: FakePublisher,
) -> None:
    outlet, ends = BatchPublisher(publisher, LANES, "t"), Ends()

    def broken(_error: ManipleError | None) -> None:
        raise RuntimeError("a bug")

    outlet.add_item("k", b"0", broken)
    outlet.add_item("k", b"1", ends.of("second"))
    await outlet.drain()
    assert ends.ended_well(1)


async def test_resting_keys_are_forgotten_and_nothing_of_busy_ones_is_lost(
    publisher: FakePublisher,
) -> None:
    outlet, ends = BatchPublisher(publisher, LANES, "t"), Ends()
    for number in range(MAX_KEYS):
        outlet.add_item(f"rest.{number}", b"0", ends.of(f"rest.{number}"))
    await outlet.drain()
    publisher.gate.clear()
    for number in range(2 * MAX_KEYS):
        outlet.add_item(f"busy.{number}", b"0", ends.of(f"busy.{number}"))
        outlet.add_item(f"busy.{number // 2}", b"1", ends.of(f"more.{number}"))
    assert not any(key.startswith("rest") for key in outlet._bundlers)
    publisher.gate.set()
    await outlet.drain()
    assert ends.ended_well(5 * MAX_KEYS)
    for number in range(3 * MAX_KEYS):
        outlet.add_item(f"then.{number}", b"0", ends.of(f"then.{number}"))
        await outlet.drain()
    assert len(outlet._bundlers) < 3 * MAX_KEYS


async def test_a_key_that_was_forgotten_keeps_its_size(publisher: FakePublisher) -> None:
    sizes = {"slow": 1}
    outlet = BatchPublisher(
        publisher, LANES, "t", BatchOptions(size_of=lambda key: sizes.get(key, 128))
    )
    outlet.add_item("slow", b"0", lambda _: None)
    for number in range(2 * MAX_KEYS):
        outlet.add_item(str(number), b"0", lambda _: None)
        await outlet.drain()
    assert "slow" not in outlet._bundlers
    publisher.sent.clear()
    for _ in range(5):
        outlet.add_item("slow", b"0", lambda _: None)
    await outlet.drain()
    assert [message.body for message in publisher.sent] == [b"[0]"] * 5


async def test_a_new_limit_holds_for_what_is_sent_from_now_on(publisher: FakePublisher) -> None:
    outlet = BatchPublisher(publisher, LANES, "t", BatchOptions(size_of=lambda _: 1))
    for size in (1, 3):
        outlet.limit("k", size)
        for _ in range(3):
            outlet.add_item("k", b"0", lambda _: None)
        await outlet.drain()
        outlet.limit("k", 3)
    assert [message.body for message in publisher.sent] == [*[b"[0]"] * 3, b"[0,0,0]"]


def test_a_limit_for_a_key_that_nobody_uses_is_not_kept(publisher: FakePublisher) -> None:
    outlet = BatchPublisher(publisher, LANES, "t")
    outlet.limit("nobody", 5)
    assert not outlet._bundlers


@pytest.mark.parametrize("reply_to", [None, "theirs", "maniple.replies.client-7"])
async def test_a_result_is_recorded_and_replied_before_it_is_done(
    publisher: FakePublisher, reply_to: str | None
) -> None:
    outlet, ends = ResultPublisher(publisher, Metrics(), replier=publisher), Ends()
    publisher.gate.clear()
    outlet.report_result(RESULT, reply_to, "corr", ends.of("it"))
    assert not ends.told
    publisher.gate.set()
    await outlet.drain_results()
    assert ends.ended_well(1)
    places = sorted((message.exchange, message.routing_key) for message in publisher.sent)
    expected = {
        None: [],
        "theirs": [("", "theirs")],
        "maniple.replies.client-7": [("maniple.replies", "client-7")],
    }
    assert places == [*expected[reply_to], ("maniple.results", "text.stats")]


async def test_a_reply_stands_alone_under_an_id_that_fits(publisher: FakePublisher) -> None:
    outlet = ResultPublisher(publisher, Metrics(), replier=publisher)
    task_id = "\N{GRINNING FACE}" * 128  # 512 bytes; AMQP takes 255
    result = Result(id=task_id, capability="x", status=Status.SUCCEEDED)
    outlet.report_result(result, "theirs", "corr", lambda _: None)
    await outlet.drain_results()
    reply = next(message for message in publisher.sent if message.routing_key == "theirs")
    assert reply.body == encode(result)
    assert (reply.correlation_id, reply.persistent) == ("corr", True)
    assert reply.properties().to_bytes()


@pytest.mark.parametrize("reply_to", ["gone", "maniple.replies.gone"])
async def test_a_reply_that_nobody_can_take_is_counted_and_dropped(
    publisher: FakePublisher, reply_to: str
) -> None:
    metrics, ends = Metrics(), Ends()
    outlet = ResultPublisher(publisher, metrics, replier=publisher)
    publisher.errors["gone"] = [refused("gone")]
    outlet.report_result(RESULT, reply_to, None, ends.of("it"))
    await outlet.drain_results()
    assert ends.ended_well(1)
    assert metrics.registry.get_sample_value(f"{REPLIES_DROPPED.name}_total") == 1


async def test_a_reply_that_could_not_be_tried_is_an_error(publisher: FakePublisher) -> None:
    outlet, ends = ResultPublisher(publisher, Metrics(), replier=publisher), Ends()
    publisher.errors["theirs"] = [BrokerUnavailable("closed")]
    outlet.report_result(RESULT, "theirs", None, ends.of("it"))
    await outlet.drain_results()
    assert [(name, type(error)) for name, error in ends.told] == [("it", BrokerUnavailable)]


async def test_what_is_not_confirmed_is_counted_in_bytes(publisher: FakePublisher) -> None:
    outlet, ends = ResultPublisher(publisher, Metrics(), replier=publisher), Ends()
    publisher.gate.clear()
    for number in range(3):
        outlet.report_result(RESULT, None, None, ends.of(str(number)))
    assert outlet.kept == 3 * len(encode(RESULT))
    publisher.gate.set()
    await outlet.drain_results()
    assert outlet.kept == 0


async def test_a_burst_of_large_results_travels_in_messages_of_one_each(
    publisher: FakePublisher,
) -> None:
    """Or one might be larger than a broker takes, which closes the channel on it."""
    outlet = ResultPublisher(publisher, Metrics(), replier=publisher)
    ends = Ends()
    large = Raw(b'"' + b"x" * (MAX_BODY - 2) + b'"')
    for number in range(40):
        result = replace(RESULT, id=str(number), output=large)
        outlet.report_result(result, f"{REPLY_PREFIX}client", None, ends.of(str(number)))
    await outlet.drain_results()
    assert len(publisher.sent) == 80  # its record, and its reply
    assert max(len(message.body) for message in publisher.sent) < MAX_BODY + 1000


async def test_of_input_over_the_limit_the_head_is_kept_until_it_is_taken(
    publisher: FakePublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refused_log, "REFUSED_PAUSE", 0.001)
    key, ends = "service.refused.payload_too_large", Ends()
    publisher.errors[key] = [refused(key)]
    body = b"x" * (MAX_BODY + 1)
    log = RefusedLog(publisher, Metrics())
    log.keep(body, InvalidMessage(ErrorCode.PAYLOAD_TOO_LARGE, "big"), {}, ends.of("it"))
    await log.drain_log()
    (kept,) = publisher.sent
    assert (len(kept.body), kept.routing_key) == (64 * 1024, key)
    assert kept.headers is not None
    assert kept.headers["size"] == str(len(body))
    assert ends.ended_well(1)
