"""The threads of the handlers' loop: what `asyncio.to_thread` and the like run in.

A call cannot be stopped: when its handler is given up, it goes on and keeps its thread. The pool of
asyncio has a few threads, and once all are kept, whatever needs one waits for ever. This one tells
which calls go on though their tasks are over, and can be given a thread more for each of them. Such
a call was left if whoever waited for it has given it up; else it may be what a library has set up
for good, as one does that polls in a thread which its first user starts. As threads are bounded,
either may keep so many that those whose tasks go on get none: the pool is starved then.
"""

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context, ContextVar
from functools import partial
from typing import Any, ParamSpec, TypeVar

from msgspec import Struct

P = ParamSpec("P")
T = TypeVar("T")

STARVED_AFTER = 2.0
"""Seconds that a lack of threads lasts before it counts: more are given for calls that are left."""
THREADS = min(32, (os.cpu_count() or 1) + 4)  # as asyncio has
LEFT_AFTER = 1.0
"""Seconds that a call may go on after its task, or wait for a thread, without being counted."""


class Caller(Struct, eq=False):
    """A handler: what it started keeps this for as long as it goes on, and nothing else of it."""

    name: str
    began_at: float = 0.0
    given_up: bool = False
    """Whether its task is over, though it may go on: it timed out, or was cancelled."""
    over: bool = False
    """Whether it has ended."""


calling: ContextVar[Caller | None] = ContextVar("maniple_calling", default=None)
"""The handler that runs here, or that has started what does."""


class _Awaited(Future[Any]):
    """A future that keeps whether it was to be cancelled, though its call was under way."""

    def __init__(self) -> None:
        super().__init__()
        self.abandoned = False

    def cancel(self) -> bool:
        self.abandoned = True
        return super().cancel()


class PoolCall:
    """One function on its way through the pool."""

    __slots__ = ("_caller", "future", "over_since", "since", "work")

    def __init__(self, work: Callable[[], Any], since: float) -> None:
        """Describe what is to be called, from `since` on, on behalf of who runs here."""
        self.work = work
        self.since = since
        self._caller = calling.get()
        self.future = _Awaited()
        self.over_since: float | None = None
        """When its task was first seen to be over."""

    @property
    def name(self) -> str:
        """The capability of its handler."""
        return "unknown" if self._caller is None else self._caller.name

    @property
    def left(self) -> bool:
        """Whether who waited for it has given it up, and has no slot any more."""
        return self.future.abandoned and (self._caller is None or self._caller.over)

    @property
    def counts(self) -> bool:
        """Whether it is a task's that goes on."""
        caller = self._caller
        return caller is not None and not (caller.over or caller.given_up)

    def is_over(self, now: float) -> bool:
        """Tell whether its task has been over for some time, or it has none."""
        if self.counts:
            return False
        if self.over_since is None:
            self.over_since = now
        return now - self.over_since >= LEFT_AFTER

    def call_and_tell(self) -> None:
        """Call it, and tell who waits."""
        try:
            result = Context().run(self.work)  # another call's finds nothing that it sets
        except BaseException as error:  # noqa: BLE001 - whoever waits for it is told
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class HandlerPool(ThreadPoolExecutor):
    """Runs calls in daemon threads, which do not hold up the end of the process."""

    def __init__(self, threads: int | None = None, *, clock: Callable[[], float]) -> None:
        """Start threads as they are needed, at most `threads`; see `grow`."""
        self._clock = clock
        self._most = threads or THREADS
        self._extra = 0
        super().__init__(self._most)
        self._turn = threading.Condition()
        self._waiting: deque[PoolCall] = deque()
        self._at_work: dict[PoolCall, None] = {}
        self._started = 0
        self._idle = 0
        self._lacks_since: float | None = None
        self._closed = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a function. Raises `RuntimeError` after `shutdown`, or if there is no thread."""
        call = PoolCall(partial(fn, *args, **kwargs), self._clock())
        with self._turn:
            if self._closed:
                raise RuntimeError("the handlers' loop has ended")
            self._waiting.append(call)
            self._wake()
        return call.future

    def over(self, now: float) -> list[PoolCall]:
        """Return the calls that go on though their tasks are over; to be asked all the time."""
        return [call for call in tuple(self._at_work) if call.is_over(now)]

    def starved(self, now: float) -> bool:
        """Tell whether tasks that go on lack threads; to be asked all the time, after `grow`.

        As many of their calls as there are threads at first may be at work: others wait for those.
        If they have fewer threads, and some wait all the same, tasks that are over have the others,
        or no more can be started. Once they have none, that nobody waits shows nothing: whoever did
        has given up.
        """
        with self._turn:
            while self._waiting and self._waiting[0].future.cancelled():
                self._waiting.popleft().future.set_running_or_notify_cancel()
            kept = sum(not call.counts for call in tuple(self._at_work))
            waits = bool(self._waiting) and now - self._waiting[0].since > LEFT_AFTER
            lacks = waits and self._started - kept < self._most
            none = self._started <= kept and self._started >= self._most + self._extra
            if not lacks and not (none and self._lacks_since is not None):
                self._lacks_since = None
            elif self._lacks_since is None:
                self._lacks_since = now
            since = self._lacks_since
        return since is not None and now - since >= STARVED_AFTER

    def grow(self, extra: int) -> None:
        """Have so many threads more than at first, from now on, and as many as are wanted."""
        if extra == self._extra and not self._waiting:
            return
        with self._turn:
            self._extra = extra
            self._turn.notify_all()
            for _ in range(len(self._waiting) - self._idle):
                self._wake()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - as it is called; nobody can wait for what may never return
        """Refuse more calls; idle threads end, others when they have returned."""
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
                call.call_and_tell()
            self._at_work.pop(call, None)
            del call

    def _next(self) -> PoolCall | None:
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
