"""The states of an agent and their transitions; `docs/states/agent.md` draws them."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from maniple_registry.domain.agent_record import AgentState


class Trigger(StrEnum):
    """What causes a transition of an agent."""

    SEEN = "seen in Consul by a new registry"
    HEARD = "heartbeat, no doubt left"
    DRAINS = "heartbeat: draining"
    LEAVES = "heartbeat: leaving"
    SUSPECTED = "one heartbeat missed"
    UNWELL = "health check critical"
    STARVES = "zombie: work waits, nothing taken"
    LOST = "three heartbeats missed"
    HOPELESS = "zombie, and reconnecting did not help"
    TOLD = "another registry says failed"
    OVERDUE = "heartbeat: stood still for too long"


# None is an incarnation that is not known yet. What is not here changes nothing.
TRANSITIONS: Final[Mapping[tuple[AgentState | None, Trigger], AgentState]] = {
    (None, Trigger.SEEN): AgentState.ACTIVE,
    (None, Trigger.HEARD): AgentState.ACTIVE,
    (None, Trigger.DRAINS): AgentState.DRAINING,
    (None, Trigger.TOLD): AgentState.FAILED,
    (None, Trigger.OVERDUE): AgentState.FAILED,
    (AgentState.ACTIVE, Trigger.SUSPECTED): AgentState.UNREACHABLE,
    (AgentState.ACTIVE, Trigger.UNWELL): AgentState.UNREACHABLE,
    (AgentState.ACTIVE, Trigger.STARVES): AgentState.UNREACHABLE,
    (AgentState.ACTIVE, Trigger.DRAINS): AgentState.DRAINING,
    (AgentState.ACTIVE, Trigger.LEAVES): AgentState.LEFT,
    (AgentState.ACTIVE, Trigger.TOLD): AgentState.FAILED,
    (AgentState.UNREACHABLE, Trigger.HEARD): AgentState.ACTIVE,
    (AgentState.UNREACHABLE, Trigger.LOST): AgentState.FAILED,
    (AgentState.UNREACHABLE, Trigger.HOPELESS): AgentState.FAILED,
    (AgentState.UNREACHABLE, Trigger.DRAINS): AgentState.DRAINING,
    (AgentState.UNREACHABLE, Trigger.LEAVES): AgentState.LEFT,
    (AgentState.UNREACHABLE, Trigger.TOLD): AgentState.FAILED,
    (AgentState.DRAINING, Trigger.LOST): AgentState.FAILED,
    (AgentState.DRAINING, Trigger.LEAVES): AgentState.LEFT,
    (AgentState.DRAINING, Trigger.TOLD): AgentState.FAILED,
}
