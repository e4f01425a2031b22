"""`async def` handlers, on an event loop in a thread of its own, and the way there and back.

A bundle crosses to that loop in one hop, and what has finished in one turn of it comes back in one.
A handler that blocks the loop cannot be stopped: see `loop_watch`.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context

import structlog
from msgspec import Raw

from maniple.execution import Outcome, TimeLimits, of_exception, run_async, timed_out
from maniple.tasks import TaskContext
from maniple_agent.domain.blocking import LoopState
from maniple_agent.executors.executor import Spawn
from maniple_agent.executors.failures import Failures
from maniple_agent.executors.latest_progress import LatestProgress
from maniple_agent.executors.loop_watch import LoopWatch
from maniple_agent.executors.pool import Caller, HandlerPool, calling
from maniple_agent.jobs import Job, Report, tell
from maniple_runtime.telemetry.context import in_span

Finished = tuple[Job, Outcome, float]
LOOP_ENDED = "a handler has ended the handlers' event loop; it goes on"
_UNTRACED = contextlib.nullcontext()


class HandlerLoop:
    """Runs jobs on a loop of its own; what has finished is told on the loop that made it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        agent: str,
        collected: Callable[[Sequence[Finished]], None],
        progress: Callable[[Job, Raw], None],
        clock: Callable[[], float],
    ) -> None:
        """Run `loop`; tell `collected` of what has finished in one turn of it, together."""
        self._clock = clock
        self._home = asyncio.get_running_loop()
        self._loop = loop
        self._context = copy_context()  # what is set in it was set before there were tasks
        self._agent = agent
        self._collected = collected
        self._progress = progress
        self._limits = TimeLimits(loop)
        self.pool = HandlerPool(clock=clock)
        loop.set_default_executor(self.pool)
        self._arrived: deque[Job] = deque()
        self._not_begun: dict[Job, bool] = {}  # who takes one out of it has it; both threads may
        self._finished: deque[Finished] = deque()
        self._crossing = False
        self._created: dict[asyncio.Task[None], Job] = {}  # tasks without a first step
        self._tasks: dict[Job, asyncio.Task[None]] = {}
        self._callers: dict[Job, Caller] = {}
        self._pinged_at: float | None = None
        self._stopping = False
        self._failures = Failures(clock)
        self._log = structlog.get_logger("maniple.agent.executor")
        self._thread = threading.Thread(target=self._serve, name="handlers", daemon=True)
        self._thread.start()

    @property
    def begun(self) -> dict[Job, asyncio.Task[None]]:
        """The jobs whose handlers have begun and not ended; a copy."""
        return dict(self._tasks)

    def run_jobs(self, jobs: Sequence[Job]) -> None:
        """Run jobs in one hop."""
        self._not_begun.update(dict.fromkeys(jobs, True))
        self._arrived.extend(jobs)
        self._loop.call_soon_threadsafe(self._begin)

    def take_back(self) -> list[Job]:
        """Take back the jobs whose handlers have not begun: they will not, unless run again."""
        return [job for job in list(self._not_begun) if self.take_one_back(job)]

    def take_one_back(self, job: Job) -> bool:
        """Take back a job; False if its handler has begun."""
        return self._not_begun.pop(job, False)

    def take_cancelled_back(self) -> list[Job]:
        """Take back what was cancelled before it began, as by who cancels all tasks of the loop."""
        back = []
        for task, job in dict(self._created).items():
            if task.done():
                self._created.pop(task, None)  # it may have ended by itself just now
                if self.take_one_back(job):
                    back.append(job)
        return back

    def began_at(self, job: Job) -> float | None:
        """Return when the handler of a job has begun; None if it has not, or has ended."""
        caller = self._callers.get(job)
        return None if caller is None else caller.began_at

    def give_up(self, job: Job) -> None:
        """Record that a job is over, though its handler may go on."""
        caller = self._callers.get(job)
        if caller is not None:
            caller.given_up = True

    def cancel_job(self, job: Job) -> None:
        """Cancel the handler of a job, if it has begun."""
        self.give_up(job)
        self._loop.call_soon_threadsafe(self._cancel, job)

    def _cancel(self, job: Job) -> None:
        if (task := self._tasks.get(job)) is not None:
            task.cancel()

    def blockers(self) -> list[Job]:
        """Return the job whose handler has the loop now; if that cannot be told, all."""
        begun = self.begun
        current = asyncio.current_task(self._loop)
        return [job for job, task in begun.items() if task is current] or list(begun)

    def stop_loop(self) -> None:
        """Cancel what runs and end the loop, once it answers."""
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
        self._not_begun.clear()
        tasks = list(self._tasks.values())
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
                LOOP_ENDED,
                reason=failure.message if failure else "",
                handlers=sorted({job.definition.capability for job in self._tasks}),
            )

    def _begin(self) -> None:
        while self._arrived:
            job = self._arrived.popleft()
            own: list[asyncio.Task[None]] = []
            work = self._run(job, own)
            own.append(self._loop.create_task(work, context=self._context.copy()))
            self._created[own[0]] = job

    async def _run(self, job: Job, own: Sequence[asyncio.Task[None]]) -> None:
        (task,) = own  # quicker than to ask for it, once for each job
        self._created.pop(task, None)
        if not self._not_begun.pop(job, False):
            return  # it was taken back
        self._tasks[job] = task
        started = self._clock()
        self._callers[job] = caller = Caller(job.definition.capability, started)
        calling.set(caller)
        try:
            with _UNTRACED if job.span is None else in_span(job.traceparent):
                outcome = await self._outcome(job)
        except BaseException as error:  # noqa: BLE001 - or its slot would never come back
            outcome = of_exception(error)
        caller.over = True
        del self._tasks[job], self._callers[job]
        if self._stopping:
            return  # nobody is there to hear it
        self._finished.append((job, outcome, self._clock() - started))
        if not self._crossing:
            self._crossing = True
            # At the end of this turn, so that all that finishes in it crosses together; without
            # what this handler has set, which what follows over there would find.
            self._loop.call_soon(self._cross, context=Context())

    async def _outcome(self, job: Job) -> Outcome:
        if job.settled:  # it was cancelled before it began: nobody hears this
            return timed_out(job.timeout)
        if not job.definition.takes_context:
            return await self._ran(job, job.context(self._agent, None))
        latest = LatestProgress(job, self._home, self._progress)
        try:
            return await self._ran(job, job.context(self._agent, latest.offer))
        finally:
            latest.tell_last()

    async def _ran(self, job: Job, context: TaskContext) -> Outcome:
        payload, heard = job.envelope.payload, self._failures.tell
        return await run_async(job.definition, context, payload, heard, self._limits)

    def _cross(self) -> None:
        self._crossing = False
        finished = list(self._finished)
        self._finished.clear()
        with contextlib.suppress(RuntimeError):  # its loop has closed: the process is ending
            self._home.call_soon_threadsafe(self._collected, finished)


