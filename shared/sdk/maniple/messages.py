"""The messages of the hot path: tasks, envelopes, results and records.

They travel in JSON arrays (bundles) and are frozen msgspec structs, because a payload must pass
through the dispatcher undecoded (`Raw`) and a task must cost a few microseconds
(docs/decisions/0001). Messages of the control plane are in `maniple_runtime.control.messages`.
"""

import re
from collections.abc import Callable, Iterable
from datetime import datetime
from enum import StrEnum
from operator import attrgetter
from typing import Annotated, Any

from msgspec import UNSET, Meta, Raw, Struct, UnsetType
from msgspec.structs import replace

from maniple.errors import ErrorCode
from maniple.identifiers import REFUSED_PREFIX
from maniple.open_enum import OpenEnum

MAX_BODY = 1024 * 1024
MAX_OUTPUT = 1024 * 1024
MAX_PROGRESS = 64 * 1024
MAX_TASKS = 1000
MAX_DEPTH = 100
MAX_NAME = 128
DEFAULT_TTL = 24 * 3600.0
MAX_TTL = 7 * 24 * 3600.0

TASK_TYPE = "maniple.task.v1"
RESULT_TYPE = "maniple.result.v1"
PROGRESS_TYPE = "maniple.progress.v1"
ENVELOPES_TYPE = "maniple.envelopes.v1"
RESULTS_TYPE = "maniple.results.v1"
ACCEPTED_TYPE = "maniple.accepted.v1"
GROUPS_TYPE = "maniple.accepted.v2"
RUNNING_TYPE = "maniple.running.v1"
ADMITTED_TYPE = "maniple.admitted.v1"
MARK_TYPE = "maniple.mark.v1"

WIRE = 2
"""Up to which form our processes read what others of ours send, told by each to those that send.

Since 2: `TasksAccepted`, and compressed bundles of tasks. What is in a newer form is sent only
while all who may read it do.
"""

REPEATED_HEADER = "maniple-repeated"
"""Set to `true` by a sender whose submission may have been accepted before."""

# `$` alone would let a newline pass at the end; this is the same in Python and in JSON Schema.
_END = r"$(?!\n)"
CAPABILITY_PATTERN = r"^[a-z0-9][a-z0-9_-]*(\.[a-z0-9][a-z0-9_-]*)*" + _END
VARIANT_PATTERN = r"^[a-z0-9][a-z0-9_-]*" + _END

NULL = Raw(b"null")
RESERVED = "Reserved: refused with not_supported unless it is null or absent."

CapabilityName = Annotated[
    str,
    Meta(
        pattern=CAPABILITY_PATTERN,
        min_length=1,
        max_length=MAX_NAME,
        description="dotted lower-case",
    ),
]
Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME, pattern=r"^[^\x00-\x1f\x7f]+" + _END)]
TaskName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_NAME,
        pattern=rf"^(?!{re.escape(REFUSED_PREFIX)})[^\x00-\x1f\x7f]+" + _END,
        description=f"not beginning with {REFUSED_PREFIX}",
    ),
]
LabelKey = Annotated[str, Meta(min_length=1, max_length=64)]
LabelValue = Annotated[str, Meta(max_length=256)]
Labels = Annotated[dict[LabelKey, LabelValue], Meta(max_length=32)]
Attempts = Annotated[int, Meta(ge=1, le=1000)]
Seconds = Annotated[float, Meta(gt=0, le=MAX_TTL)]
Moment = Annotated[datetime, Meta(tz=True, description="RFC 3339 with an offset")]


