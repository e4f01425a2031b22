"""CPU-bound handlers, in worker processes that end at the timeout and are replaced."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_fixed

from maniple.errors import ErrorCode
from maniple.execution import Outcome, failed, timed_out
from maniple.messages import info_of
from maniple_agent.executors import cgroups
from maniple_agent.executors.child import ENDED, START_TIMEOUT, Worker
from maniple_agent.executors.executor import Spawn
from maniple_agent.executors.frames import WorkerCall
from maniple_agent.jobs import Job, Report, tell
from maniple_runtime.backoff import error_of
from maniple_runtime.telemetry.tracing import NO_TRACER, Tracer

RESTART_PAUSE = 1.0
REMOVALS = 10  # at the end, of the cgroups of workers that were killed
REMOVAL_PAUSE = 0.02
NOT_STARTED = "a worker process does not start"


class ProcessExecutor:
    """Runs up to `capacity` handlers at once, each in a worker process of its own."""

    def __init__(  # noqa: PLR0913 - what its workers need as well
        self,
        capacity: int,
        agent: str,
        report: Report,
        *,
        handlers: Sequence[str],
        memory: int,
        known: Callable[[], datetime | None],
        clock: Callable[[], float],
        tracer: Tracer = NO_TRACER,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        cgroups_at: Path | None = None,
    ) -> None:
        """Import `handlers` in each worker; `memory` is bytes that it may use, or reserve.

        Workers have the variables of `environment` besides the agent's own. They begin in `folder`
        (None: the current one). Both are as now, whatever handlers do in this process. They have
        cgroups of their own if those are at `cgroups_at`, and this process may make some.
        """
        self._environment = {**os.environ, **(environment or {})}
        self._folder = folder or Path.cwd()
        self._tracer = tracer
        self.capacity = capacity
        self._agent = agent
        self._report = report
        self._handlers = list(handlers)
        self._memory = memory
        self._cgroups_at = cgroups_at
        self._groups = cgroups.Groups(None)
        self._known, self._clock = known, clock
        self._jobs: asyncio.Queue[Job] = asyncio.Queue()
        self._serving: dict[Job, Worker] = {}
        self._idle: set[Worker] = set()
        self._failing = 0
        self._keepers: list[asyncio.Task[None]] = []
        self._log = structlog.get_logger("maniple.agent.executor")

    @property
    def free(self) -> int:
        """Jobs that can be run now: there are workers, and they have nothing to do."""
        return max(0, len(self._idle) - self._jobs.qsize())

    @property
    def stuck(self) -> Sequence[str]:
        """One reason for each worker that does not start; those that run can be ended."""
        return [NOT_STARTED] * self._failing

    @property
    def kept(self) -> Sequence[str]:
        """None: whatever is given up is killed."""
        return ()

    async def start(self, spawn: Spawn) -> None:
        """Start a keeper for each worker process."""
        if self._cgroups_at is not None:
            self._groups = cgroups.groups_below(self._cgroups_at)
        self._keepers = [
            spawn(self._keep(), f"worker-{number}") for number in range(1, self.capacity + 1)
        ]

    async def stop(self) -> None:
        """Kill the workers."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        for _ in range(REMOVALS):
            if self._groups.remove_group(None):
                break
            await asyncio.sleep(REMOVAL_PAUSE)

    def run(self, jobs: Sequence[Job]) -> None:
        """Give jobs to workers."""
        for job in jobs:
            self._jobs.put_nowait(job)

    def cancel(self, job: Job) -> None:
        """Kill the worker that runs a job; it is replaced."""
        job.settled = True
        if (worker := self._serving.get(job)) is not None:
            worker.strike()

    def holds(self, job: Job) -> bool:
        """Tell whether a worker has not been ended yet."""
        return job in self._serving

    async def _keep(self) -> None:
        """Keep one worker alive and feed it."""
        while True:
            group = self._groups.new()
            try:
                await self._keep_in(group)
            finally:
                self._groups.remove_group(group)

    async def _keep_in(self, group: Path | None) -> None:
        """Keep one in a cgroup, until it has ended."""
        worker = await self._started(group)
        try:
            while (job := await self._next_job(worker)) is not None:
                if not await self._feed(worker, job):
                    break
        finally:
            await worker.kill()

    async def _started(self, group: Path | None) -> Worker:
        """Start a worker; one that fails is tried again for as long as it takes."""
        failing = 0

        def tell(ended: RetryCallState) -> None:
            nonlocal failing
            error = error_of(ended)
            self._log.error(NOT_STARTED, reason=repr(error))
            self._failing += 1 - failing
            failing = 1
            self._fail_one(f"no worker process starts: {error!r}")

        starting = AsyncRetrying(
            retry=retry_if_exception_type((TimeoutError, *ENDED)),
            wait=wait_fixed(RESTART_PAUSE),
            before_sleep=tell,
        )
        try:
            return await starting(
                Worker.start_process, self._handlers, self._environment, self._folder, group
            )
        finally:
            self._failing -= failing

    async def _next_job(self, worker: Worker) -> Job | None:
        """Wait for a job; None if the worker ends before."""
        self._idle.add(worker)
        self._report.slots_free()
        job = asyncio.create_task(self._jobs.get())
        try:
            await asyncio.wait({job, worker.ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._idle.discard(worker)
            if not job.done():
                job.cancel()
        return job.result() if job.done() else None

    async def _feed(self, worker: Worker, job: Job) -> bool:
        """Run a job on a worker; False if that ended while it had nothing to do."""
        # It may have waited for this worker, and must not run beyond its deadline.
        now = self._known()
        if now is not None:
            job.timeout = min(job.timeout, (job.envelope.deadline - now).total_seconds())
        if job.settled or job.timeout <= 0:
            tell(self._report, job, timed_out(0.0), 0.0)
            return True
        self._serving[job] = worker
        try:
            if not await self._begins(worker, job):
                self._jobs.put_nowait(job)
                return False
            await self._serve(worker, job)
        finally:
            del self._serving[job]
        return worker.is_alive()

    async def _begins(self, worker: Worker, job: Job) -> bool:
        """Hand a job to a worker; False if that has died."""
        envelope = job.envelope
        call = WorkerCall(
            task=info_of(envelope),
            timeout=job.timeout,
            memory=self._memory_of(job),
            payload=envelope.payload,
            agent=self._agent,
            traceparent=job.traceparent or envelope.traceparent,
            traced=job.span is not None,
        )
        try:
            async with asyncio.timeout(START_TIMEOUT):
                await worker.send_call(call)
                await worker.receive()
        except (TimeoutError, *ENDED):
            return False
        return True

    def _memory_of(self, job: Job) -> int:
        return job.definition.memory or self._memory

    def _fail_one(self, why: str) -> None:
        """End a job that waits for a worker, so that it does not wait for ever."""
        with contextlib.suppress(asyncio.QueueEmpty):
            outcome = failed(ErrorCode.HANDLER_CRASHED, why)
            tell(self._report, self._jobs.get_nowait(), outcome, 0.0)

    async def _serve(self, worker: Worker, job: Job) -> None:
        started = self._clock()
        try:
            async with asyncio.timeout(job.timeout):
                outcome, seconds = await self._call(worker, job)
        except TimeoutError:
            await worker.kill()
            outcome, seconds = timed_out(job.timeout), self._clock() - started
        except ENDED:
            code = await worker.kill()
            seconds = self._clock() - started
            why = _how_it_ended(code)
            if worker.group is not None and cgroups.ran_out(worker.group):
                why = f"it went over its memory limit of {self._memory_of(job)} bytes"
            outcome = failed(ErrorCode.HANDLER_CRASHED, f"the worker process ended: {why}")
        tell(self._report, job, outcome, seconds)

    async def _call(self, worker: Worker, job: Job) -> tuple[Outcome, float]:
        while True:
            reply = await worker.receive()
            if not reply.progress:
                for span in reply.spans:
                    self._tracer.write_of_handler(span)
                outcome = Outcome(bytes(reply.value), reply.failure, reply.retryable)
                return outcome, reply.seconds
            self._report.progress(job, reply.value)


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        return f"killed by signal {-code}"
    return f"exit code {code}"
