"""The slots of an agent: one for each handler that can run at a time."""

import asyncio
import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from maniple.tasks import Executor as Kind
from maniple_agent.executors import Executor
from maniple_agent.jobs import Job
from maniple_runtime.health import Health

END_SECONDS = 0.5
END_POLL = 0.01


class Slots:
    """The executors that there are, and how it stands with their slots."""

    def __init__(self, executors: Mapping[Kind, Executor]) -> None:
        """Look at `executors`."""
        self._executors = executors

    def __iter__(self) -> Iterator[tuple[Kind, Executor]]:
        return iter(self._executors.items())

    @property
    def taken(self) -> int:
        """Slots that can take no task now: one runs there, is stuck, or its worker is not there."""
        return sum(executor.capacity - executor.free for executor in self._executors.values())

    def stuck_reasons(self, kind: Kind) -> Sequence[str]:
        """Why slots of an executor cannot be used for now, one reason each."""
        return self._executors[kind].stuck

    def cancel_job(self, job: Job) -> None:
        """Stop a job; its outcome is not told any more."""
        self._executors[job.definition.executor].cancel(job)

    async def await_ends(self, jobs: Iterable[Job]) -> None:
        """Return when these have really ended, or after half a second."""
        jobs = tuple(jobs)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                while any(map(self._holds, jobs)):  # noqa: ASYNC110 - executors offer no event
                    await asyncio.sleep(END_POLL)

    def _holds(self, job: Job) -> bool:
        return self._executors[job.definition.executor].holds(job)

    def show_stuck(self, health: Health) -> None:
        """Say in the health of the agent what keeps slots from being used."""
        for kind, executor in self:
            stuck = executor.stuck
            detail = f"{len(stuck)} of {executor.capacity} slots are kept: " if stuck else ""
            detail += ", ".join(sorted(set(stuck)))
            health.set(f"slots.{kind.value}", ok=not stuck, detail=detail)
