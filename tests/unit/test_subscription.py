"""Consumers that are kept each by itself, on a connection whose queues answer as a test decides."""

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from channels import Channel, until_idle
from maniple.amqp import Consumer, Subscription, consumer
from maniple.amqp import subscription as module
from maniple.amqp.wire.amqp_errors import AccessRefused, ChannelLost
from maniple.timings import Amqp
from waiting import wait_until

TIMES = Amqp(backoff=0.01, answer=3.0, unanswered=5.0)  # in ticks of a second, which a test makes


class Queues(Channel):
    """A channel to queues, of which those in `connection.silent` answer nothing."""

    def __init__(self, connection: "Connection") -> None:
        super().__init__()
        self.connection = connection
        self.closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed = 0

    async def basic_consume(self, queue: str, deliver: Any, **more: Any) -> Any:
        self.connection.asked.append(queue)
        if queue in self.connection.refused:
            raise AccessRefused("refused", 403)
        if queue in self.connection.silent:
            await asyncio.Event().wait()
        return await super().basic_consume(queue, deliver, **more)

    async def basic_cancel(self, _tag: str) -> None:
        if self.connection.silent:
            await asyncio.Event().wait()
        await super().basic_cancel(_tag)

    async def close(self) -> None:
        self.closed += 1


class Connection:
    """Opens channels, and remembers them."""

    def __init__(self) -> None:
        self.silent: set[str] = set()
        self.refused: set[str] = set()
        self.asked: list[str] = []
        self.channels: list[Queues] = []
        self.keepers: list[Subscription] = []

    async def channel(self, **_: Any) -> Queues:
        self.channels.append(Queues(self))
        return self.channels[-1]


class Kept:
    """A consumer of one queue with its keeper."""

    def __init__(self, connection: Any, queue: str) -> None:
        self.told: list[bool] = []
        self.lost = 0
        self.faulty = False
        self.consumer = Consumer(queue, lambda _: None, prefetch=5, on_lost=self._lost)
        self.keeper = Subscription(self.consumer, TIMES, on_silent=self._told)
        self.keeper.attach(connection)
        connection.keepers.append(self.keeper)

    def _lost(self) -> None:
        self.lost += 1
        self._fail()

    def _told(self, silent: bool) -> None:
        self.told.append(silent)
        self._fail()

    def _fail(self) -> None:
        if self.faulty:
            raise ValueError("a bug")

    def tick(self, times: int) -> None:
        for _ in range(times):
            self.keeper.tick()

    @property
    def is_open(self) -> bool:
        return self.keeper.opened.is_set()


@pytest.fixture
async def on() -> AsyncIterator[Connection]:
    connection = Connection()
    yield connection
    for keeper in connection.keepers:
        keeper.on_lost()
    await until_idle()


async def test_a_queue_that_does_not_answer_is_told_of_waited_for_and_costs_no_other(
    on: Connection,
) -> None:
    on.silent = {"silent"}
    silent, well = Kept(on, "silent"), Kept(on, "well")
    await wait_until(lambda: well.is_open)
    assert (silent.is_open, silent.consumer.consumes, silent.consumer.hungry) == (False,) * 3
    for kept in (silent, well):
        kept.tick(3)
        assert kept.told == []
        kept.tick(1)
    assert (silent.told, well.told) == ([True], [])
    assert on.asked == ["silent", "well"]  # asking again would only leave more behind


async def test_what_is_not_answered_for_long_is_asked_again_on_another_channel(
    on: Connection,
) -> None:
    on.silent = {"silent"}
    kept = Kept(on, "silent")
    await wait_until(lambda: on.asked == ["silent"])
    on.silent = set()
    kept.tick(5)
    await wait_until(lambda: kept.is_open)
    assert len(on.channels) == 2
    kept.tick(1)
    assert kept.told == [True, False]
    assert kept.consumer.hungry


