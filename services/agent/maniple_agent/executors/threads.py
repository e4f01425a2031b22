"""Plain functions, in threads. A thread that outlives its timeout keeps its slot until it returns.

The threads are daemons, and so not those of `concurrent.futures`, which would hold up the end of
the process for a handler that never returns.
"""

import asyncio
import threading
from collections.abc import Sequence
from queue import SimpleQueue
from time import monotonic
from typing import Any

from maniple.execution import Outcome, run_sync, timed_out
from maniple_agent.executors.jobs import Job, Report, Spawn


class ThreadExecutor:
    """Runs up to `capacity` plain handlers at once, each in a thread."""

    def __init__(self, capacity: int, agent: str, report: Report) -> None:
        """Tell `report`; threads are started as they are needed."""
        self.capacity = capacity
        self._agent = agent
        self._report = report
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._timers: dict[Job, asyncio.TimerHandle] = {}
        self._home: asyncio.AbstractEventLoop | None = None
        self._busy = 0

    @property
    def free(self) -> int:
        """Jobs that can be run now."""
        return self.capacity - self._busy

    async def start(self, _spawn: Spawn) -> None:
        """Remember the loop that outcomes are told on."""
        self._home = asyncio.get_running_loop()

    async def stop(self) -> None:
        """Let idle threads end; busy ones end with the process."""
        for _ in self._threads:
            self._jobs.put(None)

    def run(self, jobs: Sequence[Job]) -> None:
        """Give jobs to threads."""
        loop = asyncio.get_running_loop()
        for job in jobs:
            self._busy += 1
            self._timers[job] = loop.call_later(job.timeout, self._overdue, job)
            if self._busy > len(self._threads):
                self._new_thread()
            self._jobs.put(job)

    def _new_thread(self) -> None:
        name = f"handler-{len(self._threads) + 1}"
        thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            started = monotonic()
            context = job.context(self._agent, self._progress_of(job))
            outcome = run_sync(job.definition, context, job.envelope.payload)
            self._tell(self._returned, job, outcome, monotonic() - started)

    def _progress_of(self, job: Job) -> Any:
        def told(value: Any) -> None:
            self._tell(self._report.progress, job, value)

        return told

    def _tell(self, function: Any, *arguments: Any) -> None:
        try:
            if self._home is not None:
                self._home.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            return  # the connection loop has closed: the process is ending

    def _overdue(self, job: Job) -> None:
        if not job.settled:
            job.settled = True
            self._report.outcome(job, timed_out(job.timeout), job.timeout)

    def _returned(self, job: Job, outcome: Outcome, seconds: float) -> None:
        self._busy -= 1
        self._timers.pop(job).cancel()
        if not job.settled:
            job.settled = True
            self._report.outcome(job, outcome, seconds)
        self._report.slots_free()
