"""What handlers report while they run: at most ten times a second a task, the latest in the end."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from time import monotonic
from typing import Any

from msgspec import Raw

from maniple.errors import InvalidMessage
from maniple.execution import encode_output
from maniple.messages import Progress
from maniple.service.outlets import ResultOutlet
from maniple_agent.executors import Job

PERIOD = 0.1


class ProgressReports:
    """Sends progress to watchers and to the submitters that are SDK clients."""

    def __init__(self, results: ResultOutlet, clock: Callable[[], datetime]) -> None:
        """Send through `results`."""
        self._results = results
        self._clock = clock
        self._sent_at: dict[Job, float] = {}
        self._latest: dict[Job, Any] = {}

    def report(self, job: Job, value: Any) -> None:
        """Take what the handler of `job` reported: any value, or encoded JSON (`Raw`)."""
        if job.settled:
            return
        wait = self._sent_at.get(job, 0.0) + PERIOD - monotonic()
        if wait <= 0:
            self._send(job, value)
            return
        if job not in self._latest:
            asyncio.get_running_loop().call_later(wait, self._send_latest, job)
        self._latest[job] = value

    def forget(self, job: Job) -> None:
        """Drop what is known of a job that has ended."""
        self._sent_at.pop(job, None)
        self._latest.pop(job, None)

    def _send_latest(self, job: Job) -> None:
        if job in self._latest:
            self._send(job, self._latest.pop(job))

    def _send(self, job: Job, value: Any) -> None:
        self._sent_at[job] = monotonic()
        envelope = job.envelope
        try:
            raw = value if isinstance(value, Raw) else Raw(encode_output(value))
        except InvalidMessage:
            return  # not JSON: progress is a courtesy, not worth failing the task
        progress = Progress(
            id=envelope.id,
            capability=envelope.capability,
            attempt=envelope.attempt,
            value=raw,
            at=self._clock(),
            tenant=envelope.tenant,
        )
        self._results.progress(progress, envelope.reply_to)
