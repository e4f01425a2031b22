"""Heartbeats that somebody forged, of lives that nobody can have begun."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from maniple.control import (
    FAR,
    AgentId,
    Incarnation,
    Retire,
    began,
    is_of_the_future,
    later_life,
)
from maniple.events import AgentFailed, AgentRegistered
from maniple.identifiers import new_id
from maniple.service.names import CONTROL_DROPPED
from maniple.service.telemetry import process_metrics
from maniple_agent.domain.returning import LONGEST
from maniple_agent.handlers import Handlers as AgentHandlers
from maniple_dispatcher.agents import Agents
from maniple_dispatcher.domain.affinity import Roster
from maniple_registry.actor import Actor
from maniple_registry.clock import Clock
from maniple_registry.domain.fleet import Fleet
from maniple_registry.domain.membership import decide, learn
from maniple_registry.domain.records import AgentState
from maniple_registry.handlers import Handlers
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
    roster = Roster()
    nothing: Any = SimpleNamespace(
        settings=SimpleNamespace(timings=SimpleNamespace(queues=SimpleNamespace(leftover=1.0))),
        stir=lambda _: None,
        begin=lambda _: None,
    )
    following = Agents(nothing, nothing, roster, nothing, nothing, deadlines=nothing)
    for incarnation in (forged, OURS):
        described = DESCRIBED.model_copy(
            update={"incarnation": incarnation, "affinity": ("x",), "lanes": ("x",)}
        )
        following.heard(
            AgentRegistered(
                at=NOW,
                agent=AgentId("a1"),
                incarnation=Incarnation(incarnation),
                description=described,
            )
        )
    following.heard(AgentFailed(at=NOW, agent=AgentId("a1"), incarnation=Incarnation(forged)))
    assert roster.serving("x") == ["a1"]


def test_a_registry_counts_and_says_what_it_refuses() -> None:
    metrics = process_metrics()
    value = metrics.registry.get_sample_value
    actor = cast("Actor", None)  # there is nothing to be done
    handlers = Handlers(Fleet(), Clock(), actor, metrics, structlog.get_logger())
    with structlog.testing.capture_logs() as lines:
        handlers.hear(beat(incarnation=LAST, sent_at=datetime.now(UTC)))
    assert [(line["agent"], line["incarnation"]) for line in lines] == [("a1", LAST)]
    assert value(f"{CONTROL_DROPPED.name}_total", {"reason": "future"}) == 1
    assert handlers.fleet.size == 0


class Returns:
    """An agent whose registry tells it at each heartbeat that `after` was a later life."""

    def __init__(self, after: str) -> None:
        self.incarnation, self.lives, self.now, self.after = Incarnation(new_id()), 0, 0.0, after
        ending: Any = None
        heartbeats: Any = self
        self.handlers = AgentHandlers(
            heartbeats, ending, lambda: None, lambda _: None, new_id, clock=lambda: self.now
        )

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


@given(st.text(max_size=64))
def test_of_any_text_it_can_be_told_whether_it_is_a_life(text: str) -> None:
    assert is_of_the_future(text, NOW.timestamp()) in {True, False}
    assert began(text) is None or str(UUID(text)) == text


moments = st.integers(0, int(datetime(9999, 1, 1, tzinfo=UTC).timestamp() * 1000))


@given(moments, moments)
def test_after_every_life_that_a_clock_can_tell_there_is_a_later_one(one: int, two: int) -> None:
    lives = [str(UUID(int=milliseconds << 80)) for milliseconds in (one, two)]
    after = later_life(*lives)
    assert after == lives[0] > lives[1] or after > lives[1]
    assert not is_of_the_future(after)
    assert not is_of_the_future(life(NOW + timedelta(seconds=FAR - 1)), NOW.timestamp())
