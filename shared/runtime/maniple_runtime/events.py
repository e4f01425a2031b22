"""Events of the control plane, as published on `maniple.events` and kept in `maniple.records`."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AwareDatetime, Field

from maniple_runtime.control.field_types import AgentId, Count
from maniple_runtime.control.incarnations import Incarnation
from maniple_runtime.control.messages import AgentDescription, ControlMessage

MAX_REVISION = 2**53 - 1
PolicyRevision = Annotated[Count, Field(le=MAX_REVISION)]


class Event(ControlMessage):
    """Something that has happened; published once or more under the same `id`."""

    KEY: ClassVar[str]
    """Routing key on `maniple.events`."""

    at: AwareDatetime

    @property
    @abstractmethod
    def id(self) -> str:
        """Return the AMQP `message_id`: equal when several replicas report the same thing."""


class AgentEvent(Event):
    """A change of one agent's membership."""

    agent: AgentId
    incarnation: Incarnation
    sequence: Count = 0
    """Of the last heartbeat that counted."""
    reason: str = ""

    @property
    def id(self) -> str:
        """Equal for all replicas: an incarnation registers, fails and leaves once."""
        return f"{self.KEY}:{self.agent}:{self.incarnation}"


class AgentRegistered(AgentEvent):
    """An incarnation has described itself; repeated by a registry that starts."""

    TYPE: ClassVar[str] = "maniple.agent_registered.v1"
    KEY: ClassVar[str] = "agent.registered"

    description: AgentDescription

    @property
    def id(self) -> str:
        """An incarnation may describe itself anew (its handlers were loaded again)."""
        return f"{super().id}:{self.description.digest}"


class AgentUnreachable(AgentEvent):
    """An agent missed a heartbeat: suspected, nothing is done yet."""

    TYPE: ClassVar[str] = "maniple.agent_unreachable.v1"
    KEY: ClassVar[str] = "agent.unreachable"

    @property
    def id(self) -> str:
        """An incarnation may be suspected more than once."""
        return f"{super().id}:{self.sequence}"


class AgentRecovered(AgentEvent):
    """A suspected agent sent a heartbeat again."""

    TYPE: ClassVar[str] = "maniple.agent_recovered.v1"
    KEY: ClassVar[str] = "agent.recovered"

    @property
    def id(self) -> str:
        """An incarnation may recover more than once."""
        return f"{super().id}:{self.sequence}"


class AgentFailed(AgentEvent):
    """Final for this incarnation: its connections are closed, its tasks run elsewhere."""

    TYPE: ClassVar[str] = "maniple.agent_failed.v1"
    KEY: ClassVar[str] = "agent.failed"


class AgentDraining(AgentEvent):
    """The agent takes nothing new and finishes what it has."""

    TYPE: ClassVar[str] = "maniple.agent_draining.v1"
    KEY: ClassVar[str] = "agent.draining"


class AgentLeft(AgentEvent):
    """The agent has finished and left of its own accord. Final for this incarnation."""

    TYPE: ClassVar[str] = "maniple.agent_left.v1"
    KEY: ClassVar[str] = "agent.left"


class PolicyChanged(Event):
    """A version of a policy is stored; `deleted` when that version is a tombstone."""

    TYPE: ClassVar[str] = "maniple.policy_changed.v1"
    KEY: ClassVar[str] = "policy.changed"

    kind: str
    name: str
    version: Count
    deleted: bool = False
    digest: str = ""
    """Of the whole set after the change."""
    revision: PolicyRevision = 0
    """Of the whole set: it rises with every change. 0: sent by an older policy service."""
    author: str = ""
    in_force: Mapping[str, Any] | None = None
    """What is in force from now on, `policy` and `before`, unless it is too large to be
    included."""

    @property
    def id(self) -> str:
        """One per stored version."""
        return f"{self.KEY}:{self.kind}/{self.name}:{self.version}"


class BreakerChanged(Event):
    """The circuit breaker of a lane has become `closed`, `open` or `half_open`."""

    TYPE: ClassVar[str] = "maniple.breaker_changed.v1"
    KEY: ClassVar[str] = "policy.breaker"

    lane: str
    state: str
    epoch: Count
    """Rises with each change of this breaker."""

    @property
    def id(self) -> str:
        """One per change."""
        return f"{self.KEY}:{self.lane}:{self.epoch}"


class PolicyApplied(Event):
    """The set of policies that a process runs: sent after each change, and every 30 s."""

    TYPE: ClassVar[str] = "maniple.policy_applied.v1"
    KEY: ClassVar[str] = "policy.applied"

    service: str
    instance: str
    digest: str
    revision: PolicyRevision = 0
    """Of the set; 0 if the process does not know it."""
    versions: Mapping[str, Count] = Field(default_factory=dict)
    """By `kind/name`, of what has changed since its last report; 0 for a policy that is gone."""

    @property
    def id(self) -> str:
        """One per report."""
        return f"{self.KEY}:{self.instance}:{self.digest}:{self.at.isoformat()}"


AGENT_EVENTS: tuple[type[AgentEvent], ...] = (
    AgentRegistered,
    AgentUnreachable,
    AgentRecovered,
    AgentFailed,
    AgentDraining,
    AgentLeft,
)
