"""What the registry does with heartbeats, silence, checks, lanes, events, and questions."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec
from structlog.typing import FilteringBoundLogger

from maniple.errors import RequestFailed
from maniple.timings import Clocks
from maniple_registry import agent_listing
from maniple_registry.actions import ActionRunner
from maniple_registry.domain.agent_record import (
    FINAL,
    UNKNOWN_LIFE,
    AgentRecord,
    AgentState,
    Instant,
    LaneView,
)
from maniple_registry.domain.agents import Agents
from maniple_registry.domain.clock_skew import told
from maniple_registry.hearing_clock import HearingClock
from maniple_runtime.control.field_types import MOST_OF_A_LIFE, AgentId, is_agent_name
from maniple_runtime.control.incarnations import Incarnation, is_of_the_future
from maniple_runtime.control.messages import AgentPhase, Announce, Heartbeat, Request, Retire
from maniple_runtime.control.routing_keys import ALL_AGENTS, agent_key
from maniple_runtime.events import AgentEvent, AgentFailed
from maniple_runtime.metric_names import CONTROL_DROPPED, HEARTBEATS_SEEN, QUEUES_SUSPECTED
from maniple_runtime.telemetry import Metrics

FAILED_PAGE = 1000
REFUSED_PACE = 0.1  # seconds between two answers to lives of the future
UNSHOWN = "says more of itself than can be shown"


@dataclass
class RegistryHandlers:
    """The registry's handlers, with what they act on; `last_heard` in seconds of `clock`."""

    fleet: Agents
    clock: HearingClock
    actor: ActionRunner
    metrics: Metrics
    log: FilteringBoundLogger
    hears: Callable[[], bool] = lambda: True
    """Whether heartbeats can be heard now; what is answered while they cannot may be old."""
    agree: float = Clocks().agree
    """Seconds by which clocks may differ."""
    correction: float = 0.0
    """Seconds by which the cluster's time is ahead of our own clock."""

    def __post_init__(self) -> None:
        """Begin as if we had heard somebody: silence is counted from now."""
        self.last_heard = self.clock.seconds()
        self._refused = -math.inf
        self._seen = self.metrics.counter(HEARTBEATS_SEEN)

    def on_heartbeat(self, heartbeat: Heartbeat) -> None:
        """Take a heartbeat."""
        self._seen.inc()
        now = self.clock.now()
        self.last_heard = now.seconds
        decision = self.fleet.record_heartbeat(heartbeat, now)
        if decision.refused:
            self.metrics.counter(CONTROL_DROPPED, "future").inc()
            life = heartbeat.incarnation
            self.log.warning(
                "an incarnation that begins in the future is refused",
                agent=heartbeat.agent,
                incarnation=life,
            )
            self._answer_refused(heartbeat, now.seconds)
        if decision.events or decision.commands or decision.failed:
            self.actor.on_decisions([(heartbeat.agent, decision)], now.seconds)

    def _answer_refused(self, heartbeat: Heartbeat, now: float) -> None:
        """Have it begin a life by its clock, which may have been set right since.

        Who did not send this passes over it. Many are answered one by one: each asks again.
        """
        life = heartbeat.incarnation
        if heartbeat.state is AgentPhase.LEAVING or is_of_the_future(life):
            return
        if now - self._refused >= REFUSED_PACE:
            self._refused = now
            self.actor.outbox.tell(agent_key(heartbeat.agent), Retire(incarnation=life))

    def judge(self, overdue: Iterable[AgentId], then: Instant) -> None:
        """Decide about agents that had been silent for too long by then, if not heard since."""
        self.actor.on_decisions(self.fleet.judge(overdue, then), self.clock.seconds())

    def on_checks(self, critical: Collection[str]) -> None:
        """Take the ids of the agents whose HTTP check is critical."""
        now = self.clock.now()
        self.actor.on_decisions(self.fleet.apply_checks(critical, now), now.seconds)

    def on_queue_views(self, views: Mapping[str, LaneView]) -> None:
        """Take how the places of hungry agents look."""
        now, before = self.clock.now(), self.fleet.suspected
        self.actor.on_decisions(self.fleet.update_queue_views(views, now), now.seconds)
        for place in sorted(self.fleet.suspected - before):
            self.metrics.counter(QUEUES_SUSPECTED).inc()
            self.log.warning("a queue is suspected, and none of its agents evicted", place=place)
        for place in sorted(before - self.fleet.suspected):
            self.log.info("a queue is not suspected any more", place=place)

    def call_all(self) -> None:
        """Have all agents send a heartbeat at once."""
        self.actor.outbox.tell(ALL_AGENTS, Announce())

    def on_agent_event(self, event: AgentEvent) -> None:
        """Take what a registry, perhaps this one, has told."""
        now = self.clock.now()
        self.actor.see(event, now.seconds)
        if isinstance(event, AgentFailed):
            decision = self.fleet.learn_event(event, now)
            self.actor.on_decisions([(event.agent, decision)], now.seconds)

    def inherit(self, failed: Mapping[str, str]) -> None:
        """Take which incarnations, by agent, another registry knows as failed."""
        now = self.clock.now()
        events = [
            AgentFailed(at=now.at, agent=AgentId(agent), incarnation=Incarnation(incarnation))
            for agent, incarnation in failed.items()
            if is_agent_name(agent) and 0 < len(incarnation) <= MOST_OF_A_LIFE
        ]
        learned = [(event.agent, self.fleet.learn_event(event, now)) for event in events]
        self.actor.on_decisions(learned, now.seconds)

    async def failed(self, request: Request) -> dict[str, Any]:
        """Answer `failed`: the incarnation of each failed agent; a page of them, if asked for."""
        place = agent_listing.after(request.body)
        if place is None:
            return {"failed": _failed(self.fleet)}
        records = self.fleet.following(place, FAILED_PAGE + 1)
        more = records[-2].agent if len(records) > FAILED_PAGE else None
        return {"failed": _failed(records[:FAILED_PAGE]), "next": more}

    async def agents(self, request: Request) -> bytes:
        """Answer `agents`: all that are known, by id; failed and left ones for ten minutes.

        With `after` (the id of an agent, or empty) a page of those that follow it, and as `next`
        what the next page is after; null on the last one. Without it all, or `too_large`.
        """
        now, following = self.clock.seconds(), ""
        write = partial(self._written, now=now)
        place = agent_listing.after(request.body)
        if place is None:
            written = await agent_listing.whole(self.fleet, write)
        else:
            written, following = agent_listing.page(self.fleet, place, write)
        return agent_listing.answer(written, hearing=self.hears(), following=following)

    async def agent(self, request: Request) -> bytes:
        """Answer `agent` with the one called `id`, or `unknown_agent`."""
        record = self.fleet.get_record(str(request.body.get("id", "")))
        if record is None:
            raise RequestFailed("unknown_agent", f"no agent {request.body.get('id')!r} is known")
        hearing = msgspec.json.encode({"hearing": self.hears()})
        return self._written(record, self.clock.seconds())[:-1] + b"," + hearing[1:]

    def clock_ahead(self, record: AgentRecord) -> float | None:
        """Return by how many seconds an agent's clock is wrong; None if by few, or unknown."""
        if record.incarnation == UNKNOWN_LIFE or record.state in FINAL:
            return None
        ahead = record.ahead - self.correction
        return ahead if abs(ahead) > self.agree else None

    def _written(self, record: AgentRecord, now: float) -> bytes:
        written = self._encoded(record, now)
        if len(written) <= agent_listing.AGENT_BYTES:
            return written
        return self._encoded(replace(record, description=None), now, UNSHOWN)

    def _encoded(self, record: AgentRecord, now: float, *doubts: str) -> bytes:
        ahead = self.clock_ahead(record)
        wrong = [] if ahead is None else [f"its clock is {told(ahead)}"]
        shown = _shown(record, now)
        shown["clock_ahead"] = round(record.ahead - self.correction, 3)
        shown["doubts"] += [*wrong, *doubts]
        return msgspec.json.encode(shown)


def _failed(records: Iterable[AgentRecord]) -> dict[str, str]:
    failed = (record for record in records if record.state is AgentState.FAILED)
    return {record.agent: record.incarnation for record in failed}


def _shown(record: AgentRecord, now: float) -> dict[str, Any]:
    heartbeat, description = record.heartbeat, record.description
    shown = description.model_dump(mode="json") if description else {}
    slots_by_executor = shown.pop("slots", {})
    return {
        "agent": record.agent,
        **shown,
        "id": record.agent,
        "incarnation": record.incarnation,
        "state": record.state,
        "doubts": _doubts(record),
        "since_seconds": round(max(0.0, now - record.since), 3),
        "sequence": heartbeat.sequence,
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


def _doubts(record: AgentRecord) -> list[str]:
    starving = record.starving
    doubts = ["health check critical"] if record.unwell else []
    if starving is not None and starving.doubted:
        doubts.append(f"takes nothing from {starving.where}")
    return doubts
