"""Maniple by plain AMQP: pika on asyncio, a JSON object a message, results by direct reply-to.

An outside program does this in any language. Messages may also be arrays of many tasks.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pika
from bench.arrivals import Arrivals
from bench.figures import from_due, spread
from bench.handlers import CAPABILITY, COUNTED
from bench.tally import TALLY_VARIABLE, TIMEOUT, URL_VARIABLE, Action, Tally
from pika.adapters.asyncio_connection import AsyncioConnection

from maniple.identifiers import new_id

EXCHANGE = "maniple.tasks"
REPLY_TO = "amq.rabbitmq.reply-to"
BURST = 50  # messages between turns of the loop
WINDOW = 2000  # messages without an answer, or without a confirm, as the SDK's window


class PlainClient:
    """One connection with a channel for tasks with replies and one with confirms."""

    def __init__(self, url: str) -> None:
        """Describe it; `open` connects as an outside user."""
        self._url = url
        self._connection: Any = None
        self._replied: Any = None
        self._confirming: Any = None
        self._plain: Any = None
        self._outputs: dict[str, tuple[float, bytes]] = {}
        self._unconfirmed: set[int] = set()
        self._tag = 0  # of the last message with a confirm
        self._missing = self._under_way = 0
        self._watching = False
        self._news = asyncio.Event()
        self._closed = asyncio.Event()
        self._room = asyncio.Event()

    async def open(self) -> None:
        """Connect and open the channels."""
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[Any] = loop.create_future()
        self._connection = AsyncioConnection(
            pika.URLParameters(self._url),
            on_open_callback=opened.set_result,
            on_open_error_callback=lambda _, error: opened.set_exception(RuntimeError(str(error))),
            on_close_callback=lambda *_: self._closed.set(),
            custom_ioloop=loop,
        )
        await opened
        self._replied = await self._channel()
        self._confirming = await self._channel()
        self._plain = await self._channel()
        self._replied.basic_consume(REPLY_TO, self._on_result, auto_ack=True)
        self._confirming.confirm_delivery(self._on_confirm)

    async def close(self) -> None:
        """Disconnect."""
        self._connection.close()
        await self._closed.wait()

    async def replied(self, count: int) -> float:
        """Publish tasks one by one, check every result, and return the seconds it took."""
        self._expect(count)
        started = time.perf_counter()
        sent = []
        for number in range(count):
            await self._pause(number)
            sent.append(self._publish_replied(number))
        await self._all_here()
        elapsed = time.perf_counter() - started
        for number, task_id in enumerate(sent):
            if json.loads(self._outputs[task_id][1])["output"] != number:
                raise RuntimeError(f"Maniple returned something else for {number}")
        return elapsed

    async def unreplied(self, tally: Tally, command: Mapping[str, Any]) -> float:
        """Publish tasks in messages of `size`, and return the seconds until all have run."""
        size, confirmed = command.get("size", 1), bool(command.get("confirmed"))
        messages = command["count"] // size
        body = body_of(size, command.get("payload_bytes", 0))
        before = tally.count
        started = time.perf_counter()
        for number in range(messages):
            await self._pause(number)
            self._publish_unreplied(body, confirmed=confirmed)
        while self._unconfirmed:
            await self._room_made()
        await asyncio.to_thread(tally.wait, before + messages * size)
        return time.perf_counter() - started

    async def open_loop(self, rate: float, seconds: float) -> dict[str, Any]:
        """Publish single tasks at a fixed rate; return the rate of results, and latencies."""
        arrivals = Arrivals(rate, seconds)
        self._expect(arrivals.count)
        sent = [self._publish_replied(number) async for number in arrivals]
        await self._all_here()
        ended = [self._outputs[task_id][0] for task_id in sent]
        due = [arrivals.due(number) for number in range(arrivals.count)]
        return {
            "tasks": arrivals.count,
            "rate": rate,
            "achieved": round(arrivals.count / (max(ended) - due[0]), 1),
            **spread(from_due(due, ended)),
        }

    async def watch(self, rate: float, capability: str) -> list[tuple[float, float]]:
        """Publish single tasks at a fixed rate until `unwatch`.

        Return of each when it was due (`time.time`) and how many seconds later its result came.
        """
        self._watching = True
        arrivals = Arrivals(rate, TIMEOUT, time.time)
        self._expect(arrivals.count)
        sent = []
        async for number in arrivals:
            if not self._watching:
                break
            sent.append(self._publish_replied(number, capability))
        self._missing -= arrivals.count - len(sent)
        if self._missing:
            await self._all_here()
        wall = time.time() - time.perf_counter()
        ended = [self._outputs[task_id][0] + wall for task_id in sent]
        due = [arrivals.due(number) for number in range(len(sent))]
        return list(zip(due, from_due(due, ended), strict=True))

    def unwatch(self) -> None:
        """Publish no more."""
        self._watching = False

    async def _channel(self) -> Any:
        opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._connection.channel(on_open_callback=opened.set_result)
        return await opened

    def _expect(self, count: int) -> None:
        self._outputs.clear()
        self._missing = count
        self._news.clear()

    async def _all_here(self) -> None:
        async with asyncio.timeout(TIMEOUT):
            await self._news.wait()

    async def _pause(self, number: int) -> None:
        if number % BURST == 0:
            await asyncio.sleep(0)
            while self._under_way > WINDOW:
                await self._room_made()

    async def _room_made(self) -> None:
        self._room.clear()
        async with asyncio.timeout(TIMEOUT):
            await self._room.wait()

    def _publish_unreplied(self, body: bytes, *, confirmed: bool) -> None:
        properties = pika.BasicProperties(message_id=new_id(), delivery_mode=2)
        channel = self._confirming if confirmed else self._plain
        channel.basic_publish(EXCHANGE, COUNTED, body, properties)
        if confirmed:
            self._tag += 1
            self._under_way += 1
            self._unconfirmed.add(self._tag)

    def _publish_replied(self, payload: int, capability: str = CAPABILITY) -> str:
        task_id = new_id()
        properties = pika.BasicProperties(
            message_id=task_id, correlation_id=task_id, reply_to=REPLY_TO, delivery_mode=2
        )
        body = b'{"payload":%d}' % payload
        self._replied.basic_publish(EXCHANGE, capability, body, properties)
        self._under_way += 1
        return task_id

    def _on_result(self, _channel: Any, _method: Any, properties: Any, body: bytes) -> None:
        if properties.correlation_id not in self._outputs:
            self._missing -= 1
            self._under_way -= 1
            self._room.set()
            self._outputs[properties.correlation_id] = (time.perf_counter(), body)
            if not self._missing:
                self._news.set()

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        if method.NAME != "Basic.Ack":
            raise RuntimeError("the broker refused a task")
        tag = method.delivery_tag
        done = {one for one in self._unconfirmed if one <= tag} if method.multiple else {tag}
        self._under_way -= len(done)
        self._unconfirmed -= done
        self._room.set()


def body_of(size: int, payload_bytes: int) -> bytes:
    """Return a message of `size` tasks, each with a payload of so many bytes of JSON."""
    one = {"payload": "x" * (payload_bytes - 2) if payload_bytes > 2 else 1}  # noqa: PLR2004 - quotes
    return json.dumps(one if size == 1 else [one] * size).encode()


@asynccontextmanager
async def client(environ: Mapping[str, str]) -> AsyncIterator[dict[str, Action]]:
    """Give what submits: `replied`, `unreplied`, and `open` with replies at a fixed rate.

    `watch` does what `open` does, but beside other commands, until `watched` asks what it found.
    """
    plain, tally = PlainClient(environ[URL_VARIABLE]), Tally(Path(environ[TALLY_VARIABLE]))
    await plain.open()

    async def replied(command: Mapping[str, Any]) -> dict[str, Any]:
        return {"seconds": await plain.replied(command["count"])}

    async def unreplied(command: Mapping[str, Any]) -> dict[str, Any]:
        return {"seconds": await plain.unreplied(tally, command)}

    async def open_loop(command: Mapping[str, Any]) -> dict[str, Any]:
        return await plain.open_loop(command["rate"], command["seconds"])

    watching: list[asyncio.Task[list[tuple[float, float]]]] = []

    async def watch(command: Mapping[str, Any]) -> dict[str, Any]:
        watching.append(asyncio.create_task(plain.watch(command["rate"], command["capability"])))
        return {}

    async def watched(_: Mapping[str, Any]) -> dict[str, Any]:
        plain.unwatch()
        return {"each": await watching.pop()}

    try:
        yield {
            "replied": replied,
            "unreplied": unreplied,
            "open": open_loop,
            "watch": watch,
            "watched": watched,
        }
    finally:
        await plain.close()
