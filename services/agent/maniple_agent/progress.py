"""Sending what handlers report; how often is decided where they run (`latest_progress`)."""

from collections.abc import Callable
from datetime import datetime
from functools import partial

from msgspec import Raw

from maniple.errors import ManipleError
from maniple.messages import Progress
from maniple_agent.jobs import Job
from maniple_runtime.publish.batch_publisher import ResultPublisher

BUDGET = 8 * 1024**2


class ProgressReports:
    """Sends progress to watchers and to the submitters that are SDK clients.

    A task has one value on its way to the broker, and one that waits for it, which the next one
    replaces: a broker that is slow, or takes nothing at all, makes progress coarser and nothing
    grow. Beyond `budget` bytes of all tasks, values are dropped.
    """

    def __init__(
        self, results: ResultPublisher, clock: Callable[[], datetime], *, budget: int = BUDGET
    ) -> None:
        """Send through `results`."""
        self._results = results
        self._clock = clock
        self._budget = budget
        self._next: dict[Job, Progress | None] = {}
        """The tasks that have a value on its way, and the one that waits for it."""
        self.kept = 0
        """Bytes of values that wait or are on their way."""

    def publish_progress(self, job: Job, value: Raw) -> None:
        """Send what the handler of `job` reported, unless the job has ended."""
        if job.settled:
            return
        waiting = self._next.get(job)
        kept = self.kept + _size(value) - (0 if waiting is None else _size(waiting.value))
        if kept > self._budget:
            return
        envelope = job.envelope
        progress = Progress(
            id=envelope.id,
            capability=envelope.capability,
            attempt=envelope.attempt,
            value=value,
            at=self._clock(),
            tenant=envelope.tenant,
        )
        self.kept = kept
        if job in self._next:
            self._next[job] = progress
        else:
            self._send(job, progress)

    def _send(self, job: Job, progress: Progress) -> None:
        self._next[job] = None
        done = partial(self._sent, job, _size(progress.value))
        self._results.publish_progress(progress, job.envelope.reply_to, done)

    def _sent(self, job: Job, size: int, _error: ManipleError | None) -> None:
        self.kept -= size
        waiting = self._next.pop(job)
        if waiting is not None:  # the last one too, though its task may have ended meanwhile
            self._send(job, waiting)


def _size(value: Raw) -> int:
    return memoryview(value).nbytes