class Status(OpenEnum):
    """The terminal states of a task."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REJECTED = "rejected"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class Waiting(StrEnum):
    """Why a task waits in `maniple.delay`."""

    NO_AGENT = "no_agent"
    OVERLOADED = "overloaded"
    UNCONFIRMED = "unconfirmed"
    NOT_DUE = "not_due"
    LIMITED = "rate_limited"
    FULL_BULKHEAD = "bulkhead"
    NEXT_ATTEMPT = "next_attempt"
    CIRCUIT_OPEN = "circuit_open"
    UNDECIDED = "undecided"


class Task(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What anyone publishes to `maniple.tasks`: one object, or an array of up to 1,000.

    Unknown fields are refused by name.
    """

    capability: Annotated[
        CapabilityName | None,
        Meta(
            description="What to run, a dotted lower-case name. Default: the routing key, with "
            "which it must agree unless that is 'batch'."
        ),
    ] = None
    payload: Annotated[Raw, Meta(description="Any JSON value, handed to the handler.")] = NULL
    id: Annotated[
        TaskName | None,
        Meta(
            description="With the tenant, the task's identity everywhere. Default: the AMQP "
            "message_id; for member n (from 0) of an array uuid5(message_id, str(n)); else a new "
            "UUIDv7."
        ),
    ] = None
    tenant: Annotated[Name, Meta(description="For limits and isolation.")] = "default"
    labels: Annotated[
        Labels, Meta(description="Strings that policies select by, such as region.")
    ] = {}
    affinity: Annotated[
        Name | None,
        Meta(
            description="Same key, same agent while the set of agents stays, for capabilities "
            "marked so."
        ),
    ] = None
    max_attempts: Annotated[
        Attempts | None,
        Meta(description="Attempts in all; default from policy, else from the handler."),
    ] = None
    timeout: Annotated[
        Seconds | None,
        Meta(description="Seconds for one attempt; default from policy, else from the handler."),
    ] = None
    deadline: Annotated[
        Moment | None,
        Meta(
            description="RFC 3339 with an offset: after it the task expires wherever it is. Not "
            "with ttl."
        ),
    ] = None
    ttl: Annotated[
        Seconds | None,
        Meta(
            description="The same as seconds from when it is taken; default from policy, else "
            "86,400. Not with deadline."
        ),
    ] = None
    traceparent: Annotated[
        str | None, Meta(description="W3C trace context; default the AMQP header of that name.")
    ] = None
    not_before: Annotated[Raw, Meta(description=RESERVED)] = NULL
    idempotency_key: Annotated[Raw, Meta(description=RESERVED)] = NULL
    sealed: Annotated[Raw, Meta(description=RESERVED)] = NULL


CARRIED = (
    "payload",
    "tenant",
    "labels",
    "affinity",
)
"""The fields that an envelope copies from its task unchanged."""
carried_by: Callable[[Task], tuple[Any, ...]] = attrgetter(*CARRIED)
"""Returns the values of a task's `CARRIED` fields."""

RESERVED_FIELDS = ("not_before", "idempotency_key", "sealed")
"""Fields of a task without an effect yet: refused with `not_supported` unless null or absent."""


