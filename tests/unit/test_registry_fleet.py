"""The registry's bookkeeping of many agents, of the catalog, and of time."""

import time
from datetime import UTC, datetime

from maniple.control import Heartbeat
from maniple_registry.clock import Clock
from maniple_registry.domain.fleet import Fleet
from maniple_registry.domain.membership import AgentState, Instant
from maniple_registry.domain.reaping import Reaping, all_critical

NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)


def beat(agent: str, sequence: int, incarnation: str = "1") -> Heartbeat:
    fields = {"agent": agent, "incarnation": incarnation, "sequence": sequence}
    return Heartbeat.model_validate(fields | {"sent_at": NOW, "digest": "d"})


def at(seconds: float) -> Instant:
    return Instant(seconds, NOW)


def states(fleet: Fleet) -> dict[str, AgentState]:
    return {record.agent: record.state for record in fleet}


def test_only_the_silent_agent_fails() -> None:
    fleet = Fleet()
    for second in range(0, 13, 3):
        fleet.hear(beat("lively", second), at(second))
        if second == 0:
            fleet.hear(beat("silent", 0), at(0))
        fleet.pass_time(at(second))
    assert states(fleet) == {"lively": AgentState.ACTIVE, "silent": AgentState.FAILED}
    assert fleet.counts()[AgentState.FAILED] == 1


def test_each_change_is_told_once() -> None:
    fleet = Fleet()
    fleet.hear(beat("a", 1), at(0))
    told = [event.KEY for second in range(60) for decision in fleet.pass_time(at(second / 4))
            for event in decision.events]  # fmt: skip
    assert told == ["agent.unreachable", "agent.failed"]


def test_a_new_life_after_a_failure_is_watched_like_the_first() -> None:
    fleet = Fleet()
    for life in range(3):
        start = life * 100.0
        fleet.hear(beat("a", 1, incarnation=str(life)), at(start))
        fleet.pass_time(at(start + 4.5))
        assert states(fleet) == {"a": AgentState.UNREACHABLE}
        fleet.pass_time(at(start + 9))
        assert states(fleet) == {"a": AgentState.FAILED}


def test_a_failed_agent_is_forgotten_after_ten_minutes() -> None:
    fleet = Fleet()
    fleet.hear(beat("a", 1), at(0))
    fleet.pass_time(at(9))
    fleet.pass_time(at(608))
    assert fleet.get("a") is not None
    fleet.pass_time(at(609))
    assert fleet.get("a") is None


def test_ten_thousand_agents_cost_microseconds_a_heartbeat() -> None:
    fleet = Fleet()
    beats = [beat(f"agent-{n}", 1) for n in range(10_000)]
    more = [beat(f"agent-{n}", 2) for n in range(10_000)]
    for one in beats:
        fleet.hear(one, at(0))
    start = time.process_time()
    for one in more:
        fleet.hear(one, at(3))
    assert (time.process_time() - start) / 10_000 < 50e-6
    assert fleet.pass_time(at(4.5)) == []


def test_an_instance_is_gone_when_all_its_own_checks_stay_critical() -> None:
    assert all_critical({"serfHealth": "passing", "ttl:x": "critical", "http:x": "critical"})
    assert not all_critical({"ttl:x": "critical", "http:x": "passing"})
    assert not all_critical({"serfHealth": "critical"})
    reaping = Reaping()
    assert reaping.observe(["x", "y"], 0) == []
    assert reaping.observe(["x"], 9) == []
    assert reaping.observe(["x", "y"], 10) == ["x"]


def test_time_in_which_the_registry_hears_nothing_does_not_pass() -> None:
    clock = Clock()
    clock.step(hearing=True)
    start = clock.now().seconds
    clock._seen -= 30  # as if nobody had called for thirty seconds
    clock._lost -= 30
    assert clock.now().seconds - start > 29
    clock.step(hearing=False)
    assert clock.now().seconds - start < 1
