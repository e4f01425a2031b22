"""Heartbeats that somebody forged, of lives that nobody can have begun."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest
import structlog

from maniple.clock import SYSTEM_CLOCK
from maniple.identifiers import new_id
from maniple_agent.commands import AgentCommands as AgentHandlers
from maniple_agent.domain.rejoin_backoff import LONGEST
from maniple_dispatcher.affinity.agents import AgentDirectory
from maniple_dispatcher.affinity.assignment import Assignment
from maniple_registry.actions import ActionRunner
from maniple_registry.domain.agent_record import AgentState, Decision, Instant
from maniple_registry.domain.agents import Agents
from maniple_registry.domain.state_machine import decide, learn
from maniple_registry.handlers import RegistryHandlers
from maniple_registry.hearing_clock import HearingClock
from maniple_runtime.control.field_types import AgentId
from maniple_runtime.control.incarnations import (
    Incarnation,
    later_life,
)
from maniple_runtime.control.messages import AgentPhase, Command, Retire
from maniple_runtime.events import AgentFailed, AgentRegistered
from maniple_runtime.metric_names import CONTROL_DROPPED
from maniple_runtime.telemetry import process_metrics
from registry_values import DESCRIPTION, NOW, at, beat, known

LAST = "ffffffff-ffff-7fff-bfff-ffffffffffff"


def life(when: datetime, rest: int = 0) -> Incarnation:
    """A life that a host whose clock says so begins."""
    milliseconds = int(when.timestamp() * 1000)
    return Incarnation(str(UUID(int=milliseconds << 80 | 7 << 76 | 2 << 62 | rest)))


OURS = life(NOW)
DESCRIBED = DESCRIPTION.model_copy(update={"incarnation": OURS})
FORGED = [
    LAST,
    "e" * 8 + LAST[8:],
    "zzzz",
    "{" + LAST + "}",
    life(NOW + timedelta(days=2)),
    life(NOW + timedelta(days=365 * 100)),
]


@pytest.mark.parametrize("forged", FORGED)
def test_a_heartbeat_of_a_life_of_the_future_changes_nothing(forged: str) -> None:
    assert decide(None, beat(incarnation=forged), at(0)).record is None
    record = known(decide(None, beat(incarnation=OURS, description=DESCRIBED), at(0)).record)
    decision = decide(record, beat(5, incarnation=forged), at(1))
    assert decision.refused
    assert (decision.record, decision.events, decision.failed) == (record, (), ())
    later = decide(record, beat(2, incarnation=OURS), at(3))
    assert known(later.record).state is AgentState.ACTIVE
    assert later.commands == ()


@pytest.mark.parametrize("days", [-3650, -2, 0.5, 2, 3650])
def test_a_clock_that_is_wrong_makes_no_life_of_the_future(days: float) -> None:
    """Neither the agent's own, nor that of the registry."""
    told = NOW + timedelta(days=days)
    heartbeat = beat(incarnation=life(told), sent_at=told, description=DESCRIBED)
    record = known(decide(None, heartbeat, at(0)).record)
    assert record.state is AgentState.ACTIVE
    after = later_life(life(NOW), record.incarnation)  # its clock has been set right, and it failed
    again = decide(record, beat(incarnation=after, sent_at=NOW), at(20))
    assert not again.refused
    assert known(again.record).incarnation == after


@pytest.mark.parametrize("forged", [LAST, "zzzz", "f" * 32])
def test_nobody_believes_that_a_life_of_the_future_has_failed(forged: str) -> None:
    event = AgentFailed(at=NOW, agent=AgentId("a1"), incarnation=Incarnation(forged))
    assert learn(None, event, at(0)).record is None
    record = known(decide(None, beat(incarnation=OURS, description=DESCRIBED), at(0)).record)
    assert learn(record, event, at(0)).record == record


