"""Sending what handlers report; how often is decided where they run (`executors.latest`)."""

from collections.abc import Callable
from datetime import datetime

from msgspec import Raw

from maniple.messages import Progress
from maniple.service.outlets import ResultOutlet
from maniple_agent.executors import Job


class ProgressReports:
    """Sends progress to watchers and to the submitters that are SDK clients."""

    def __init__(self, results: ResultOutlet, clock: Callable[[], datetime]) -> None:
        """Send through `results`."""
        self._results = results
        self._clock = clock

    def report(self, job: Job, value: Raw) -> None:
        """Send what the handler of `job` reported, unless the job has ended."""
        if job.settled:
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
        self._results.progress(progress, envelope.reply_to)
