"""Consuming a queue that is shared with other processes, on an open connection.

Such a queue may be without a leader. That costs its own requests only: the connection and its other
queues do not wait for it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from maniple.amqp.supervision import FIRST_BACKOFF
from maniple.timings import Amqp
from maniple_runtime.backoff import EqualJitter, error_of
from maniple_runtime.control.aiormq_errors import is_loss

Begin = Callable[[], Awaitable[None]]
"""Starts consuming, and returns once the queue has answered."""

_log = logging.getLogger(__name__)


class SharedQueue:
    """Tries on each connection that it is attached to until the queue is consumed there.

    After `Amqp.unanswered` seconds without an answer it asks again.
    """

    def __init__(self, name: str, times: Amqp) -> None:
        """Describe it; nothing happens before `attach`."""
        self.name = name
        self.served = asyncio.Event()
        """Set once it is consumed on the present connection."""
        self._times = times
        self._waited = 0
        self._beginning: asyncio.Task[None] | None = None

    def attach(self, begin: Begin) -> None:
        """Have it consumed by `begin`."""
        self.on_lost()
        self._beginning = asyncio.create_task(self._begin(begin), name=f"serve {self.name}")

    def on_lost(self) -> None:
        """Abandon the connection: it is gone."""
        if self._beginning is not None:
            self._beginning.cancel()
            self._beginning = None
        self._waited = 0
        self.served.clear()

    def is_silent(self) -> bool:
        """Tell whether it has not answered for `Amqp.answer` seconds; called every `Amqp.tick`."""
        self._waited = 0 if self.served.is_set() else self._waited + 1
        return self._waited > self._times.ticks(self._times.answer)

    async def _begin(self, begin: Begin) -> None:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, Exception) or is_loss(error)),
            wait=EqualJitter(2 * FIRST_BACKOFF, self._times.backoff),
            before_sleep=self._tell,
        ):
            with attempt:
                async with asyncio.timeout(self._times.unanswered):
                    await begin()
        self.served.set()

    def _tell(self, failed: RetryCallState) -> None:
        _log.info("%s is not consumed: %r", self.name, error_of(failed))
