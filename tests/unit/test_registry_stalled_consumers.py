"""`domain.stalled_consumers`: who takes nothing, and whether that is its own fault."""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from maniple_registry.domain.agent_record import AgentRecord, AgentState, Instant, LaneView
from maniple_registry.domain.agents import Agents
from maniple_runtime.control.messages import AgentDescription, Command, Heartbeat, Reconnect

NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)
SICK = LaneView(0, 0)  # what RabbitMQ says of a quorum queue whose leader does not answer in time
WORK = LaneView(3, 2)
FINE = LaneView(0, 2)
UNCONSUMED = LaneView(3, 0)

Beats = Callable[[int], dict[str, Any]]
"""What an agent says at a second."""


def at(seconds: float) -> Instant:
    return Instant(seconds, NOW)


def beat(agent: str, second: int, lanes: Iterable[str], **changes: Any) -> Heartbeat:
    who: dict[str, Any] = {"agent": agent, "incarnation": "1"}
    static = {"host": "h", "pid": 1, "started_at": NOW, "lanes": list(lanes)}
    described = AgentDescription.model_validate(who | static | changes.pop("static", {}))
    fields = {"sequence": second + 1, "sent_at": NOW, "digest": "d", "slots": 4}
    return Heartbeat.model_validate(who | fields | {"description": described} | changes)


def fed(second: int) -> dict[str, Any]:
    """It has taken something since its last heartbeat."""
    return {"last_delivery_at": NOW + timedelta(seconds=second)}


def idle(_second: int) -> dict[str, Any]:
    return {}


def full(_second: int) -> dict[str, Any]:
    return {"in_flight": 4, "hungry": []}


class Bench:
    """A fleet that is heard every third second and looked at every second."""

    def __init__(self, agents: Mapping[str, Beats], lanes: Iterable[str] = ("x",)) -> None:
        self.fleet, self.agents, self.lanes = Agents(), agents, tuple(lanes)
        self.second = 0
        self.told: dict[str, list[Command]] = {agent: [] for agent in agents}
        self.suspected: set[str] = set()

    def run(self, seconds: int, views: Mapping[str, LaneView]) -> "Bench":
        for second in range(self.second, self.second + seconds):
            if second % 3 == 0:
                for agent, says in self.agents.items():
                    self.fleet.record_heartbeat(
                        beat(agent, second, self.lanes, **says(second)), at(second)
                    )
            for agent, decision in self.fleet.update_queue_views(views, at(second)):
                self.told[agent] += decision.commands
            self.suspected |= self.fleet.suspected
        self.second += seconds
        return self

    def record(self, agent: str) -> AgentRecord:
        record = self.fleet.get_record(agent)
        assert record is not None
        return record

    def state(self, agent: str) -> AgentState:
        return self.record(agent).state

    @property
    def states(self) -> dict[str, AgentState]:
        return {agent: self.record(agent).state for agent in self.agents}


ALL_THREE = {"a1": idle, "a2": idle, "a3": idle}


@pytest.mark.parametrize("view", [SICK, WORK, UNCONSUMED], ids=["sick", "work", "no consumer"])
def test_three_that_starve_together_are_suspected_told_to_reconnect_and_not_evicted(
    view: LaneView,
) -> None:
    bench = Bench(ALL_THREE).run(60, {"x": view})
    assert set(bench.states.values()) == {AgentState.UNREACHABLE}
    asked = [Reconnect(places=("x",))] if view is SICK else []
    assert bench.told == {agent: [*asked, Reconnect()] for agent in ALL_THREE}
    assert bench.suspected == {"x"}
    bench.run(6, {"x": FINE})
    assert set(bench.states.values()) == {AgentState.ACTIVE}
    assert bench.fleet.suspected == frozenset()


@pytest.mark.parametrize("view", [SICK, WORK, UNCONSUMED], ids=["sick", "work", "no consumer"])
def test_one_that_starves_alone_is_evicted(view: LaneView) -> None:
    bench = Bench({"a1": idle, "a2": full, "a3": full}).run(30, {"x": view})
    assert bench.state("a1") is AgentState.FAILED
    assert bench.suspected == set()


def test_one_that_starves_among_others_that_are_fed_is_evicted() -> None:
    bench = Bench({"a1": idle, "a2": fed, "a3": fed}).run(30, {"x": WORK})
    active = AgentState.ACTIVE
    assert bench.states == {"a1": AgentState.FAILED, "a2": active, "a3": active}


def test_one_that_starves_is_evicted_once_the_others_are_fed_again() -> None:
    def fed_later(second: int) -> dict[str, Any]:
        return fed(second) if second >= 30 else {}

    bench = Bench({"a1": idle, "a2": fed_later}).run(30, {"x": WORK})
    assert AgentState.FAILED not in bench.states.values()
    bench.run(6, {"x": WORK})
    assert bench.states == {"a1": AgentState.FAILED, "a2": AgentState.ACTIVE}


def test_a_queue_that_says_nothing_is_not_believed_while_others_are_fed_from_it() -> None:
    bench = Bench({"a1": idle, "a2": fed, "a3": fed}).run(30, {"x": SICK})
    assert bench.state("a1") is AgentState.ACTIVE
    assert bench.told["a1"] == []


