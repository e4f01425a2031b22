"""Plain functions, in threads. A thread that outlives its timeout keeps its slot until it returns.

The threads are daemons, and so not those of `concurrent.futures`, which would hold up the end of
the process for a handler that never returns.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from queue import SimpleQueue

import structlog

from maniple.errors import ErrorCode
from maniple.execution import Outcome, failed, of_exception, run_sync, timed_out
from maniple_agent.executors.executor import Spawn
from maniple_agent.executors.failures import Failures
from maniple_agent.executors.latest_progress import LatestProgress
from maniple_agent.jobs import Job, Report, tell
from maniple_runtime.telemetry.context import in_span

START_PAUSE = 1.0


class ThreadExecutor:
    """Runs up to `capacity` plain handlers at once, each in a thread."""

    def __init__(
        self, capacity: int, agent: str, report: Report, *, clock: Callable[[], float]
    ) -> None:
        """Tell `report`; threads are started as they are needed."""
        self._clock = clock
        self.capacity = capacity
        self._agent = agent
        self._report = report
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._timers: dict[Job, asyncio.TimerHandle] = {}
        self._home: asyncio.AbstractEventLoop | None = None
        self._none_until = 0.0
        self._context = Context()
        self._failures = Failures(clock)
        self._log = structlog.get_logger("maniple.agent.executor")

    @property
    def free(self) -> int:
        """Jobs that can be run now."""
        return max(0, self._available - len(self._timers))

    @property
    def stuck(self) -> Sequence[str]:
        """What is `kept`, and why there is no thread for other slots."""
        missing = ["no thread can be started"] * (self.capacity - self._available)
        return [*self.kept, *missing]

    @property
    def kept(self) -> Sequence[str]:
        """Capabilities of the handlers that were given up and do not return."""
        return [job.definition.capability for job in self._timers if job.settled]

    @property
    def _available(self) -> int:
        return self.capacity if self._clock() >= self._none_until else len(self._threads)

    async def start(self, _spawn: Spawn) -> None:
        """Remember the loop that outcomes are told on, and what is set before there are tasks."""
        self._home = asyncio.get_running_loop()
        self._context = copy_context()

    async def stop(self) -> None:
        """End idle threads; busy ones end with the process."""
        for _ in self._threads:
            self._jobs.put(None)

    def run(self, jobs: Sequence[Job]) -> None:
        """Give jobs to threads; one for which none can be started ends `handler_crashed`."""
        loop = asyncio.get_running_loop()
        for job in jobs:
            self._timers[job] = loop.call_later(job.timeout, self._overdue, job)
            if len(self._timers) <= len(self._threads) or self._new_thread(loop):
                self._jobs.put(job)
            else:
                outcome = failed(ErrorCode.HANDLER_CRASHED, "its agent can start no thread")
                loop.call_soon(self._returned, job, outcome, 0.0)

    def cancel(self, job: Job) -> None:
        """Drop the outcome of a job: a thread cannot be stopped."""
        job.settled = True

    def holds(self, job: Job) -> bool:
        """Tell whether a handler has not returned yet."""
        return job in self._timers

    def _new_thread(self, loop: asyncio.AbstractEventLoop) -> bool:
        name = f"handler-{len(self._threads) + 1}"
        run = self._context.copy().run
        thread = threading.Thread(target=run, args=(self._serve,), name=name, daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError) as error:
            self._log.error("a thread cannot be started", threads=name, reason=str(error))
            # The threads that there are go on; more are tried for later, not for every task.
            self._none_until = self._clock() + START_PAUSE
            loop.call_later(START_PAUSE, self._report.slots_free)
            return False
        self._threads.append(thread)
        return True

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            started = self._clock()
            outcome = self._outcome(job)
            with contextlib.suppress(RuntimeError):  # its loop has closed: the process is ending
                self._loop.call_soon_threadsafe(
                    self._returned, job, outcome, self._clock() - started
                )

    def _outcome(self, job: Job) -> Outcome:
        if job.settled:  # cancelled before it began
            return Outcome()
        latest = LatestProgress(job, self._loop, self._report.progress)
        try:
            context = job.context(self._agent, latest.offer)
            with in_span(job.traceparent):
                payload = job.envelope.payload
                return run_sync(job.definition, context, payload, self._failures.tell)
        except BaseException as error:  # noqa: BLE001 - or the thread and its slot would be gone
            return of_exception(error)
        finally:
            latest.tell_last()

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        if self._home is None:
            raise RuntimeError("the executor has not been started")
        return self._home

    def _overdue(self, job: Job) -> None:
        tell(self._report, job, timed_out(job.timeout), job.timeout)

    def _returned(self, job: Job, outcome: Outcome, seconds: float) -> None:
        self._timers.pop(job).cancel()
        tell(self._report, job, outcome, seconds)
        self._report.slots_free()
