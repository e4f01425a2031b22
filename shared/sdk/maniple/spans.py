"""Names of spans and of their attributes; every name is declared here once.

A span's name contains at most a capability, never a task's or an agent's id. The attributes of
messages are those of OpenTelemetry's semantic conventions 1.45 (`messaging.…`, in development);
ours begin with `maniple.`. No attribute contains a payload, an output or the text of an error.
"""

from datetime import UTC, datetime, timedelta
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

Value = str | int | float | bool | list[str]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
BILLION = 1_000_000_000

SEND_TASK = "send maniple.tasks"
SEND_RESULT = "send result"
RECEIVE_BUNDLE = "receive maniple.lanes"
"""Several tasks arrive at an agent together: a trace of its own, linked with the sampled ones."""


class SpanStep(StrEnum):
    """The first word of a span's name; the capability is the second."""

    DISPATCH = "dispatch"
    """From delivery to a dispatcher until its lane, a delay or its result is confirmed."""
    WAIT = "wait"
    """In a delay tier: before another attempt, or for want of an agent or of room."""
    QUEUE = "queue"
    """From dispatch until an agent starts it."""
    EXECUTE = "execute"
    """One attempt."""
    MIGRATE = "migrate"
    """From dispatch until the task is sent on without having ended: its agent was lost, leaves,
    or is full."""

    def span_name(self, capability: str) -> str:
        """Return the name of a span."""
        return f"{self.value} {capability}"


class SpanKind(StrEnum):
    """Who is on the other side."""

    INTERNAL = "internal"
    PRODUCER = "producer"
    CONSUMER = "consumer"
    CLIENT = "client"
    SERVER = "server"


# Semantic conventions
SYSTEM = "messaging.system"
OPERATION_TYPE = "messaging.operation.type"
OPERATION_NAME = "messaging.operation.name"
DESTINATION = "messaging.destination.name"
ROUTING_KEY = "messaging.rabbitmq.destination.routing_key"
CONVERSATION_ID = "messaging.message.conversation_id"
BATCH_COUNT = "messaging.batch.message_count"
ERROR_TYPE = "error.type"
RABBITMQ = "rabbitmq"

# Ours
TASK_ID = "maniple.task.id"
CAPABILITY = "maniple.task.capability"
TENANT = "maniple.task.tenant"
ATTEMPT = "maniple.task.attempt"
LOST = "maniple.task.lost"
STATUS = "maniple.task.status"
LANE = "maniple.lane"
POLICIES = "maniple.policies"
"""`kind/name@version` of the policies that decided."""
FALLBACK = "maniple.fallback"
"""The fallback policy that a task got."""
WAITING_FOR = "maniple.waiting_for"
MIRROR_OF = "maniple.mirror_of"
REASON = "maniple.migration.reason"
LATE = "maniple.kept_late"
"""True on spans that were written afterwards, when an unsampled task turned out to be kept."""
RETRY_DELAY = "maniple.retry.delay"
"""Seconds of the delay tier before the next attempt."""

# Events
FELL_BACK = "fallback"
RETRIED = "retry"


class SpanEvent(Struct, frozen=True):
    """Something that happened within a span; `at` is nanoseconds since 1970."""

    name: str
    at: int
    attributes: dict[str, Value] = {}


class SpanLink(Struct, frozen=True):
    """A span of another trace that belongs to this one."""

    trace_id: str
    span_id: str


class Span(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A span that has ended; ids are hexadecimal, times nanoseconds since 1970.

    `error` is the kind of failure it ended with. `scope` is the library that made it.
    """

    name: str
    trace_id: str
    span_id: str
    parent_id: str | None = None
    kind: SpanKind = SpanKind.INTERNAL
    start: int
    end: int
    attributes: dict[str, Value] = {}
    events: list[SpanEvent] = []
    links: list[SpanLink] = []
    error: str | None = None
    scope: str = "maniple"


def nanoseconds(moment: datetime) -> int:
    """Return a moment as nanoseconds since 1970."""
    return (moment - _EPOCH) // _MICROSECOND * 1000


def earlier(span: Span, seconds: float) -> Span:
    """Return a span moved back in time by so many seconds."""
    by = round(seconds * BILLION)
    events = [replace(event, at=event.at - by) for event in span.events]
    return replace(span, start=span.start - by, end=span.end - by, events=events)
