"""`async def` handlers, on an event loop in a thread of its own.

A bundle crosses to that loop in one hop, and what has finished in one turn of it comes back in one.
A handler that blocks the loop cannot be stopped: its job is ended from here at its timeout, and new
jobs get a new loop.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from time import monotonic
from typing import Any

import structlog

from maniple.execution import Outcome, run_async, timed_out
from maniple_agent.executors.jobs import Job, Report, Spawn

GRACE = 0.5
WATCH_PERIOD = 0.25
BLOCKED_AFTER = 2.0
Finished = tuple[Job, Outcome, float]


class LoopExecutor:
    """Runs up to `capacity` async handlers at once."""

    def __init__(
        self,
        capacity: int,
        agent: str,
        report: Report,
        loop_factory: Callable[[], asyncio.AbstractEventLoop],
    ) -> None:
        """Tell `report`; `start` makes the loop."""
        self.capacity = capacity
        self._agent = agent
        self._report = report
        self._loop_factory = loop_factory
        self._log = structlog.get_logger("maniple.agent.executor")
        self._running: dict[Job, float] = {}
        self._loop: _HandlerLoop | None = None
        self._old: list[_HandlerLoop] = []
        self._watcher: asyncio.Task[None] | None = None

    @property
    def free(self) -> int:
        """Jobs that can be run now."""
        return self.capacity - len(self._running)

    async def start(self, spawn: Spawn) -> None:
        """Start the loop and who watches it."""
        self._loop = self._new_loop()
        self._watcher = spawn(self._watch(), "handler-loop-watch")

    async def stop(self) -> None:
        """Cancel what runs and end the loops; a blocked one is left to the end of the process."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        for loop in [*self._old, *([self._loop] if self._loop else [])]:
            loop.stop()

    def run(self, jobs: Sequence[Job]) -> None:
        """Run jobs in one hop."""
        if self._loop is None:
            raise RuntimeError("the executor has not been started")
        now = monotonic()
        for job in jobs:
            self._running[job] = now
        self._loop.run(list(jobs))

    def _new_loop(self) -> "_HandlerLoop":
        return _HandlerLoop(
            self._loop_factory(), self._agent, self._collected, self._report.progress
        )

    def _collected(self, finished: Sequence[Finished]) -> None:
        for job, outcome, seconds in finished:
            self._running.pop(job, None)
            if not job.settled:
                job.settled = True
                self._report.outcome(job, outcome, seconds)
        self._report.slots_free()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_PERIOD)
            now = monotonic()
            for job, since in list(self._running.items()):
                if not job.settled and now - since > job.timeout + GRACE:
                    job.settled = True
                    self._report.outcome(job, timed_out(job.timeout), now - since)
            loop = self._loop
            if loop is not None and loop.silent_for(now) > BLOCKED_AFTER:
                self._log.error(
                    "a handler blocks the event loop; new tasks get a new one",
                    handlers=sorted({job.definition.capability for job in self._running}),
                    seconds=round(loop.silent_for(now), 1),
                )
                self._old.append(loop)
                self._loop = self._new_loop()
                self.run(loop.not_begun())
            for old in [old for old in self._old if old.silent_for(now) < BLOCKED_AFTER]:
                if old.idle:
                    self._old.remove(old)
                    old.stop()


class _HandlerLoop:
    """One event loop in its thread, and the way there and back."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        agent: str,
        collected: Callable[[Sequence[Finished]], None],
        progress: Callable[[Job, Any], None],
    ) -> None:
        self._home = asyncio.get_running_loop()
        self._loop = loop
        self._agent = agent
        self._collected = collected
        self._progress = progress
        self._arrived: deque[Job] = deque()
        self._finished: deque[Finished] = deque()
        self._crossing = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._pinged_at: float | None = None
        self._thread = threading.Thread(target=self._serve, name="handlers", daemon=True)
        self._thread.start()

    @property
    def idle(self) -> bool:
        return not self._tasks

    def run(self, jobs: list[Job]) -> None:
        self._arrived.extend(jobs)
        self._loop.call_soon_threadsafe(self._begin)

    def not_begun(self) -> list[Job]:
        """Take back the jobs that the loop has not begun, so that another one can run them."""
        return list(self._taken())

    def _taken(self) -> Iterator[Job]:
        with contextlib.suppress(IndexError):  # both threads take from it
            while True:
                yield self._arrived.popleft()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)

    def silent_for(self, now: float) -> float:
        """Return for how many seconds the loop has not answered; asks it again if it has."""
        asked = self._pinged_at  # once: the other loop's thread sets it to None at any time
        if asked is None:
            self._pinged_at = asked = now
            self._loop.call_soon_threadsafe(self._answer)
        return now - asked

    def _answer(self) -> None:
        self._pinged_at = None

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        for task in self._tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
        self._loop.close()

    def _begin(self) -> None:
        for job in self._taken():
            task = self._loop.create_task(self._run(job))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, job: Job) -> None:
        started = monotonic()
        context = job.context(self._agent, lambda value: self._told(job, value))
        if job.settled:  # it waited here beyond its timeout
            outcome = timed_out(job.timeout)
        else:
            outcome = await run_async(job.definition, context, job.envelope.payload)
        self._finished.append((job, outcome, monotonic() - started))
        if not self._crossing:
            self._crossing = True
            # At the end of this turn, so that all that finishes in it crosses together.
            self._loop.call_soon(self._cross)

    def _cross(self) -> None:
        self._crossing = False
        finished = list(self._finished)
        self._finished.clear()
        self._home.call_soon_threadsafe(self._collected, finished)

    def _told(self, job: Job, value: Any) -> None:
        self._home.call_soon_threadsafe(self._progress, job, value)
