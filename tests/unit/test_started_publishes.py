"""Publishes that go out at once: what they are told, and what they leave to a task."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from channels import until_idle
from maniple.amqp import FirstPublishes, Outgoing, Publisher, SuspectAddresses
from maniple.amqp.wire.amqp_errors import (
    ACCESS_REFUSED,
    ConnectionLost,
    PublishFailed,
    PublishImpossible,
    PublishReturned,
    channel_closed,
)
from maniple.errors import BrokerRefused, BrokerUnavailable, PublishRefused
from maniple.timings import Amqp

AGAIN = {"again": "true"}


class Channel:
    """Keeps what is published on it, and confirms it when a test says so."""

    def __init__(self) -> None:
        self.writable = True
        self.is_closed = False
        self.impossible = False
        self.bodies: list[bytes] = []
        self.headers: list[Any] = []
        self.confirms: list[asyncio.Future[None]] = []
        self.closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def wait_writable(self) -> None:
        while not self.writable:  # noqa: ASYNC110 - a test sets it
            await asyncio.sleep(0)

    def publish(self, body: bytes, *, properties: Any, **_: Any) -> asyncio.Future[None]:
        if self.impossible:
            raise PublishImpossible
        self.bodies.append(body)
        self.headers.append(properties.headers)
        self.confirms.append(asyncio.get_running_loop().create_future())
        return self.confirms[-1]


class On:
    """A publisher, and the channels that it has had; the last one is open."""

    def __init__(self, **options: Any) -> None:
        self.suspected = 0
        link: Any = SimpleNamespace(
            times=Amqp(),
            is_up=True,
            blocked=False,
            last_error=None,
            add_endpoint=lambda *_: None,
            wait_up=self._up,
            suspect=self._suspect,
        )
        self.link = link
        self.publisher = Publisher(link, **options)
        self.channels: list[Channel] = []

    async def _up(self) -> None: ...

    def _suspect(self) -> None:
        self.suspected += 1

    async def channel(self, **_: Any) -> Channel:
        self.channels.append(Channel())
        return self.channels[-1]

    channel_max = 100

    async def connect(self) -> Channel:
        await self.publisher.open(self)  # type: ignore[arg-type]  # a fake
        return self.channels[-1]

    async def lose(self) -> Channel:
        """Lose the connection and have another."""
        lost = self.channels[-1]
        self.publisher.lost()
        for confirm in lost.confirms:
            if not confirm.done():
                confirm.set_exception(ConnectionLost("lost"))
        return await self.connect()


def message(body: bytes = b"1", key: str = "key", **more: Any) -> Outgoing:
    return Outgoing("x", key, body, message_id="m", type="t", again=AGAIN, **more)


def is_task(future: asyncio.Future[None]) -> bool:
    return isinstance(future, asyncio.Task)


async def test_what_nothing_stands_in_the_way_of_goes_out_in_the_same_turn() -> None:
    on = On()
    channel = await on.connect()
    before = asyncio.all_tasks()
    started = on.publisher.start(message())
    assert channel.bodies == [b"1"]
    assert asyncio.all_tasks() == before
    await until_idle()
    assert not started.done()
    channel.confirms[0].set_result(None)
    await started
    assert not on.publisher._unconfirmed


@pytest.mark.parametrize(
    ("answer", "unroutable"), [(PublishFailed(), False), (PublishReturned(), True)]
)
async def test_a_refusal_is_told_as_by_publish(answer: PublishFailed, unroutable: bool) -> None:
    on = On()
    channel = await on.connect()
    started = on.publisher.start(message())
    channel.confirms[0].set_exception(answer)
    with pytest.raises(PublishRefused) as refused:
        await started
    assert refused.value.unroutable is unroutable
    assert refused.value.__cause__ is answer
    assert not on.publisher._unconfirmed


@pytest.mark.parametrize("way", ["no channel", "blocked", "down"])
async def test_what_cannot_go_out_now_waits_in_a_task(way: str) -> None:
    on = On()
    channel = None if way == "no channel" else await on.connect()
    on.link.is_up = way != "down"
    if channel is not None and way == "blocked":
        channel.writable = False
    started = on.publisher.start(message())
    assert is_task(started)
    assert channel is None or channel.bodies == []
    on.link.is_up = True
    channel = channel or await on.connect()
    channel.writable = True
    await until_idle()
    channel.confirms[0].set_result(None)
    await started


async def test_what_amqp_cannot_carry_is_refused() -> None:
    on = On()
    channel = await on.connect()
    channel.impossible = True
    started = on.publisher.start(message())
    with pytest.raises(PublishRefused):
        await started
    assert not on.publisher._unconfirmed


async def test_only_a_place_that_is_known_needs_no_scout() -> None:
    on = On(scouts=FirstPublishes(lambda key: key == "no queue"))
    channel = await on.connect()
    assert not is_task(on.publisher.start(message(key="no queue")))
    first = on.publisher.start(message())
    assert is_task(first)
    await until_idle()
    (scout,) = on.channels[1:]
    second = on.publisher.start(
        message(b"2")
    )  # waits for the scout, and then makes the place known
    await until_idle()
    scout.confirms[0].set_result(None)
    await until_idle()
    channel.confirms[-1].set_result(None)
    await asyncio.gather(first, second)
    third = on.publisher.start(message(b"3"))
    assert (is_task(third), channel.bodies) == (False, [b"1", b"2", b"3"])
    channel.confirms[-1].set_exception(PublishReturned())
    with pytest.raises(PublishRefused):
        await third
    assert is_task(on.publisher.start(message()))  # nothing is there any more


async def test_an_address_that_may_cost_the_connection_is_sent_to_alone() -> None:
    on = On(max_losses=3, suspects=SuspectAddresses(lambda key: key))
    channel = await on.connect()
    suspect = on.publisher.start(message())
    assert is_task(suspect)
    await until_idle()
    channel.confirms[0].set_result(None)
    await suspect
    assert not is_task(on.publisher.start(message()))  # it has answered


async def test_after_a_loss_it_is_sent_again_and_says_so() -> None:
    on = On()
    first = await on.connect()
    started = on.publisher.start(message())
    second = await on.lose()
    await until_idle()
    assert not started.done()
    assert (first.headers, second.headers) == ([None], [AGAIN])
    second.confirms[0].set_result(None)
    await started


async def test_the_loss_of_a_channel_that_is_still_in_use_is_told_to_its_connection() -> None:
    on = On()
    channel = await on.connect()
    started = on.publisher.start(message())
    channel.confirms[0].set_exception(ConnectionLost("lost"))
    await until_idle()
    assert on.suspected == 1
    started.cancel()
    await until_idle()


async def test_each_loss_counts_against_it() -> None:
    on = On(max_losses=2)
    await on.connect()
    started = on.publisher.start(message())
    second = await on.lose()
    await until_idle()
    assert second.bodies == [b"1"]
    third = await on.lose()
    with pytest.raises(PublishRefused):
        await started
    assert third.bodies == []


async def test_what_is_sent_once_is_not_sent_again() -> None:
    on = On()
    await on.connect()
    started = on.publisher.start(message(once=True))
    second = await on.lose()
    with pytest.raises(BrokerUnavailable):
        await started
    assert second.bodies == []


async def test_what_is_given_up_is_not_sent_again_and_its_confirm_harms_nobody() -> None:
    on = On()
    first = await on.connect()
    given_up, lost = on.publisher.start(message()), on.publisher.start(message(b"2"))
    given_up.cancel()
    first.confirms[0].set_result(None)
    await until_idle()
    lost.cancel()
    second = await on.lose()
    await until_idle()
    assert second.bodies == []
    assert not on.publisher._unconfirmed


async def test_what_is_given_up_while_it_is_sent_again_is_sent_no_more() -> None:
    on = On()
    await on.connect()
    started = on.publisher.start(message())
    second = await on.lose()
    await until_idle()
    started.cancel()
    await until_idle()
    assert second.confirms[0].cancelled()
    third = await on.lose()
    await until_idle()
    assert third.bodies == []


async def test_a_channel_that_the_broker_has_closed_over_it_is_told_of() -> None:
    on = On(tells_refusals=True)
    channel = await on.connect()
    started = on.publisher.start(message())
    refused = channel_closed(
        ACCESS_REFUSED, "ACCESS_REFUSED - access to exchange 'x' in vhost '/' refused"
    )
    channel.closing.set_exception(refused)
    channel.closing.exception()
    on.publisher.lost()
    channel.confirms[0].set_exception(refused)
    with pytest.raises(BrokerRefused):
        await started
