"""The registry's bookkeeping of many agents, of the catalog, and of time."""

import time
from datetime import UTC, datetime
from typing import Any

import pytest

from maniple.clock import Clock
from maniple.timings import Bounds
from maniple_registry.domain.agent_record import (
    UNKNOWN_LIFE,
    AgentRecord,
    AgentState,
    Decision,
    Instant,
    LaneView,
)
from maniple_registry.domain.agents import Agents
from maniple_registry.domain.mass_silence import threatens
from maniple_registry.domain.reaping import Reaping, all_critical
from maniple_registry.hearing_clock import HearingClock
from maniple_runtime.control.messages import (
    AgentDescription,
    Announce,
    Heartbeat,
    Reconnect,
    Retire,
)

NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)


def beat(agent: str, sequence: int, incarnation: str = "1", **changes: Any) -> Heartbeat:
    fields = {"agent": agent, "incarnation": incarnation, "sequence": sequence}
    return Heartbeat.model_validate(fields | {"sent_at": NOW, "digest": "d"} | changes)


def at(seconds: float) -> Instant:
    return Instant(seconds, NOW)


def pass_time(fleet: Agents, now: Instant) -> list[Decision]:
    return [decision for _, decision in fleet.judge(fleet.overdue(now), now)]


def get(fleet: Agents, agent: str) -> AgentRecord:
    record = fleet.get_record(agent)
    assert record is not None
    return record


def states(fleet: Agents) -> dict[str, AgentState]:
    return {record.agent: record.state for record in fleet}


def test_only_the_silent_agent_fails() -> None:
    fleet = Agents()
    for second in range(0, 13, 3):
        fleet.record_heartbeat(beat("lively", second), at(second))
        if second == 0:
            fleet.record_heartbeat(beat("silent", 0), at(0))
        pass_time(fleet, at(second))
    assert states(fleet) == {"lively": AgentState.ACTIVE, "silent": AgentState.FAILED}
    assert fleet.counts()[AgentState.FAILED] == 1


def test_each_change_is_told_once() -> None:
    fleet = Agents()
    fleet.record_heartbeat(beat("a", 1), at(0))
    told = [event.KEY for second in range(60) for decision in pass_time(fleet, at(second / 4))
            for event in decision.events]  # fmt: skip
    assert told == ["agent.unreachable", "agent.failed"]


def test_a_new_life_after_a_failure_is_watched_like_the_first() -> None:
    fleet = Agents()
    for life in range(3):
        start = life * 100.0
        fleet.record_heartbeat(beat("a", 1, incarnation=str(life)), at(start))
        pass_time(fleet, at(start + 4.5))
        assert states(fleet) == {"a": AgentState.UNREACHABLE}
        pass_time(fleet, at(start + 9))
        assert states(fleet) == {"a": AgentState.FAILED}


def test_a_failed_agent_is_forgotten_after_ten_minutes() -> None:
    fleet = Agents()
    fleet.record_heartbeat(beat("a", 1), at(0))
    pass_time(fleet, at(9))
    pass_time(fleet, at(608))
    assert fleet.get_record("a") is not None
    pass_time(fleet, at(609))
    assert fleet.get_record("a") is None


def test_a_place_of_which_all_say_that_it_lets_none_of_them_consume_is_to_blame() -> None:
    fleet, patience = Agents(), Bounds().hopeless
    seen: list[tuple[int, frozenset[str]]] = []

    def say(second: int, *agents: str) -> None:
        for agent in ("a1", "a2", "a3"):
            said: dict[str, Any] = {"unconsumed": ("x",)} if agent in agents else {}
            told = {"agent": agent, "incarnation": "1", "host": "h", "pid": 1, "started_at": NOW}
            description = AgentDescription.model_validate(told | {"lanes": ["x", "y"]})
            fleet.record_heartbeat(
                beat(agent, second + 1, description=description, **said), at(second)
            )
        fleet.update_queue_views({}, at(second))
        if not seen or seen[-1][1] != fleet.suspected:
            seen.append((second, fleet.suspected))

    for second in range(0, 30, 3):
        say(second, "a1", "a2")  # a3 gets what is there: it is not the queue
    for second in range(30, 60, 3):
        say(second, "a1", "a2", "a3")
    for second in range(60, 70, 3):
        say(second, "a2")
    late = next(second for second in range(30, 60, 3) if second >= 30 + patience)
    assert seen == [(0, frozenset()), (late, frozenset({"x"})), (60, frozenset())]


