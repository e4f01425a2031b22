"""What becomes of jobs that an agent stops while they run."""

from collections.abc import Callable, Iterable

import structlog

from maniple_agent.completion import Completion
from maniple_agent.jobs import Job
from maniple_agent.slots import Slots
from maniple_agent.suspect_redelivery import SuspectRedelivery
from maniple_agent.tracing import AttemptTracing
from maniple_runtime.telemetry import about

STOPPED = "stopped"


class StoppedJobs:
    """Jobs that were stopped without a result: the broker has them, and gives them to others.

    What is still ours when there is a connection again, we send on ourselves.
    """

    def __init__(
        self,
        slots: Slots,
        completion: Completion,
        redelivery: SuspectRedelivery,
        traces: AttemptTracing,
        ended: Callable[[Job], None],
    ) -> None:
        """Begin with none; `ended` is called with each that is stopped."""
        self._slots = slots
        self._completion = completion
        self._redelivery = redelivery
        self._traces = traces
        self._ended = ended
        self._stopped: list[Job] = []
        self._log = structlog.get_logger("maniple.agent.work")

    def stop_jobs(self, jobs: Iterable[Job]) -> None:
        """Stop running jobs without a result."""
        for job in tuple(jobs):
            self._log.warning("a task was stopped without a result", **about(job.envelope))
            self._ended(job)
            self._completion.attempts.forget_attempt(job)
            if job.bundle.alive:
                self._stopped.append(job)
            self._slots.cancel_job(job)

    async def send_on(self) -> None:
        """Send on what was stopped, has ended and is still ours."""
        stopped = tuple(self._stopped)
        await self._slots.await_ends(job for job in stopped if job.definition.exclusive)
        for job in stopped:
            if job in self._stopped:  # by now somebody else may have handed it on
                self._stopped.remove(job)
                self._move(job)

    def _move(self, job: Job) -> None:
        if job.bundle.alive:
            moved = self._traces.stopped(job, STOPPED)
            ran = self._completion.ran(job.started_at)
            self._redelivery.move(moved, ran, STOPPED, job, suspect=job.suspect)

    async def hand_stopped_on(self, reason: str) -> None:
        """Hand on what was stopped: each member of a bundle alone, so that it can end."""
        stopped, self._stopped = self._stopped, []
        await self._slots.await_ends(job for job in stopped if job.definition.exclusive)
        self._completion.hand_on(stopped, reason)
