"""Who is cancelled at the moment at which a loss is reported is cancelled."""

import asyncio
from types import SimpleNamespace
from typing import Any

import aiormq
import pytest
from aiormq.base import FutureStore

from maniple.amqp import AmqpConnection, Inspector
from maniple.amqp.wire.amqp_errors import channel_closed
from maniple.amqp.wire.channel import Channel
from maniple_runtime.control.cancellation import hear_cancellations

TURNS = 8  # of the loop; after so many a loss has reached who waits


class Calls:
    """Calls that are made as aiormq makes them, never answered."""

    def __init__(self) -> None:
        self._calls = FutureStore(asyncio.get_running_loop())

    async def call(self) -> None:
        await self._calls.create_task(asyncio.Event().wait())

    async def fail(self, error: Exception) -> None:
        await self._calls.reject_all(error)


class Opened:
    """A connection with one channel of ours, on which nothing is answered."""

    def __init__(self) -> None:
        wire: Any = SimpleNamespace(
            loop=asyncio.get_running_loop(), send=lambda _: None, wake_writers=lambda: None
        )
        self.opened = Channel(wire, 1)

    async def channel(self) -> Channel:
        return self.opened


@pytest.mark.parametrize("turns", range(TURNS))
async def test_a_look_that_is_cancelled_as_it_is_answered_that_nothing_is_there_is_cancelled(
    turns: int,
) -> None:
    on: Any = Opened()
    inspector = Inspector(AmqpConnection("amqp://127.0.0.1:1/", name="look"))
    await inspector.open(on)
    looking = asyncio.create_task(inspector.inspect_queue("gone"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    on.opened.end_all(channel_closed(404, "NOT_FOUND - no queue 'gone'"))
    for _ in range(turns):
        await asyncio.sleep(0)
    is_told = looking.cancel()
    await asyncio.wait([looking])
    assert looking.cancelled() == is_told
    assert is_told == (turns == 0)
    if not is_told:
        assert not looking.result().there


@pytest.mark.parametrize("turns", range(TURNS))
async def test_a_call_of_aiormq_that_is_cancelled_as_its_channel_is_lost_is_cancelled(
    turns: int,
) -> None:
    hear_cancellations()
    calls = Calls()
    ends: list[str] = []

    async def look() -> None:
        try:
            await calls.call()
        except aiormq.exceptions.ChannelNotFoundEntity:
            ends.append("told")

    looking = asyncio.create_task(look())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    failing = asyncio.create_task(calls.fail(aiormq.exceptions.ChannelNotFoundEntity("gone")))
    for _ in range(turns):
        await asyncio.sleep(0)
    is_told = looking.cancel()
    await asyncio.wait([looking, failing])
    assert looking.cancelled() == is_told
    assert is_told or turns > 1
    assert ends == ([] if is_told else ["told"])


async def test_a_loss_is_told_to_who_is_not_cancelled_then() -> None:
    hear_cancellations()
    hear_cancellations()
    calls = Calls()

    async def cleaning_up() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            with pytest.raises(ConnectionError, match="lost"):
                await calls.call()
            return "told"
        return ""

    cleaning = asyncio.create_task(cleaning_up())
    await asyncio.sleep(0)
    cleaning.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await calls.fail(ConnectionError("lost"))
    assert await cleaning == "told"
