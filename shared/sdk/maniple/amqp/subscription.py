"""Keeping one consumer running on an open connection, whatever happens to its queue.

The unit of failure is the queue: one that is deleted, refused or without a leader costs neither the
connection nor the other queues that are consumed on it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from maniple.amqp.consumer import Consumer, close_channel
from maniple.amqp.supervision import STEADY_AFTER, backoff, safely
from maniple.amqp.wire.broker_connection import Connection
from maniple.amqp.wire.channel import Channel
from maniple.loops import left_alone
from maniple.timings import Amqp

Prepare = Callable[[Connection], Awaitable[object]]

_log = logging.getLogger(__name__)


class Subscription:
    """Opens one consumer on each connection that it is attached to, and again when it is lost.

    An answer of the broker is waited for: RabbitMQ answers as soon as the queue does. After
    `Amqp.unanswered` seconds it is asked again on another channel. `prepare` is called before each
    attempt. `on_silent` is called when the queue has not answered for `Amqp.answer` seconds (or
    attempts have failed for so long), and when it works again.
    """

    def __init__(
        self,
        consumer: Consumer,
        times: Amqp,
        prepare: Prepare | None = None,
        on_silent: Callable[[bool], None] | None = None,
    ) -> None:
        """Own `consumer`; nothing happens before `attach`."""
        consumer.owner = self
        self.consumer = consumer
        self.last_error: BaseException | None = None
        self.opened = asyncio.Event()
        """Set while it consumes, or is paused on a channel of its own."""
        self.silent = False
        self._times = times
        self._prepare = prepare
        self._on_silent = on_silent
        self._waited = 0
        self._suspected = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        self._channel: Channel | None = None
        self._closing: set[asyncio.Task[None]] = set()

    def attach(
        self,
        connection: Connection,
        on_death: Callable[[BaseException], None] | None = None,
    ) -> None:
        """Start consuming on an open connection; `on_death` is called if that stops by itself.

        That would be a defect of ours, but one that nothing else would mend.
        """

        def ended(keeping: asyncio.Task[None]) -> None:
            if not keeping.cancelled() and (error := keeping.exception()) is not None:
                _log.error("%s is not consumed any more", self.consumer.queue, exc_info=error)
                if on_death is not None:
                    on_death(error)

        self._keeping = asyncio.create_task(
            self._keep(connection), name=f"consume {self.consumer.queue}"
        )
        self._keeping.add_done_callback(ended)

    def on_lost(self) -> None:
        """Abandon the connection: it is gone."""
        if self._keeping is not None:
            self._keeping.cancel()
            self._keeping = None
        self._waited = 0
        self._let_go()

    def suspect(self) -> None:
        """Open the consumer anew: its channel, or the queue, seems to be gone."""
        self._suspected.set()

    def tick(self) -> None:
        """Check whether the queue answers; to be called every `Amqp.tick` seconds."""
        waits = self.consumer.waits or not self.opened.is_set()
        self._waited = self._waited + 1 if waits else 0
        times = self._times
        silent = self._waited > times.ticks(times.answer)
        if silent != self.silent:
            self.silent = silent
            if self._on_silent is not None:
                safely(partial(self._on_silent, silent))
        if self._waited and self._waited % times.ticks(times.unanswered) == 0:
            self.suspect()

    async def _keep(self, connection: Connection) -> None:
        failures = 0
        while True:
            self._suspected.clear()
            # What falls again and again is opened ever more seldom: each time the broker delivers
            # all that it holds once more.
            failures = 0 if await self._has_been_steady(connection) else failures + 1
            channel, self._channel = self._channel, None
            self._let_go()
            if channel is not None:
                closing = asyncio.create_task(close_channel(channel))
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
            await asyncio.sleep(backoff(failures, self._times.backoff))

    async def _has_been_steady(self, connection: Connection) -> bool:
        """Consume until something fails; tell whether it worked for a while."""
        loop = asyncio.get_running_loop()
        attempt = left_alone(loop.create_task(self._open(connection)))
        suspected = asyncio.create_task(self._suspected.wait())
        try:
            await asyncio.wait({attempt, suspected}, return_when=asyncio.FIRST_COMPLETED)
            if not attempt.done() or not self._is_open(attempt):
                return False
            since = loop.time()
            await suspected
            return loop.time() - since >= STEADY_AFTER
        finally:
            attempt.cancel()
            suspected.cancel()

    async def _open(self, connection: Connection) -> Channel:
        if self._prepare is not None:
            await self._prepare(connection)
        return await self.consumer.open(connection)

    def _is_open(self, attempt: asyncio.Task[Channel]) -> bool:
        error = asyncio.CancelledError() if attempt.cancelled() else attempt.exception()
        if error is not None:
            _log.info("%s is not consumed: %r", self.consumer.queue, error)
            self.last_error = error
            return False
        self._channel = attempt.result()
        self._channel.closing.add_done_callback(partial(self._on_closed, self._channel))
        self.opened.set()
        return True

    def _on_closed(self, channel: Channel, future: asyncio.Future[Any]) -> None:
        error = None if future.cancelled() else future.exception()
        if channel is self._channel:  # the end of an earlier one says nothing
            self.last_error = error or self.last_error
            self.suspect()

    def _let_go(self) -> None:
        self.opened.clear()
        self._channel = None
        self.consumer.lost()
