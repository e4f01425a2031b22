"""`async def` handlers, on an event loop in a thread of its own.

A bundle crosses to that loop in one hop, and what has finished in one turn of it comes back in one.
A handler that blocks the loop cannot be stopped: its job is ended from here at its timeout. There
is only this loop, see `LoopHealth`: while it is blocked, nothing is taken, and what it has not
begun is given back, as is what it has not begun within its timeout: what never ran never ends so.
If the loop is lost, the agent ends, so that it can be started anew.
"""

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic

import structlog

from maniple.errors import ManipleError
from maniple.execution import timed_out
from maniple_agent.domain.blocking import LoopHealth, LoopState
from maniple_agent.executors.handler_loop import Finished, HandlerLoop
from maniple_agent.executors.jobs import Job, Report, Spawn, tell

GRACE = 0.5
WATCH_PERIOD = 0.25
LATE_LOOK = 1.0
"""Seconds since the last look: this process stood still, and its loop has not answered yet."""


class HandlerLoopLost(ManipleError):
    """Something blocks the handlers' loop for good: only another process has another one."""


class LoopExecutor:
    """Runs up to `capacity` async handlers at once."""

    def __init__(
        self,
        capacity: int,
        agent: str,
        report: Report,
        loop_factory: Callable[[], asyncio.AbstractEventLoop],
        *,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Tell `report`; `start` makes the loop."""
        self._clock = clock
        self.capacity = capacity
        self._agent = agent
        self._report = report
        self._loop_factory = loop_factory
        self._log = structlog.get_logger("maniple.agent.executor")
        self._running: dict[Job, float] = {}
        self._left: list[str] = []
        self._starved = ""
        self._health = LoopHealth()
        self._blockers = ""
        self._made: HandlerLoop | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._looked_at = 0.0
        self._passed_over = False

    @property
    def free(self) -> int:
        """Jobs that can be run now. A call that its handler has left in a thread keeps a slot."""
        if self._health.state is not LoopState.ANSWERS or self._starved:
            return 0
        return max(0, self.capacity - len(self._running) - len(self._left))

    @property
    def stuck(self) -> Sequence[str]:
        """Why slots cannot be used: handlers that were given up and go on, or calls of theirs."""
        if self._health.state is not LoopState.ANSWERS:
            return [f"the event loop is blocked by {self._blockers}"] * self.capacity
        if self._starved:
            return [self._starved] * self.capacity
        return [*self._given_up, *(f"{name} (its call in a thread)" for name in self._left)]

    @property
    def kept(self) -> Sequence[str]:
        """Capabilities of handlers that were given up and go on, and of calls that were left."""
        return [*self._given_up, *self._left]

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
        self._looked_at = self._clock()
        self._watcher = spawn(self._watch(), "handler-loop-watch")

    async def stop(self) -> None:
        """Cancel what runs and end the loop; a blocked one is left to the end of the process."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
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

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_PERIOD)
            self.check_overdue()

    def check_overdue(self) -> None:
        """End what is overdue, and see how loop and threads are; called some times a second.

        Of two looks the first after a standstill is passed over. Raises `HandlerLoopLost`.
        """
        now = self._clock()
        self._passed_over = now - self._looked_at > LATE_LOOK and not self._passed_over
        self._looked_at = now
        if self._passed_over:
            return
        self._give_back(self._loop.take_cancelled_back())
        self._look_at_loop(now, self._end_overdue(now))
        self._look_at_threads(now)

    def _end_overdue(self, now: float) -> list[Job]:
        """End the jobs that do not end, and take back those that were not begun in time."""
        late = []
        for job, since in list(self._running.items()):
            if now - since <= job.timeout + GRACE:
                continue
            began = self._loop.began_at(job)
            if began is not None:
                if now - began > job.timeout + GRACE:
                    self._loop.give_up(job)
                    tell(self._report, job, timed_out(job.timeout), now - began)
            elif self._loop.take_one_back(job):
                late.append(job)
        return late

    def _look_at_loop(self, now: float, late: list[Job]) -> None:
        before, silent = self._health.state, self._loop.silent_for(now)
        blockers = self._loop.blockers()
        given_up = all(job.settled for job in blockers)
        state = self._health.judge_silence(silent, given_up=given_up, now=now, behind=bool(late))
        if state is not LoopState.ANSWERS:
            self._say_who_blocks(blockers, silent, news=before is LoopState.ANSWERS)
            self._give_back([*late, *self._loop.take_back()])
        elif before is not LoopState.ANSWERS:
            self._log.info("the handlers' event loop answers again", handlers=self._blockers)
            self._report.slots_free()
        if state is LoopState.LOST:
            raise HandlerLoopLost(
                f"the handlers' event loop is blocked by {self._blockers} since {silent:.0f} s; "
                "this agent ends, to be started anew"
            )

    def _say_who_blocks(self, blockers: Sequence[Job], silent: float, *, news: bool) -> None:
        names = sorted({job.definition.capability for job in blockers})
        self._blockers = ", ".join(names) or "what a handler has left"
        if news:
            self._log.error(
                "a handler blocks the event loop; nothing is taken until it answers",
                handlers=names,
                seconds=round(silent, 1),
            )

    def _give_back(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            del self._running[job]
        if jobs:
            self._report.returned(jobs)

    def _look_at_threads(self, now: float) -> None:
        """Count the calls that were left, and replace their threads, so that others have some."""
        over = self._loop.pool.over(now)
        left = [call.name for call in over if call.left]
        if len(left) > len(self._left):
            self._log.warning(
                "calls in threads go on without their handlers", handlers=sorted(set(left))
            )
        gained = len(left) < len(self._left)
        self._left = left
        self._loop.pool.grow(min(len(over), self.capacity))
        gained |= self._looks_fed(now, sorted({call.name for call in over}))
        if gained:
            self._report.slots_free()

    def _looks_fed(self, now: float, keepers: list[str]) -> bool:
        """See whether calls get threads; tell whether they do again."""
        before = self._starved
        self._starved = ""
        if self._loop.pool.starved(now):
            kept = ", ".join(keepers)
            self._starved = f"threads are kept by {kept}" if kept else "no thread can be started"
        if self._starved and not before:
            self._log.error(
                "calls get no threads; nothing is taken until they do", reason=self._starved
            )
        if before and not self._starved:
            self._log.info("calls get threads again")
        return bool(before) and not self._starved