async def test_a_queue_that_falls_silent_is_noticed_by_the_next_question(on: Connection) -> None:
    kept = Kept(on, "a")
    await wait_until(lambda: kept.is_open)
    on.silent = {"a"}
    kept.tick(10)
    assert (kept.told, kept.consumer.consumes) == ([], True)  # nothing was asked
    kept.consumer.renew()
    assert not kept.consumer.consumes
    await wait_until(lambda: kept.consumer.waits)
    kept.tick(4)
    assert kept.told == [True]
    on.silent = set()
    kept.tick(1)
    await wait_until(lambda: kept.consumer.hungry)
    assert (len(on.channels), on.channels[0].closed) == (2, 1)


async def test_a_queue_that_refuses_is_tried_until_it_does_not(on: Connection) -> None:
    on.refused = {"a"}
    kept = Kept(on, "a")
    await wait_until(lambda: len(on.asked) > 3)
    kept.tick(4)
    assert kept.told == [True]
    assert isinstance(kept.keeper.last_error, AccessRefused)
    on.refused = set()
    await wait_until(lambda: kept.is_open)


@pytest.mark.parametrize("how", ["channel", "queue"])
async def test_one_whose_channel_or_queue_is_gone_consumes_again_alone(
    on: Connection, how: str
) -> None:
    one, other = Kept(on, "a"), Kept(on, "b")
    await wait_until(lambda: one.is_open and other.is_open)
    gone = on.channels[0]
    if how == "channel":
        gone.closing.set_exception(ChannelLost("closed"))
    else:
        for told in tuple(gone.on_cancelled):
            told()
    await wait_until(lambda: on.asked == ["a", "b", "a"])
    await wait_until(lambda: one.is_open)
    assert (one.lost, other.lost) == (1, 0)
    generation = one.consumer.generation
    if how == "queue":  # the end of a channel that is not in use any more says nothing
        gone.closing.set_exception(ChannelLost("closed"))
    await until_idle()
    assert (one.consumer.generation, one.is_open) == (generation, True)


async def test_what_is_prepared_goes_before_each_attempt(on: Connection) -> None:
    prepared: list[int] = []

    async def prepare(_connection: object) -> None:
        prepared.append(len(on.asked))

    consumer = Consumer("a", lambda _: None, prefetch=5)
    keeper = Subscription(consumer, TIMES, prepare)
    connection: Any = on
    keeper.attach(connection)
    on.keepers.append(keeper)
    await keeper.opened.wait()
    keeper.suspect()
    await wait_until(lambda: len(on.asked) == 2)
    assert prepared == [0, 1]


async def test_a_lost_connection_ends_all_that_goes_on(on: Connection) -> None:
    on.silent = {"silent"}
    silent, well = Kept(on, "silent"), Kept(on, "well")
    await wait_until(lambda: well.is_open)
    for kept in (silent, well):
        kept.keeper.on_lost()
    asked = list(on.asked)
    on.silent = set()
    for kept in (silent, well):
        kept.keeper.suspect()
    await until_idle()
    assert (on.asked, silent.is_open, well.is_open) == (asked, False, False)
    assert (silent.lost, well.lost) == (1, 1)


async def test_a_callback_that_raises_does_not_end_what_keeps_a_consumer(on: Connection) -> None:
    kept = Kept(on, "a")
    await wait_until(lambda: kept.is_open)
    kept.faulty = True
    on.silent = {"a"}
    kept.keeper.suspect()
    await wait_until(lambda: on.asked == ["a", "a"])
    kept.tick(4)
    assert (kept.told, kept.lost) == ([True], 1)
    on.silent = set()
    kept.tick(1)
    await wait_until(lambda: kept.is_open)


