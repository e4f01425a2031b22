"""One behaviour of a real broker, by our AMQP and by aiormq's, which the control plane uses."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from local_servers import LocalServers
from waiting import wait_until
from wire_links import ChannelLink, Got, Link, Nacked, Ours, Refused, Returned, Theirs

HEADERS: dict[str, Any] = {
    "yes": True,
    "byte": -3,
    "short": -300,
    "unsigned short": 60_000,
    "long": -70_000,
    "unsigned long": 4_000_000_000,
    "long long": 2**40,
    "float": 0.5,
    "decimal": Decimal("3.14"),
    "text": "wörter",
    "empty": "",
    "bytes": bytearray(b"\x00\xff"),
    "time": datetime(2026, 3, 1, 12, tzinfo=UTC),
    "nothing": None,
    "list": [1, "two", [0.25, None], {"four": True}],
    "table": {"inner": {"inmost": ["deep", -1]}},
}
ALL: dict[str, Any] = {
    "content_type": "application/json",
    "content_encoding": "utf-8",
    "headers": HEADERS,
    "delivery_mode": 2,
    "priority": 7,
    "correlation_id": "ü" * 127,
    "reply_to": "x" * 255,
    "expiration": "60000",
    "message_id": "id",
    "timestamp": datetime(2026, 3, 1, 12, tzinfo=UTC),
    "message_type": "t",
    "user_id": "agent",
    "app_id": "app",
}
SECONDS = 60.0


@pytest.fixture(params=[Ours, Theirs])
async def link(servers: LocalServers, request: pytest.FixtureRequest) -> AsyncIterator[Link]:
    made: Link = request.param()
    async with asyncio.timeout(SECONDS):
        await made.open(servers.rabbitmq.url("agent"))
        yield made
        await made.close()


@pytest.fixture
async def channel(link: Link) -> ChannelLink:
    return await link.channel()


@pytest.fixture
async def queue(link: Link) -> AsyncIterator[str]:
    name = new_name()
    making = await link.channel()
    await making.declare(name)
    yield name
    if not link.is_closed:
        await (await link.channel()).delete(name)


def new_name() -> str:
    return f"maniple.agent.test-{uuid4()}"


async def taken(channel: ChannelLink, queue: str, count: int) -> list[Got]:
    got: list[Got] = []
    await channel.consume(queue, got)
    await wait_until(lambda: len(got) >= count)
    return got


async def depth(link: Link, queue: str) -> int:
    looking = await link.channel()
    found = (await looking.declare(queue, passive=True))[1]
    await looking.close()
    return found


@pytest.mark.parametrize("size", [0, 1, 131_064, 131_065, 1_000_000])
async def test_bodies_come_as_they_went(channel: ChannelLink, queue: str, size: int) -> None:
    body = bytes(number % 251 for number in range(size))
    await channel.publish(body, queue)
    (got,) = await taken(channel, queue, 1)
    assert (got.body, got.exchange, got.key, got.redelivered) == (body, "", queue, False)


async def test_properties_come_as_they_went(channel: ChannelLink, queue: str) -> None:
    await channel.publish(b"", queue, **ALL)
    await channel.publish(b"", queue)
    full, empty = await taken(channel, queue, 2)
    assert full.properties == ALL
    bare = empty.properties | {"message_id": None}  # aiormq gives every message one
    assert not any(bare.values())


async def test_messages_come_in_the_order_in_which_they_went(
    channel: ChannelLink, queue: str
) -> None:
    bodies = [str(number).encode() for number in range(500)]
    await asyncio.gather(*(channel.publish(body, queue) for body in bodies))
    assert [got.body for got in await taken(channel, queue, len(bodies))] == bodies


async def test_a_message_that_nothing_is_bound_for_is_returned(
    channel: ChannelLink, queue: str
) -> None:
    publishes = [
        channel.publish(b"", key, message_id=str(number))
        for number, key in enumerate((queue, new_name(), queue, new_name()))
    ]
    done = await asyncio.gather(*publishes, return_exceptions=True)
    assert [type(one) for one in done] == [type(None), Returned, type(None), Returned]
    await channel.publish(b"", new_name(), mandatory=False)


async def test_a_message_that_a_full_queue_refuses_fails(channel: ChannelLink) -> None:
    name = new_name()
    full = {"x-max-length": 1, "x-overflow": "reject-publish"}
    await channel.declare(name, arguments=full)
    await channel.publish(b"fits", name)
    with pytest.raises(Nacked):
        await channel.publish(b"does not", name)
    await channel.delete(name)


async def test_what_is_acknowledged_is_gone_and_the_rest_comes_again(
    link: Link, channel: ChannelLink, queue: str
) -> None:
    for number in range(5):
        await channel.publish(str(number).encode(), queue)
    got = await taken(channel, queue, 5)
    await channel.ack(got[1].tag, multiple=True)
    await channel.ack(got[3].tag)
    await channel.close()
    again = await taken(await link.channel(), queue, 2)
    assert [(one.body, one.redelivered) for one in again] == [(b"2", True), (b"4", True)]


async def test_what_is_refused_comes_again_or_is_gone(
    link: Link, channel: ChannelLink, queue: str
) -> None:
    await channel.publish(b"one", queue)
    got = await taken(channel, queue, 1)
    await channel.reject(got[0].tag, requeue=True)
    await wait_until(lambda: len(got) == 2)
    assert (got[1].body, got[1].redelivered) == (b"one", True)
    await channel.reject(got[1].tag, requeue=False)
    await channel.close()
    assert await depth(link, queue) == 0


async def test_no_more_than_the_prefetch_is_unsettled(
    link: Link, channel: ChannelLink, queue: str
) -> None:
    for number in range(6):
        await channel.publish(str(number).encode(), queue)
    await channel.qos(2)
    got = await taken(channel, queue, 2)
    assert await depth(link, queue) == 4
    assert len(got) == 2
    await channel.ack(got[1].tag, multiple=True)
    await wait_until(lambda: len(got) == 4)


async def test_what_needs_no_acknowledgement_is_gone_when_it_comes(
    link: Link, channel: ChannelLink, queue: str
) -> None:
    await channel.publish(b"one", queue)
    got: list[Got] = []
    await channel.consume(queue, got, no_ack=True)
    await wait_until(lambda: len(got) == 1)
    await channel.close()
    assert await depth(link, queue) == 0


async def test_a_consumer_that_is_ended_gets_nothing_more(
    link: Link, channel: ChannelLink, queue: str
) -> None:
    got: list[Got] = []
    tag = await channel.consume(queue, got)
    await channel.publish(b"one", queue)
    await wait_until(lambda: len(got) == 1)
    await channel.cancel(tag)
    await channel.publish(b"two", queue)
    assert await depth(link, queue) == 1
    await channel.ack(got[0].tag)
    assert [one.body for one in got] == [b"one"]


async def test_a_queue_gives_one_message_or_none(channel: ChannelLink, queue: str) -> None:
    assert await channel.get(queue) is None
    await channel.publish(b"one", queue, message_id="id")
    await channel.publish(b"", queue)
    one, two = await channel.get(queue), await channel.get(queue)
    assert one is not None
    assert two is not None
    assert (one.body, one.properties["message_id"], one.key) == (b"one", "id", queue)
    assert two.body == b""
    await channel.ack(two.tag, multiple=True)
    assert await channel.get(queue) is None


async def test_what_the_broker_refuses_costs_the_channel_and_no_other(
    link: Link, channel: ChannelLink, queue: str
) -> None:
    refused: list[tuple[int, Callable[[ChannelLink], Awaitable[object]]]] = [
        (404, lambda one: one.declare(new_name(), passive=True)),
        (403, lambda one: one.declare("not.ours")),
        (406, lambda one: one.declare(queue, arguments={"x-max-length": 3})),
        (404, lambda one: one.get(new_name())),
        (404, lambda one: one.consume(new_name(), [])),
    ]
    for code, wrong in refused:
        one = await link.channel()
        with pytest.raises(Refused) as caught:
            await wrong(one)
        assert caught.value.code == code
    await channel.publish(b"one", queue)
    assert await channel.get(queue) is not None


async def test_an_acknowledgement_of_nothing_costs_the_channel(
    link: Link, channel: ChannelLink, queue: str
) -> None:
    one = await link.channel()
    await one.ack(99)
    with pytest.raises(Refused) as caught:
        await one.declare(queue, passive=True)
    assert caught.value.code == 406
    await channel.publish(b"one", queue)


async def test_names_have_255_bytes_and_no_more(channel: ChannelLink, queue: str) -> None:
    longest = new_name().ljust(255, "x")
    assert await channel.declare(longest) == (longest, 0)
    await channel.publish(b"one", longest)
    assert await channel.get(longest) is not None
    await channel.delete(longest)
    with pytest.raises((ValueError, TypeError, Nacked)):
        await channel.publish(b"one", longest + "x")
    with pytest.raises((ValueError, TypeError)):
        await channel.declare(longest + "x")
    await channel.publish(b"one", queue)


async def test_closing_a_connection_ends_its_channels_and_frees_what_they_held(
    servers: LocalServers, link: Link, channel: ChannelLink, queue: str
) -> None:
    await channel.publish(b"one", queue)
    await taken(channel, queue, 1)
    await link.close()
    assert link.is_closed
    other = type(link)()
    await other.open(servers.rabbitmq.url("agent"))
    (got,) = await taken(await other.channel(), queue, 1)
    assert got.redelivered
    await (await other.channel()).delete(queue)
    await other.close()


@pytest.mark.parametrize(
    ("kind", "what", "code"),
    [(Ours, "password", 403), (Theirs, "password", 403), (Ours, "vhost", 530)],
)  # of the vhost aiormq says that something else came than was expected
async def test_a_login_that_is_refused_is_told(
    servers: LocalServers, kind: type[Link], what: str, code: int
) -> None:
    url = servers.rabbitmq.url("agent")
    wrong = url + "-none" if what == "vhost" else url.replace("agent:", "agent:wrong")
    with pytest.raises(Refused) as caught:
        await kind().open(wrong)
    assert caught.value.code == code
