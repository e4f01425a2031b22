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

import structlog
from msgspec import Raw

from maniple.execution import Outcome, of_exception, run_async, timed_out
from maniple.service.telemetry.context import in_span
from maniple_agent.executors.jobs import Job, Report, Spawn, tell
from maniple_agent.executors.latest import Latest

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

    @property
    def stuck(self) -> Sequence[str]:
        """Capabilities of the handlers that have been given up and do not end."""
        return [job.definition.capability for job in self._running if job.settled]

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

    def cancel(self, job: Job) -> None:
        """Cancel a handler; one that does not end then keeps its slot."""
        job.settled = True
        for loop in (*self._old, self._loop):
            if loop is not None:
                loop.cancel(job)

    def holds(self, job: Job) -> bool:
        """Tell whether a handler has not ended yet."""
        return job in self._running

    def _new_loop(self) -> "_HandlerLoop":
        return _HandlerLoop(
            self._loop_factory(), self._agent, self._collected, self._report.progress
        )

    def _collected(self, finished: Sequence[Finished]) -> None:
        for job, outcome, seconds in finished:
            self._running.pop(job, None)
            tell(self._report, job, outcome, seconds)
        self._report.slots_free()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_PERIOD)
            now = monotonic()
            for job, since in list(self._running.items()):
                if now - since > job.timeout + GRACE:
                    tell(self._report, job, timed_out(job.timeout), now - since)
            loop = self._loop
            if loop is not None and loop.silent_for(now) > BLOCKED_AFTER:
                self._log.error(
                    "a handler blocks the event loop; new tasks get a new one",
                    handlers=loop.blockers(),
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
        progress: Callable[[Job, Raw], None],
    ) -> None:
        self._home = asyncio.get_running_loop()
        self._loop = loop
        self._agent = agent
        self._collected = collected
        self._progress = progress
        self._arrived: deque[Job] = deque()
        self._finished: deque[Finished] = deque()
        self._crossing = False
        self._tasks: dict[Job, asyncio.Task[None]] = {}
        self._pinged_at: float | None = None
        self._stopping = False
        self._log = structlog.get_logger("maniple.agent.executor")
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

    def cancel(self, job: Job) -> None:
        """Cancel the handler of a job, if it runs here."""
        self._loop.call_soon_threadsafe(self._cancel, job)

    def _cancel(self, job: Job) -> None:
        if (task := self._tasks.get(job)) is not None:
            # Not before its first step: it would never begin, and so never give back its slot.
            self._loop.call_soon(task.cancel)

    def blockers(self) -> list[str]:
        """Return the capability whose handler has the loop now; if that cannot be told, all."""
        running = dict(self._tasks)
        current = asyncio.current_task(self._loop)
        blocking = [job for job, task in running.items() if task is current]
        return sorted({job.definition.capability for job in blocking or running})

    def _taken(self) -> Iterator[Job]:
        with contextlib.suppress(IndexError):  # both threads take from it
            while True:
                yield self._arrived.popleft()

    def stop(self) -> None:
        self._stopping = True
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
        while not self._stopping:
            self._guarded(self._loop.run_forever)
        tasks = [*self._tasks.values()]
        for task in tasks:
            task.cancel()
        ended = asyncio.gather(*tasks, return_exceptions=True)
        self._guarded(lambda: self._loop.run_until_complete(ended))
        self._loop.close()

    def _guarded(self, run: Callable[[], object]) -> None:
        """Run the loop, which a SystemExit in what a handler has started leaves; log that."""
        try:
            run()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the others go on
            failure = of_exception(error).failure
            self._log.error(
                "the handlers' loop was left; it goes on",
                reason=failure.message if failure else "",
                handlers=sorted({job.definition.capability for job in self._tasks}),
            )

    def _begin(self) -> None:
        for job in self._taken():
            self._tasks[job] = self._loop.create_task(self._run(job))

    async def _run(self, job: Job) -> None:
        started = monotonic()
        try:
            with in_span(job.traceparent):
                outcome = await self._outcome(job)
        except BaseException as error:  # noqa: BLE001 - or its slot would never come back
            outcome = of_exception(error)
        del self._tasks[job]
        if self._stopping:
            return  # nobody is there to hear it
        self._finished.append((job, outcome, monotonic() - started))
        if not self._crossing:
            self._crossing = True
            # At the end of this turn, so that all that finishes in it crosses together.
            self._loop.call_soon(self._cross)

    async def _outcome(self, job: Job) -> Outcome:
        if job.settled:  # it waited here beyond its timeout, or was cancelled
            return timed_out(job.timeout)
        if not job.definition.takes_context:
            context = job.context(self._agent, None)
            return await run_async(job.definition, context, job.envelope.payload)
        latest = Latest(job, self._home, self._progress)
        try:
            context = job.context(self._agent, latest.report)
            return await run_async(job.definition, context, job.envelope.payload)
        finally:
            latest.close()

    def _cross(self) -> None:
        self._crossing = False
        finished = list(self._finished)
        self._finished.clear()
        with contextlib.suppress(RuntimeError):  # its loop has closed: the process is ending
            self._home.call_soon_threadsafe(self._collected, finished)