@pytest.mark.parametrize("agents", [1, 3])
@pytest.mark.parametrize("place", ["x", "x.suspect"])
def test_who_knows_that_a_queue_does_not_let_it_consume_is_not_doubted(
    agents: int, place: str
) -> None:
    names = [f"a{number}" for number in range(agents)]
    bench: Bench

    def honest(_second: int) -> dict[str, Any]:
        asked = any(Reconnect(places=(place,)) in bench.told[name] for name in names)
        hungry = [] if asked and place == "x" else ["x"]
        return {"hungry": hungry, "unconsumed": [place] if asked else []}

    bench = Bench(dict.fromkeys(names, honest))
    bench.run(60, {"x": FINE, "x.suspect": FINE} | {place: SICK})
    assert set(bench.states.values()) == {AgentState.ACTIVE}
    assert bench.told == {name: [Reconnect(places=(place,))] for name in names}


def test_who_says_that_it_consumes_where_nobody_does_is_asked_and_then_doubted() -> None:
    bench = Bench({"a1": idle}).run(10, {"x": SICK})
    assert (bench.state("a1"), bench.told["a1"]) == (
        AgentState.ACTIVE,
        [Reconnect(places=("x",))],
    )
    assert bench.run(20, {"x": SICK}).state("a1") is AgentState.FAILED


def test_five_and_a_third_of_the_fleet_that_starve_each_alone_are_spared() -> None:
    def serving(lane: str) -> Beats:
        return lambda _second: {"hungry": [lane]}

    lanes = [f"x{number}" for number in range(5)]
    agents: dict[str, Beats] = {f"a{number}": serving(lane) for number, lane in enumerate(lanes)}
    views = dict.fromkeys(lanes, SICK)
    many = Bench(agents, lanes).run(30, views)
    assert set(many.states.values()) == {AgentState.UNREACHABLE}
    assert many.suspected == set(lanes)
    others = {f"b{number}": full for number in range(11)}
    few = Bench(agents | others, lanes).run(30, views)
    assert [few.states[agent] for agent in agents] == [AgentState.FAILED] * 5


def test_what_comes_from_elsewhere_clears_no_doubt_where_nobody_consumes() -> None:
    lanes = ("x", "y")
    bench = Bench({"a1": fed}, lanes).run(9, {"x": UNCONSUMED, "y": FINE})
    assert bench.state("a1") is AgentState.UNREACHABLE
    assert Bench({"a1": fed}, lanes).run(30, {"x": WORK, "y": FINE}).state("a1") is (
        AgentState.ACTIVE
    )
    bench.run(30, {"x": UNCONSUMED, "y": FINE})
    assert bench.state("a1") is AgentState.FAILED


def test_a_lane_that_is_never_empty_does_not_hide_another_that_nobody_consumes() -> None:
    bench = Bench({"a1": fed}, ("x", "y")).run(12, {"x": WORK, "y": UNCONSUMED})
    assert bench.state("a1") is AgentState.UNREACHABLE
    starving = bench.record("a1").starving
    assert starving is not None
    assert starving.place == "y"


def test_only_a_look_clears_the_doubt_where_nobody_consumes() -> None:
    bench = Bench({"a1": fed}, ("x", "y")).run(12, {"x": SICK, "y": FINE})
    assert bench.state("a1") is AgentState.UNREACHABLE
    bench.run(4, {"x": FINE, "y": FINE})
    assert bench.state("a1") is AgentState.ACTIVE


def test_a_full_agent_that_has_no_consumer_for_a_lane_is_doubted() -> None:
    def full_of_another(_second: int) -> dict[str, Any]:
        return {"in_flight": 4, "hungry": ["x"]}

    views = {"x": UNCONSUMED, "y": FINE}
    bench = Bench({"a1": full_of_another}, ("x", "y")).run(9, views)
    assert bench.state("a1") is AgentState.UNREACHABLE


@pytest.mark.parametrize("place", ["x.suspect", "maniple.agent.a1"])
def test_suspects_and_the_own_queue_are_judged_by_their_consumers(place: str) -> None:
    def affine(_second: int) -> dict[str, Any]:
        return {"static": {"affinity": ["x"]}}

    waiting = {"x": FINE, place: LaneView(5, 1, by_consumers=True)}
    assert Bench({"a1": affine}).run(30, waiting).state("a1") is AgentState.ACTIVE
    alone = {"x": FINE, place: LaneView(5, 0, by_consumers=True)}
    bench = Bench({"a1": affine}).run(9, alone)
    assert bench.state("a1") is AgentState.UNREACHABLE
    starving = bench.record("a1").starving
    assert starving is not None
    assert place in starving.where
    assert bench.run(20, alone).state("a1") is AgentState.FAILED


def test_own_queues_are_looked_at_in_turn_and_those_in_doubt_every_time() -> None:
    def affine(_second: int) -> dict[str, Any]:
        return {"static": {"affinity": ["x"]}}

    bench = Bench({f"a{number}": affine for number in range(5)} | {"b1": idle}).run(6, {})
    assert bench.fleet.addressed(2) == ["a0", "a1"]
    bench.run(1, {"maniple.agent.a1": LaneView(0, 0, by_consumers=True)})
    assert bench.fleet.addressed(2) == ["a1", "a2", "a3"]
    assert bench.fleet.addressed(2) == ["a0", "a1", "a4"]
    assert bench.fleet.addressed(9) == ["a0", "a1", "a2", "a3", "a4"]
