"""Carrying out decisions: at once by the leader, by a standby when no other registry has."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from structlog.typing import FilteringBoundLogger

from maniple_registry.domain.agent_record import Decision
from maniple_registry.domain.agents import Agents
from maniple_registry.domain.pending_actions import Deed, Evict, PendingActions, Tell
from maniple_registry.domain.state_machine import REPLACED
from maniple_registry.domain.transitions import Trigger
from maniple_registry.eviction import Evictor
from maniple_registry.outbox import Outbox
from maniple_runtime.control.field_types import AgentId
from maniple_runtime.control.routing_keys import agent_key
from maniple_runtime.events import AgentEvent, AgentFailed
from maniple_runtime.metric_names import EVICTIONS
from maniple_runtime.telemetry import Metrics

CAUSES = ("silent", "zombie", "replaced")
"""Why agents are declared failed, as labels of the metric."""


@dataclass(frozen=True)
class ActionRunner:
    """Takes decisions, and does what of them is this registry's to do; seconds are the clock's."""

    fleet: Agents
    agenda: PendingActions
    outbox: Outbox
    evictor: Evictor
    leads: Callable[[], bool]
    led: Callable[[], bool]
    """Whether this or another registry leads, as far as is known."""
    metrics: Metrics
    log: FilteringBoundLogger

    def on_decisions(self, decided: Iterable[tuple[AgentId, Decision]], now: float) -> None:
        """Take what was decided about agents; a leader does it at once, a standby when it acts."""
        for agent, decision in decided:
            for event in decision.events:
                self.agenda.add_action(event, now)
            for command in decision.commands:
                self.agenda.add_action(Tell(agent, command), now, led=self.led())
            for failed in decision.failed:
                self.agenda.add_action(Evict(failed), now)
        if self.leads():
            self.act(now)

    def see(self, event: AgentEvent, now: float) -> None:
        """Record that an event was published."""
        self.agenda.see(event.id, now)

    def act(self, now: float) -> None:
        """Do what is due; a standby calls this some times a second, and not more often."""
        if self.agenda:
            for deed in self.agenda.due(now, leading=self.leads()):
                self._do(deed)

    def _do(self, deed: Deed) -> None:
        match deed:
            case AgentEvent():
                if self.fleet.stands(deed):
                    self._tell(deed)
            case Tell():
                if self.fleet.wants(deed.agent, deed.command):
                    self.outbox.tell(agent_key(deed.agent), deed.command)
            case Evict():
                self.evictor.evict(deed.record)

    def _tell(self, event: AgentEvent) -> None:
        self.log.info(
            event.KEY, agent=event.agent, incarnation=event.incarnation, reason=event.reason
        )
        if isinstance(event, AgentFailed):
            self.metrics.counter(EVICTIONS, _cause(event.reason)).inc()
        self.outbox.post(event)


def _cause(reason: str) -> str:
    if reason == REPLACED:
        return "replaced"
    return "zombie" if reason.startswith(Trigger.HOPELESS) else "silent"
