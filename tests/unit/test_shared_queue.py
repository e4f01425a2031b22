"""A shared queue that does not answer costs neither the start nor the connection of its server."""

import asyncio
from itertools import count
from types import SimpleNamespace
from typing import Any

import aiormq
import pytest

from channels import until_idle
from maniple.timings import Amqp
from maniple.topology import EVENTS, QUEUES
from maniple_runtime.control import connection as connection_module
from maniple_runtime.control.connection import ControlConnection, prepare_broker
from maniple_runtime.shared_queue import SharedQueue
from waiting import wait_until

TIMES = Amqp(tick=0.02, answer=0.1, unanswered=0.2, backoff=0.01)
SHARED = "maniple.requests.policy"


class Broker:
    """FastStream's broker for one life, whose queues in `silent` answer nothing."""

    silent: set[str]
    lives: list["Broker"]

    def __init__(self, *_: object) -> None:
        self.lives.append(self)
        self.begun: list[str] = []
        self.closed = 0
        self.consumers: list[Any] = []
        self.replies = self.listening = None
        self.link = SimpleNamespace(connect=self._done, wire=_Wire(), close=self._done)
        channels = SimpleNamespace(get_channel=self._channel)
        declarer = SimpleNamespace(declare_queue=self._declare)
        self.config = SimpleNamespace(channel_manager=channels, declarer=declarer)

    async def _done(self, *_: object) -> None: ...

    async def start(self) -> None: ...

    def forget(self, _queue: object) -> None: ...

    async def _declare(self, *_: object, **__: object) -> Any:
        return SimpleNamespace(bind=self._done)

    async def _channel(self, _channel: object = None) -> Any:
        closing = asyncio.get_running_loop().create_future()
        underlay = SimpleNamespace(closing=closing, on_consumer_cancel_callbacks=set())

        async def get_underlay_channel() -> Any:
            return underlay

        return SimpleNamespace(get_underlay_channel=get_underlay_channel, close=self._close)

    async def _close(self) -> None:
        self.closed += 1

    def subscriber(self, queue: Any, **_: object) -> Any:
        return _Subscriber(self, queue.name)


class _Wire:
    """A wire on which the broker always has something to say."""

    def __init__(self) -> None:
        self.closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._heard = count()

    @property
    def heard(self) -> int:
        return next(self._heard)

    async def is_blocked(self) -> bool:
        return False

    def abort(self) -> None: ...


class _Subscriber:
    def __init__(self, broker: Broker, queue: str) -> None:
        self._broker, self._queue = broker, queue

    def __call__(self, _take: object) -> None: ...

    async def start(self) -> None:
        if self._queue in self._broker.silent:
            await asyncio.Event().wait()
        self._broker.begun.append(self._queue)

    async def stop(self) -> None: ...


class Serving:
    """A connection that serves a shared queue and listens on one of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Broker.silent, Broker.lives = set(), []
        monkeypatch.setattr(connection_module, "FastStreamBroker", Broker)
        self.told: list[frozenset[str]] = []
        url = "amqp://127.0.0.1:1/"
        self.connection = ControlConnection(url, name="c", on_silent=self.told.append, times=TIMES)

    async def receive(self, _arrival: object) -> None: ...

    async def begin(self) -> None:
        await self.connection.start(10.0)
        await self.connection.listen("mine", self.receive, EVENTS, ("#",))
        await self.connection.serve(SHARED, self.receive)

    @property
    def serves(self) -> bool:
        return SHARED in Broker.lives[-1].begun


async def test_who_serves_a_queue_that_does_not_answer_starts_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    serving = Serving(monkeypatch)
    Broker.silent.add(SHARED)
    await serving.begin()
    await wait_until(lambda: serving.told == [{SHARED}])
    (life,) = Broker.lives
    await wait_until(lambda: life.closed > 1)  # it was asked again, each time on another channel
    assert serving.connection.is_up
    assert not serving.serves
    Broker.silent.clear()
    await wait_until(lambda: serving.serves and serving.told == [{SHARED}, set()])
    assert len(Broker.lives) == 1
    await serving.connection.close()


async def test_a_connection_comes_back_without_a_queue_that_others_consume_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    serving = Serving(monkeypatch)
    await serving.begin()
    assert serving.serves
    Broker.silent.add(SHARED)
    serving.connection.suspect()
    await wait_until(lambda: len(Broker.lives) == 2 and serving.connection.is_up)
    assert [name.partition(".")[0] for name in Broker.lives[-1].begun] == ["mine"]
    Broker.silent.clear()
    serving.connection.suspect()
    await wait_until(lambda: len(Broker.lives) == 3 and serving.serves)
    await serving.connection.close()


async def test_a_shared_queue_is_tried_until_it_answers_and_no_longer_than_its_connection() -> None:
    queue, tried = SharedQueue("q", TIMES), 0

    async def begin() -> None:
        nonlocal tried
        tried += 1
        if tried < 3:
            raise aiormq.exceptions.ChannelClosed

    queue.attach(begin)
    await queue.served.wait()
    assert (tried, queue.is_silent()) == (3, False)
    queue.on_lost()
    await until_idle()
    assert [queue.is_silent() for _ in range(6)] == [False] * 5 + [True]
    assert tried == 3


class Declaring:
    """A connection on which one queue does not answer its declaration."""

    def __init__(self, silent: str) -> None:
        self.silent, self.declared = silent, list[str]()

    async def open(self, _timeout: float) -> None: ...

    async def close(self) -> None: ...

    async def channel(self) -> Any:
        return SimpleNamespace(
            exchange_declare=self._done,
            queue_declare=self._queue,
            queue_bind=self._done,
            close=self._done,
        )

    async def _done(self, *_: object, **__: object) -> None: ...

    async def _queue(self, name: str, **_: object) -> None:
        if name == self.silent:
            await asyncio.Event().wait()
        self.declared.append(name)


async def test_one_queue_that_does_not_answer_keeps_no_process_from_starting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connection = Declaring(QUEUES[3].name)

    monkeypatch.setattr(connection_module, "Connection", lambda _url: connection)
    await prepare_broker("amqp://127.0.0.1:1/")
    others = {queue.name for queue in QUEUES} - {connection.silent}
    assert set(connection.declared) == others
