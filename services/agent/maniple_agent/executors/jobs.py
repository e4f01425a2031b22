"""What an executor is given, and what it must do with it."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from msgspec import Raw

from maniple.attempts import context_of
from maniple.errors import ManipleError
from maniple.execution import Outcome
from maniple.messages import Envelope
from maniple.tasks import TaskContext, TaskDefinition
from maniple.topology import suspect_lane
from maniple.traceparent import with_span
from maniple_agent.bundle import Bundle
from maniple_runtime.telemetry import about

if TYPE_CHECKING:
    from maniple_agent.fair_queue import FairShare

Spawn = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]


def key_of(envelope: Envelope) -> tuple[str, str, int]:
    """Return what tells one attempt from all others."""
    return envelope.tenant, envelope.id, envelope.attempt


class Job:
    """One attempt in this agent: an envelope on its way through an executor.

    `settled` is set once its outcome has been told or nobody wants it any more; what comes later is
    ignored. `announced` is set once it has been recorded as running. `copies` are bundles besides
    `bundle` that it came in as well.
    """

    __slots__ = (
        "announced",
        "bundle",
        "copies",
        "deadline_known",
        "definition",
        "envelope",
        "key",
        "settled",
        "share",
        "span",
        "started_at",
        "suspect",
        "timeout",
        "waited",
    )

    def __init__(
        self,
        envelope: Envelope,
        definition: TaskDefinition,
        bundle: Bundle,
        *,
        suspect: bool,
        share: "FairShare",
    ) -> None:
        """Describe an attempt that has not started; `bundle` is what it came in."""
        self.envelope = envelope
        self.share = share
        """Where its slot is counted."""
        self.key = key_of(envelope)
        self.definition = definition
        self.bundle = bundle
        self.copies: tuple[Bundle, ...] = ()
        self.suspect = suspect
        self.settled = False
        self.announced = False
        self.waited = False
        """Whether it has been counted how long it waited in its queue."""
        self.span: str | None = None
        """The id of its span, if it is sampled."""
        self.started_at: datetime | None = None
        self.timeout = 0.0
        """The seconds that it may take, known when it begins."""
        self.deadline_known = True
        """Whether they end with its deadline, as far as that is nearer than its own timeout."""

    @property
    def lane_key(self) -> str:
        """The key of `maniple.lanes` that it came by."""
        return suspect_lane(self.envelope.lane) if self.suspect else self.envelope.lane

    def adopted_by(self, bundle: Bundle) -> None:
        """Let what becomes of this job settle its part of another bundle that brought it again."""
        if self.bundle.alive:
            self.copies += (bundle,)
        else:
            self.bundle = bundle

    def settle(self, error: ManipleError | None = None) -> None:
        """Take the end of what came of it: it is safe with the broker, or cannot be."""
        self.bundle.settle(error)
        for bundle in self.copies:
            bundle.settle(error)

    def keeps_room(self, bulkhead: str | None) -> None:
        """Take that it keeps its room elsewhere; a copy of it had another."""
        self.bundle.keeps_room(bulkhead)

    async def flushed(self) -> None:
        """Return once the acknowledgements of what brought it are on their way."""
        for bundle in (self.bundle, *self.copies):
            await bundle.flushed()

    @property
    def traceparent(self) -> str | None:
        """Its own place in its trace, if it is sampled."""
        if self.span is None or self.envelope.traceparent is None:
            return None
        return with_span(self.envelope.traceparent, self.span)

    def context(self, agent: str, report: Callable[[Any], None] | None) -> TaskContext:
        """Return what the handler may know of it."""
        context = context_of(self.envelope, self.timeout, agent, report)
        return context if self.span is None else replace(context, traceparent=self.traceparent)


class Report(Protocol):
    """What an executor tells, on the connection loop."""

    def outcome(self, job: Job, outcome: Outcome, seconds: float) -> None:
        """Take the outcome of a job that ran for `seconds`; called once for each job."""
        ...

    def returned(self, jobs: Sequence[Job]) -> None:
        """Take back jobs that were given to `run` and have not begun; they are not told of."""
        ...

    def slots_free(self) -> None:
        """Take notice that more jobs can be run."""
        ...

    def progress(self, job: Job, value: Raw) -> None:
        """Take what a handler reported."""
        ...


def tell(report: Report, job: Job, outcome: Outcome, seconds: float) -> None:
    """Tell the outcome of a job, unless it has been told or nobody wants it any more.

    A report that raises is logged: it must not keep the others from being told.
    """
    if job.settled:
        return
    job.settled = True
    try:
        report.outcome(job, outcome, seconds)
    except Exception:  # noqa: BLE001 - whatever it is
        structlog.get_logger("maniple.agent.executor").exception(
            "an outcome cannot be taken", **about(job.envelope)
        )


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
