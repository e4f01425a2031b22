"""Who is cancelled at the moment at which aiormq reports a loss is cancelled."""

import asyncio
from types import SimpleNamespace
from typing import Any

import aiormq
import pytest
from aiormq.base import FutureStore

from maniple.amqp import AmqpConnection, Inspector
from maniple.amqp.cancellation import hear_cancellations

TURNS = 8  # of the loop; after so many a loss has reached who waits


class Calls:
    """A connection, and its channel: calls that are made as aiormq makes them, never answered."""

    def __init__(self) -> None:
        self._calls = FutureStore(asyncio.get_running_loop())

    async def channel(self, **_: Any) -> Any:
        return SimpleNamespace(queue_declare=self._call, close=self._call)

    async def _call(self, *_: Any, **__: Any) -> None:
        await self._calls.create_task(asyncio.Event().wait())

    async def fail(self, error: Exception) -> None:
        await self._calls.reject_all(error)


@pytest.mark.parametrize("turns", range(TURNS))
async def test_a_look_that_is_cancelled_as_it_is_answered_that_nothing_is_there_is_cancelled(
    turns: int,
) -> None:
    hear_cancellations()
    calls: Any = Calls()
    inspector = Inspector(AmqpConnection("amqp://127.0.0.1:1/", name="look"))
    await inspector.open(calls)
    looking = asyncio.create_task(inspector.inspect_queue("gone"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    failing = asyncio.create_task(calls.fail(aiormq.exceptions.ChannelNotFoundEntity("gone")))
    for _ in range(turns):
        await asyncio.sleep(0)
    is_told = looking.cancel()
    await asyncio.wait([looking, failing])
    assert looking.cancelled() == is_told
    assert is_told or turns > 1
    if not is_told:
        assert looking.result().consumers == 0


async def test_a_loss_is_told_to_who_is_not_cancelled_then() -> None:
    hear_cancellations()
    hear_cancellations()
    calls = Calls()

    async def cleaning_up() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            with pytest.raises(ConnectionError, match="lost"):
                await (await calls.channel()).close()
            return "told"
        return ""

    cleaning = asyncio.create_task(cleaning_up())
    await asyncio.sleep(0)
    cleaning.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await calls.fail(ConnectionError("lost"))
    assert await cleaning == "told"