class RetryPlan(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a failed attempt is repeated: full jitter over `base * factor ** n`, at most `cap` (s).

    `codes` limits it to these error codes; empty means all that may be retried. `budget` is the
    largest share of repetitions among a lane's recent attempts.
    """

    base: float = 1.0
    factor: float = 2.0
    cap: float = 300.0
    codes: tuple[ErrorCode, ...] = ()
    budget: float | None = None


class TaskInfo(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of an admitted task everywhere: in its lane, in a worker, in its handler.

    `attempt` counts from 1. `traceparent` is its position in its trace.
    """

    id: str
    capability: str
    submitted_at: datetime
    deadline: datetime
    tenant: str = "default"
    labels: dict[str, str] = {}
    affinity: str | None = None
    attempt: int = 1
    traceparent: str | None = None


def info_of(task: TaskInfo) -> TaskInfo:
    """Return the `TaskInfo` part of an envelope."""
    return TaskInfo(**{name: getattr(task, name) for name in TaskInfo.__struct_fields__})


class Envelope(TaskInfo, frozen=True, kw_only=True, omit_defaults=True):
    """An admitted task on its way: the task and what has been decided about it.

    `lost` counts how often an agent that held it vanished, `suspected` how often of these in the
    suspect queue. `waits` counts its stays in `maniple.delay` for want of an agent or of room; if
    it returns from there before `not_before`, it waits again. `waited_for` is why it waited last (a
    `Waiting`, as text, so that new values do no harm). `bulkhead` is the limit whose room it takes,
    `mirror_of` the id of the task that it is a copy of. While it is `owing` it has not passed its
    rate limit. `span` is the span id of its dispatch, if its trace is sampled. With a
    `payload_digest` its result may stand in for that of another task. `clamped` is what it asked
    for where a policy allowed less. `again` says that it was delivered more than once before it was
    settled, so that another copy of it may exist. Unknown fields are ignored.
    """

    lane: str = ""
    payload: Raw = NULL
    max_attempts: int | None = None
    timeout: float | None = None
    retry: RetryPlan | None = None
    reply_to: str | None = None
    correlation_id: str | None = None
    span: str | None = None
    dispatched_at: datetime | None = None
    lost: int = 0
    suspected: int = 0
    waits: int = 0
    waited_for: str | None = None
    not_before: datetime | None = None
    accepted: bool = False
    bulkhead: str | None = None
    mirror_of: str | None = None
    payload_digest: str | None = None
    owing: bool = False
    policies: dict[str, int] = {}
    clamped: dict[str, float] = {}
    again: bool = False


def fallbacks_in(policies: Iterable[str]) -> list[str]:
    """Return which of the policies (`kind/name`) may run another capability instead."""
    return [name for name in policies if name.startswith("fallback/")]


def without_room(envelope: Envelope) -> Envelope:
    """Return a task that takes no room in a bulkhead: it waits, or is a copy of one that does."""
    return envelope if envelope.bulkhead is None else replace(envelope, bulkhead=None)


class Failure(Struct, frozen=True, kw_only=True):
    """The `error` of a result. `retry_after` is seconds, `detail` any JSON value."""

    code: ErrorCode
    message: str
    retry_after: float | None = None
    detail: Any = None


class Result(Struct, frozen=True, kw_only=True):
    """How a task ended: sent to `reply_to` and recorded. The first terminal result wins.

    `payload_digest` is set only if a fallback may give the output to a later task.
    """

    id: str
    capability: str
    status: Status
    tenant: str = "default"
    output: Raw = NULL
    error: Failure | None = None
    attempt: int = 1
    lost: int = 0
    agent: str | None = None
    lane: str | None = None
    policies: dict[str, int] = {}
    submitted_at: datetime | None = None
    dispatched_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    traceparent: str | None = None
    payload_digest: str | UnsetType = UNSET


def is_result_of(result: Result, capability: str) -> bool:
    """Tell whether a result is of the capability that was asked for, or of its fallback."""
    return result.capability == capability or bool(fallbacks_in(result.policies))


class TaskAccepted(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The record that a lane has confirmed a task; published once, in bundles (`task.accepted`).

    `clamped` is the `timeout`, `max_attempts` and `ttl` that it asked for where a policy allowed
    less.
    """

    id: str
    capability: str
    lane: str
    submitted_at: datetime
    dispatched_at: datetime
    deadline: datetime
    tenant: str = "default"
    labels: dict[str, str] = {}
    policies: dict[str, int] = {}
    clamped: dict[str, float] = {}
    traceparent: str | None = None


class TasksAccepted(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The record that lanes have confirmed tasks that have all of this in common; in bundles, too.

    Each is as a `TaskAccepted`. The trace id of one that is not in `traceparents` is its id, a UUID
    without its hyphens, and it is not sampled.
    """

    ids: tuple[str, ...]
    capability: str
    lane: str
    submitted_at: datetime
    dispatched_at: datetime
    deadline: datetime
    tenant: str = "default"
    labels: dict[str, str] = {}
    policies: dict[str, int] = {}
    clamped: dict[str, float] = {}
    traceparents: dict[str, str] = {}


class TaskAdmitted(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The record that no rate limit ends a task, and that it may have left its dispatcher.

    It is published before the task goes to a lane or to wait, which may still fail. Only a task
    under a rate limit, one whose message expires and a fallback have such a record. A task that is
    `owing` waits, and has yet to pass its limit.
    """

    id: str
    capability: str
    tenant: str = "default"
    owing: bool = False


class TaskRunning(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The record that an attempt has been running for a second (`task.running`)."""

    id: str
    capability: str
    attempt: int
    agent: str
    started_at: datetime
    tenant: str = "default"
    traceparent: str | None = None


class Progress(Struct, frozen=True, kw_only=True):
    """A value that a handler reported with `ctx.progress(value)`; the latest wins."""

    id: str
    capability: str
    attempt: int
    value: Raw
    at: datetime
    tenant: str = "default"


class RefusedInput(Struct, frozen=True, kw_only=True):
    """Why bytes went to `maniple.refused.log`: carried as headers beside the kept body.

    `size` and `sha256` describe the whole body; the kept one is its first 64 KiB when `truncated`.
    """

    code: ErrorCode
    reason: str
    size: int
    sha256: str
    truncated: bool
