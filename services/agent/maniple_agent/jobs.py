"""Jobs, and the bundles of tasks that they came in: until all that came of them is safe.

And the room in bulkheads that the tasks of bundles take meanwhile.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from msgspec import Raw
from msgspec.structs import replace

from maniple.amqp import Delivery
from maniple.attempts import context_of
from maniple.errors import ManipleError
from maniple.execution import Outcome
from maniple.messages import Envelope
from maniple.spans import SpanLink
from maniple.tasks import TaskContext, TaskDefinition
from maniple.topology import suspect_lane
from maniple.traceparent import with_span
from maniple_runtime.publish.confirm import Settlement
from maniple_runtime.telemetry import about

if TYPE_CHECKING:
    from maniple_agent.fair_queue import FairShare


class Closed(Protocol):
    """Told when all that came of a bundle is safe, or cannot be."""

    def __call__(self, bundle: "Bundle", *, acknowledged: bool) -> None:
        """Hear that it is acknowledged, or refused or lost."""


class Bundle(Settlement):
    """A bundle from a lane, and when it came."""

    __slots__ = ("closed", "link", "opened_at", "rooms")

    def __init__(self, delivery: Delivery, tasks: int, opened_at: float) -> None:
        """Wait for `tasks` calls of `settle`; `opened_at` is monotonic."""
        super().__init__(delivery, tasks)
        self.opened_at = opened_at
        self.link: SpanLink | None = None
        """The span of its arrival, if a sampled task came in it with others."""
        self.rooms: Counter[str] = Counter()
        """How many of its tasks have room in each bulkhead, and need it nowhere else."""
        self.closed: Closed | None = None

    def settle(self, error: ManipleError | None = None) -> None:
        """Record the end of one part; after the last one the bundle is acknowledged or refused."""
        super().settle(error)
        if self.closed is not None and not self._remaining:
            self.closed(self, acknowledged=not (self._lost or self._refused))

    def keeps_room(self, bulkhead: str | None) -> None:
        """Record that a task keeps its room elsewhere: it is in a lane again, or may be."""
        if bulkhead is not None:
            self.rooms[bulkhead] -= 1

    @property
    def redelivered(self) -> bool:
        """Whether an agent had it before and did not settle it."""
        return self._delivery.redelivered

    async def flushed(self) -> None:
        """Return once it is acknowledged as far as this process can do that, if it may be."""
        await self._delivery.flushed()

    @property
    def alive(self) -> bool:
        """Whether it is still ours: without its connection the broker gives it to others."""
        return self._delivery.alive


class BulkheadReport:
    """The room that this agent's tasks take in bulkheads, as it tells dispatchers.

    A task takes room here as long as the broker would bring it again, if this agent died.

    So what has ended leaves with the acknowledgement of its bundle, and is told once: if that
    is lost with the connection, whoever gets the bundle next tells it. What went back to a lane
    keeps its room there.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self._open: set[Bundle] = set()
        self._ended: Counter[str] = Counter()
        self.freed = asyncio.Event()
        """Set when some have left."""

    def took(self, bundle: Bundle, envelopes: Iterable[Envelope]) -> None:
        """Count the room of what came in a bundle."""
        rooms = [one.bulkhead for one in envelopes if one.bulkhead is not None]
        if rooms:
            bundle.rooms = Counter(rooms)
            bundle.closed = self._closed
            self._open.add(bundle)

    def _closed(self, bundle: Bundle, *, acknowledged: bool) -> None:
        self._open.discard(bundle)
        if acknowledged and bundle.alive:
            self._ended += bundle.rooms
            self.freed.set()

    def here(self) -> Counter[str]:
        """Count tasks by their bulkhead; what came by a connection that is lost is not ours."""
        self._open = {bundle for bundle in self._open if bundle.alive}
        here: Counter[str] = Counter()
        for bundle in self._open:
            here.update(bundle.rooms)
        return here

    def take_ended(self) -> Counter[str]:
        """Return how many tasks have left each bulkhead here since this was last asked for."""
        ended, self._ended = self._ended, Counter()
        return ended


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
        """Have what becomes of this job settle its part of another bundle that brought it again."""
        if self.bundle.alive:
            self.copies += (bundle,)
        else:
            self.bundle = bundle

    def settle(self, error: ManipleError | None = None) -> None:
        """Settle its part of each bundle: what came of it is safe with the broker, or cannot be."""
        self.bundle.settle(error)
        for bundle in self.copies:
            bundle.settle(error)

    def keeps_room(self, bulkhead: str | None) -> None:
        """Record that it keeps its room elsewhere; a copy of it had another."""
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
        """Hear the outcome of a job that ran for `seconds`; called once for each job."""
        ...

    def returned(self, jobs: Sequence[Job]) -> None:
        """Take back jobs that were given to `run` and have not begun; they are not told of."""
        ...

    def slots_free(self) -> None:
        """Hear that more jobs can be run."""
        ...

    def progress(self, job: Job, value: Raw) -> None:
        """Hear what a handler reported."""
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
