"""One supervised AMQP connection, rebuilt whole whenever any part of it is lost."""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol
from urllib.parse import urlsplit

import aiormq
from aiormq.abc import AbstractChannel

from maniple.errors import BrokerUnavailable
from maniple.transport.tolerance import tolerate_foreign_bytes

HEARTBEAT = 10
FIRST_BACKOFF = 0.1
MAX_BACKOFF = 3.0
OPEN_TIMEOUT = 10.0
CLOSE_TIMEOUT = 2.0

_log = logging.getLogger(__name__)
_aiormq_log = logging.getLogger("aiormq")

# What aiormq raises when a connection or channel is gone; "closed" and ChannelInvalidStateError are
# RuntimeErrors. See `is_loss` for what it does besides.
LOST = (
    aiormq.exceptions.AMQPError,
    OSError,
    asyncio.InvalidStateError,
    RuntimeError,
)


def is_loss(error: BaseException) -> bool:
    """Tell whether an error means that a connection or channel is gone.

    aiormq also cancels what waits on it, or raises a bare `Exception` there.
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and not task.cancelling()
    return isinstance(error, LOST) or type(error) is Exception


class Endpoint(Protocol):
    """Something that lives on a link: a publisher or a consumer."""

    async def open(self, connection: aiormq.Connection) -> AbstractChannel:
        """Open a channel on `connection` and make the endpoint work on it."""
        ...

    def lost(self) -> None:
        """Forget the channel: it is gone."""
        ...


class Link:
    """One supervised connection to the broker.

    `name` is what the broker shows as the connection's name. `on_state(up)` is told of each change.
    Endpoints are opened in the order in which they were added, `prepare` (declarations) first.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        prepare: Callable[[aiormq.Connection], Awaitable[None]] | None = None,
        on_state: Callable[[bool], None] | None = None,
    ) -> None:
        """Describe the connection; `start` opens it."""
        separator = "&" if "?" in url else "?"
        self._url = f"{url}{separator}heartbeat={HEARTBEAT}&name={name}"
        self.name = name
        self._prepare = prepare
        self._on_state = on_state
        self._endpoints: list[Endpoint] = []
        self._connection: aiormq.Connection | None = None
        self._closing: asyncio.Task[None] | None = None
        self._up = asyncio.Event()
        self._lost = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None
        self._closed = False
        self.reconnects = 0
        self.last_error: BaseException | None = None

    @property
    def is_up(self) -> bool:
        """Whether everything on the link works."""
        return self._up.is_set() and not self._closed

    def add(self, endpoint: Endpoint) -> None:
        """Put an endpoint on the link before it is started."""
        self._endpoints.append(endpoint)

    async def attach(self, endpoint: Endpoint) -> None:
        """Put an endpoint on a running link and open it.

        If the link is down, the endpoint is opened when it comes back.
        """
        self._endpoints.append(endpoint)
        connection = self._connection
        if connection is None or not self.is_up:
            return
        try:
            self._watch(connection, await endpoint.open(connection))
        except (Exception, asyncio.CancelledError) as error:
            if not is_loss(error):
                raise
            if connection is self._connection:
                self._lost.set()

    async def start(self, timeout: float | None = None) -> None:
        """Open the link and wait until it is up.

        Raises `BrokerUnavailable` when it is not within `timeout` seconds (None waits for ever).
        """
        tolerate_foreign_bytes()
        if _aiormq_log.level == logging.NOTSET:
            # It logs each loss with a traceback; the link says it in one line.
            _aiormq_log.setLevel(logging.CRITICAL)
        self._supervisor = asyncio.create_task(self._supervise(), name=f"link {self.name}")
        try:
            await asyncio.wait_for(self._up.wait(), timeout)
        except asyncio.CancelledError:
            await self.close()
            raise
        except TimeoutError:
            await self.close()
            parts = urlsplit(self._url)
            raise BrokerUnavailable(
                f"no connection to RabbitMQ at {parts.hostname}:{parts.port or 5672}"
                f"{parts.path} within {timeout:g} s: {self.last_error}"
            ) from self.last_error

    async def wait_up(self) -> None:
        """Return when the link is up. Raises `BrokerUnavailable` once it is closed."""
        if self._closed:
            raise BrokerUnavailable(f"the connection {self.name} is closed")
        if not self._up.is_set():
            await self._up.wait()
            if self._closed:
                raise BrokerUnavailable(f"the connection {self.name} is closed")

    def suspect(self) -> None:
        """Have the connection rebuilt: something on it does not answer as it should."""
        self._lost.set()

    async def close(self) -> None:
        """Close the connection; whoever waits for it gets `BrokerUnavailable`."""
        self._closed = True
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
        await self._tear_down()
        self._up.set()

    async def _supervise(self) -> None:
        failures = 0
        while True:
            try:
                await asyncio.wait_for(self._open(), OPEN_TIMEOUT)
            except (Exception, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError) and not is_loss(error):
                    raise
                # Whatever it was: nobody else would try again.
                _log.info("connection %s does not open: %r", self.name, error)
                self.last_error = error
                await self._tear_down()
                failures += 1
                await asyncio.sleep(backoff(failures))
                continue
            failures = 0
            await self._lost.wait()
            self.reconnects += 1
            self._set_up(up=False)
            await self._tear_down()
            await asyncio.sleep(backoff(1))

    async def _open(self) -> None:
        self._lost.clear()
        self._connection = connection = aiormq.Connection(self._url)
        await connection.connect()
        connection.closing.add_done_callback(partial(self._on_lost, connection))
        if self._prepare is not None:
            await self._prepare(connection)
        for endpoint in self._endpoints:
            self._watch(connection, await endpoint.open(connection))
        self._set_up(up=True)

    def _watch(self, connection: aiormq.Connection, channel: AbstractChannel) -> None:
        channel.closing.add_done_callback(partial(self._on_lost, connection))

    def _on_lost(self, connection: aiormq.Connection, future: asyncio.Future[Any]) -> None:
        error = None if future.cancelled() else future.exception()
        if connection is self._connection:  # the end of an earlier one says nothing
            self.last_error = error or self.last_error
            self._lost.set()

    def _set_up(self, *, up: bool) -> None:
        if up:
            self._up.set()
        else:
            self._up.clear()
            _log.warning("connection %s lost: %s", self.name, self.last_error)
        if self._on_state is not None:
            self._on_state(up)

    async def _tear_down(self) -> None:
        for endpoint in self._endpoints:
            endpoint.lost()
        connection, self._connection = self._connection, None
        if connection is not None:
            self._closing = asyncio.create_task(_close(connection), name=f"close {self.name}")
        if self._closing is not None:
            await asyncio.shield(self._closing)  # `close` waits for it too


async def _close(connection: aiormq.Connection) -> None:
    with contextlib.suppress(Exception, asyncio.CancelledError):
        await asyncio.wait_for(connection.close(), CLOSE_TIMEOUT)


def backoff(failures: int) -> float:
    """Seconds to wait after so many failures in a row: doubling, capped, with full jitter."""
    return random.uniform(0.5, 1.0) * min(MAX_BACKOFF, FIRST_BACKOFF * 2.0 ** min(failures, 10))
