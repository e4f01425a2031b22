"""When a missing confirm is the fault of the channel, and when that of one queue."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from channels import until_idle
from maniple.amqp import Outgoing, Publisher, publisher
from maniple.amqp.publisher import LOST_AFTER
from maniple.amqp.wire.amqp_errors import ConnectionLost, PublishFailed
from maniple.errors import BrokerUnavailable
from maniple.timings import Amqp

TIMES = Amqp(confirm=3.0, answer=2.0)
MOST = TIMES.ticks(TIMES.confirm)


class Channel:
    """Confirms what goes to others than `silent`; answers a question while it is `alive`."""

    def __init__(self) -> None:
        self.silent = {"stuck"}
        self.refused: set[str] = set()
        self.alive = True
        self.closed = 0
        self.asked = 0

    async def wait_writable(self) -> None: ...

    def publish(self, body: bytes, **told: Any) -> asyncio.Future[None]:
        return asyncio.ensure_future(self._publish(body, **told))

    async def _publish(self, _body: bytes, *, routing_key: str, **_: Any) -> None:
        if self.closed:
            self.closed -= 1
            raise ConnectionLost
        if routing_key in self.silent:
            await asyncio.Event().wait()
        if routing_key in self.refused:
            raise PublishFailed

    async def basic_qos(self, **_: int) -> None:
        self.asked += 1
        if not self.alive:
            await asyncio.Event().wait()


class On:
    """A publisher on a channel, whose seconds a test lets pass."""

    def __init__(self) -> None:
        self.channel = Channel()
        link: Any = SimpleNamespace(
            times=TIMES, add_endpoint=lambda *_: None, wait_up=self._up, suspect=lambda: None
        )
        self.publisher = Publisher(link)
        self._tasks: set[asyncio.Task[None]] = set()

    async def _up(self) -> None: ...

    async def channel_of(self, **_: Any) -> Channel:
        return self.channel

    async def open(self) -> "On":
        connection: Any = SimpleNamespace(channel=self.channel_of)
        await self.publisher.open(connection)
        return self

    def publish(self, key: str) -> None:
        message = Outgoing("", key, b"1", message_id="m", type="t")
        self._tasks.add(asyncio.create_task(self.publisher.publish(message)))

    async def passes(self, seconds: int, *also: str) -> list[bool]:
        """Tick, publishing to these places each second; return whether the channel was overdue."""
        told = []
        for _ in range(seconds):
            for key in also:
                self.publish(key)
            await until_idle()
            told.append(self.publisher.overdue())
            await until_idle()
        return told

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def test_one_queue_that_does_not_confirm_costs_no_connection() -> None:
    on = await On().open()
    on.publish("stuck")
    assert not any(await on.passes(LOST_AFTER * MOST, "well"))
    assert on.channel.asked == 0  # what is confirmed meanwhile says enough
    await on.close()


async def test_a_refusal_is_an_answer_too() -> None:
    on = await On().open()
    on.channel.refused = {"full"}
    on.publish("stuck")
    assert not any(await on.passes(3 * MOST, "full"))
    assert on.channel.asked == 0
    await on.close()


async def test_a_channel_is_asked_whether_it_answers_when_nothing_else_tells() -> None:
    on = await On().open()
    on.publish("stuck")
    assert not any(await on.passes(LOST_AFTER * MOST))
    assert 0 < on.channel.asked <= LOST_AFTER
    await on.close()


async def test_a_channel_that_does_not_answer_is_overdue() -> None:
    on = await On().open()
    on.channel.alive = False
    on.publish("stuck")
    told = await on.passes(MOST + 6)
    assert told == [False] * (len(told) - told.count(True)) + [True] * told.count(True)
    assert told.index(True) == MOST + TIMES.ticks(TIMES.answer) + 1
    await on.close()


async def test_what_is_never_confirmed_is_sent_again_in_the_end() -> None:
    on = await On().open()
    on.publish("stuck")
    told = await on.passes(LOST_AFTER * MOST + 1, "well")
    assert (any(told[:-1]), told[-1]) == (False, True)
    await on.close()


async def test_where_nothing_is_under_way_nothing_is_overdue() -> None:
    on = await On().open()
    on.channel.alive = False
    assert not any(await on.passes(3 * MOST))
    assert on.channel.asked == 0
    await on.close()


@pytest.mark.parametrize("once", [False, True])
async def test_what_is_sent_once_is_not_sent_again_over_a_new_connection(
    once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "FIRST_BACKOFF", 0.0)
    on = await On().open()
    message = Outgoing("", "well", b"1", message_id="m", type="t", once=once)
    on.channel.closed = 1
    if once:
        with pytest.raises(BrokerUnavailable):
            await on.publisher.publish(message)
    else:
        await on.publisher.publish(message)
    on.publisher.lost()
    late = asyncio.create_task(on.publisher.publish(message))  # nor what was to be sent meanwhile
    await asyncio.sleep(0)
    await on.open()
    (end,) = await asyncio.gather(late, return_exceptions=True)
    assert isinstance(end, BrokerUnavailable) == once
    await on.publisher.publish(message)
