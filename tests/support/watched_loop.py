"""An executor of `async def` handlers that checks its loop when a test says so.

The loop and its threads are real, the seconds are the test's.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from executor_bench import Gate, Told
from maniple_agent.domain.blocking import BLOCKED_AFTER
from maniple_agent.executors import LoopExecutor
from maniple_agent.jobs import Job
from maniple_runtime.event_loop import new_event_loop
from waiting import wait_until

SLOTS = 20
SECOND = 1.0


class Watched(LoopExecutor):
    """An executor that checks when the test says so, by the test's clock."""

    def __init__(self, told: Told, loop_factory: Any = new_event_loop) -> None:
        super().__init__(SLOTS, "agent-1", told, loop_factory, clock=lambda: self.now)
        self.now = 1000.0
        self.told = told

    async def begin(self) -> None:
        await self.start(_never)

    def check_overdue(self) -> None:
        self._watch.check_overdue()

    def looks_after(self, seconds: float) -> None:
        """Check, and again after so many seconds: a loop that is silent has not answered.

        Twice then, as the first check after a standstill is ignored.
        """
        self.check_overdue()
        self.now += seconds
        self.check_overdue()
        self.check_overdue()

    def is_free(self, slots: int = SLOTS) -> bool:
        self.check_overdue()
        return self.free == slots

    def says_later(self, stuck: list[str]) -> bool:
        """Tell whether this is why slots cannot be used, after some time."""
        self.looks_after(SECOND / 2)
        return list(self.stuck) == stuck

    def keeps_later(self, threads: int) -> bool:
        """Tell whether tasks that are over keep so many threads, after some time."""
        self.looks_after(SECOND / 2)
        return len(self._loop.pool.over(self.now)) == threads

    async def is_free_at_each_look(self, slots: int) -> bool:
        """Tell whether so many slots are free all the time."""
        free = set()
        for _ in range(20):
            self.looks_after(SECOND)
            free.add(self.free)
            await wait_until(lambda: self._loop.silent_for(self.now) == 0.0)
        return free == {slots}

    async def is_blocked_by(self, blocker: Job) -> None:
        self.run([blocker])
        await wait_until(lambda: self.told.values == ["begun"])
        self.looks_after(BLOCKED_AFTER + SECOND)


def _never(work: Coroutine[Any, Any, None], name: str) -> "asyncio.Task[None]":
    work.close()
    return asyncio.create_task(asyncio.sleep(0), name=name)


@asynccontextmanager
async def watched(gate: Gate, loop_factory: Any = new_event_loop) -> AsyncIterator[Watched]:
    """Run an executor; handlers that wait at the gate are released at the end."""
    executor = Watched(Told(), loop_factory)
    await executor.begin()
    try:
        yield executor
    finally:
        gate.open()
        await executor.stop()
