"""Messages of the control plane: heartbeats, commands, reports and requests.

They are internal: unknown fields are ignored, so that releases can run side by side. Each has its
wire name in `TYPE`, which travels as the AMQP property `type`; bodies are JSON, times RFC 3339,
durations seconds. Events are in `maniple_runtime.events`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from maniple.digests import digest
from maniple.open_enum import OpenEnum
from maniple_runtime.control.agent_timings import ReportedTimings
from maniple_runtime.control.field_types import (
    MOST_CONNECTIONS,
    MOST_NAMES,
    AgentName,
    ConnectionName,
    Count,
    Life,
    Name,
    Names,
    Seconds,
    Text,
    Texts,
)


class ControlMessage(BaseModel):
    """Base of all messages of the control plane: frozen, tolerant, typed on the wire."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)
    TYPE: ClassVar[str]

    def to_json(self) -> bytes:
        """Return the body to publish: UTF-8 JSON, fields in the order of their declaration."""
        return self.model_dump_json().encode()

    @classmethod
    def from_json(cls, body: bytes) -> Self:
        """Read a body; raises `pydantic.ValidationError` (a `ValueError`) if it is not valid."""
        return cls.model_validate_json(body)


class AgentPhase(OpenEnum):
    """An agent's own phase; the registry's view of it is the registry's own state."""

    ACTIVE = "active"
    DRAINING = "draining"
    LEAVING = "leaving"


class AgentDescription(ControlMessage):
    """The part of an agent that does not change between heartbeats."""

    TYPE: ClassVar[str] = "maniple.agent_description.v1"

    agent: AgentName
    incarnation: Life
    host: Text
    pid: Count
    capabilities: Names = ()
    affinity: Names = ()
    """Capabilities marked `affinity=True`: the dispatcher may address this agent's own queue."""
    lanes: Names = ()
    variants: Names = ()
    labels: Texts = Field(default_factory=dict)
    versions: Texts = Field(default_factory=dict)
    """At least `maniple` and `python`."""
    slots: Mapping[Name, Count] = Field(default_factory=dict, max_length=MOST_NAMES)
    """Slots by executor: `async`, `thread`, `process`."""
    http: Text = ""
    """URL of /health, /ready and /metrics."""
    started_at: AwareDatetime
    timings: ReportedTimings = None
    wire: Count = 1
    """Up to which form it reads what others of ours send (`maniple.messages.WIRE`)."""
    pids: Text = ""
    """Equal where a `pid` means the same process; empty where that is not known."""

    @property
    def digest(self) -> str:
        """Equal for equal descriptions; heartbeats carry it in place of the description."""
        return digest(self.model_dump(mode="json"))


class Heartbeat(ControlMessage):
    """Sent every 3 s with publisher confirm; `description` only on registration and change."""

    TYPE: ClassVar[str] = "maniple.heartbeat.v1"

    agent: AgentName
    incarnation: Life
    sequence: Count
    """Rises by one with each heartbeat of an incarnation: tells a late or doubled one."""
    sent_at: AwareDatetime
    state: AgentPhase = AgentPhase.ACTIVE
    slots: Count = 0
    in_flight: Count = 0
    """Slots taken: by tasks that run, and by threads that outlived a timeout."""
    held: Count = 0
    """Tasks received and neither started nor handed back."""
    last_delivery_at: AwareDatetime | None = None
    hungry: Annotated[tuple[Name, ...], Field(max_length=MOST_NAMES)] | None = None
    """Lanes of which it would take more now; None when it does not say."""
    unconsumed: Annotated[tuple[Name, ...], Field(max_length=2 * MOST_NAMES + 1)] = ()
    """Places (see `Reconnect`) where it would consume, but the queue does not answer."""
    loop_lag: Seconds = 0.0
    """The longest delay of the agent's connection loop since the last heartbeat, in seconds."""
    connections: tuple[ConnectionName, ...] = Field(default=(), max_length=MOST_CONNECTIONS)
    """The `connection_name` of each of its connections, by which the broker shows them."""
    overdue: bool = False
    """In this life it once sent none for so long that a registry must have declared it failed."""
    digest: Annotated[str, StringConstraints(max_length=64)]
    description: AgentDescription | None = None


