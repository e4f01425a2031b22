"""How a connection is tried again, with a server that takes nobody."""

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

import pytest

from maniple.amqp import AmqpConnection, Inspector, supervision
from maniple.amqp.supervision import Supervised
from maniple.amqp.wire.interface import Wire
from maniple.errors import BrokerUnavailable
from maniple.timings import Amqp
from waiting import wait_until


async def test_what_does_not_open_is_tried_as_often_as_its_times_say() -> None:
    tried = 0

    def refuse(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tried
        tried += 1
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        link = AmqpConnection(f"amqp://127.0.0.1:{port}/", name="refused", times=Amqp(backoff=0.02))
        starting = asyncio.create_task(link.start())
        try:
            await wait_until(lambda: tried > 40)  # at the default of 2 s that takes a minute
        finally:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)


async def test_why_nobody_is_there_is_told_in_words() -> None:
    with pytest.raises(BrokerUnavailable, match=r"within 0\.05 s: C[^<]*$"):
        await AmqpConnection("amqp://127.0.0.1:1/", name="refused").start(0.05)


class Coming(Supervised[Wire]):
    """A connection that opens when it is told to."""

    def __init__(self) -> None:
        super().__init__("amqp://127.0.0.1:1/", "coming")
        self.opens = asyncio.Event()
        self.tried = 0

    async def _build(self) -> None:
        self.tried += 1
        await self.opens.wait()

    def _forget(self) -> None: ...


@pytest.mark.parametrize("steps", range(6))
async def test_a_connection_that_opens_while_it_is_closed_is_closed(steps: int) -> None:
    """Between what opens it and the end of its waiting there are some turns of the loop."""
    coming = Coming()
    starting = asyncio.create_task(coming.start())
    await wait_until(lambda: coming.tried == 1)
    coming.opens.set()
    for _ in range(steps):
        await asyncio.sleep(0)
    await wait_until(asyncio.create_task(coming.close()).done)
    assert not coming.is_up
    await asyncio.gather(starting, return_exceptions=True)
    assert starting.done()


async def test_a_connection_whose_library_swallows_a_cancellation_is_closed() -> None:
    class Deaf(Coming):
        async def _build(self) -> None:
            self.tried += 1
            with contextlib.suppress(asyncio.CancelledError):
                await self.opens.wait()

    deaf = Deaf()
    starting = asyncio.create_task(deaf.start())
    await wait_until(lambda: deaf.tried == 1)
    await wait_until(asyncio.create_task(deaf.close()).done)
    assert not deaf.is_up
    await asyncio.gather(starting, return_exceptions=True)


class Standing(Supervised[Wire]):
    """A connection that opens at once; looking after what is on it fails."""

    def __init__(self, *, where: str) -> None:
        super().__init__("amqp://127.0.0.1:1/", "standing", times=Amqp(tick=0.01, backoff=0.01))
        self.where, self.built = where, 0
        self.ticks = 0

    async def _build(self) -> None:
        self.built += 1
        wire: Any = SimpleNamespace(
            closing=asyncio.get_running_loop().create_future(),
            heard=0,
            is_blocked=self._no,
            close=self._no,
            abort=lambda: None,
        )
        self._keep(wire)

    async def _no(self) -> bool:
        return False

    def _fail(self, where: str) -> None:
        if where == self.where:
            raise ValueError("a bug")

    def _tick(self) -> None:
        self.ticks += 1
        self._fail("tick")

    def _is_overdue(self) -> bool:
        self._fail("overdue")
        return False

    def _forget(self) -> None:
        self._fail("forget")


async def test_what_is_looked_after_may_raise_and_the_connection_is_watched_on() -> None:
    standing = Standing(where="tick")
    await standing.start(10.0)
    await wait_until(lambda: standing.ticks > 3)
    assert (standing.is_up, standing.built) == (True, 1)
    await standing.close()


@pytest.mark.parametrize("where", ["overdue", "forget"])
async def test_a_connection_that_nobody_watches_any_more_is_built_anew(where: str) -> None:
    standing = Standing(where=where)
    await standing.start(10.0)
    if where == "forget":
        standing.suspect()
    await wait_until(lambda: standing.built > 1)
    await standing.close()


class Unread(Standing):
    """A connection whose broker reads nothing, also not that it is closed."""

    def __init__(self) -> None:
        super().__init__(where="")
        self.gone = asyncio.Event()

    def _keep(self, wire: Wire, close: Any = None) -> None:  # noqa: ARG002
        wire.abort = self.gone.set  # type: ignore[method-assign]
        super()._keep(wire, self._close)

    async def _close(self) -> None:
        # As aio-pika, of the control plane: a cancellation does not end its waiting.
        try:
            await self.gone.wait()
        finally:
            await self.gone.wait()


async def test_a_connection_whose_broker_reads_nothing_is_closed_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervision, "CLOSE_TIMEOUT", 0.05)
    unread = Unread()
    await unread.start(10.0)
    async with asyncio.timeout(5):
        await unread.close()
    assert unread.gone.is_set()


async def test_what_nothing_would_open_any_more_cannot_be_added() -> None:
    link = AmqpConnection("amqp://127.0.0.1:1/", name="refused")
    Inspector(link)
    with pytest.raises(BrokerUnavailable):
        await link.start(0.05)
    with pytest.raises(RuntimeError, match="refused has been started"):
        Inspector(link)
