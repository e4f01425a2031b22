"""The threads of the handlers' loop: what `asyncio.to_thread` and the like run in.

A call cannot be stopped: when its handler is given up, it goes on and keeps its thread. The pool of
asyncio has a few threads, and once all are kept, whatever needs one waits for ever. This one tells
which calls were left by their handlers, and can be given a thread more for each of them.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from functools import partial
from typing import Any, ParamSpec, TypeVar

from maniple_agent.executors.jobs import Job

P = ParamSpec("P")
T = TypeVar("T")

THREADS = min(32, (os.cpu_count() or 1) + 4)  # as asyncio has
LEFT_AFTER = 1.0  # seconds that a call may go on after its handler without being counted

running_job: ContextVar[Job | None] = ContextVar("maniple_running_job", default=None)
"""The job whose handler runs here, or what it has started."""


class _Call:
    """One function on its way through the pool; `over_since` is when its handler was over."""

    __slots__ = ("future", "job", "over_since", "work")

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work
        self.job = running_job.get()
        self.future: Future[Any] = Future()
        self.over_since: float | None = None

    def run(self) -> None:
        try:
            result = self.work()
        except BaseException as error:  # noqa: BLE001 - whoever waits for it is told
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class HandlerPool(ThreadPoolExecutor):
    """Runs calls in daemon threads, which do not hold up the end of the process."""

    def __init__(self, threads: int | None = None) -> None:
        """Start threads as they are needed, at most `threads`; see `grow`."""
        self._most = threads or THREADS
        self._extra = 0
        super().__init__(self._most)
        self._turn = threading.Condition()
        self._waiting: deque[_Call] = deque()
        self._at_work: dict[_Call, None] = {}
        self._started = 0
        self._idle = 0
        self._closed = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a function. Raises `RuntimeError` after `shutdown`, or if there is no thread."""
        call = _Call(partial(fn, *args, **kwargs))
        with self._turn:
            if self._closed:
                raise RuntimeError("the handlers' loop has ended")
            self._waiting.append(call)
            self._wake()
        return call.future

    def left(self, running: Collection[Job], now: float) -> list[str]:
        """Name the handlers that are over while calls of theirs go on, once for each call.

        `running` are the handlers that are not over. To be asked some times a second.
        """
        names = []
        for call in tuple(self._at_work):
            if call.job in running:
                continue
            if call.over_since is None:
                call.over_since = now
            if now - call.over_since >= LEFT_AFTER:
                names.append("unknown" if call.job is None else call.job.definition.capability)
        return names

    def grow(self, extra: int) -> None:
        """Have so many threads more than at first, from now on."""
        if extra == self._extra:
            return
        with self._turn:
            self._extra = extra
            self._turn.notify_all()
            if self._waiting:
                self._wake()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - as it is called; nobody can wait for what may never return
        """Take nothing more; idle threads end, others when they have returned."""
        with self._turn:
            self._closed = True
            if cancel_futures:
                while self._waiting:
                    self._waiting.popleft().future.cancel()
            self._turn.notify_all()

    def _wake(self) -> None:
        """Have a thread for what waits, if there may be another one."""
        self._turn.notify()
        if len(self._waiting) <= self._idle or self._started >= self._most + self._extra:
            return
        name = f"handlers-{self._started + 1}"
        self._started += 1
        try:
            threading.Thread(target=self._serve, name=name, daemon=True).start()
        except (RuntimeError, MemoryError):
            self._started -= 1
            if not self._started:
                self._waiting.pop()
                raise

    def _serve(self) -> None:
        while (call := self._next()) is not None:
            if call.future.set_running_or_notify_cancel():
                call.run()
            self._at_work.pop(call, None)
            del call

    def _next(self) -> _Call | None:
        with self._turn:
            while not self._waiting or self._started > self._most + self._extra:
                if self._closed or self._started > self._most + self._extra:
                    self._started -= 1
                    return None
                self._idle += 1
                self._turn.wait()
                self._idle -= 1
            call = self._waiting.popleft()
            self._at_work[call] = None
            return call