class LoopExecutor:
    """Runs up to `capacity` async handlers at once."""

    def __init__(
        self,
        capacity: int,
        agent: str,
        report: Report,
        loop_factory: Callable[[], asyncio.AbstractEventLoop],
        *,
        clock: Callable[[], float],
    ) -> None:
        """Tell `report`; `start` makes the loop."""
        self._clock = clock
        self.capacity = capacity
        self._agent = agent
        self._report = report
        self._loop_factory = loop_factory
        self._running: dict[Job, float] = {}
        self._watch = LoopWatch(self._running, report, capacity, clock)
        self._made: HandlerLoop | None = None

    @property
    def free(self) -> int:
        """Jobs that can be run now. A call that its handler has left in a thread keeps a slot."""
        watch = self._watch
        if watch.health.state is not LoopState.ANSWERS or watch.starved:
            return 0
        return max(0, self.capacity - len(self._running) - len(watch.left))

    @property
    def stuck(self) -> Sequence[str]:
        """Why slots cannot be used: handlers that were given up and go on, or calls of theirs."""
        watch = self._watch
        if watch.health.state is not LoopState.ANSWERS:
            return [f"the event loop is blocked by {watch.blockers}"] * self.capacity
        if watch.starved:
            return [watch.starved] * self.capacity
        return [*self._given_up, *(f"{name} (its call in a thread)" for name in watch.left)]

    @property
    def kept(self) -> Sequence[str]:
        """Capabilities of handlers that were given up and go on, and of calls that were left."""
        return [*self._given_up, *self._watch.left]

    @property
    def _given_up(self) -> list[str]:
        return [job.definition.capability for job in self._running if job.settled]

    @property
    def _loop(self) -> HandlerLoop:
        if self._made is None:
            raise RuntimeError("the executor has not been started")
        return self._made

    async def start(self, spawn: Spawn) -> None:
        """Start the loop and who watches it."""
        self._made = HandlerLoop(
            self._loop_factory(),
            self._agent,
            self._collected,
            self._report.progress,
            self._clock,
        )
        self._watch.start_watch(self._made, spawn)

    async def stop(self) -> None:
        """Cancel what runs and end the loop; a blocked one is left to the end of the process."""
        await self._watch.stop_watch()
        if self._made is not None:
            self._made.stop_loop()

    def run(self, jobs: Sequence[Job]) -> None:
        """Run jobs in one hop."""
        now = self._clock()
        for job in jobs:
            self._running[job] = now
        self._loop.run_jobs(jobs)

    def cancel(self, job: Job) -> None:
        """Cancel a handler; one that does not end then keeps its slot."""
        job.settled = True
        self._loop.cancel_job(job)

    def holds(self, job: Job) -> bool:
        """Tell whether a handler has not ended yet."""
        return job in self._running

    def _collected(self, finished: Sequence[Finished]) -> None:
        for job, outcome, seconds in finished:
            self._running.pop(job, None)
            tell(self._report, job, outcome, seconds)
        self._report.slots_free()
