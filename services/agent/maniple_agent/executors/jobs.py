"""What an executor is given, and what it must do with it."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import Any, Protocol

from maniple.attempts import context_of
from maniple.execution import Outcome
from maniple.messages import Envelope
from maniple.tasks import TaskContext, TaskDefinition
from maniple.topology import suspect_lane

Spawn = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]


class Job:
    """One attempt in this agent: an envelope on its way through an executor.

    `settled` is set once its outcome has been told; what comes later is ignored. `announced` is set
    once it has been recorded as running.
    """

    __slots__ = (
        "announced",
        "bundle",
        "definition",
        "envelope",
        "settled",
        "started_at",
        "suspect",
        "timeout",
    )

    def __init__(
        self, envelope: Envelope, definition: TaskDefinition, bundle: Any, *, suspect: bool
    ) -> None:
        """Describe an attempt that has not started; `bundle` is what it came in."""
        self.envelope = envelope
        self.definition = definition
        self.bundle = bundle
        self.suspect = suspect
        self.settled = False
        self.announced = False
        self.started_at: datetime | None = None
        self.timeout = 0.0

    @property
    def lane_key(self) -> str:
        """The key of `maniple.lanes` that it came by."""
        return suspect_lane(self.envelope.lane) if self.suspect else self.envelope.lane

    def context(self, agent: str, report: Callable[[Any], None] | None) -> TaskContext:
        """Return what the handler may know of it."""
        return context_of(self.envelope, self.timeout, agent, report)


class Report(Protocol):
    """What an executor tells, on the connection loop."""

    def outcome(self, job: Job, outcome: Outcome, seconds: float) -> None:
        """Take the outcome of a job that ran for `seconds`; called once for each job."""
        ...

    def slots_free(self) -> None:
        """Take notice that more jobs can be run."""
        ...

    def progress(self, job: Job, value: Any) -> None:
        """Take what a handler reported: any value, or JSON that is encoded (`Raw`)."""
        ...


class Executor(Protocol):
    """Runs jobs elsewhere than on the connection loop, each for at most its timeout."""

    capacity: int

    @property
    def free(self) -> int:
        """Jobs that can be run now."""
        ...

    async def start(self, spawn: Spawn) -> None:
        """Make ready; what runs in the background is run by `spawn`, so that a crash is heard."""
        ...

    async def stop(self) -> None:
        """End; what still runs is abandoned."""
        ...

    def run(self, jobs: Sequence[Job]) -> None:
        """Run at most `free` jobs; each ends with one call of `Report.outcome`."""
        ...