async def test_whoever_owns_the_connection_hears_if_a_consumer_is_not_kept_any_more(
    on: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> float:
        raise ValueError("a bug")

    monkeypatch.setattr(module, "backoff", broken)
    keeper, deaths = (
        Subscription(Consumer("a", lambda _: None, prefetch=5), TIMES),
        list[BaseException](),
    )
    connection: Any = on
    keeper.attach(connection, deaths.append)
    await keeper.opened.wait()
    keeper.suspect()
    await wait_until(lambda: len(deaths) == 1)
    assert isinstance(deaths[0], ValueError)


class Flapping(Connection):
    """Its channels fall as soon as they are open."""

    async def channel(self, **more: Any) -> Queues:
        opened = await super().channel(**more)
        error = ChannelLost("closed")
        asyncio.get_running_loop().call_soon(opened.closing.set_exception, error)
        return opened


@pytest.mark.parametrize(("steady_after", "tried"), [(3600.0, [1, 2, 3, 4]), (0.0, [0, 0, 0, 0])])
async def test_what_falls_again_and_again_is_opened_ever_more_seldom(
    monkeypatch: pytest.MonkeyPatch, steady_after: float, tried: list[int]
) -> None:
    waits: list[int] = []

    def backoff(failures: int, _most: float) -> float:
        waits.append(failures)
        return 0.0

    monkeypatch.setattr(module, "backoff", backoff)
    monkeypatch.setattr(module, "STEADY_AFTER", steady_after, raising=False)
    kept = Kept(Flapping(), "a")
    await wait_until(lambda: len(waits) >= 4)
    kept.keeper.on_lost()
    assert waits[:4] == tried


class Late(Connection):
    """Answers what is asked of it once it may, some turns of the loop later."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what, self.may = what, asyncio.Event()

    async def answers(self, what: str) -> None:
        if what == self.what:
            await asyncio.get_running_loop().create_task(self._waits())

    async def _waits(self) -> None:
        await self.may.wait()

    async def channel(self, **_: Any) -> Queues:
        opened = _LateQueues(self)
        self.channels.append(opened)
        await self.answers("open")
        return opened


class _LateQueues(Queues):
    connection: Late

    async def basic_consume(self, queue: str, deliver: Any, **more: Any) -> Any:
        found = await super().basic_consume(queue, deliver, **more)
        await self.connection.answers("consume")
        return found


@pytest.mark.parametrize("what", ["open", "consume"])
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("turns", range(6))
async def test_of_an_attempt_that_is_given_up_as_it_is_answered_nothing_stays_open(
    what: str, turns: int, before: bool
) -> None:
    """The answer comes some turns of the loop before or after the attempt is given up."""
    on = Late(what)
    kept = Kept(on, "a")
    await wait_until(lambda: len(on.channels) == 1)
    await until_idle()
    steps = (on.may.set, kept.keeper.suspect)
    for step in steps if before else reversed(steps):
        step()
        for _ in range(turns):
            await asyncio.sleep(0)
    await wait_until(lambda: len(on.channels) > 1 and kept.is_open)
    await wait_until(lambda: [one.closed > 0 for one in on.channels] == [True, False])
    kept.keeper.on_lost()


async def test_an_attempt_to_consume_anew_is_forgotten_with_the_channel(
    on: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "QUIET", 3600.0)
    kept = Kept(on, "a")
    await wait_until(lambda: kept.is_open)
    kept.consumer.renew()
    await until_idle()
    assert kept.consumer.waits
    kept.keeper.suspect()
    await wait_until(lambda: len(on.channels) == 2 and kept.is_open)
    await until_idle()
    assert on.channels[-1].told == ["qos 5", "consume"]


async def test_what_an_attempt_dies_of_that_was_given_up_is_nobodys_error(on: Connection) -> None:
    gc.collect()  # what other tests have left
    errors: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: errors.append(context))
    begun = asyncio.Event()

    async def prepare(_connection: object) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            raise ChannelLost("closed") from error

    keeper = Subscription(Consumer("a", lambda _: None, prefetch=5), TIMES, prepare)
    connection: Any = on
    keeper.attach(connection)
    await begun.wait()
    keeper.on_lost()
    await until_idle()
    gc.collect()
    loop.set_exception_handler(None)
    assert errors == []
