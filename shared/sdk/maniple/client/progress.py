"""What the handler of a task reports, for whoever iterates over it."""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from maniple.messages import Progress

PROGRESS_KEPT = 100


class ProgressFeed:
    """The reports of one task, and those who listen to them."""

    __slots__ = ("_latest", "_listeners")

    def __init__(self) -> None:
        """Begin without either."""
        self._latest: Progress | None = None
        self._listeners: list[ProgressListener] = []

    def add_report(self, progress: Progress) -> None:
        """Give a report to all that listen; the latest one also to those who come later."""
        self._latest = progress
        for listener in self._listeners:
            listener.put(progress)

    def end_reports(self) -> None:
        """Tell all that listen that no more will come."""
        for listener in self._listeners:
            listener.end()

    @contextmanager
    def listening(self) -> Iterator["ProgressListener"]:
        """Listen for the time of the block, beginning with the latest report."""
        listener = ProgressListener()
        if self._latest is not None:
            listener.put(self._latest)
        self._listeners.append(listener)
        try:
            yield listener
        finally:
            self._listeners.remove(listener)


class ProgressListener:
    """One iteration over a task's progress; keeps the latest reports only."""

    def __init__(self) -> None:
        self._reports: deque[Progress] = deque(maxlen=PROGRESS_KEPT)
        self._news = asyncio.Event()
        self._over = False

    def put(self, progress: Progress) -> None:
        """Add a report."""
        self._reports.append(progress)
        self._news.set()

    def end(self) -> None:
        """Say that no more will come."""
        self._over = True
        self._news.set()

    async def next_report(self) -> Progress | None:
        """Return the next report; None after the last."""
        while not self._reports and not self._over:
            self._news.clear()
            await self._news.wait()
        return self._reports.popleft() if self._reports else None
