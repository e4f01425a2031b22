"""`maniple_registry.actions`: what many agents at once cost the registry that does not lead."""

import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, cast

import structlog

from maniple.clock import Clock
from maniple.timings import Standby
from maniple_registry.actions import ActionRunner
from maniple_registry.domain.agent_record import Decision
from maniple_registry.domain.agents import Agents
from maniple_registry.domain.pending_actions import PendingActions
from maniple_registry.eviction import Evictor
from maniple_registry.handlers import RegistryHandlers
from maniple_registry.hearing_clock import HearingClock
from maniple_registry.outbox import Outbox, OutboxPlane
from maniple_runtime.consul.client import Consul
from maniple_runtime.control.field_types import AgentId
from maniple_runtime.control.incarnations import Incarnation
from maniple_runtime.control.messages import AgentDescription, Heartbeat, Request
from maniple_runtime.events import AgentFailed
from maniple_runtime.telemetry import Metrics

NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)
AGENTS = 5000
SECONDS = 5.0  # of the processor, for all of them; it takes about one


@dataclass
class Hands:
    """A monotonic clock moved by hand."""

    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Lead:
    """Whether this registry leads, and how often it was asked."""

    leads: bool = False
    asked: list[bool] = field(default_factory=list)

    def __call__(self) -> bool:
        self.asked.append(self.leads)
        return self.leads


def registry(lead: Lead) -> tuple[RegistryHandlers, Hands]:
    """What decides and acts, with a broker that nothing is sent to: the outbox does not run."""
    hands, fleet, log, metrics = Hands(), Agents(), structlog.get_logger(), Metrics()
    consul = Consul("http://127.0.0.1:1")
    evictor = Evictor(
        consul, None, environment="dev", target=fleet.target, log=log, monotonic=hands
    )
    outbox = Outbox(cast("OutboxPlane", None), log)
    actor = ActionRunner(fleet, PendingActions(), outbox, evictor, lead, lambda: True, metrics, log)
    return RegistryHandlers(fleet, HearingClock(Clock(monotonic=hands)), actor, metrics, log), hands


def beat(agent: str) -> Heartbeat:
    who: dict[str, Any] = {"agent": agent, "incarnation": "1"}
    described = AgentDescription.model_validate(who | {"host": "h", "pid": 1, "started_at": NOW})
    fields = {"sequence": 1, "sent_at": NOW, "digest": "d", "description": described}
    return Heartbeat.model_validate(who | fields)


def test_a_standby_bears_that_thousands_of_agents_register_and_fail_at_once() -> None:
    handlers, hands = registry(Lead())
    started = time.process_time()
    for number in range(AGENTS):
        handlers.on_heartbeat(beat(f"agent-{number}"))
    for _ in range(20):  # a clock that is read too seldom thinks that it stood still
        hands.seconds += 0.5
        handlers.clock.seconds()
    overdue = handlers.fleet.overdue(handlers.clock.now())
    handlers.judge(overdue, handlers.clock.now())
    assert len(overdue) == AGENTS
    assert time.process_time() - started < SECONDS


class Counting(AgentFailed):
    """An event that counts how often its id was made."""

    made: ClassVar[list[str]] = []

    @property
    def id(self) -> str:
        Counting.made.append(self.agent)
        return super().id


def counting(number: int) -> tuple[AgentId, Decision]:
    agent = AgentId(f"agent-{number}")
    event = Counting(at=NOW, agent=agent, incarnation=Incarnation("1"))
    return agent, Decision(None, events=(event,))


def test_a_standby_makes_each_key_once_however_often_it_looks() -> None:
    Counting.made.clear()
    handlers, _ = registry(Lead())
    for number in range(200):
        handlers.actor.on_decisions([counting(number)], 0.0)
        handlers.actor.act(Standby().grace / 2)
    assert len(Counting.made) == 200


def test_a_leader_acts_at_once_and_once_for_a_batch_and_a_standby_when_told_to() -> None:
    lead = Lead(leads=True)
    handlers, _ = registry(lead)
    handlers.actor.on_decisions(map(counting, range(100)), 0.0)
    assert (len(handlers.actor.agenda), len(lead.asked)) == (0, 2)
    lead.leads = False
    handlers.actor.on_decisions(map(counting, range(100, 200)), 0.0)
    assert (len(handlers.actor.agenda), len(lead.asked)) == (100, 3)
    handlers.actor.act(Standby().grace)
    assert len(handlers.actor.agenda) == 0


async def test_a_registry_that_hears_nothing_says_so_in_its_answers() -> None:
    handlers, _ = registry(Lead())
    handlers.on_heartbeat(beat("a1"))
    about_one = Request(op="agent", body={"id": "a1"})
    for hears in (True, False):
        handlers.hears = lambda hears=hears: hears  # type: ignore[misc]  # bound now
        assert json.loads(await handlers.agents(Request(op="agents")))["hearing"] is hears
        assert json.loads(await handlers.agent(about_one))["hearing"] is hears
