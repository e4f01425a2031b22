"""What an executor must do with the jobs that it is given."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from maniple_agent.jobs import Job

Spawn = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]


class Executor(Protocol):
    """Runs jobs elsewhere than on the connection loop, each for at most its timeout."""

    capacity: int

    @property
    def free(self) -> int:
        """Jobs that can be run now."""
        ...

    @property
    def stuck(self) -> Sequence[str]:
        """Why slots cannot be used for now, one reason each: what keeps it, or is not there."""
        ...

    @property
    def kept(self) -> Sequence[str]:
        """The capability of each slot that is kept by what was given up."""
        ...

    async def start(self, spawn: Spawn) -> None:
        """Make ready; what runs in the background is run by `spawn`, so that a crash is heard."""
        ...

    async def stop(self) -> None:
        """End; what still runs is abandoned."""
        ...

    def run(self, jobs: Sequence[Job]) -> None:
        """Run at most `free` jobs; each ends with one `Report.outcome`, or is `returned`."""
        ...

    def cancel(self, job: Job) -> None:
        """Stop a job that was given to `run`; its outcome is not told any more.

        It keeps its slot until it has really ended.
        """
        ...

    def holds(self, job: Job) -> bool:
        """Tell whether a job has a slot: it has not really ended."""
        ...
