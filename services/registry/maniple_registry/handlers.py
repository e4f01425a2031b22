"""What the registry does with heartbeats, with silence, and with questions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from structlog.typing import FilteringBoundLogger

from maniple.control import Heartbeat, Request
from maniple.errors import RequestFailed
from maniple.service.names import AGENTS, EVICTIONS, HEARTBEATS_SEEN
from maniple.service.requests import Responder
from maniple.service.telemetry import Metrics
from maniple.topology import HEARTBEATS, Exchange
from maniple_registry.clock import Clock
from maniple_registry.domain.fleet import Fleet
from maniple_registry.domain.membership import AgentRecord, Decision
from maniple_registry.eviction import Evictor
from maniple_registry.outbox import Outbox


@dataclass(frozen=True)
class Handlers:
    """The registry's handlers, with what they act on."""

    fleet: Fleet
    clock: Clock
    outbox: Outbox
    evictor: Evictor
    metrics: Metrics
    log: FilteringBoundLogger

    def hear(self, heartbeat: Heartbeat) -> None:
        """Take a heartbeat."""
        self.metrics.counter(HEARTBEATS_SEEN).inc()
        decision = self.fleet.hear(heartbeat, self.clock.now())
        if decision.events or decision.commands or decision.failed:
            self._act(heartbeat.agent, decision)

    def scan(self, *, hearing: bool) -> None:
        """Look who has been silent for too long; `hearing` as in `Clock.step`."""
        self.clock.step(hearing=hearing)
        if hearing:
            for decision in self.fleet.pass_time(self.clock.now()):
                self._act("", decision)
        for state, count in self.fleet.counts().items():
            self.metrics.gauge(AGENTS, state).set(count)

    def _act(self, agent: str, decision: Decision) -> None:
        for event in decision.events:
            self.log.info(
                event.KEY, agent=event.agent, incarnation=event.incarnation, reason=event.reason
            )
            self.outbox.post(event)
        for command in decision.commands:
            self.outbox.tell(agent, command)
        for failed in decision.failed:
            self.metrics.counter(
                EVICTIONS, "silent" if failed is decision.record else "replaced"
            ).inc()
            self.evictor.evict(failed, replaced=failed is not decision.record)

    async def agents(self, _request: Request) -> dict[str, Any]:
        """Answer `agents`: all that are known, by id; failed and left ones for ten minutes."""
        now = self.clock.now().seconds
        return {"agents": [_shown(record, now) for record in self.fleet]}

    async def agent(self, request: Request) -> dict[str, Any]:
        """Answer `agent` with the one called `id`, or `unknown_agent`."""
        record = self.fleet.get(str(request.body.get("id", "")))
        if record is None:
            raise RequestFailed("unknown_agent", f"no agent {request.body.get('id')!r} is known")
        return _shown(record, self.clock.now().seconds)


def _shown(record: AgentRecord, now: float) -> dict[str, Any]:
    heartbeat, description = record.heartbeat, record.description
    shown = description.model_dump(mode="json") if description else {}
    slots_by_executor = shown.pop("slots", {})
    return {
        **shown,
        "id": record.agent,
        "incarnation": record.incarnation,
        "state": record.state,
        "since_seconds": round(max(0.0, now - record.since), 3),
        "heartbeat_age": round(max(0.0, now - record.heard), 3),
        "slots": heartbeat.slots,
        "slots_by_executor": slots_by_executor,
        "in_flight": heartbeat.in_flight,
        "held": heartbeat.held,
        "loop_lag": heartbeat.loop_lag,
        "last_delivery_at": heartbeat.last_delivery_at.isoformat()
        if heartbeat.last_delivery_at
        else None,
        "connections": list(heartbeat.connections),
    }


def routes(handlers: Handlers) -> Mapping[Exchange, tuple[type[Heartbeat], Callable[..., None]]]:
    """Return which message of which exchange goes to which handler."""
    return {HEARTBEATS: (Heartbeat, handlers.hear)}


def operations(handlers: Handlers) -> Mapping[str, Responder]:
    """Return which request goes to which handler."""
    return {"agents": handlers.agents, "agent": handlers.agent}
