"""In what order a consumer speaks to the broker, over a channel that remembers it."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from channels import Channel, until_idle
from maniple.amqp import Consumer, consumer
from maniple.amqp.wire.properties import Properties
from maniple.amqp.wire.requests import Message


class Broker:
    """One connection with one channel."""

    def __init__(self) -> None:
        self.opened = Channel()

    async def channel(self, **_: Any) -> Channel:
        return self.opened


async def consuming() -> tuple[Consumer, Channel]:
    broker = Broker()
    made = Consumer("a.queue", lambda delivery: delivery.ack(), prefetch=5)
    connection: Any = broker
    await made.open(connection)
    broker.opened.told.clear()
    return made, broker.opened


def deliver(channel: Channel, tag: int) -> None:
    """Deliver a message, which is acknowledged at once."""
    channel.deliver(Message(tag, False, "", "a.queue", Properties(), b"1"))


async def test_a_subscription_is_not_ended_while_something_may_be_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(consumer, "QUIET", 3600.0)
    on, channel = await consuming()
    pausing = asyncio.create_task(on.pause())
    await until_idle()
    deliver(channel, 1)
    await until_idle()
    assert (on.unsettled, channel.told) == (1, [])  # an acknowledgement would let more set out
    pausing.cancel()
    await asyncio.wait({pausing})
    await until_idle()
    assert channel.told == []  # who does not wait for it changes it nevertheless
    on.lost()
    await until_idle()
    assert channel.told == []


async def test_what_arrives_before_the_end_of_a_subscription_is_acknowledged_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(consumer, "QUIET", 0.0)
    on, channel = await consuming()
    deliver(channel, 1)
    await until_idle()
    resizing = asyncio.create_task(on.resize(9))
    await asyncio.sleep(0)
    deliver(channel, 2)
    await resizing
    await until_idle()
    one, *rest = channel.told
    assert one == "ack 1 and before"
    assert sorted(rest) == sorted(["cancel", "ack 2 and before", "qos 9", "consume"])
    assert rest.index("cancel") < rest.index("ack 2 and before")


async def test_what_cannot_be_asked_of_the_broker_has_the_connection_built_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on, channel = await consuming()
    suspected: list[bool] = []
    on.owner = SimpleNamespace(suspect=lambda: suspected.append(True))

    async def refuse(**_: Any) -> None:
        raise TypeError("Short unsigned integer range: 0 to 65535")

    monkeypatch.setattr(consumer, "QUIET", 0.0)
    monkeypatch.setattr(channel, "basic_qos", refuse)
    await on.resize(70_000)
    assert suspected
