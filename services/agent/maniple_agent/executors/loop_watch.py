"""Whether the handlers' loop answers, its jobs end in time, and their calls get threads.

A handler that blocks the loop cannot be stopped: its job is ended from here at its timeout. There
is only this loop, see `LoopHealth`: while it is blocked, nothing is taken, and what it has not
begun is given back, as is what it has not begun within its timeout: what never ran never ends so.
If the loop is lost, the agent ends, so that it can be started anew.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import structlog

from maniple.errors import ManipleError
from maniple.execution import timed_out
from maniple_agent.domain.blocking import LoopHealth, LoopState
from maniple_agent.executors.executor import Spawn
from maniple_agent.jobs import Job, Report, tell

if TYPE_CHECKING:
    from maniple_agent.executors.handler_loop import HandlerLoop

GRACE = 0.5
WATCH_PERIOD = 0.25
LATE_LOOK = 1.0
"""Seconds since the last look: this process stood still, and its loop has not answered yet."""


class HandlerLoopLost(ManipleError):
    """Something blocks the handlers' loop for good: only another process has another one."""


class LoopWatch:
    """Looks some times a second at the loop, and at the jobs that it runs."""

    _loop: "HandlerLoop"

    def __init__(
        self,
        running: dict[Job, float],
        report: Report,
        capacity: int,
        clock: Callable[[], float],
    ) -> None:
        """Watch `running`, which has since when each runs, and tell `report`."""
        self._running = running
        self._report = report
        self._capacity = capacity
        self._clock = clock
        self._log = structlog.get_logger("maniple.agent.executor")
        self.health = LoopHealth()
        self.blockers = ""
        """Who blocks the loop, while it is blocked."""
        self.left: list[str] = []
        """The capabilities of calls that go on in threads without their handlers."""
        self.starved = ""
        """Why calls get no threads, if they do not."""
        self._watcher: asyncio.Task[None] | None = None
        self._looked_at = 0.0
        self._passed_over = False

    def start_watch(self, loop: "HandlerLoop", spawn: Spawn) -> None:
        """Watch `loop` from now on."""
        self._loop = loop
        self._looked_at = self._clock()
        self._watcher = spawn(self._watch(), "handler-loop-watch")

    async def stop_watch(self) -> None:
        """Stop watching."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)

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
        before, silent = self.health.state, self._loop.silent_for(now)
        blockers = self._loop.blockers()
        given_up = all(job.settled for job in blockers)
        state = self.health.judge_silence(silent, given_up=given_up, now=now, behind=bool(late))
        if state is not LoopState.ANSWERS:
            self._say_who_blocks(blockers, silent, news=before is LoopState.ANSWERS)
            self._give_back([*late, *self._loop.take_back()])
        elif before is not LoopState.ANSWERS:
            self._log.info("the handlers' event loop answers again", handlers=self.blockers)
            self._report.slots_free()
        if state is LoopState.LOST:
            raise HandlerLoopLost(
                f"the handlers' event loop is blocked by {self.blockers} since {silent:.0f} s; "
                "this agent ends, to be started anew"
            )

    def _say_who_blocks(self, blockers: Sequence[Job], silent: float, *, news: bool) -> None:
        names = sorted({job.definition.capability for job in blockers})
        self.blockers = ", ".join(names) or "what a handler has left"
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
        if len(left) > len(self.left):
            self._log.warning(
                "calls in threads go on without their handlers", handlers=sorted(set(left))
            )
        gained = len(left) < len(self.left)
        self.left = left
        self._loop.pool.grow(min(len(over), self._capacity))
        gained |= self._looks_fed(now, sorted({call.name for call in over}))
        if gained:
            self._report.slots_free()

    def _looks_fed(self, now: float, keepers: list[str]) -> bool:
        """See whether calls get threads; tell whether they do again."""
        before = self.starved
        self.starved = ""
        if self._loop.pool.starved(now):
            kept = ", ".join(keepers)
            self.starved = f"threads are kept by {kept}" if kept else "no thread can be started"
        if self.starved and not before:
            self._log.error(
                "calls get no threads; nothing is taken until they do", reason=self.starved
            )
        if before and not self.starved:
            self._log.info("calls get threads again")
        return bool(before) and not self.starved