def test_ten_thousand_agents_cost_microseconds_a_heartbeat() -> None:
    fleet = Agents()
    beats = [beat(f"agent-{n}", 1) for n in range(10_000)]
    more = [beat(f"agent-{n}", 2) for n in range(10_000)]
    for one in beats:
        fleet.record_heartbeat(one, at(0))
    start = time.process_time()
    for one in more:
        fleet.record_heartbeat(one, at(3))
    assert (time.process_time() - start) / 10_000 < 50e-6
    assert pass_time(fleet, at(4.5)) == []


def test_an_instance_is_gone_when_all_its_own_checks_stay_critical() -> None:
    both = {"ttl:x", "http:x"}
    assert all_critical({"serfHealth": "passing", "ttl:x": "critical", "http:x": "critical"}, both)
    assert not all_critical({"ttl:x": "critical", "http:x": "passing"}, both)
    assert not all_critical({"ttl:x": "critical", "http:x": "critical"}, {"ttl:x"})
    assert not all_critical({"serfHealth": "critical"}, both)
    reaping: Reaping[str] = Reaping(10.0)
    assert reaping.observe(["x", "y"], 0) == []
    assert reaping.observe(["x"], 9) == []
    assert reaping.observe(["x", "y"], 10) == ["x"]
    assert reaping.observe(["x", "y"], 19) == []
    assert reaping.observe(["x", "y"], 20) == ["x", "y"]


class Hands:
    """A clock's monotonic seconds, moved by hand."""

    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_time_in_which_the_registry_hears_nothing_does_not_pass() -> None:
    hands = Hands()
    clock = HearingClock(Clock(monotonic=hands))
    clock.record_hearing(hearing=False)
    for _ in range(30):
        hands.seconds += 0.5
        assert clock.seconds() == 100
    clock.record_hearing(hearing=True)
    hands.seconds += 0.5
    assert clock.seconds() == 100.5


def test_time_in_which_the_registry_itself_stood_still_does_not_pass() -> None:
    hands = Hands()
    clock = HearingClock(Clock(monotonic=hands))
    hands.seconds += 60
    assert clock.now().seconds == 101
    assert clock.now().seconds == 101


def test_time_can_be_taken_off_afterwards() -> None:
    clock = HearingClock(Clock(monotonic=Hands()))
    clock.take_off(4)
    clock.take_off(-4)
    assert clock.seconds() == 96


@pytest.mark.parametrize(
    ("silent", "fleet", "asks"),
    [(5, 15, True), (5, 16, False), (4, 12, False), (4, 4, True), (1, 1, True), (0, 0, False)],
)
def test_five_and_a_third_of_the_fleet_are_a_storm_and_all_of_a_small_one(
    silent: int, fleet: int, asks: bool
) -> None:
    assert threatens(silent, fleet) is asks


def test_silence_is_counted_over_the_living() -> None:
    fleet = Agents()
    for number in range(3):
        fleet.record_heartbeat(beat(f"a{number}", 1), at(0))
    pass_time(fleet, at(9))
    fleet.record_heartbeat(beat("b", 1), at(9))
    fleet.record_heartbeat(beat("c", 1), at(12))
    assert fleet.silent(at(13.5)) == (1, 2)


def test_what_is_postponed_is_due_again() -> None:
    fleet = Agents()
    fleet.record_heartbeat(beat("a", 1), at(0))
    overdue = fleet.overdue(at(4.5))
    assert (overdue, fleet.overdue(at(4.5))) == (["a"], [])
    fleet.postpone(overdue)
    assert fleet.overdue(at(4.6)) == ["a"]


def test_a_failed_agent_loses_its_connections_but_not_its_successors() -> None:
    fleet = Agents()
    fleet.record_heartbeat(beat("a", 1, connections=["a.1.x", "a.1.y"]), at(0))
    pass_time(fleet, at(9))
    failed = get(fleet, "a")
    target = fleet.target(failed)
    assert (set(target.names), target.listed) == ({"a.1.x", "a.1.y"}, True)
    assert (target.owns("1"), target.owns(""), target.owns("2")) == (True, True, False)
    fleet.record_heartbeat(beat("a", 1, incarnation="2", connections=["a.1.y"]), at(10))
    left = fleet.target(failed)
    assert (set(left.names), left.prefix, left.listed) == ({"a.1.x"}, "", False)


def test_an_agent_that_was_never_heard_loses_what_begins_with_its_name() -> None:
    fleet = Agents()
    fleet.seed("a", "f00", 0, at(1))
    assert not fleet.hears("a")
    target = fleet.target(get(fleet, "a"))
    assert (target.prefix, target.owns("f00"), target.owns("bad")) == ("a.f00.", True, False)
    fleet.record_heartbeat(beat("a", 1), at(1))
    fleet.seed("a", "f00", 0, at(2))
    assert get(fleet, "a").incarnation != UNKNOWN_LIFE