@pytest.mark.parametrize("forged", [LAST, "zzzz", "f" * 32])
def test_a_dispatcher_goes_on_sending_to_an_agent_whose_future_was_forged(forged: str) -> None:
    assignment = Assignment()
    nothing: Any = SimpleNamespace(
        settings=SimpleNamespace(timings=SimpleNamespace(queues=SimpleNamespace(leftover=1.0))),
        clock=SYSTEM_CLOCK,
        stir=lambda _: None,
        begin_draining=lambda _: None,
    )
    following = AgentDirectory(nothing, nothing, assignment, nothing, nothing, deadlines=nothing)
    for incarnation in (forged, OURS):
        described = DESCRIBED.model_copy(
            update={"incarnation": incarnation, "affinity": ("x",), "lanes": ("x",)}
        )
        following.on_agent_event(
            AgentRegistered(
                at=NOW,
                agent=AgentId("a1"),
                incarnation=Incarnation(incarnation),
                description=described,
            )
        )
    following.on_agent_event(
        AgentFailed(at=NOW, agent=AgentId("a1"), incarnation=Incarnation(forged))
    )
    assert assignment.serving("x") == ["a1"]


def test_a_registry_counts_and_says_what_it_refuses() -> None:
    metrics = process_metrics()
    value = metrics.registry.get_sample_value
    actor = cast("ActionRunner", None)  # there is nothing to be done
    handlers = RegistryHandlers(
        Agents(), HearingClock(SYSTEM_CLOCK), actor, metrics, structlog.get_logger()
    )
    with structlog.testing.capture_logs() as lines:
        handlers.on_heartbeat(beat(incarnation=LAST, sent_at=datetime.now(UTC)))
    assert [(line["agent"], line["incarnation"]) for line in lines] == [("a1", LAST)]
    assert value(f"{CONTROL_DROPPED.name}_total", {"reason": "future"}) == 1
    assert handlers.fleet.size == 0


class Told:
    """An outbox that keeps what is told."""

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self.keys: list[str] = []

    def tell(self, key: str, command: Command) -> None:
        """Keep it."""
        self.keys.append(key)
        self.commands.append(command)


class Registry:
    """One that has just been started."""

    def __init__(self) -> None:
        self.fleet, self.told, self.seconds = Agents(), Told(), 0.0
        actor: Any = SimpleNamespace(outbox=self.told, on_decisions=self._take)
        clock: Any = SimpleNamespace(seconds=lambda: self.seconds, now=self._now)
        log = structlog.get_logger()
        self.handlers = RegistryHandlers(self.fleet, clock, actor, process_metrics(), log)

    def _now(self) -> Instant:
        return Instant(self.seconds, NOW + timedelta(seconds=self.seconds))

    def _take(self, decided: list[tuple[AgentId, Decision]], _now: float) -> None:
        for agent, decision in decided:
            for command in decision.commands:
                if self.fleet.wants(agent, command):
                    self.told.tell(agent, command)

    def hear(self, **changes: Any) -> list[Command]:
        """Return what the agent is told for it."""
        self.told.commands.clear()
        self.seconds += 1
        sent_at = NOW + timedelta(seconds=self.seconds)
        fields: dict[str, Any] = {"sent_at": sent_at, "description": DESCRIBED}
        self.handlers.on_heartbeat(beat(**(fields | changes)))
        return list(self.told.commands)

    @property
    def life(self) -> str:
        """That of the one agent which is taken for alive."""
        record = known(self.fleet.get_record("a1"))
        assert record.state is AgentState.ACTIVE
        return record.incarnation


AHEAD = NOW + timedelta(days=3)


def test_an_agent_whose_clock_has_been_set_right_is_heard_again_by_all_registries() -> None:
    agent = Returns("")
    agent.incarnation = life(AHEAD)
    earlier, later = Registry(), Registry()
    assert earlier.hear(incarnation=agent.incarnation, sent_at=AHEAD) == []
    assert earlier.hear(sequence=2, incarnation=agent.incarnation) == []  # it has been set right
    later.seconds = earlier.seconds + 10
    agent.at = NOW + timedelta(seconds=later.seconds)
    (command,) = later.hear(sequence=3, incarnation=agent.incarnation)
    assert later.told.keys == ["agent.a1"]
    assert isinstance(command, Retire)
    agent.handlers.retire(command)
    assert agent.incarnation < life(AHEAD)
    earlier.seconds = later.seconds
    for sequence in (1, 2):
        for registry in (earlier, later):
            assert registry.hear(sequence=sequence, incarnation=agent.incarnation) == []
            assert registry.life == agent.incarnation


