"""The way of what a handler reports, from its thread to the connection loop.

A handler may report in a tight loop, and every crossing costs the connection loop something: so
what is too much is dropped where it is made, and encoded there as well.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any

from msgspec import Raw

from maniple.values import encode_progress
from maniple_agent.jobs import Job

PERIOD = 0.1


class LatestProgress:
    """The latest value that the handler of one job reported, told at most once in `PERIOD` seconds.

    `offer` and `tell_last` are for the handler's side, any thread; the rest happens on the
    connection loop, where `told` is called. At most one crossing is under way in a period.
    """

    def __init__(
        self, job: Job, home: asyncio.AbstractEventLoop, told: Callable[[Job, Raw], None]
    ) -> None:
        """Tell `told` on the loop `home`."""
        self._job = job
        self._home = home
        self._told = told
        self._value: deque[bytes] = deque(maxlen=1)
        self._crossing = False
        self._timer: asyncio.TimerHandle | None = None

    def offer(self, value: Any) -> None:
        """Tell a value soon, in place of one that waits. Raises `ProgressDropped`."""
        self._value.append(encode_progress(value))
        if not self._crossing:
            self._crossing = True
            self._cross(self._arrive)

    def tell_last(self) -> None:
        """Tell the last value at once: the handler has ended."""
        if self._value:
            self._cross(self._flush)

    def _cross(self, function: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # its loop has closed: the process is ending
            # Without what the handler has set: over there, others' tasks go on.
            self._home.call_soon_threadsafe(function, context=Context())

    def _arrive(self) -> None:
        if self._timer is None:
            self._tell()

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._tell()

    def _tell(self) -> None:
        self._timer = None
        # Before looking: what is reported from now on is seen here, or crosses once more.
        self._crossing = False
        if self._value:
            self._timer = self._home.call_later(PERIOD, self._tell)
            self._told(self._job, Raw(self._value.popleft()))
