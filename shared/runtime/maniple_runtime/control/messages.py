"""Messages of the control plane: heartbeats, commands, reports and requests.

They are internal: unknown fields are ignored, so that releases can run side by side. Each has its
wire name in `TYPE`, which travels as the AMQP property `type`; bodies are JSON, times RFC 3339,
durations seconds. Events are in `maniple_runtime.events`.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Final, NewType, Self, cast
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from maniple.open_enum import OpenEnum
from maniple.timings import Timings
from maniple_policies.digests import digest

AgentId = NewType("AgentId", str)
Incarnation = NewType("Incarnation", str)
"""One life of an agent: a UUIDv7 as text, so that a later life sorts after an earlier one."""


MOST_NAMES = 2000  # in one list; an agent that serves more lanes than that is several
MOST_CONNECTIONS = 64


def _sorted_unique(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(set(names)))


# What stands in routing keys and names of queues has to fit there: 255 bytes in all.
_AGENT_NAME = r"[A-Za-z0-9_-]{1,100}"
AgentName = Annotated[AgentId, StringConstraints(pattern=f"^{_AGENT_NAME}$")]
"""As `MANIPLE_INSTANCE`: one word of a routing key."""
MOST_OF_A_LIFE = 64
Life = Annotated[Incarnation, StringConstraints(min_length=1, max_length=MOST_OF_A_LIFE)]
Name = Annotated[str, StringConstraints(pattern=r"^[!-~]{1,200}$")]
"""Of a capability, variant or lane: printable ASCII without spaces."""
Text = Annotated[str, StringConstraints(max_length=1000)]
ConnectionName = Annotated[str, StringConstraints(min_length=1, max_length=255)]
Whole = Annotated[int, Strict()]
"""An integer; true or a text is refused, because no process of ours writes either."""
Count = Annotated[Whole, Field(ge=0, le=2**53)]
"""No more than a float, which counters are, holds exactly."""
_LONGEST: Final = 1e9
Seconds = Annotated[float, Strict(), Field(ge=0, le=_LONGEST)]
Period = Annotated[float, Strict(), Field(gt=0, le=_LONGEST)]
Names = Annotated[tuple[Name, ...], Field(max_length=MOST_NAMES), AfterValidator(_sorted_unique)]
"""A set of names, kept sorted so that equal sets have equal bytes and equal digests."""
Texts = Annotated[Mapping[Text, Text], Field(max_length=MOST_NAMES)]


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


def is_agent_name(text: str) -> bool:
    """Tell whether an agent may have this name."""
    return re.fullmatch(_AGENT_NAME, text) is not None


class AgentPhase(OpenEnum):
    """An agent's own phase; the registry's view of it is the registry's own state."""

    ACTIVE = "active"
    DRAINING = "draining"
    LEAVING = "leaving"


class AgentTimings(BaseModel):
    """What others rely on an agent keeping, in seconds; see `maniple.timings`."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    digest: Annotated[str, StringConstraints(max_length=64)]
    """Equal for equal timings, of which the other fields are the most important."""
    heartbeat: Period
    """The longest between two heartbeats."""
    unreachable: Period
    fenced: Period
    exclusive: Period
    """From the sending of the last confirmed heartbeat until nothing exclusive runs any more."""
    failed: Period

    @classmethod
    def of_timings(cls, timings: Timings) -> Self:
        """Return the part of these timings that is reported."""
        return cls.model_validate(timings.shown())


UNTOLD: Final = AgentTimings(
    digest="", heartbeat=3.3, unreachable=4.5, fenced=6.0, exclusive=8.25, failed=9.0
)
"""The timings of an agent that reports none: it is older than the field."""


def _understood(value: Any, validate: ValidatorFunctionWrapHandler) -> AgentTimings | None:
    try:
        return cast("AgentTimings | None", validate(value))
    except ValidationError:
        return None


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
    timings: Annotated[AgentTimings | None, WrapValidator(_understood)] = None
    """None of an agent that is older than this field, or that reports other values: see
    `UNTOLD`."""
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


FAR: Final = 86_400.0
"""Seconds by which a life may have started in the future: clocks differ, and are set back."""
_LAST: Final = datetime.max.replace(tzinfo=UTC).timestamp()


def began(life: str) -> float | None:
    """Return the Unix second at which a life started by its host's clock, None if untold."""
    try:
        known = UUID(life)
    except ValueError:
        return None
    return (known.int >> 80) / 1000 if str(known) == life else None


def is_of_the_future(life: str, *times: float) -> bool:
    """Tell whether a life starts a day or more after all of these times, in Unix seconds.

    Without any, whether no clock can have shown its start. A life without a time is of the future
    if it sorts after all lives that have one: no life could follow it.
    """
    at = began(life)
    if at is None:
        return life > _NEVER
    return at > max(times, default=_LAST) + FAR


def order(life: str, at: float) -> tuple[bool, str]:
    """Return a key that sorts lives by their start, at a Unix second.

    A life of the future sorts before all others: its host's clock was ahead, and has been set right
    since, if a life is known that is not of the future.
    """
    by_clock = began(life)
    is_ahead = by_clock is not None and by_clock > at + FAR
    return bool(life) and not is_ahead, life


_NEVER: Final = str(UUID(int=int(_LAST * 1000) << 80))


def later_life(fresh: str, *ended: str) -> Incarnation:
    """Return `fresh`, or a life made from it that sorts after all lives that have ended.

    A host's clock may have been set back since. An id that is no UUID is not taken into account.
    """
    latest = max(ended)
    if fresh > latest:
        return Incarnation(fresh)
    try:
        next_millisecond = (UUID(latest).int >> 80) + 1
        rest = UUID(fresh).int & ((1 << 80) - 1)
        return Incarnation(str(UUID(int=next_millisecond << 80 | rest)))
    except ValueError:
        return Incarnation(fresh)


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


def agent_key(agent: str) -> str:
    """Return the key on `maniple.control` that reaches one agent."""
    return f"agent.{agent}"


def capability_key(capability: str) -> str:
    """Return the key on `maniple.control` that reaches all agents of a capability."""
    return f"capability.{capability}"


ALL_AGENTS = "all"


def control_keys(agent: str, capabilities: Iterable[str]) -> tuple[str, ...]:
    """Return the routing keys with which an agent binds its control queue."""
    return (ALL_AGENTS, agent_key(agent), *map(capability_key, sorted(capabilities)))


class RunTimes(BaseModel):
    """Summary of run times since the last report, in seconds."""

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