def test_a_late_heartbeat_from_before_a_clock_went_ahead_takes_no_place() -> None:
    registry = Registry()
    before = life(NOW - timedelta(seconds=60))
    registry.hear(incarnation=life(AHEAD), sent_at=AHEAD)
    registry.hear(sequence=9, incarnation=before)
    assert registry.life == life(AHEAD)


def test_a_registry_whose_clock_is_far_behind_takes_no_life_for_one_of_the_future() -> None:
    registry = Registry()
    registry.hear(incarnation=life(AHEAD), sent_at=AHEAD)
    registry.hear(incarnation=life(NOW + timedelta(hours=12)), sent_at=AHEAD)
    assert registry.life == life(AHEAD)


def test_forged_lives_of_the_future_have_a_registry_tell_little() -> None:
    registry = Registry()
    assert registry.hear(incarnation=OURS) == []
    told = 0
    for number in range(1000):
        told += len(registry.hear(incarnation=life(AHEAD, number)))
        registry.seconds += 0.001 - 1
    assert 1 <= told <= 12
    assert registry.hear(incarnation=LAST) == []
    assert registry.hear(incarnation=life(AHEAD), state=AgentPhase.LEAVING) == []
    assert registry.life == OURS


def test_a_dispatcher_goes_on_sending_to_an_agent_whose_clock_has_been_set_right() -> None:
    at, lanes = NOW.timestamp(), frozenset({"x"})
    assignment = Assignment()
    assignment.registered("a1", life(AHEAD), lanes, at)
    assignment.gone("a1", life(AHEAD), at)
    assignment.registered("a1", OURS, lanes, at)
    assert assignment.serving("x") == ["a1"]
    assignment.gone("a1", life(AHEAD), at)  # told again by another registry
    assignment.registered("a1", life(NOW - timedelta(days=1)), frozenset(), at)
    assert assignment.serving("x") == ["a1"]
    assignment.gone("a1", OURS, at)
    assert assignment.serving("x") == []


class Returns:
    """An agent whose registry tells it at each heartbeat that `after` was a later life."""

    def __init__(self, after: str) -> None:
        self.incarnation, self.lives, self.now, self.after = Incarnation(new_id()), 0, 0.0, after
        self.at: datetime | None = None
        """What its clock says; the right time by default."""
        ending: Any = None
        heartbeats: Any = self
        self.handlers = AgentHandlers(
            heartbeats,
            ending,
            lambda: None,
            lambda _: None,
            self.new_id,
            monotonic=lambda: self.now,
        )

    def new_id(self) -> str:
        """A life that begins now."""
        return new_id() if self.at is None else life(self.at)

    def begin_new_life(self, incarnation: Incarnation) -> None:
        """Live anew; it says so at once, and is told at once."""
        self.incarnation = incarnation
        self.lives += 1
        self.tell()

    def tell(self) -> None:
        self.handlers.retire(Retire(incarnation=self.incarnation, after=self.after))


@pytest.mark.parametrize("after", [LAST, "zzzz", "f" * 32])
def test_an_agent_that_is_told_for_ever_that_a_life_has_ended_comes_back_ever_more_seldom(
    after: str,
) -> None:
    agent = Returns(after)
    for second in range(0, 30, 3):
        agent.now = float(second)
        agent.tell()
    assert 1 <= agent.lives <= 8
    before = agent.lives
    for second in range(1000, 1000 + 10 * int(LONGEST), 3):
        agent.now = float(second)
        agent.tell()
    assert agent.lives - before <= 20


def test_an_agent_that_fails_seldom_comes_back_at_once() -> None:
    agent = Returns("")
    for hour in range(5):
        agent.now = 3600.0 * hour
        agent.tell()
        assert agent.lives == hour + 1
