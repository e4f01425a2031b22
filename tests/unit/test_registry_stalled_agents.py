"""Agents with free slots that take nothing: suspected, told to reconnect, evicted."""

from typing import Any

import pytest

from maniple_registry.domain.agent_record import (
    AgentRecord,
    AgentState,
    Decision,
    LaneView,
)
from maniple_registry.domain.stalled_consumers import look
from maniple_registry.domain.state_machine import check, decide
from maniple_runtime.control.messages import (
    AgentPhase,
    Reconnect,
)
from registry_values import BOUNDS, DESCRIPTION, NOTHING, NOW, WORK, at, beat, keys, known


def hungry(heard: float = 0.0, **changes: Any) -> AgentRecord:
    first = beat(1, slots=4, description=DESCRIPTION, **changes)
    return known(decide(None, first, at(heard)).record)


def looked(record: AgentRecord, second: float, lanes: dict[str, LaneView]) -> Decision:
    return look(record, lanes, at(second), BOUNDS)


def starve(seconds: range, **changes: Any) -> list[tuple[int, list[str], list[Any]]]:
    """Look each second, with a heartbeat every third; what was told or sent when."""
    record, told = hungry(**changes), []
    for second in seconds:
        if second % 3 == 0:
            record = known(decide(record, beat(second, slots=4, **changes), at(second)).record)
        decision = looked(record, second, WORK)
        record = known(decision.record)
        if decision.events or decision.commands:
            told.append((second, keys(decision), list(decision.commands)))
    return told


def test_a_stalled_agent_is_suspected_told_to_reconnect_and_evicted_from_the_first_look() -> None:
    assert starve(range(10, 40)) == [
        (12, ["agent.unreachable"], []),
        (15, [], [Reconnect()]),
        (20, ["agent.failed"], []),
    ]


@pytest.mark.parametrize(
    "changes",
    [{"in_flight": 3, "held": 1}, {"hungry": []}, {"state": AgentPhase.DRAINING}],
    ids=["full", "not hungry", "draining"],
)
def test_who_would_take_nothing_is_not_stalled(changes: dict[str, Any]) -> None:
    assert starve(range(10, 40), **changes) == []


def test_an_agent_that_just_started_is_not_stalled() -> None:
    record = hungry()
    for second in range(5):
        record = known(looked(record, second, WORK).record)
        assert record.starving is None
    assert known(looked(record, 5, WORK).record).starving is not None


def test_an_agent_that_has_not_described_itself_as_it_is_is_not_stalled() -> None:
    silent = known(decide(None, beat(1, slots=4), at(0)).record)
    changed = known(decide(hungry(), beat(2, slots=4, digest="new"), at(3)).record)
    for record in (silent, changed):
        assert known(looked(record, 20, WORK).record).starving is None


def test_a_lane_without_any_consumer_makes_a_stalled_agent_too() -> None:
    decision = looked(hungry(), 10, {"x": LaneView(ready=0, consumers=0)})
    assert known(decision.record).starving is not None


def test_a_burst_between_two_heartbeats_stalls_no_agent() -> None:
    record = known(looked(hungry(), 10, WORK).record)
    assert keys(looked(record, 13, WORK)) == []


def zombie() -> AgentRecord:
    record = known(looked(hungry(), 10, WORK).record)
    record = known(decide(record, beat(2, slots=4), at(11)).record)
    return known(looked(record, 12, WORK).record)


def test_a_stalled_agents_heartbeats_do_not_recover_it() -> None:
    assert zombie().state is AgentState.UNREACHABLE
    assert keys(decide(zombie(), beat(3, slots=4), at(14))) == []


@pytest.mark.parametrize(
    "changes", [{"slots": 4, "last_delivery_at": NOW}, {"slots": 0}], ids=["it took", "it is full"]
)
def test_a_stalled_agent_that_is_none_any_more_recovers(changes: dict[str, Any]) -> None:
    assert keys(decide(zombie(), beat(3, **changes), at(14))) == ["agent.recovered"]


def test_a_lane_that_is_empty_again_ends_the_doubt() -> None:
    record = known(looked(zombie(), 13, NOTHING).record)
    assert keys(decide(record, beat(3, slots=4), at(14))) == ["agent.recovered"]


def test_an_agent_is_active_again_only_when_no_doubt_is_left() -> None:
    both = known(check(zombie(), at(12), BOUNDS, critical=True).record)
    fed = decide(both, beat(3, slots=4, last_delivery_at=NOW), at(14))
    assert keys(fed) == []
    well = known(check(known(fed.record), at(15), BOUNDS, critical=False).record)
    assert keys(decide(well, beat(4, slots=4, last_delivery_at=NOW), at(17))) == ["agent.recovered"]
