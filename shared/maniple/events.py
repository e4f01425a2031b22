"""Events of the control plane, as published on `maniple.events` and kept in `maniple.records`."""

from typing import ClassVar

from pydantic import AwareDatetime, NonNegativeInt

from maniple.control import AgentDescription, AgentId, ControlMessage, Incarnation


class Event(ControlMessage):
    """Something that has happened; published once or more under the same `id`."""

    KEY: ClassVar[str]
    """Routing key on `maniple.events`."""

    at: AwareDatetime

    @property
    def id(self) -> str:
        """Return the AMQP `message_id`: equal when several replicas report the same thing."""
        raise NotImplementedError


class AgentEvent(Event):
    """A change of one agent's membership."""

    agent: AgentId
    incarnation: Incarnation
    sequence: NonNegativeInt = 0
    """Of the last heartbeat that counted."""
    reason: str = ""

    @property
    def id(self) -> str:
        """Equal for all replicas: an incarnation registers, fails and leaves once."""
        return f"{self.KEY}:{self.agent}:{self.incarnation}"


class AgentRegistered(AgentEvent):
    """An incarnation has described itself; said again by a registry that starts anew."""

    TYPE: ClassVar[str] = "maniple.agent_registered.v1"
    KEY: ClassVar[str] = "agent.registered"

    description: AgentDescription

    @property
    def id(self) -> str:
        """An incarnation may describe itself anew (its handlers were loaded again)."""
        return f"{super().id}:{self.description.digest}"


class AgentUnreachable(AgentEvent):
    """One heartbeat missed: suspected, not yet acted upon."""

    TYPE: ClassVar[str] = "maniple.agent_unreachable.v1"
    KEY: ClassVar[str] = "agent.unreachable"

    @property
    def id(self) -> str:
        """An incarnation may be suspected more than once."""
        return f"{super().id}:{self.sequence}"


class AgentRecovered(AgentEvent):
    """A suspected agent was heard again."""

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
    """It takes nothing new and finishes what it has."""

    TYPE: ClassVar[str] = "maniple.agent_draining.v1"
    KEY: ClassVar[str] = "agent.draining"


class AgentLeft(AgentEvent):
    """It has finished and gone of its own will. Final for this incarnation."""

    TYPE: ClassVar[str] = "maniple.agent_left.v1"
    KEY: ClassVar[str] = "agent.left"


class PolicyChanged(Event):
    """A version of a policy is stored; `deleted` when that version is a tombstone."""

    TYPE: ClassVar[str] = "maniple.policy_changed.v1"
    KEY: ClassVar[str] = "policy.changed"

    kind: str
    name: str
    version: NonNegativeInt
    deleted: bool = False
    digest: str = ""
    """Of the whole set after the change."""
    author: str = ""

    @property
    def id(self) -> str:
        """One per stored version."""
        return f"{self.KEY}:{self.kind}/{self.name}:{self.version}"


AGENT_EVENTS: tuple[type[AgentEvent], ...] = (
    AgentRegistered,
    AgentUnreachable,
    AgentRecovered,
    AgentFailed,
    AgentDraining,
    AgentLeft,
)