class Echo(ControlMessage):
    """Sent by a registry among the heartbeats, to learn whether it still receives them."""

    TYPE: ClassVar[str] = "maniple.echo.v1"


class Command(ControlMessage):
    """Something an agent is told to do; obeying twice does no more than obeying once."""


class Announce(Command):
    """Send your description in full with the next heartbeat, which is due now."""

    TYPE: ClassVar[str] = "maniple.announce.v1"


class Drain(Command):
    """Take nothing new, finish or hand back within `timeout` seconds (None: as set), leave."""

    TYPE: ClassVar[str] = "maniple.drain.v1"

    timeout: Seconds | None = None


class Reconnect(Command):
    """Rebuild your connections to the broker: you look like a stalled consumer from outside.

    With `places` resubscribe only there: nobody seems to consume, but that may be what the broker
    says of a queue that does not answer. An older agent rebuilds its connections.
    """

    TYPE: ClassVar[str] = "maniple.reconnect.v1"

    places: Names = ()
    """Lanes (`text.stats`), their suspects (`text.stats.suspect`), queues of agents."""


class Retire(Command):
    """This incarnation was declared FAILED, or refused as one of the future: start a new one.

    Other incarnations ignore it.

    `replaced`: another process has taken the agent's id; leave instead.
    """

    TYPE: ClassVar[str] = "maniple.retire.v1"

    incarnation: Life
    replaced: bool = False
    after: Annotated[str, StringConstraints(max_length=64)] = ""
    """The last life that ended under this id, if it is another: the new one must sort after it."""


class Time(Command):
    """The cluster's time `at`, by which deadlines are judged; sent to `all` every few seconds."""

    TYPE: ClassVar[str] = "maniple.time.v1"

    at: AwareDatetime
    source: Annotated[str, StringConstraints(max_length=200)]
    """The registry that sends it."""


class Cancel(Command):
    """End this task; sent to `all`. Only dispatchers obey it yet, when the task passes them."""

    TYPE: ClassVar[str] = "maniple.cancel.v1"

    tenant: str = "default"
    id: str


COMMANDS: tuple[type[Command], ...] = (Announce, Drain, Reconnect, Retire, Time)


class RunTimes(BaseModel):
    """Summary of run times since the last report, in seconds.

    The size of bundles goes by `mean`, with dispatchers of earlier releases by `p99`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    count: Count = 0
    mean: Seconds = 0.0
    p99: Seconds = 0.0


class LaneEnds(BaseModel):
    """How attempts ended, as breakers count them: losses and timeouts are failures."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    succeeded: Count = 0
    failed: Count = 0
    failing: Count = 0
    """Failures after the last success."""


class LaneOutcomes(BaseModel):
    """What finished in one lane since the last report."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    lane: str
    finished: Mapping[str, Count] = Field(default_factory=dict)
    """Counts of finished attempts by status."""
    runs: RunTimes = RunTimes()
    ends: LaneEnds = LaneEnds()


class BulkheadLoad(BaseModel):
    """How many tasks of a bulkhead an agent has now, and how many left it since the last report."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    key: str
    here: Count = 0
    ended: Count = 0


class Load(BaseModel):
    """An agent's number of tasks of a (lane, tenant): absolute, so that a lost report heals."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    lane: str
    tenant: str
    held: Count = 0
    running: Count = 0


class Outcomes(ControlMessage):
    """An agent's periodic report to the dispatchers and registries."""

    TYPE: ClassVar[str] = "maniple.outcomes.v1"

    agent: AgentName
    incarnation: Life
    sequence: Count
    sent_at: AwareDatetime
    lanes: tuple[LaneOutcomes, ...] = ()
    loads: tuple[Load, ...] = ()
    bulkheads: tuple[BulkheadLoad, ...] = ()


class Request(ControlMessage):
    """A request to a service; `op` names the operation, `body` is its JSON object."""

    TYPE: ClassVar[str] = "maniple.request.v1"

    op: str
    body: dict[str, Any] = Field(default_factory=dict)


class RequestFailure(BaseModel):
    """Why a request failed: a code for programs, a sentence for people."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    code: str
    message: str = ""


class Response(ControlMessage):
    """The answer to a request: `body` when `error` is None."""

    TYPE: ClassVar[str] = "maniple.response.v1"

    body: dict[str, Any] = Field(default_factory=dict)
    error: RequestFailure | None = None
