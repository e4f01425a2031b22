"""Processes in virtual time: a seeded world, in which each process is an event loop of its own.

The real asynchronous classes run on it unmodified. A process can be killed, frozen and slowed down
without the others; what it should have done meanwhile it does, in order, when it thaws.
"""

import asyncio
import contextlib
import contextvars
import heapq
import itertools
import logging
import os
import random
import sys
from collections import deque
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Self
from zlib import crc32

import pytest
import structlog

from maniple.clock import Clock

SEED = "MANIPLE_SIM_SEED"
FACTOR = "MANIPLE_SIM_FACTOR"
TOLD = "MANIPLE_SIM_TOLD"
EPOCH = 1_700_000_000.0  # of the time of day in a world, seconds; before the real one
CHUNKS = 4
STORY = 40
ENDING = 100  # seconds in which processes may end


def seeds(count: int) -> list[range]:
    """Return chunks of so many seeds, for `pytest.mark.parametrize`.

    `MANIPLE_SIM_SEED=17` tries that one alone, `MANIPLE_SIM_FACTOR=50` fifty times as many.
    """
    if one := os.environ.get(SEED):
        return [range(int(one), int(one) + 1)]
    count = round(count * float(os.environ.get(FACTOR, "1")))
    ends = [count * number // CHUNKS for number in range(CHUNKS + 1)]
    return [range(begin, end) for begin, end in itertools.pairwise(ends) if begin < end]


class World:
    """A clock, what will happen, and chance. Processes are given its `clock`.

    An error inside names the seed by which it can be repeated, and what was done to the processes.
    All of it is the same for the same seed: no decision may depend on the order of a set, which
    differs between processes. `MANIPLE_SIM_TOLD` names a file that gets a line for each world by
    which they can be compared.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.now = 1000.0
        self.story: deque[str] = deque(maxlen=STORY)
        self.crashes: list[BaseException] = []
        self.left: list[asyncio.Task[Any]] = []
        self.processes: list[Process] = []
        self._order = itertools.count()
        self._ids = itertools.count(1)
        self._heap: list[tuple[float, int, Callable[[], object], Process | None, bool]] = []
        self._stack = contextlib.ExitStack()
        self.clock = Clock(self.now_utc, self.monotonic, self.monotonic)
        """What the processes are given."""
        self.patch = pytest.MonkeyPatch()
        """Undone when all processes have ended: until then they need the stand-ins for servers."""

    def __enter__(self) -> Self:
        patch = self.patch
        self._stack.callback(patch.undo)
        before = random.getstate()
        self._stack.callback(random.setstate, before)
        random.seed(self.seed)  # the product's jitter
        settings = structlog.get_config()
        self._stack.callback(lambda: structlog.configure(**settings))
        loud = structlog.make_filtering_bound_logger(logging.ERROR)
        structlog.configure(wrapper_class=loud, processors=[self._logged])
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if told := os.environ.get(TOLD):
            with Path(told).open("a", encoding="utf-8") as lines:
                lines.write(f"{self.seed} {self._fingerprint()}\n")
        self._end()
        self._stack.close()
        if error is None:
            assert not self.left, f"these do not end when they are cancelled: {self.left}"
        if error is not None:
            error.add_note(f"seed {self.seed} (again alone: {SEED}={self.seed} pytest …)")
            error.add_note("\n".join(self.story))

    def _fingerprint(self) -> str:
        """Return how much has happened, and the state of the random numbers."""
        chance = self.random.getstate(), random.getstate()
        return f"{next(self._order)} {crc32(repr(chance).encode()):08x}"

    def _end(self) -> None:
        """Cancel what still runs: coroutines that nobody ends complain when they are collected."""
        self._heap = [event for event in self._heap if event[3] is not None]
        heapq.heapify(self._heap)
        for process in self.processes:
            process.cancel()
        for _ in range(ENDING):
            if not any(process.tasks for process in self.processes):
                break
            # What ends may fail at that, and a process says so; nobody is left to be told of it.
            with contextlib.suppress(Exception, asyncio.CancelledError):
                self.crashes.clear()
                self.run(1.0)
        self.left = [task for process in self.processes for task in process.tasks]

    def _logged(self, _log: object, _level: str, event: MutableMapping[str, Any]) -> str:
        """Treat an error that the product logs and survives as a crash."""
        error = event.get("exc_info")
        if error:
            caught = error if isinstance(error, BaseException) else sys.exception()
            self.crashes.append(caught or AssertionError(event["event"]))
        raise structlog.DropEvent

    def monotonic(self) -> float:
        """Return the seconds of a steady clock."""
        return self.now

    def now_utc(self) -> datetime:
        """Return the time of day."""
        return datetime.fromtimestamp(self.wall(), UTC)

    def wall(self) -> float:
        """Return the time of day in seconds."""
        return EPOCH + self.now

    def new_id(self) -> str:
        """Return a UUIDv7 of this time, the same for the same seed."""
        milliseconds, number = int(self.wall() * 1000), next(self._ids)
        digits = f"{milliseconds:012x}7{number >> 16 & 0xFFF:03x}8000{number & 0xFFFF:012x}"
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

    def tell(self, what: str) -> None:
        """Add to the history that a failure shows."""
        self.story.append(f"{self.now - 1000.0:8.3f}  {what}")

    def between(self, least: float, most: float) -> float:
        """Return random seconds."""
        return self.random.uniform(least, most)

    def after(self, seconds: float, do: Callable[[], object], on: "Process | None" = None) -> None:
        """Schedule a call, `on` a process when that is neither frozen nor dead."""
        self.at(self.now + seconds, do, on)

    def at(self, when: float, do: Callable[[], object], on: "Process | None" = None) -> None:
        """Schedule a call at a time."""
        heapq.heappush(self._heap, (max(when, self.now), next(self._order), do, on, False))

    def every(self, seconds: float, look: Callable[[], object]) -> None:
        """Repeat a check, from outside."""

        def again() -> None:
            look()
            self.after(seconds, again)

        self.after(seconds, again)

    def run(self, seconds: float) -> None:
        """Advance time; raises what ended a process."""
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            self.now, _, do, process, late = heapq.heappop(self._heap)
            if process is None:
                do()
            else:
                self._step(process, do, late=late)
            if self.crashes:
                raise self.crashes[0]
        self.now = end

    def _step(self, process: "Process", do: Callable[[], object], *, late: bool) -> None:
        if process.dead:
            return
        due = process.due(late=late)
        if due > self.now:
            heapq.heappush(self._heap, (due, next(self._order), do, process, True))
        else:
            process.step(do)


class Process:
    """A process: what asyncio needs of an event loop, run when the world says so."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self._loop: Any = self
        self.dead = False
        self.frozen_until = 0.0
        self._slow: Callable[[], float] | None = None
        self._busy_until = 0.0
        self._ready: deque[asyncio.Handle] = deque()
        self._running = False
        self.tasks: dict[asyncio.Task[Any], None] = {}  # ordered: a set of them is so by address
        world.processes.append(self)

    def __repr__(self) -> str:
        return f"<{self.name}>"

    # --- what may be done to it ----------------------------------------------------------

    def kill(self) -> None:
        """End it without notice."""
        self.world.tell(f"{self.name} is killed")
        self.dead = True

    def freeze(self, seconds: float) -> None:
        """Freeze it."""
        self.world.tell(f"{self.name} is frozen for {seconds:.3f} s")
        self.frozen_until = max(self.frozen_until, self.world.now + seconds)

    def slow(self, seconds: float, most: float) -> None:
        """Delay each thing that it does by up to `most` seconds, for so long."""
        self.world.tell(f"{self.name} is slow by up to {most:.3f} s for {seconds:.3f} s")
        until = self.world.now + seconds
        self._slow = lambda: self.world.between(0, most) if self.world.now < until else 0.0

    @property
    def frozen(self) -> bool:
        return self.world.now < self.frozen_until

    def run(self, work: Any) -> None:
        """Run a coroutine as its main task; what it raises ends the world."""
        self.step(lambda: self._main(work))

    def cancel(self) -> None:
        """End all that runs in it, even if it is frozen or dead."""
        self.dead, self.frozen_until, self._slow = False, 0.0, None
        for task in tuple(self.tasks):
            task.cancel()

    def _main(self, work: Any) -> None:
        task = self.create_task(work)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.world.crashes.append(error)

    def due(self, *, late: bool) -> float:
        """Return when it can do something that is due."""
        now = self.world.now
        if self.frozen_until > now:
            return self.frozen_until
        if self._slow is None or late:
            return now
        self._busy_until = max(self._busy_until, now + self._slow())
        return self._busy_until

    def step(self, do: Callable[[], object]) -> None:
        """Do something, and all that follows from it at once."""
        asyncio._set_running_loop(self._loop)
        self._running = True
        try:
            do()
            while self._ready:
                _run(self._ready.popleft())
        finally:
            self._running = False
            asyncio._set_running_loop(None)

    # --- what asyncio asks of a loop -----------------------------------------------------

    def time(self) -> float:
        return self.world.now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return self._running

    def is_closed(self) -> bool:
        return False

    def call_soon(
        self,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self._loop, context)
        self._ready.append(handle)
        if not self._running:
            self.world.at(self.world.now, _nothing, self)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self.world.now + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self._loop, context)
        self.world.at(when, partial(_run, handle), self)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        del handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self._loop)

    def create_task(self, coro: Any, **named: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=self._loop, **named)
        self.tasks[task] = None  # as long as it runs: a loop itself keeps none alive
        task.add_done_callback(self.tasks.pop)
        return task

    def run_in_executor(
        self, executor: object, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run it here and now: threads would bring in the time of this machine."""
        del executor
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - whoever waits for it gets it
            future.set_exception(error)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.world.crashes.append(error or AssertionError(context["message"]))


def _run(handle: asyncio.Handle) -> None:
    if not handle.cancelled():
        handle._run()


def _nothing() -> None: ...