def test_commands_are_wanted_only_while_their_reason_lasts() -> None:
    fleet = Agents()
    agent = beat("a", 1).agent
    described = AgentDescription.model_validate(
        {"agent": "a", "incarnation": "1", "host": "h", "pid": 1, "started_at": NOW, "lanes": ["x"]}
    )
    assert not fleet.wants(agent, Announce())
    fleet.record_heartbeat(beat("a", 1), at(0))
    assert fleet.wants(agent, Announce())
    fleet.record_heartbeat(beat("a", 2, description=described, slots=1), at(3))
    assert not fleet.wants(agent, Announce())
    assert fleet.open_lanes() == {"x"}
    fleet.update_queue_views({"x": LaneView(1, 1)}, at(6))
    assert fleet.wants(agent, Reconnect())
    fleet.update_queue_views({"x": LaneView(0, 1)}, at(7))
    assert not fleet.wants(agent, Reconnect())
    retire = Retire(incarnation=get(fleet, "a").incarnation)
    assert not fleet.wants(agent, retire)
    pass_time(fleet, at(12))
    assert fleet.wants(agent, retire)


def test_checks_are_taken_once_and_end() -> None:
    fleet = Agents()
    fleet.record_heartbeat(beat("a", 1), at(0))
    assert [agent for agent, _ in fleet.apply_checks({"a", "stranger"}, at(11))] == ["a"]
    assert fleet.apply_checks({"a"}, at(12)) == []
    assert len(fleet.apply_checks((), at(13))) == 1
    assert not get(fleet, "a").unwell


def test_who_was_forgotten_since_it_was_overdue_is_passed_over() -> None:
    fleet = Agents()
    fleet.record_heartbeat(beat("a", 1), at(0))
    pass_time(fleet, at(9))
    (forgotten,) = fleet.overdue(at(609))
    assert [d.record for _, d in fleet.judge([forgotten, forgotten], at(609))] == [None]
    fleet.postpone([forgotten])
    assert fleet.overdue(at(2000)) == []


def test_who_was_heard_since_it_was_overdue_is_watched_on_after_it_was_forgotten() -> None:
    fleet = Agents()
    fleet.record_heartbeat(beat("a", 1), at(0))
    pass_time(fleet, at(9))
    overdue = fleet.overdue(at(609))
    fleet.record_heartbeat(beat("a", 2), at(609))
    fleet.judge(overdue, at(609))
    assert (fleet.get_record("a"), fleet.overdue(at(2000))) == (None, [])


def test_a_replaced_life_is_wanted_gone_while_its_successor_lives() -> None:
    fleet = Agents()
    fleet.record_heartbeat(beat("a", 1), at(0))
    fleet.record_heartbeat(beat("a", 1, incarnation="2"), at(1))
    leave, come_back = (
        fleet.record_heartbeat(beat("a", 2), at(2)).commands[0],
        Retire(incarnation="1"),
    )
    agent = get(fleet, "a").agent
    assert leave == come_back.model_copy(update={"replaced": True})
    assert (fleet.wants(agent, leave), fleet.wants(agent, come_back)) == (True, False)
    pass_time(fleet, at(10))
    assert (fleet.wants(agent, leave), fleet.wants(agent, come_back)) == (False, True)


def test_a_life_older_than_one_that_has_ended_is_wanted_gone_until_a_later_one_begins() -> None:
    fleet = Agents()
    fleet.record_heartbeat(beat("a", 1, incarnation="2"), at(0))
    pass_time(fleet, at(9))
    (retire,) = fleet.record_heartbeat(beat("a", 7, incarnation="1"), at(10)).commands
    agent = get(fleet, "a").agent
    assert fleet.wants(agent, retire)
    fleet.record_heartbeat(beat("a", 1, incarnation="3"), at(11))
    assert not fleet.wants(agent, retire)


def test_who_is_to_be_declared_failed_and_not_only_suspected_is_condemned() -> None:
    fleet = Agents()
    fleet.record_heartbeat(beat("a1", 1), at(0))
    (agent,) = fleet.overdue(at(4.5))
    assert not fleet.condemns([agent], at(8.9))
    assert fleet.condemns([agent], at(9))
    fleet.record_heartbeat(beat("a1", 2), at(9))
    assert not fleet.condemns([agent], at(9))
    pass_time(fleet, at(13.5))
    pass_time(fleet, at(18))
    assert not fleet.condemns([agent], at(30)), "it has failed already"
